"""`benchmarks/from_questions.py`: sentences that nobody has heard, in noise of a stated level."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_clsr.data.manifest import Row, read_manifest
from modeling_clsr.evaluation.benchmark_set import read_questions

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("from_questions")


def test_further_sentences_are_none_of_those_known(script):
    known = script.sentences(440, seed=0)
    first, second = (script.further_sentences(known, skip, 300) for skip in (0, 300))
    said = [{utterance.questions for utterance in part} for part in (known, first, second)]
    assert [len(part) for part in said] == [440, 300, 300]
    assert not said[0] & said[1] and not said[0] & said[2] and not said[1] & said[2]
    with pytest.raises(ValueError, match="--skip 1900 and 300 sentences are more than"):
        script.further_sentences(known, 1900, 300)


def test_noise_has_its_level_and_depends_on_the_clip_alone(script, tmp_path):
    draw = np.random.default_rng(0)
    quiet = np.sin(np.arange(16000) / 9).astype(np.float32) * 0.2
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", quiet, 16000, subtype="FLOAT")
    noises = [draw.standard_normal(8000).astype(np.float32) for _ in range(3)]
    rows = [Row(name, str(tmp_path / f"{name}.wav"), name, f"who {name}", duration=1.0) for name in "ab"]
    noisy = script.in_noise(rows, noises, 10.0, tmp_path / "noisy")
    added = [soundfile.read(row.audio, dtype="float32")[0] - quiet for row in noisy]
    for noise in added:
        assert 10 * np.log10(np.mean(quiet**2) / np.mean(noise**2)) == pytest.approx(10.0, abs=0.1)
    assert not np.allclose(added[0], added[1], atol=1e-3)
    (again,) = script.in_noise(rows[1:], noises, 10.0, tmp_path / "again")
    assert Path(again.audio).read_bytes() == Path(noisy[1].audio).read_bytes()
    own = [replace(row, context_id=row.id) for row in noisy]
    script.write_questions(tmp_path / "set", own, own)
    assert [row.context_id for row in read_manifest(tmp_path / "set/passages.jsonl")] == ["a", "b"]
    assert [(question.question, question.context_id) for question in read_questions(tmp_path / "set")] == [
        ("who a", "a"),
        ("who b", "b"),
    ]
