"""The README: its five questions are answered right from the index that its first command makes."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_clsr.retrieval import SpeechIndex
from modeling_clsr.retrieval.encoder import Encoder

ROOT = Path(__file__).parents[1]
QUESTIONS = [
    row
    for row in json.loads((ROOT / "examples/library/questions.json").read_text(encoding="utf-8"))
    if row["readme"]
]


@pytest.mark.parametrize("row", QUESTIONS, ids=lambda row: row["file"])
def test_readme_prints_the_answer_of_its_question(row):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    answer = readme.split(f'clsr search "{row["question"]}" --index library.index -k 1', 1)[1].split(
        "\n\n", 1
    )[0]
    assert row["file"] in answer
    moment = re.search("»(.*?)«", answer, re.DOTALL).group(1)
    assert all(word.lower() in moment.lower() for word in row["answer"])


def test_tables_are_rendered_from_the_stamped_results():
    # benchmarks/ is no package; the script is run as its user runs it
    printed = subprocess.run(
        [sys.executable, ROOT / "benchmarks/tables.py"], capture_output=True, text=True, check=True
    ).stdout
    files = (
        "README.md",
        "docs/training.md",
        "docs/search.md",
        "docs/scaling.md",
        "docs/server.md",
        "docs/faster.md",
        "docs/evaluation.md",
        "model_cards/clsr-base-en.md",
        "checkpoints/clsr-mini-en/README.md",
    )
    shown = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    for paragraph in printed.strip().split("\n\n"):
        assert paragraph in shown


@pytest.mark.slow
def test_five_questions_are_answered_by_the_right_moment(default_checkpoint, tmp_path):
    made = ROOT / "library.index"  # by the README's first command; without it the test makes one
    if made.is_dir():
        shutil.copytree(made, tmp_path / made.name)
    index = SpeechIndex.open_or_create(tmp_path / made.name, Encoder.from_pretrained(default_checkpoint))
    index.add([ROOT / "examples" / "library"])
    for row in QUESTIONS:
        (hit,) = index.search(row["question"], k=1)
        assert Path(hit.source).name == row["file"]
        assert hit.moment.start_s < row["end"] and row["start"] < hit.moment.end_s
        assert all(word.lower() in hit.moment.text.lower() for word in row["answer"])
