"""A whole evaluation: built set, systems, report."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from modeling_clsr.data.manifest import write_manifest
from modeling_clsr.evaluation.evaluator import evaluate_systems, load_set
from modeling_clsr.evaluation.report import markdown, write_report
from modeling_clsr.evaluation.sets import Question
from modeling_clsr.evaluation.systems import Scored
from modeling_clsr.hub.stamp import make_stamp
from tests.training.tiny_runs import tone_rows

ROOT = Path(__file__).parents[2]


class Fixed:
    """A system whose scores are known."""

    def __init__(self, name, scores, transcripts=None):
        self.name, self.scores, self.transcripts = name, np.array(scores, dtype=float), transcripts

    def score(self, questions, passages):
        assert self.scores.shape == (len(questions), len(passages))
        return Scored(self.scores, self.transcripts, seconds=2.0)


@pytest.fixture
def built(tmp_path):
    """Four passages, one of them a distractor, and four questions, two of them about one passage."""
    rows = tone_rows(tmp_path / "set", 4)
    write_manifest(tmp_path / "set" / "passages.jsonl", rows)
    contexts = ("c0", "c0", "c1", "c2")
    questions = [Question(f"q{n}", rows[int(c[1])].transcript, c) for n, c in enumerate(contexts)]
    lines = "".join(json.dumps(asdict(question)) + "\n" for question in questions)
    (tmp_path / "set" / "questions.jsonl").write_text(lines)
    return tmp_path / "set"


def test_known_ranking_gives_known_measures_and_a_paired_test(built):
    passages, questions = load_set(built)
    right = Fixed("right", np.eye(4)[[0, 0, 1, 2]], [row.transcript for row in passages])
    wrong = Fixed("wrong", np.eye(4)[[3, 3, 3, 3]])
    figures = evaluate_systems(passages, questions, [right, wrong], pairs=[("wrong", "right")])
    assert figures["systems"]["right"]["recall_at_1"] == 1.0 and figures["systems"]["right"]["wer"] == 0.0
    assert figures["systems"]["wrong"]["recall_at_1"] == 0.0 and "wer" not in figures["systems"]["wrong"]
    assert figures["systems"]["right"]["times_real_time"] == pytest.approx(
        sum(r.duration for r in passages) / 2
    )
    assert figures["paired"]["right - wrong"]["recall_at_1"]["difference"] == 1.0
    assert figures["paired"]["wrong - right"]["recall_at_1"]["difference"] == -1.0


def test_report_holds_every_figure_with_its_interval(built, tmp_path):
    passages, questions = load_set(built)
    figures = {"tones": evaluate_systems(passages, questions, [Fixed("one", np.eye(4)[[0, 0, 1, 3]])])}
    folder = write_report(tmp_path / "report", figures, make_stamp(), sets=["tones"])
    stored = json.loads((folder / "results.json").read_text())
    assert stored["figures"] == json.loads(json.dumps(figures)) and stored["stamp"]["sets"] == ["tones"]
    assert "| one | 75.0 (" in (folder / "table.md").read_text() == markdown(figures)
    pytest.importorskip("matplotlib")
    assert (folder / "recall.png").stat().st_size > 3000


def test_a_set_that_was_heard_beside_other_work_has_no_speed(built):
    systems = [Fixed("one", np.eye(4)[[0, 0, 1, 3]])]
    figures = {"tones": evaluate_systems(*load_set(built), systems, timed=False)}
    assert not {"seconds", "times_real_time"} & figures["tones"]["systems"]["one"].keys()
    assert "real time" not in markdown(figures)


def test_question_about_a_missing_passage_is_named(built):
    with (built / "questions.jsonl").open("a") as file:
        file.write(json.dumps(asdict(Question("q9", "where?", "nowhere"))) + "\n")
    with pytest.raises(ValueError, match="question q9 asks about nowhere but the pool has 4 other passages"):
        load_set(built)
    with pytest.raises(FileNotFoundError, match=r"holds no questions.jsonl; build the set"):
        load_set(built.parent)


@pytest.mark.slow
def test_command_compares_systems_on_a_set(built, default_checkpoint, tmp_path):
    pytest.importorskip("faster_whisper", reason="the extra eval is not installed")
    command = [
        sys.executable,
        str(ROOT / "eval_clsr.py"),
        "--set",
        str(built),
        "--out",
        str(tmp_path / "out"),
    ]
    settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    run = {"env": settings, "capture_output": True, "text": True, "check": False}
    names = ("text", "cascade", "bm25", "clsr", "clsr-hybrid")
    done = subprocess.run([*command, "--systems", ",".join(names)], **run)
    assert done.returncode == 0, done.stderr[-2000:]
    table = (tmp_path / "out" / "table.md").read_text()
    assert table == done.stdout and all(f"| {name} |" in table for name in names)
    figures = json.loads((tmp_path / "out" / "results.json").read_text())["figures"]["set"]
    assert set(figures["systems"]) == set(names) and "clsr - cascade" in figures["paired"]
    wrong = subprocess.run([*command, "--systems", "magic"], **run)
    assert wrong.returncode == 1 and "the system 'magic' is none of text, text-search" in wrong.stderr
