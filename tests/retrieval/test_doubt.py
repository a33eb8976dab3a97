"""Doubt: probabilities of hits, and the file that keeps a calibration."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from modeling_clsr.retrieval.doubt import Doubt, Evidence, features

DOUBT = Doubt((1.0, 2.0, 0.1, 3.0, 0.2), -1.5, 0.4, "twelve questions")


@dataclass(frozen=True)
class Place:
    evidence: Evidence
    source: str
    start_s: float = 0.0
    end_s: float = 20.0


def elsewhere(*evidence: Evidence) -> list[Place]:
    return [Place(entry, f"/talks/{number}.ogg") for number, entry in enumerate(evidence)]


def test_features_are_the_cosines_the_words_and_the_leads_over_the_best_other():
    hits = elsewhere(Evidence(0.6, 0.8, 9.0), Evidence(0.4, 0.4, 11.0), Evidence(0.5, None, 0.0))
    expected = [
        [0.6, 0.8, 9.0, 0.7 - 0.5, 9.0 - 11.0],
        [0.4, 0.4, 11.0, 0.4 - 0.7, 11.0 - 9.0],
        [0.5, 0.5, 0.0, 0.5 - 0.7, 0.0 - 11.0],
    ]
    scale = [1.0, 1.0, 1 / np.log(1001), 1.0, 1 / np.log(1001)]
    np.testing.assert_allclose(features(hits, 1000), np.array(expected) * scale)
    np.testing.assert_allclose(features(hits[:1], 1000), np.array([[0.6, 0.8, 9.0, 0.7, 9.0]]) * scale)
    assert features([], 10).shape == (0, 5)


def test_two_equal_hits_have_no_lead():
    assert features(elsewhere(*[Evidence(0.5, 0.5, 3.0)] * 2), 9)[:, 3:].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_neighbours_in_a_recording_are_no_rivals():
    best = Place(Evidence(0.6, 0.6, 0.0), "/talks/a.ogg", 100.0, 120.0)
    near = Place(Evidence(0.5, 0.5, 0.0), "/talks/a.ogg", 121.0, 140.0)
    before = Place(Evidence(0.5, 0.5, 0.0), "/talks/a.ogg", 60.0, 75.0)
    far = Place(Evidence(0.4, 0.4, 0.0), "/talks/a.ogg", 200.0, 220.0)
    other = Place(Evidence(0.3, 0.3, 0.0), "/talks/b.ogg", 100.0, 120.0)
    leads = features([best, near, before, far, other], 9)[:, 3]
    np.testing.assert_allclose(leads, [0.2, 0.0, 0.0, -0.2, -0.3], atol=1e-12)


def test_probability_is_the_logistic_of_the_weighted_sum():
    chances = DOUBT.probabilities(elsewhere(Evidence(0.6, 0.8, 9.0), Evidence(0.4, 0.4, 0.0)), 1000)
    words = 9 / np.log(1001)
    logit = 0.6 + 2 * 0.8 + 0.1 * words + 3 * 0.3 + 0.2 * words - 1.5
    assert chances[0] == pytest.approx(1 / (1 + np.exp(-logit))) and chances[1] < chances[0]
    assert DOUBT.is_answered([0.1, 0.4]) and not DOUBT.is_answered([0.39]) and not DOUBT.is_answered([None])


def test_calibration_is_kept_in_the_checkpoint_folder(tmp_path):
    assert Doubt.load(tmp_path) is None
    DOUBT.save(tmp_path)
    assert Doubt.load(tmp_path) == DOUBT
    content = json.loads((tmp_path / "doubt.json").read_text())
    (tmp_path / "doubt.json").write_text(json.dumps(content | {"features": ["passage", "luck"]}))
    with pytest.raises(ValueError, match="is of passage, luck but passage, moment, words"):
        Doubt.load(tmp_path)
    with pytest.raises(ValueError, match="has 2 weights but 5 are needed"):
        Doubt((1.0, 2.0), 0.0, 0.5)
