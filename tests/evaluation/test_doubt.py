"""Calibration: the fit finds the weights that made the data, the measures mean what they say, a real index is asked."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from modeling_clsr.data.audio import load_audio, read_range
from modeling_clsr.evaluation import doubt as doubt_module
from modeling_clsr.evaluation.doubt import (
    KINDS,
    Asked,
    Posed,
    ask_all,
    best_threshold,
    calibration_error,
    draw_calibration,
    fit,
    measure,
    training_pools,
)
from modeling_clsr.retrieval import Hit, SpeechIndex
from modeling_clsr.retrieval.doubt import Doubt, Evidence
from tests.retrieval.conftest import write_talks
from tests.retrieval.known_clips import KnownClips, locate

TRUE_WEIGHTS, TRUE_BIAS = np.array([1.0, 2.0, 0.3, 4.0, 0.2]), -2.0


def made(questions: int, seed: int) -> list[Asked]:
    """Searches whose hits are right with known probabilities, where there is an answer."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(questions):
        rows = generator.normal(size=(5, 5))
        chances = 1 / (1 + np.exp(-(rows @ TRUE_WEIGHTS + TRUE_BIAS)))
        found.append(Asked(rows, generator.random(5) < chances, KINDS[number % 2]))
    return found


def test_fit_finds_the_weights_and_is_calibrated_on_new_questions():
    doubt = fit(made(4000, 0), "made")
    np.testing.assert_allclose(doubt.weights, TRUE_WEIGHTS, rtol=0.15, atol=0.1)
    assert doubt.bias == pytest.approx(TRUE_BIAS, abs=0.15)
    figures = measure(doubt, made(2000, 1))
    low, high = figures["expected_calibration_error_interval"]
    assert figures["expected_calibration_error"] < 0.02 and low < high < 0.04
    assert figures["curve"][0]["answered_of_answerable"] == 1.0


def test_threshold_divides_best_and_lets_few_questions_on_other_subjects_pass():
    doubt = Doubt((1.0, 0.0, 0.0, 0.0, 0.0), 0.0, 0.5)  # the likeliest hit decides, by its first feature

    def searches(kind: str, values: list[float]) -> list[Asked]:
        return [
            Asked(np.array([[value, 0, 0, 0, 0]]), np.array([kind == "answerable"]), kind) for value in values
        ]

    asked = searches("answerable", [1.0, 2.0, 3.0, -1.0]) + searches("near", [0.5, -2.0, -3.0])
    assert best_threshold(doubt, asked) == pytest.approx(
        doubt.chances(np.eye(1, 5))[0]
    )  # 1.0: above the nears
    far = searches("far", [1.5] * 2 + [-4.0] * 8)
    assert best_threshold(doubt, asked + far) > doubt.chances(1.4 * np.eye(1, 5))[0]


def test_overconfident_probabilities_are_found_out():
    error, bins = calibration_error(np.full(1000, 0.9), np.arange(1000) % 2 == 0)
    assert error == pytest.approx(0.4) and sum(row["hits"] for row in bins) == 1000


def test_fit_needs_right_and_wrong_hits():
    with pytest.raises(ValueError, match="0 of 5 hits are right but both kinds are needed"):
        fit([Asked(np.zeros((5, 5)), np.zeros(5, dtype=bool), "answerable")], "nothing")


def test_every_question_counts_with_and_without_what_answers_it(tmp_path, clips):
    where = write_talks(tmp_path / "talks", clips)
    index = SpeechIndex.create(tmp_path / "index", KnownClips(clips))
    index.add([tmp_path / "talks"])
    talks = tmp_path / "talks"
    questions = [
        Posed(text, str(talks / name), *span)
        for name, places in where.items()
        for text, span in places.items()
    ]
    asked = ask_all(index, questions, [Posed("Is there life on Mars?", "/elsewhere.ogg")], "talks")
    assert [search.kind for search in asked] == ["answerable", "near"] * len(questions) + ["far"]
    assert all(search.right[0] for search in asked if search.kind == "answerable")
    assert not any(search.right.any() for search in asked if search.kind != "answerable")
    doubt = fit(asked, "talks")
    right = np.concatenate([search.right for search in asked])
    chances = np.concatenate([doubt.chances(search.rows) for search in asked])
    assert chances[right].mean() > chances[~right].mean() + 0.5
    draw_calibration({"talks": measure(doubt, asked)}, tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")


def test_a_hit_answers_if_it_covers_half_of_the_place_or_lies_in_it():
    posed = Posed("Why?", "/talks/a.ogg", 10.0, 14.0)
    for start, end, right in [
        (0, 12, True),
        (0, 11.9, False),
        (13, 13.5, True),
        (14, 30, False),
        (0, 60, True),
    ]:
        assert posed.is_answered_by(found("/talks/a.ogg", start, end)) == right
    assert not posed.is_answered_by(found("/talks/b.ogg", 10, 14))
    assert Posed("Why?", "/talks/b.ogg").is_answered_by(found("/talks/b.ogg", 3, 9))


def found(source: str, start_s: float, end_s: float) -> Hit:
    now = datetime.now(UTC)
    return Hit(source, source, now, start_s, end_s, 0.5, "So.", [], None, Evidence(0.5, None, 0.0))


def test_pools_join_neighbours_and_take_no_clip_twice(tmp_path, reread, monkeypatch):
    for name, value in (("POOLS", (1, 2)), ("LONG_POOLS", (4,)), ("CLIPS_PER_RECORDING", 2)):
        monkeypatch.setattr(doubt_module, name, value)
    rows = [
        {"id": str(n), "audio": str(clip["path"]), "question": f"Question {n}?", "transcript": "So."}
        for n, clip in enumerate(reread[:7])
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    joined, *short = training_pools(tmp_path / "m.jsonl", tmp_path / "out")
    assert [posed.question for posed in joined.questions] == [f"Question {n}?" for n in range(4)]
    assert [Path(posed.source).name for posed in joined.questions] == ["00.opus"] * 2 + ["01.opus"] * 2
    for posed, row in zip(joined.questions, rows, strict=False):
        part = read_range(posed.source, posed.start_s, posed.end_s)
        assert locate(load_audio(row["audio"]), part) == pytest.approx(0, abs=16)  # 1 ms
    asked = [posed.question for pool in short for posed in pool.questions]
    assert sorted(asked) == ["Question 4?", "Question 5?", "Question 6?"] and len(short[0].recordings) == 1


def test_pools_need_enough_clips(tmp_path, reread):
    clip = {"id": "a", "audio": reread[0]["path"], "question": "Why?", "transcript": "So."}
    (tmp_path / "m.jsonl").write_text(json.dumps(clip, default=str))
    with pytest.raises(ValueError, match="has 1 clips with questions but 600 are needed"):
        next(training_pools(tmp_path / "m.jsonl", tmp_path))
