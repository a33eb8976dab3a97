"""The recordings, texts and questions of examples/library keep the promises its README makes."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

LIBRARY = Path(__file__).parents[1] / "examples" / "library"
RECORDINGS = sorted(LIBRARY.glob("*.opus"))
QUESTIONS = json.loads((LIBRARY / "questions.json").read_text(encoding="utf-8"))
TIMES = json.loads((LIBRARY / "times.json").read_text(encoding="utf-8"))


@cache
def decode(path: Path) -> tuple[np.ndarray, int]:
    return sf.read(path, dtype="float32", always_2d=True)


def spoken_lines(recording: str) -> list[str]:
    lines = (LIBRARY / "texts" / recording).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("[")]


def test_library_has_at_least_four_recordings_in_two_and_a_half_megabytes():
    assert len(RECORDINGS) >= 4
    assert sum(path.stat().st_size for path in RECORDINGS) <= 2_500_000


def test_library_has_at_least_three_voices():
    texts = "".join(path.read_text(encoding="utf-8") for path in (LIBRARY / "texts").glob("*.txt"))
    speakers = {line for line in texts.splitlines() if line.startswith("[")}
    assert len(speakers) >= 3


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recording_is_three_minutes_of_audible_unclipped_mono(path):
    samples, rate = decode(path)
    assert samples.shape[1] == 1
    assert len(samples) / rate >= 180
    assert 0.02 < np.sqrt(np.mean(samples**2)) < 0.3
    assert np.abs(samples).max() < 1.0


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_times_list_every_sentence_of_the_text_in_order(path):
    assert [sentence for _, _, sentence in TIMES[path.name]] == spoken_lines(path.name)
    edges = [edge for start, end, _ in TIMES[path.name] for edge in (start, end)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] and edges[-1] <= sf.info(path).duration


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_sentence_times_bound_speech_and_the_gap_before_it_is_quiet(path):
    samples, rate = decode(path)

    def loudness(start: float, end: float) -> float:
        return float(np.sqrt(np.mean(samples[round(start * rate) : round(end * rate)] ** 2)))

    previous_end = 0.0
    for start, end, sentence in TIMES[path.name]:
        assert loudness(start, end) > 10 * loudness(previous_end + 0.05, start - 0.05), sentence
        previous_end = end


def test_questions_are_twenty_and_five_of_them_stand_in_the_readme():
    assert len(QUESTIONS) == 20
    assert len({question["question"] for question in QUESTIONS}) == 20
    assert sum(question["readme"] for question in QUESTIONS) == 5


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["question"])
def test_answer_is_said_once_in_the_library_at_the_time_given(question):
    said = [
        (name, start, end)
        for name, lines in TIMES.items()
        for start, end, sentence in lines
        if sentence == question["answer_sentence"]
    ]
    assert said == [(question["file"], question["start"], question["end"])]
    assert question["end"] <= sf.info(LIBRARY / question["file"]).duration
    assert question["answer"]
    for words in question["answer"]:
        assert words.lower() in question["answer_sentence"].lower()


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["question"])
def test_question_is_a_paraphrase_not_a_copy(question):
    """No three words in a row are shared, so full-text search alone cannot answer by copying."""

    def triples(text: str) -> set[tuple[str, ...]]:
        words = [word.strip(",.?'").lower() for word in text.split()]
        return set(zip(words, words[1:], words[2:], strict=False))

    assert not triples(question["question"]) & triples(question["answer_sentence"])
