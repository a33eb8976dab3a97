"""Fixtures of the retrieval tests that evaluation shares."""

from tests.retrieval.conftest import clips  # noqa: F401
