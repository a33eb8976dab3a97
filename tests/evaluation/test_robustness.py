"""Robustness: every system hears the same degraded clips, and the noise has its level."""

import json
import shutil

import numpy as np
import pytest

from modeling_clsr.data.audio import load_audio
from modeling_clsr.evaluation.conditions import (
    CONDITIONS,
    TEST_NOISES,
    TEST_ROOMS,
    Condition,
    chosen_conditions,
    degrade,
)
from modeling_clsr.evaluation.robustness import evaluate_robustness
from modeling_clsr.evaluation.robustness_report import draw_robustness, robustness_table
from modeling_clsr.evaluation.sets import Question
from modeling_clsr.evaluation.systems import Scored
from tests.training.tiny_runs import tone_rows


@pytest.fixture
def noises(speech_data, tmp_path):
    folder = tmp_path / "noise"
    folder.mkdir()
    for name in (*TEST_NOISES, *TEST_ROOMS):
        shutil.copy(speech_data / "noise" / f"{name}.flac", folder)
    return folder


def level(samples):
    return float(np.mean(np.square(samples, dtype=np.float64)))


def test_noise_has_its_level_and_is_the_same_at_every_level_and_again(noises, tmp_path):
    rows = tone_rows(tmp_path / "tones", 3)
    loud, soft = (
        degrade(rows, Condition(f"{snr} dB", float(snr)), noises, tmp_path / "out") for snr in (0, 20)
    )
    for clean, noisy, quiet in zip(rows, loud, soft, strict=True):
        speech = load_audio(clean.audio)
        heard = load_audio(noisy.audio)
        scale = float(heard @ speech) / float(speech @ speech)  # clips over full scale are turned down
        added, little = heard / scale - speech, load_audio(quiet.audio) - speech
        assert 10 * np.log10(level(speech) / level(added)) == pytest.approx(0.0, abs=0.8)
        assert np.corrcoef(added, little)[0, 1] > 0.95
        assert noisy.transcript == clean.transcript and noisy.context_id == clean.context_id
    again = degrade(rows, Condition("0 dB", 0.0), noises, tmp_path / "again")
    assert [load_audio(row.audio).tolist() for row in again] == [
        load_audio(row.audio).tolist() for row in loud
    ]
    assert degrade(rows, CONDITIONS[0], noises, tmp_path / "out") == rows


def test_room_changes_a_clip_but_not_its_length(noises, tmp_path):
    (row,) = tone_rows(tmp_path / "tones", 1)
    (wet,) = degrade([row], Condition("room", room=True), noises, tmp_path / "out")
    dry = load_audio(row.audio)
    assert len(load_audio(wet.audio)) == len(dry) and np.abs(load_audio(wet.audio) - dry).max() > 0.01
    with pytest.raises(FileNotFoundError):
        degrade([row], Condition("room", room=True), tmp_path / "none", tmp_path / "other")


def test_conditions_are_chosen_by_name_in_the_order_of_the_table():
    chosen = chosen_conditions("room, 10 dB; 5 dB;clean")
    assert [condition.name for condition in chosen] == ["clean", "5 dB", "room, 10 dB"]
    assert chosen_conditions(None) == CONDITIONS
    with pytest.raises(ValueError, match="the condition is '7 dB' but must be one of clean; 20 dB;"):
        chosen_conditions("7 dB")


class Fragile:
    """Finds a clip as long as it is clean."""

    name = "fragile"

    def score(self, questions, passages):
        clean = all("tones" in row.audio for row in passages)
        texts = [str(row.transcript) if clean else "the sea" for row in passages]
        size = len(passages)
        return Scored(np.eye(size) if clean else np.eye(size)[::-1], texts, 1.0)


def test_table_and_picture_show_every_condition(noises, tmp_path):
    rows = tone_rows(tmp_path / "tones", 4)
    questions = [Question(f"q{place}", "?", f"c{place}") for place in range(4)]
    conditions = (CONDITIONS[0], Condition("5 dB", 5.0))
    figures = evaluate_robustness(
        rows, questions, [Fragile()], noises, tmp_path / "out", conditions=conditions
    )
    assert figures["clean"]["systems"]["fragile"]["recall_at_1"] == 1.0
    assert figures["5 dB"]["systems"]["fragile"]["recall_at_1"] == 0.0
    table = robustness_table(figures)
    assert "| clean | 100.0 (100.0–100.0) | 0.0 |" in table and "| 5 dB | 0.0 (0.0–0.0) |" in table
    json.dumps(figures)
    pytest.importorskip("matplotlib")
    draw_robustness(figures, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
