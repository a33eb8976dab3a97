"""qmsum-long: one recording per meeting, a voice for each speaker, questions with the times of their turns."""

import shutil

import numpy as np
import pytest
import soundfile

from modeling_clsr.data.audio import load_audio
from modeling_clsr.data.manifest import read_manifest
from modeling_clsr.data.voices import VOICES
from modeling_clsr.evaluation import meetings
from modeling_clsr.evaluation.meetings import MEETING_VOICES, TURN_PAUSE_S, build_qmsum_long

from .small_sets import small_data

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


@needs_flite
def test_meeting_is_one_recording_and_the_span_holds_its_turns(tmp_path):
    data, voices = small_data(tmp_path / "data"), ("flite/slt", "flite/rms")
    content = build_qmsum_long(data, tmp_path / "out", voices, min_s=10.0)
    ((start, end),) = content.questions[0].spans
    turns = read_manifest(tmp_path / "out/turns/m1/manifest.jsonl")
    assert start == pytest.approx(sum(row.duration + TURN_PAUSE_S for row in turns[:2]), abs=0.05)
    assert end - start == pytest.approx(turns[2].duration + TURN_PAUSE_S + turns[3].duration, abs=0.05)
    assert end < content.passages[0].duration
    assert content.questions[0].answer == "turns"
    recording = load_audio(content.passages[0].audio)
    loud = [float(np.abs(recording[int(at * 16000) :][:1600]).mean()) for at in (start - 0.15, start + 0.5)]
    assert loud[0] < 0.1 * loud[1]  # a pause before the span, speech in it


@needs_flite
def test_each_speaker_has_a_voice_of_their_own_or_the_meeting_is_left_out(tmp_path):
    data, voices = small_data(tmp_path / "data"), ("flite/slt", "flite/rms", "flite/awb")
    content = build_qmsum_long(data, tmp_path / "out", voices, min_s=10.0)
    assert [row.id for row in content.passages] == ["m1"]  # m0 has nine speakers
    turns = read_manifest(tmp_path / "out/turns/m1/manifest.jsonl")
    odd, even = {row.speaker for row in turns[::2]}, {row.speaker for row in turns[1::2]}
    assert len(odd) == len(even) == 1 and odd != even


@needs_flite
def test_recording_that_came_out_too_short_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(meetings, "WORDS_PER_MINUTE", 100)  # expects more seconds than flite takes
    content = build_qmsum_long(
        small_data(tmp_path / "data"), tmp_path / "out", ("flite/slt", "flite/rms"), min_s=16.0
    )
    assert (tmp_path / "out/turns/m1").is_dir() and not (tmp_path / "out/m1.opus").exists()
    assert content.passages == content.questions == []


@needs_flite
def test_times_of_the_turns_add_up_to_the_recording(tmp_path):
    content = build_qmsum_long(
        small_data(tmp_path / "data"), tmp_path / "out", ("flite/slt", "flite/rms"), min_s=10.0
    )
    row = content.passages[0]
    assert soundfile.info(row.audio).duration == pytest.approx(row.duration, abs=0.01)


def test_meeting_voices_exist_and_differ():
    assert set(MEETING_VOICES) <= set(VOICES) and len(set(MEETING_VOICES)) == len(MEETING_VOICES)
