"""The paper's tables: published figures as published, ours in their columns."""

import json
from pathlib import Path

import numpy as np
import pytest

from modeling_clsr.evaluation.evaluator import evaluate_systems, one_to_one
from modeling_clsr.evaluation.paper_tables import PUBLISHED_FILE, TABLES, paper_tables, read_published
from modeling_clsr.evaluation.sets import Question
from tests.training.tiny_runs import tone_rows

from .test_evaluator import Fixed

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "published.json"
KEY = ("table", "system", "dataset", "metric")


def test_every_published_figure_is_that_of_the_reference():
    if not REFERENCE.is_file():
        pytest.skip("the reference is not beside the repository (../shared/reference)")
    ours, theirs = (
        {tuple(row[name] for name in KEY): row["value"] for row in json.loads(file.read_text())}
        for file in (PUBLISHED_FILE, REFERENCE)
    )
    tables = {table.number for table in TABLES} | {"Table 5", "Table 7"}
    assert ours == {key: value for key, value in theirs.items() if key[0] in tables}
    assert len(ours) == 298


def test_tables_show_published_figures_marked_and_ours_in_the_same_columns(tmp_path):
    rows = tone_rows(tmp_path, 3)
    questions = [Question(f"q{place}", "who?", f"c{place}") for place in (0, 1, 2)]
    heard = [row.transcript for row in rows]
    systems = [
        Fixed("cascade", np.eye(3), heard),
        Fixed("clsr", np.eye(3)[[1, 0, 2]], heard),
        Fixed("dual", np.eye(3)),
    ]
    text = paper_tables({"tones": evaluate_systems(rows, questions, systems)})
    main, ablations, dual, speed = text.split("\n## ")[1:]
    assert "| tones | cascade | 0.00 | 100.00 | 100.00 | 100.00 | 100.00 | 100.00 | 100.00 |" in main
    assert (
        "| Spoken-SQuAD* | CLSR (published) | 15.14 | 70.03 | 86.90 | 90.68 | 67.84 | 85.69 | 90.17 |" in main
    )
    assert "| tones | clsr | 0.00 | 33.33 |" in ablations and "tones | cascade" not in ablations
    assert "| tones | dual |  | 100.00 |" in dual and "ParaBGE (published) |  | 17.79 |" in dual
    assert "| tones | clsr | 0.00 | 33.33 | 33.33 | 2.0 | 1.00 |" in speed
    published = [line for line in text.splitlines() if line.startswith("| ") and "| tones" not in line]
    heads = [line for line in published if line.startswith("| data set")]
    assert all("(published)" in line for line in published if line not in heads)


def test_first_question_of_each_passage_makes_the_square():
    class Named:
        def __init__(self, context_id):
            self.context_id = context_id

    questions = [Question(f"q{n}", "?", context) for n, context in enumerate("baab")]
    assert one_to_one(questions, [Named("a"), Named("x"), Named("b")]) == ([1, 0], [0, 2])


def test_a_table_is_read_in_its_order():
    assert list(read_published("Table 5").values())[1] == {
        "EM": 27.6,
        "macro-F1": 35.1,
        "cost time (s)": 783.0,
        "speed-up (x)": 10.13,
    }
