"""Long-form question answering: pieces, controls, measures; with a tiny Qwen2-Audio and with a server."""

import json

import numpy as np
import pytest
import soundfile

from modeling_clsr.data.manifest import Row
from modeling_clsr.evaluation.long_form import (
    answer_f1,
    cut_pieces,
    evaluate_long_form,
    exact_match,
)
from modeling_clsr.evaluation.report import long_form_table
from modeling_clsr.evaluation.sets import Question
from modeling_clsr.evaluation.systems import Scored
from modeling_clsr.retrieval.answering import TransformersModel, open_answer_model
from tests.tiny_lalm import running_chat_server, tiny_qwen2_audio

RATE = 16000
LEVELS = (0.1, 0.2, 0.3, 0.4)  # of the seconds of a recording: who hears a level knows the place


@pytest.fixture
def recordings(tmp_path):
    """Two recordings of four pieces of 1 s."""
    rows = []
    for number in (0, 1):
        samples = np.concatenate([np.full(RATE, level + number / 2) for level in LEVELS]).astype(np.float32)
        path = tmp_path / f"r{number}.wav"
        soundfile.write(path, samples, RATE, subtype="FLOAT")
        rows.append(Row(f"r{number}", str(path), duration=4.0))
    return rows


QUESTIONS = [
    Question("q0", "what at two?", "r0", "0.30", ((2.2, 2.6),)),
    Question("q1", "what at nought?", "r1", "0.60", ((0.1, 0.9),)),
    Question("no answer", "what?", "r0"),
]


class Picker:
    """A system that likes one place of each recording best."""

    def __init__(self, name, place):
        self.name, self.place = name, place

    def score(self, questions, passages):
        seconds = [float(row.id.split("-")[1]) / RATE for row in passages]
        return Scored(np.tile([-abs(at - self.place) for at in seconds], (len(questions), 1)), seconds=1.5)


class Listener:
    """Says the level of what it hears first."""

    name = "listener"

    def answer(self, question, clips):
        return f"{float(np.abs(clips[0]).mean()):.2f}"


def test_only_who_hears_the_right_piece_answers(recordings, tmp_path):
    systems = [Picker("clsr", 2.0), Picker("cascade", 0.0)]
    figures = evaluate_long_form(recordings, QUESTIONS, systems, Listener(), tmp_path / "pieces", piece_s=1.0)
    found = figures["systems"]
    assert list(found) == ["clsr", "cascade", "whole", "random", "oracle"]
    assert figures["questions"] == 2 and figures["pieces"] == 8
    assert [found[name]["em"] for name in ("clsr", "cascade", "oracle")] == [0.5, 0.5, 1.0]
    assert found["oracle"]["found"] == found["whole"]["found"] == 1.0
    assert found["clsr"]["found"] == 0.5 and found["clsr"]["seconds"] >= 1.5
    assert set(figures["paired"]) == {f"clsr - {name}" for name in ("cascade", "whole", "random", "oracle")}
    table = long_form_table({"levels": figures})
    assert "| oracle | 100.0 (100.0–100.0) |" in table and "(published) | 27.60 | 35.10" in table
    json.dumps(figures)


def test_several_pieces_are_heard_best_first(recordings, tmp_path):
    heard = []

    class Spy(Listener):
        def answer(self, question, clips):
            heard.append([round(float(clip.mean()), 1) for clip in clips])
            return ""

    evaluate_long_form(
        recordings, QUESTIONS[:1], [Picker("clsr", 2.0)], Spy(), tmp_path / "pieces", piece_s=1.0, k=2
    )
    assert heard[0] in ([0.3, 0.2], [0.3, 0.4]) and heard[1] == [0.1, 0.2, 0.3, 0.4]


def test_long_piece_is_scored_by_its_best_part(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_clsr.evaluation.long_form.PASSAGE_S", 1.0)
    pieces, passages = cut_pieces(recordings, tmp_path / "pieces", piece_s=2.0)
    assert [(piece.start, piece.end, piece.parts) for piece in pieces[:2]] == [
        (0.0, 2.0, (0, 1)),
        (2.0, 4.0, (2, 3)),
    ]
    assert len(passages) == 8 and {soundfile.info(row.audio).duration for row in passages} == {1.0}
    with pytest.raises(ValueError, match="by is 'words' but must be"):
        cut_pieces(recordings, tmp_path / "pieces", by="words")


def test_pieces_by_pauses_hold_the_speech_only(speech_data, reread, tmp_path):
    pytest.importorskip("silero_vad", reason="the extra search is not installed")
    from modeling_clsr.data.audio import load_audio

    clips = [load_audio(row["path"]) for row in reread[:2]]
    samples = np.concatenate([clips[0], np.zeros(4 * RATE, np.float32), clips[1]])
    soundfile.write(tmp_path / "two.wav", samples, RATE)
    pieces, _ = cut_pieces([Row("two", str(tmp_path / "two.wav"))], tmp_path / "pieces", by="pauses")
    assert len(pieces) == 2
    assert pieces[0].end < len(clips[0]) / RATE + 0.5 and pieces[1].start > len(clips[0]) / RATE + 3.0


def test_answers_are_compared_as_squad_does():
    assert exact_match("The Levi's Stadium!", "levis stadium") == 1.0
    assert exact_match("stadium", "levis stadium") == 0.0
    assert answer_f1("at Santa Clara", "Santa Clara") == pytest.approx(0.8)
    assert answer_f1("", "Santa Clara") == 0.0 and answer_f1("the", "a") == 1.0
    assert answer_f1("one one two", "one two two") == pytest.approx(2 / 3)


def test_tiny_qwen2_audio_and_a_server_answer_the_same_task(recordings, tmp_path):
    local = TransformersModel(tiny_qwen2_audio(tmp_path / "lalm"), device="cpu", max_new_tokens=4)
    systems = [Picker("clsr", 2.0)]
    with running_chat_server(lambda text, clips: f"{np.abs(clips[0]).mean():.2f}") as server:
        for model, expected in ((local, 0.0), (open_answer_model(server.url), 0.5)):
            figures = evaluate_long_form(
                recordings, QUESTIONS, systems, model, tmp_path / "pieces", piece_s=1.0
            )
            assert figures["systems"]["clsr"]["em"] == expected
            assert figures["systems"]["clsr"]["speed_up"] > 0 and figures["model"] == model.name


def test_questions_without_answers_are_refused(recordings, tmp_path):
    with pytest.raises(ValueError, match="0 of 1 questions have an answer and its span"):
        evaluate_long_form(recordings, QUESTIONS[2:], [Picker("clsr", 0)], Listener(), tmp_path)
