"""An index of known clips, as the tests of retrieval have it."""

import pytest

from modeling_clsr.data.audio import load_audio
from modeling_clsr.retrieval import SpeechIndex
from tests.retrieval.conftest import write_talks
from tests.retrieval.known_clips import KnownClips


@pytest.fixture(scope="package")
def clips(reread):
    return {row["transcript"]: load_audio(row["path"]) for row in reread[:12]}


@pytest.fixture(scope="package")
def index(tmp_path_factory, clips) -> SpeechIndex:
    folder = tmp_path_factory.mktemp("integrated")
    write_talks(folder / "talks", clips)
    index = SpeechIndex.create(folder / "index", KnownClips(clips))
    index.add([folder / "talks"])
    return index
