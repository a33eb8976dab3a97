"""Moments: the words of a passage that answer a question best.

Sentences of the transcripts are embedded once, by `embed_windows`, when a recording is indexed; `find_moments` compares
them with a question. Neither reads the audio.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..transcript_clsr import Word

SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")
CLAUSE_ENDS = (",", ";", ":", "，", "；", "：")
CLOSING_MARKS = "\"'”’)]»"
TITLES = frozenset({"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs.", "no."})  # they end no sentence
SENTENCE_PAUSE_S = 0.8  # a pause of this length ends a sentence, too
MIN_SENTENCE_WORDS = 3  # a shorter one goes with what follows
MAX_SENTENCE_WORDS = 25  # a longer one is cut at a comma, a pause, or in the middle
BREVITY_MARGIN = 0.02  # cosine by which two sentences must beat one


class TextEncoder(Protocol):
    """What embeds texts, as `Encoder` does."""

    def encode_texts(self, texts: list[str], truncation: bool = False) -> np.ndarray:
        """Return (N, D) unit vectors."""


@dataclass(frozen=True)
class Moment:
    """The words of a hit that answer best.

    Attributes:
        text: as in the transcript.
        start_s: of its first word, in seconds from the start of the recording.
        end_s: of its last word.
        score: cosine with the question.
        start_char: where it begins in the transcript.
        end_char: where it ends.
    """

    text: str
    start_s: float
    end_s: float
    score: float
    start_char: int
    end_char: int


def embed_windows(
    encoder: TextEncoder, transcripts: Sequence[str], word_lists: Sequence[list[Word]]
) -> list[np.ndarray]:
    """Embed what may be a moment: each sentence of each transcript, and each two neighbours.

    Args:
        encoder: with `encode_texts`.
        transcripts: of passages.
        word_lists: of the passages, in the order of the transcript.

    Returns:
        For each passage (W, D) unit vectors, in the order of `sentence_windows`.
    """
    texts, counts = [], []
    for transcript, words in zip(transcripts, word_lists, strict=True):
        windows = window_texts(transcript, words)
        texts += [text for text, _ in windows]
        counts.append(len(windows))
    vectors = encoder.encode_texts(texts, truncation=True) if texts else np.zeros((0, 0), np.float32)
    return np.split(vectors, np.cumsum(counts)[:-1])


def window_texts(transcript: str, words: list[Word]) -> list[tuple[str, int]]:
    """Return (text, number of sentences) of what may be a moment, in the order of `sentence_windows`."""
    spans = character_spans(transcript, words)
    return [
        (transcript[spans[first][0] : spans[end - 1][1]], count)
        for first, end, count in sentence_windows(words)
    ]


def find_moments(
    vector: np.ndarray,
    transcripts: Sequence[str],
    word_lists: Sequence[list[Word]],
    windows: Sequence[np.ndarray],
) -> list[Moment | None]:
    """Find in each transcript the sentence, or two, nearest to the question.

    Args:
        vector: (D,) of the question.
        transcripts: of the hits.
        word_lists: of the hits, in the order of the transcript.
        windows: of the hits, from `embed_windows`.

    Returns:
        One moment for each hit, None where it has no words.
    """
    return [
        _best_window(vector, transcript, words, vectors)
        for transcript, words, vectors in zip(transcripts, word_lists, windows, strict=True)
    ]


def _best_window(
    vector: np.ndarray, transcript: str, words: list[Word], vectors: np.ndarray
) -> Moment | None:
    places = list(sentence_windows(words))
    if not places:
        return None
    scores = vectors.astype(np.float32, copy=False) @ vector  # (W,)
    best = int(np.argmax(scores - BREVITY_MARGIN * np.array([count - 1 for *_, count in places])))
    first, end, _ = places[best]
    spans = character_spans(transcript, words)
    start_char, end_char = spans[first][0], spans[end - 1][1]
    text = transcript[start_char:end_char]
    return Moment(text, words[first].start, words[end - 1].end, float(scores[best]), start_char, end_char)


def sentence_windows(words: list[Word]) -> Iterator[tuple[int, int, int]]:
    """Yield (first word, end word, number of sentences) of each sentence and of each two neighbours."""
    sentences = list(split_sentences(words))
    for first, end in sentences:
        yield first, end, 1
    for (first, _), (_, end) in itertools.pairwise(sentences):
        yield first, end, 2


def split_sentences(words: list[Word]) -> Iterator[tuple[int, int]]:
    """Cut a transcript into sentences, by punctuation and pauses, and long sentences into parts.

    Yields:
        (first, end) word indices; they cover all words.
    """
    first = 0
    for end in range(1, len(words) + 1):
        last = words[end - 1]
        text = last.text.strip().rstrip(CLOSING_MARKS)
        initial = len(text) == 2 and text[0].isalpha()  # "J." in a name
        full_stop = text.endswith(SENTENCE_ENDS) and not initial and text.lower() not in TITLES
        pause = end < len(words) and words[end].start - last.end >= SENTENCE_PAUSE_S
        if end == len(words) or ((full_stop or pause) and end - first >= MIN_SENTENCE_WORDS):
            yield from _split_long(words, first, end)
            first = end


def _split_long(words: list[Word], first: int, end: int) -> Iterator[tuple[int, int]]:
    """Halve a sentence until its parts are short, at a comma or else the longest pause of its middle half."""
    if end - first <= MAX_SENTENCE_WORDS:
        yield first, end
        return
    middle = (first + end) / 2
    quarter = (end - first) // 4

    def preference(cut: int) -> tuple[bool, float, float]:
        comma = words[cut - 1].text.strip().endswith(CLAUSE_ENDS)
        pause = 0.0 if comma else words[cut].start - words[cut - 1].end
        return comma, pause, -abs(cut - middle)

    cut = max(range(first + quarter, end - quarter), key=preference)
    yield from _split_long(words, first, cut)
    yield from _split_long(words, cut, end)


def character_spans(transcript: str, words: list[Word]) -> list[tuple[int, int]]:
    """Return start and end of each word's characters in the transcript, in order."""
    spans = []
    at = 0
    for word in words:
        text = word.text.strip()
        found = transcript.find(text, at)
        start = at if found < 0 else found
        at = min(start + len(text), len(transcript))
        spans.append((start, at))
    return spans
