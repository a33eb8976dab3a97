"""Search: a question to hits.

Enters: a table, an encoder, a question. Leaves: `Hit`s, best first, each with its moment. Passages are ranked by their
vectors ("dense"), by the words that were heard ("text"), or by both ("hybrid").
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import TypeVar

import numpy as np

from ..transcript_clsr import Word
from .doubt import Doubt, Evidence
from .letters import letter_shares
from .moments import Moment, character_spans, find_moments
from .reader import RowsMovedError, TableReader, wait
from .schema import quoted, unpack_windows

MODES = ("hybrid", "dense", "text")
POOL = 20  # passages nearest to the question whose moments are compared
MOMENT_SHARE = 0.5  # of the moment in the score of a hit
# Of the words' and the letters' scores, as shares of the best ones, beside the cosines; see docs/search.md.
WORD_WEIGHT, LETTER_WEIGHT = 0.2, 0.1
HIT_COLUMNS = ["source", "path", "recorded", "start_s", "end_s", "transcript", "words", "window_vectors"]
Score = TypeVar("Score", float, np.ndarray)
SEARCH_TRIES = 5  # while another process rewrites the rows that were found


@dataclass(frozen=True)
class Hit:
    """One search result: a passage.

    Attributes:
        source: absolute path of the recording.
        path: the path as it was given to the index.
        recorded: when the file was last changed before it was indexed, UTC.
        start_s: of the passage, in seconds from the start of the recording.
        end_s: of the passage.
        score: by which the hits of this search are ordered, see `search_table`.
        transcript: of the passage.
        words: of the transcript, timed from the start of the recording.
        moment: the words that answer best; None if the transcript has no timed words.
        evidence: what speaks for it: the cosines of passage and moment, BM25 (0 if a dense search did not count words)
            and letters (0 but in a hybrid search).
        probability: that it answers, calibrated; None if the checkpoint has no calibration.
    """

    source: str
    path: str
    recorded: datetime
    start_s: float
    end_s: float
    score: float
    transcript: str
    words: list[Word]
    moment: Moment | None
    evidence: Evidence
    probability: float | None = None


@dataclass(frozen=True)
class Query:
    """What is asked.

    Attributes:
        text: the question in words; of a spoken one its transcript.
        vector: (D,) of the question.
    """

    text: str
    vector: np.ndarray


def search_table(
    table: TableReader,
    query: Query,
    k: int = 5,
    mode: str = "hybrid",
    condition: str | None = None,
    doubt: Doubt | None = None,
) -> list[Hit]:
    """Find the passages that answer a question.

    "dense": a long passage holds many subjects, and its vector none of them purely, so the passages nearest by cosine
    are ranked again by the mean of the passage's cosine and its moment's. "text": BM25 on the words. "hybrid": that
    mean, 0.2 times the share of the best BM25 score, and 0.1 times that of the best letters, which misheard words share
    with the question. Hits of one recording that overlap are merged.

    Args:
        table: of the index.
        query: the question.
        k: number of hits.
        mode: one of `MODES`.
        condition: filter of LanceDB on the rows, see `row_condition`.
        doubt: gives the hits their probabilities.

    Returns:
        At most `k` hits, best first.

    Raises:
        ValueError: the question is empty, `k` below 1, the mode unknown, or no row meets the condition.
    """
    if not query.text.strip():
        raise ValueError(f"the question is {query.text!r} but at least one word is needed; ask something")
    if k < 1:
        raise ValueError(f"k is {k} but at least 1 hit must be asked for; raise it")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r} but must be one of {', '.join(MODES)}; choose one")
    count = max(2 * k, POOL)  # some are merged
    count_words = mode != "dense" or doubt is not None  # which judges by the words, too
    for tries_left in reversed(range(SEARCH_TRIES)):
        try:
            rows, best = wait(_candidates(table, query, count, mode, condition, count_words))
            break
        except RowsMovedError:
            if not tries_left:
                raise
    hits = [replace(hit, score=_score(hit.evidence, mode, best)) for hit in _hits(rows, query)]
    ranked = merge_overlapping(sorted(hits, key=lambda hit: -hit.score))
    if doubt is not None and ranked:
        chances = doubt.probabilities(ranked, wait(table.count()))  # among all, whatever k is
        ranked = [replace(hit, probability=chance) for hit, chance in zip(ranked, chances, strict=True)]
    return ranked[:k]


def row_condition(
    file: str | None = None,
    after: date | None = None,
    before: date | None = None,
    exclude: str | None = None,
) -> str | None:
    """Write a filter on the rows.

    Args:
        file: glob; recordings whose path it matches ("lecture*.ogg", "/talks/2024/*").
        after: recordings last changed on this day (UTC) or later.
        before: recordings last changed before this day.
        exclude: glob; not the recordings whose path it matches.

    Returns:
        The filter; None if everything passes.
    """
    parts = [] if file is None else [glob_condition(file)]
    if exclude is not None:
        parts.append(f"NOT ({glob_condition(exclude)})")
    for sign, day in ((">=", after), ("<", before)):
        if day is not None:
            midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
            parts.append(f"recorded {sign} timestamp '{midnight:%Y-%m-%d %H:%M:%S}'")
    return " AND ".join(parts) or None


def glob_condition(pattern: str) -> str:
    """Translate a glob of `*` and `?` into a filter on the source; without a leading / at any depth."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    like = escaped.replace("*", "%").replace("?", "_")
    return f"source LIKE {quoted(like if pattern.startswith('/') else '%/' + like)}"


def joint_score(passage: float, moment: float | None) -> float:
    """Return the score of a passage from its cosine and its moment's."""
    return passage if moment is None else (1 - MOMENT_SHARE) * passage + MOMENT_SHARE * moment


def lexical_score(words: Score, letters: Score, letter_weight: float = LETTER_WEIGHT) -> Score:
    """Return what words and letters add to the score of a passage, or of many.

    Args:
        words: BM25 as a share of the best of all passages.
        letters: share of the best, see `letters.letter_shares`.
        letter_weight: of the letters.
    """
    return WORD_WEIGHT * words + letter_weight * letters


def merge_overlapping(hits: list[Hit]) -> list[Hit]:
    """Join hits of one recording that overlap, as those of overlapping windows do.

    The better hit keeps its moment and its words; the other adds the words outside the better one's time.

    Args:
        hits: best first.
    """
    merged: list[Hit] = []
    for hit in hits:
        for place, better in enumerate(merged):
            if better.source == hit.source and better.start_s < hit.end_s and hit.start_s < better.end_s:
                merged[place] = _joined(better, hit)
                break
        else:
            merged.append(hit)
    return merged


def _joined(better: Hit, other: Hit) -> Hit:
    first, last = (better.words[0].start, better.words[-1].end) if better.words else (better.start_s,) * 2
    spans = character_spans(other.transcript, other.words)
    before = [place for place, word in enumerate(other.words) if word.end <= first]
    after = [place for place, word in enumerate(other.words) if word.start >= last]
    head = f"{other.transcript[: spans[before[-1]][1]]} " if before else ""
    tail = f" {other.transcript[spans[after[0]][0] :]}" if after else ""
    moment = better.moment
    if moment is not None:
        moment = replace(
            moment, start_char=moment.start_char + len(head), end_char=moment.end_char + len(head)
        )
    return replace(
        better,
        start_s=min(better.start_s, other.start_s),
        end_s=max(better.end_s, other.end_s),
        transcript=head + better.transcript + tail,
        words=[
            *(other.words[place] for place in before),
            *better.words,
            *(other.words[place] for place in after),
        ],
        moment=moment,
    )


async def _candidates(
    table: TableReader, query: Query, count: int, mode: str, condition: str | None, count_words: bool
) -> tuple[list[dict], float]:
    """Return at most `count` rows that may be hits, and the best BM25 score of all rows.

    The rows have a `cosine`, a `bm25` and `letters` each, and are ordered by these, which are known before the moments.
    """
    bm25, cosines = await asyncio.gather(
        table.worded(query.text, count, condition) if count_words else _nothing(),
        table.nearest(query.vector, count, condition) if mode != "text" else _nothing(),
    )
    best = max(bm25.values(), default=0.0)
    worded, nearest = list(bm25), list(cosines)
    rows = {"text": worded, "dense": nearest, "hybrid": list(cosines | bm25)}[mode]
    unmeasured = [row for row in rows if row not in cosines]
    unscored = [row for row in nearest if row not in bm25] if worded else []
    compared = rows if mode == "hybrid" else []  # by their letters
    more, fetched, heard = await asyncio.gather(
        table.worded(query.text, len(unscored), f"_rowid IN ({', '.join(map(str, unscored))})")
        if unscored
        else _nothing(),
        table.fetch(unmeasured, ["vector"]),
        table.fetch(compared, ["transcript"]),
    )
    bm25 |= more
    shares = letter_shares(query.text, [stored["transcript"] for stored in heard])
    letters = dict(zip(compared, shares.tolist(), strict=True))
    for row, stored in zip(unmeasured, fetched, strict=True):
        cosines[row] = float(np.asarray(stored["vector"], dtype=np.float32) @ query.vector)
    order = {
        "text": lambda row: bm25[row],
        "dense": lambda row: cosines[row],
        "hybrid": lambda row: cosines[row] + lexical_score(_share(bm25.get(row, 0.0), best), letters[row]),
    }[mode]
    chosen = sorted(rows, key=order, reverse=True)[:count]
    found = await table.fetch(chosen, HIT_COLUMNS)
    return [
        stored | {"cosine": cosines[row], "bm25": bm25.get(row, 0.0), "letters": letters.get(row, 0.0)}
        for row, stored in zip(chosen, found, strict=True)
    ], best


async def _nothing() -> dict[int, float]:
    return {}


def _score(evidence: Evidence, mode: str, best: float) -> float:
    if mode == "text":
        return evidence.bm25
    score = joint_score(evidence.passage, evidence.moment)
    if mode == "dense":
        return score
    return score + lexical_score(_share(evidence.bm25, best), evidence.letters)


def _share(bm25: float, best: float) -> float:
    return bm25 / best if best > 0 else 0.0


def _hits(rows: list[dict], query: Query) -> list[Hit]:
    word_lists = [[Word(**word) for word in row["words"]] for row in rows]
    windows = [unpack_windows(row["window_vectors"], len(query.vector)) for row in rows]
    moments = find_moments(query.vector, [row["transcript"] for row in rows], word_lists, windows)
    return [
        Hit(
            source=row["source"],
            path=row["path"],
            recorded=row["recorded"],
            start_s=row["start_s"],
            end_s=row["end_s"],
            score=0.0,
            transcript=row["transcript"],
            words=words,
            moment=moment,
            evidence=Evidence(row["cosine"], moment.score if moment else None, row["bm25"], row["letters"]),
        )
        for row, words, moment in zip(rows, word_lists, moments, strict=True)
    ]
