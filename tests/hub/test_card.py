"""Cards: metadata that the Hub reads, figures that come from a report."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_clsr import CLSRModel
from modeling_clsr.hub.card import render_card

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


def test_figures_of_a_card_come_from_the_report(tiny_checkpoint):
    report = {
        "figures": {"clsr": {"R@1": 0.6123, "interval": [0.5, 0.7]}, "bm25": {"R@1": 0.4}},
        "stamp": {"command": "eval_clsr.py --set x", "commit": "abc"},
    }
    text = render_card("some-clsr", CLSRModel.from_pretrained(tiny_checkpoint), report)
    assert "| clsr | 0.612 | 0.500 to 0.700 |" in text
    assert "| bm25 | 0.400 |  |" in text
    assert "`eval_clsr.py --set x`, commit `abc`" in text
