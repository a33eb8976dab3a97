"""A set on disk, and how much of a question its passage says."""

import json

import pytest

from modeling_clsr.data.manifest import Row, read_manifest
from modeling_clsr.evaluation.benchmark_set import (
    BenchmarkSet,
    Question,
    draw,
    read_questions,
    shared_words,
    write_set,
)


def test_written_questions_come_back_with_their_times(tmp_path):
    questions = [
        Question("q1", "Who?", "p1", "Smith", ((0.5, 1.25), (3.0, 4.0)), "seen"),
        Question("q2", "When?", "p1"),
    ]
    write_set(tmp_path, BenchmarkSet([Row("p1", "x.opus", "text")], questions))
    assert read_questions(tmp_path) == questions


def test_passages_have_their_split_in_a_column_that_rows_do_not_mind(tmp_path):
    (tmp_path / "x.opus").write_bytes(b"")
    row = Row("p1", str(tmp_path / "x.opus"), "text", duration=1.0)
    write_set(tmp_path, BenchmarkSet([row], [], {"p1": "heldout"}))
    line = json.loads((tmp_path / "passages.jsonl").read_text())
    assert line["split"] == "heldout" and line["audio"] == "x.opus"
    assert read_manifest(tmp_path / "passages.jsonl") == [row]


@pytest.mark.parametrize(
    ("question", "share"),
    [
        ("Who built the bridge?", 1.0),
        ("Who built the Church?", 0.5),
        ("Whose work is this viaduct?", 0.0),
        ("Who was it?", 0.0),  # nothing but function words
    ],
)
def test_shared_words_count_content_words_only(question, share):
    assert shared_words(question, "Smith built the bridge in 1891.") == share


def test_draws_depend_on_the_name_alone_and_fill_the_interval():
    draws = [draw(f"clip {number}") for number in range(1000)]
    assert draws == [draw(f"clip {number}") for number in range(1000)]
    assert min(draws) >= 0 and max(draws) < 1 and abs(sum(draws) / 1000 - 0.5) < 0.05
