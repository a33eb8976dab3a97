"""mteb loads a checkpoint by its metadata and runs its own mock tasks on it, offline."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

mteb = pytest.importorskip("mteb", reason="the extra mteb is not installed")

from datasets import Dataset  # noqa: E402
from mteb.mocks.mock_tasks import MockAudioReranking  # noqa: E402

from modeling_clsr.integrations import mteb as ours  # noqa: E402

ROOT = Path(__file__).parents[2]


def test_metadata_in_the_docs_is_that_of_the_package():
    stated = (ROOT / "docs/mteb/clsr_models.py").read_text().split("clsr_base_en = ")[1]
    assert stated == Path(ours.__file__).read_text().split("clsr_base_en = ")[1]
    assert ours.clsr_base_en.modalities == ["text", "audio"] and ours.clsr_base_en.embed_dim == 384


def test_mock_audio_retrieval_task_runs_on_a_tiny_checkpoint(tiny_checkpoint, monkeypatch):
    pytest.importorskip("torchaudio", reason="mteb resamples with torchaudio, which is not installed")
    if importlib.util.find_spec("torchcodec") is None:  # keep the samples as they are, without encoding them
        monkeypatch.setattr(Dataset, "cast_column", lambda self, *args: self)
    model = ours.load(tiny_checkpoint, device="cpu")
    result = mteb.evaluate(model, MockAudioReranking(), cache=None, co2_tracker=False)
    scores = result.task_results[0].scores["test"][0]
    assert 0.0 <= scores["main_score"] <= 1.0 and np.isfinite(scores["ndcg_at_10"])
