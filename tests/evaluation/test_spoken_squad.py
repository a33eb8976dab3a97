"""Spoken-SQuAD's questions over sentences spoken anew: the right lengths, one question per clip or many."""

import gzip
import json
import shutil

import pytest

from modeling_clsr.data.json_lines import read_json_lines
from modeling_clsr.evaluation import spoken_squad
from modeling_clsr.evaluation.spoken_squad import (
    MINI_LETTERS,
    build_spoken_squad_full,
    build_spoken_squad_long,
    build_spoken_squad_mini,
    clean_answer,
    in_turn,
    with_neighbours,
)

from .small_sets import AFTER, small_data

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


@needs_flite
def test_mini_set_has_one_question_per_clip_of_8_to_15_seconds_and_is_the_same_again(tmp_path):
    data = small_data(tmp_path / "data")
    mini = build_spoken_squad_mini(data, tmp_path / "out", "flite/slt")
    assert len(mini.passages) == 3 and all(8.0 <= row.duration <= 15.0 for row in mini.passages)
    assert [question.context_id for question in mini.questions] == [row.id for row in mini.passages]
    assert all(row.transcript.endswith(AFTER) for row in mini.passages)
    again = build_spoken_squad_mini(data, tmp_path / "again", "flite/slt")
    assert again.questions == mini.questions
    assert [row.duration for row in again.passages] == [row.duration for row in mini.passages]


@needs_flite
def test_more_is_spoken_until_enough_clips_fit(tmp_path, monkeypatch):
    data = small_data(tmp_path / "data")
    first, second, _ = build_spoken_squad_mini(data, tmp_path / "out", "flite/slt").passages
    assert abs(first.duration - second.duration) > 0.05
    monkeypatch.setattr(spoken_squad, "MINI_QUESTIONS", 1)
    monkeypatch.setattr(spoken_squad, "MINI_S", (second.duration - 0.01, second.duration + 0.01))
    fitting = build_spoken_squad_mini(data, tmp_path / "out", "flite/slt")
    assert fitting.passages == [second] and len(fitting.questions) == 1


@needs_flite
def test_passages_of_the_same_words_become_one_clip(tmp_path):
    data = small_data(tmp_path / "data")
    test, passages = data / "qa/spoken_squad_test.jsonl", data / "qa/spoken_squad_passages.jsonl.gz"
    rows, texts = list(read_json_lines(test)), list(read_json_lines(passages))
    twin = rows[0] | {"id": "twin", "passage_id": "p9", "title": "a9"}
    test.write_text("".join(json.dumps(row) + "\n" for row in [*rows, twin]))
    with gzip.open(passages, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in [*texts, texts[0] | {"passage_id": "p9"}])
    assert len(build_spoken_squad_mini(data, tmp_path / "out", "flite/slt").passages) == 3


@needs_flite
def test_full_set_has_every_question_and_each_sentence_once(tmp_path):
    full = build_spoken_squad_full(small_data(tmp_path / "data"), tmp_path / "out", "flite/slt")
    assert (len(full.passages), len(full.questions)) == (3, 6)
    assert {question.context_id for question in full.questions} == {row.context_id for row in full.passages}
    # heard right, as the sentence writes it; heard wrong, unknown
    assert [question.answer for question in full.questions[:2]] == ["Smith", None]


def test_neighbours_are_added_until_the_text_is_long_enough():
    low, high = MINI_LETTERS
    short, middle, long = "Short one.", "m" * (low - 20), "l" * (high + 1)
    assert with_neighbours(middle, [short, middle, "After it all."]) == f"{short} {middle} After it all."
    assert with_neighbours(middle, [long, middle, long]) is None
    assert with_neighbours(long, [long]) is None
    assert with_neighbours("x" * low, ["x" * low, short]) == "x" * low


def test_answer_is_written_as_the_sentence_writes_it():
    row = {"answers": [{"text": "levis stadium"}, {"text": "santa clara"}]}
    assert clean_answer(row, "At Santa Clara, California.") == "Santa Clara"
    assert clean_answer({"answers": [{"text": "art"}]}, "The party started.") is None


def test_keys_take_turns():
    assert in_turn(["a1", "a2", "a3", "b1", "b2"], lambda entry: entry[0]) == ["a1", "b1", "a2", "b2", "a3"]


@needs_flite
def test_long_recordings_hold_the_mini_sets_clips_and_their_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(spoken_squad, "LONG_RECORDINGS", 2)
    data = small_data(tmp_path / "data")
    long = build_spoken_squad_long(data, tmp_path / "out", "flite/slt")
    mini = build_spoken_squad_mini(data, tmp_path / "out", "flite/slt")
    assert [row.id for row in long.passages] == ["long1", "long2"]
    clips = sum(row.duration for row in mini.passages)
    low, high = spoken_squad.LONG_PAUSE_S
    assert clips + low <= sum(row.duration for row in long.passages) <= clips + high
    assert {question.id for question in long.questions} == {question.id for question in mini.questions}


def test_answers_span_is_moved_with_its_clip(tmp_path):
    pytest.importorskip("piper", reason="the extra synthesis is not installed")
    pytest.importorskip("onnx", reason="the extra synthesis is not installed")
    data = small_data(tmp_path / "data")
    mini = build_spoken_squad_mini(data, tmp_path / "out")
    long = build_spoken_squad_long(data, tmp_path / "out")
    spans = {question.id: question.spans for question in mini.questions}
    answered = [question for question in long.questions if question.spans]
    assert answered and all(question.answer in ("Smith", "Brown", "Jones") for question in answered)
    for question in answered:
        ((start, end),), ((own_start, own_end),) = question.spans, spans[question.id]
        assert end - start == pytest.approx(own_end - own_start, abs=0.002) and 0.1 < end - start < 1.5
        assert end <= next(row.duration for row in long.passages if row.id == question.context_id)
