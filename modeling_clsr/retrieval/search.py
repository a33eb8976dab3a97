"""Search: a question to hits, and in each hit the moment, the words that answer best.

Enters: a table, an encoder, a question. Leaves: `Hit` dataclasses, best first. The moment is found from
stored words and times by embedding sentences of the transcript; the audio is not read again.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..transcript_clsr import Word
from .schema import quoted

SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")
CLAUSE_ENDS = (",", ";", ":", "，", "；", "：")
CLOSING_MARKS = "\"'”’)]»"
TITLES = frozenset({"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs.", "no."})  # they end no sentence
SENTENCE_PAUSE_S = 0.8  # a pause of this length ends a sentence, too
MIN_SENTENCE_WORDS = 3  # a shorter one goes with what follows
MAX_SENTENCE_WORDS = 25  # a longer one is cut at a comma, a pause, or in the middle
BREVITY_MARGIN = 0.02  # cosine by which two sentences must beat one
POOL = 20  # passages nearest to the question whose moments are compared
MOMENT_SHARE = 0.5  # of the moment in the score of a hit


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


@dataclass(frozen=True)
class Hit:
    """One search result: a passage.

    Attributes:
        source: absolute path of the recording.
        path: the path as it was given to the index.
        start_s: of the passage, in seconds from the start of the recording.
        end_s: of the passage.
        score: mean of the cosines of the passage and of its moment with the question.
        transcript: of the passage.
        words: of the transcript, timed from the start of the recording.
        moment: the words that answer best; None if the transcript has no timed words.
    """

    source: str
    path: str
    start_s: float
    end_s: float
    score: float
    transcript: str
    words: list[Word]
    moment: Moment | None


def search_table(table, encoder, question: str, k: int = 5, file: str | None = None) -> list[Hit]:
    """Find the passages that answer a question.

    A long passage holds many subjects, and its vector none of them purely. So the nearest passages are ranked again
    by the mean of the passage's cosine and its moment's. `benchmarks/indexing.py` shows what it gains.

    Args:
        table: LanceDB table of `row_schema`.
        encoder: with `encode_texts`.
        question: in words.
        k: number of hits.
        file: glob; only recordings whose path it matches ("lecture*.ogg", "/talks/2024/*").

    Returns:
        At most `k` hits, best first.

    Raises:
        ValueError: the question is empty, `k` below 1, or no recording matches `file`.
    """
    if not question.strip():
        raise ValueError(f"the question is {question!r} but at least one word is needed; ask something")
    if k < 1:
        raise ValueError(f"k is {k} but at least 1 hit must be asked for; raise it")
    condition = None if file is None else glob_condition(file)
    if condition and not table.count_rows(condition):
        raise ValueError(f"{file!r} matches no recording of the index; `*` stands for any characters")
    vector = encoder.encode_texts([question])[0]
    query = table.search(vector, vector_column_name="vector").distance_type("cosine").limit(max(k, POOL))
    if condition:
        query = query.where(condition, prefilter=True)
    rows = query.to_list()
    word_lists = [[Word(**word) for word in row["words"]] for row in rows]
    moments = find_moments(encoder, vector, [row["transcript"] for row in rows], word_lists)
    hits = [
        Hit(
            source=row["source"],
            path=row["path"],
            start_s=row["start_s"],
            end_s=row["end_s"],
            score=joint_score(1.0 - row["_distance"], moment),
            transcript=row["transcript"],
            words=words,
            moment=moment,
        )
        for row, words, moment in zip(rows, word_lists, moments, strict=True)
    ]
    return sorted(hits, key=lambda hit: -hit.score)[:k]


def joint_score(passage: float, moment: Moment | None) -> float:
    """Return the score of a hit from the cosine of its passage and its moment."""
    return passage if moment is None else (1 - MOMENT_SHARE) * passage + MOMENT_SHARE * moment.score


def glob_condition(pattern: str) -> str:
    """Translate a glob of `*` and `?` into a filter on the source; without a leading / at any depth."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    like = escaped.replace("*", "%").replace("?", "_")
    return f"source LIKE {quoted(like if pattern.startswith('/') else '%/' + like)}"


def find_moments(
    encoder, vector: np.ndarray, transcripts: list[str], word_lists: list[list[Word]]
) -> list[Moment | None]:
    """Find in each transcript the sentence, or two, nearest to the question.

    Args:
        encoder: with `encode_texts`.
        vector: (D,) of the question.
        transcripts: of the hits.
        word_lists: of the hits, in the order of the transcript.

    Returns:
        One moment for each hit, None where it has no words.
    """
    candidates = []  # (hit, first word, end word, characters, number of sentences)
    for number, (transcript, words) in enumerate(zip(transcripts, word_lists, strict=True)):
        spans = _character_spans(transcript, words)
        for first, end, count in _windows(words):
            candidates.append((number, first, end, (spans[first][0], spans[end - 1][1]), count))
    moments: list[Moment | None] = [None] * len(transcripts)
    if not candidates:
        return moments
    texts = [transcripts[number][slice(*span)] for number, _, _, span, _ in candidates]
    scores = (encoder.encode_texts(texts, truncation=True) @ vector).tolist()
    best = [-np.inf] * len(transcripts)
    for (number, first, end, span, count), text, score in zip(candidates, texts, scores, strict=True):
        preference = score - BREVITY_MARGIN * (count - 1)
        if preference > best[number]:
            best[number] = preference
            words = word_lists[number]
            moments[number] = Moment(text, words[first].start, words[end - 1].end, score, *span)
    return moments


def _windows(words: list[Word]) -> Iterator[tuple[int, int, int]]:
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


def _character_spans(transcript: str, words: list[Word]) -> list[tuple[int, int]]:
    """Find each word's characters in the transcript, in order."""
    spans = []
    at = 0
    for word in words:
        text = word.text.strip()
        found = transcript.find(text, at)
        start = at if found < 0 else found
        at = min(start + len(text), len(transcript))
        spans.append((start, at))
    return spans
