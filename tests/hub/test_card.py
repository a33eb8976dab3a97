"""Cards: metadata that the Hub reads, figures that come from a report."""

import json
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_clsr import CLSRModel
from modeling_clsr.evaluation.evaluator import evaluate_systems
from modeling_clsr.evaluation.report import render_results, write_report
from modeling_clsr.evaluation.sets import Question
from modeling_clsr.evaluation.systems import Scored
from modeling_clsr.hub.card import render_card
from modeling_clsr.hub.stamp import make_stamp
from tests.training.tiny_runs import tone_rows

CARDS = sorted((Path(__file__).parents[2] / "model_cards").glob("clsr-*.md"))


def checked(card: ModelCard) -> None:
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag in PIPELINE_REGISTRY.get_supported_tasks()
    assert {"custom_code", "speech-retrieval"} <= set(card.data.tags)
    (example,) = card.data.to_dict()["widget"]
    assert example["src"] == "example.opus" and "," in example["candidate_labels"]


def test_rendered_card_is_read_by_the_hubs_own_parser(tiny_checkpoint):
    card = ModelCard.load(tiny_checkpoint / "README.md")
    checked(card)
    assert card.data.license == "apache-2.0" and card.data.language == "en"
    assert "# tiny-clsr" in card.text and "Not measured yet." in card.text


@pytest.mark.parametrize("file", CARDS, ids=lambda file: file.name)
def test_written_card_is_read_by_the_hubs_own_parser(file):
    checked(ModelCard.load(file))


class Known:
    """A system whose scores are known."""

    def __init__(self, name, scores):
        self.name, self.scores = name, scores

    def score(self, questions, passages):
        return Scored(self.scores, [row.transcript for row in passages], 2.0)


def test_figures_of_a_card_come_from_the_report(tiny_checkpoint, tmp_path):
    rows = tone_rows(tmp_path, 4)
    questions = [Question(f"q{place}", "?", f"c{place}") for place in range(4)]
    systems = [Known("clsr", np.eye(4)), Known("bm25", np.eye(4)[[0, 1, 3, 2]])]
    figures = {"tones": evaluate_systems(rows, questions, systems)}
    write_report(
        tmp_path / "out", figures, make_stamp() | {"command": "eval_clsr.py --set x", "commit": "abc"}
    )
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    text = render_card("some-clsr", CLSRModel.from_pretrained(tiny_checkpoint), render_results(report))
    assert "### tones" in text and "| clsr | 100.0 (100.0–100.0) |" in text
    assert "| bm25 | 50.0 (" in text
    assert "`eval_clsr.py --set x`, commit `abc`" in text
