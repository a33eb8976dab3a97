"""Moments in long recordings: the measures, and both ways to find them on real speech."""

import numpy as np
import pytest

from modeling_clsr.data.manifest import Row
from modeling_clsr.evaluation.joining import write_joined
from modeling_clsr.evaluation.moments import (
    CascadeMoments,
    FoundMoment,
    IndexMoments,
    covers,
    evaluate_moments,
    moment_measures,
)
from modeling_clsr.evaluation.report import moments_table
from modeling_clsr.evaluation.sets import Question
from modeling_clsr.transcript_clsr import Word

QUESTION = Question("q", "where?", "r1", "there", ((10.0, 12.0),))


def test_moment_is_a_hit_if_it_holds_half_of_the_answers_time():
    assert covers(FoundMoment("r1", 8.0, 11.0), "r1", (10.0, 12.0))
    assert not covers(FoundMoment("r1", 8.0, 10.9), "r1", (10.0, 12.0))
    assert not covers(FoundMoment("r2", 8.0, 14.0), "r1", (10.0, 12.0))
    assert not covers(FoundMoment("r1", 12.0, 14.0), "r1", (12.0, 12.0))


def test_measures_of_known_moments():
    near, far = FoundMoment("r1", 9.0, 13.0), FoundMoment("r1", 50.0, 55.0)
    found = [[near, far], [far, far, near], [far], []]
    measures = moment_measures(found, [QUESTION] * 4)
    assert measures["hit_at_1"].tolist() == [1, 0, 0, 0] and measures["hit_at_5"].tolist() == [1, 1, 0, 0]
    np.testing.assert_array_equal(measures["start_error"], [1.0, 1.0, np.nan, np.nan])
    np.testing.assert_array_equal(measures["length"], [4.0, 5.0, 5.0, np.nan])
    with pytest.raises(ValueError, match="question q has 0 spans"):
        moment_measures([[near]], [Question("q", "where?", "r1")])


class Fixed:
    def __init__(self, name, moments):
        self.name, self.moments = name, moments

    def index(self, recordings):
        return 2.0

    def find(self, question, k):
        return self.moments[:k]


def test_systems_are_compared_on_the_questions_whose_time_is_known():
    recordings = [Row("r1", "r1.wav", duration=60.0)]
    good, bad = Fixed("good", [FoundMoment("r1", 9.5, 12.0)]), Fixed("bad", [])
    figures = evaluate_moments(recordings, [QUESTION, Question("u", "when?", "r1")], [good, bad])
    assert figures["questions"] == 1 and figures["systems"]["good"]["hit_at_1"] == 1.0
    assert figures["systems"]["good"]["start_error_median_s"] == 0.5
    assert figures["systems"]["bad"]["start_error_median_s"] is None
    assert figures["systems"]["good"]["times_real_time"] == pytest.approx(30.0)
    assert figures["paired"]["good - bad"]["hit_at_1"]["difference"] == 1.0
    assert "| good | 100.0 (100.0–100.0) | 100.0 | 100.0 | 0.5 s / 0.5 s | 2.5 s | 30.0 |" in moments_table(
        {"set": figures}
    )
    with pytest.raises(ValueError, match="0 of 1 questions have spans"):
        evaluate_moments(recordings, [Question("u", "when?", "r1")], [good])


@pytest.fixture(scope="module")
def joined(reread, tmp_path_factory):
    """Four re-read sentences in one recording, and a question in the words of each."""
    folder = tmp_path_factory.mktemp("joined")
    rows = reread[:4]
    spans = write_joined(folder / "long.opus", [str(row["path"]) for row in rows], [2.5] * 4)
    questions = [
        Question(f"q{place}", row["text"] if "text" in row else row["transcript"], "long", "", (span,))
        for place, (row, span) in enumerate(zip(rows, spans, strict=True))
    ]
    return Row("long", str(folder / "long.opus"), duration=spans[-1][1]), questions, rows, spans


def test_cascade_finds_sentences_by_the_words_and_times_of_its_recogniser(joined):
    pytest.importorskip("silero_vad", reason="the extra search is not installed")
    row, questions, _, spans = joined
    lengths = [end - start for start, end in spans]

    def hear(waveform):  # a perfect recogniser: it knows the clips by their lengths
        best = int(np.argmin([abs(length - len(waveform) / 16000) for length in lengths]))
        words = questions[best].question.split()
        step = len(waveform) / 16000 / len(words)
        return [Word(f" {word}", n * step, (n + 1) * step, 1.0) for n, word in enumerate(words)]

    def encode(texts):  # which sentences' words a text has
        counts = [[len({*text.split()} & {*q.question.split()}) for q in questions] for text in texts]
        vectors = np.array(counts, dtype=np.float32) + 1e-3
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    figures = evaluate_moments([row], questions, [CascadeMoments(hear, encode)])
    assert figures["systems"]["cascade"]["hit_at_5"] == 1.0
    assert figures["systems"]["cascade"]["start_error_median_s"] < 1.0


@pytest.mark.slow
def test_index_finds_the_sentence_it_is_asked_in_the_words_of(joined, default_checkpoint, tmp_path):
    from modeling_clsr.retrieval.encoder import Encoder

    row, questions, _, _ = joined
    encoder = Encoder.from_pretrained(default_checkpoint, device="cpu")
    systems = [
        IndexMoments(encoder, folder=tmp_path / "index"),
        IndexMoments(encoder, True, "whole", tmp_path / "index"),
    ]
    figures = evaluate_moments([row], questions, systems)
    for found in figures["systems"].values():
        assert found["hit_at_1"] == 1.0 and found["start_error_median_s"] < 0.5
    assert figures["systems"]["whole"]["seconds"] < figures["systems"]["clsr"]["seconds"]  # indexed already
