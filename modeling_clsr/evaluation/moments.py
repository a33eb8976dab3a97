"""Moments: does a system find the words that answer in long recordings, and how far off are its times?

Enters: long recordings, questions with the spans of their answers, systems that find moments. Leaves: hit@k of the
moment and its time error. The pieces are independent of CLSR, so that the task can be given to another benchmark: a
corpus of recordings, questions, and as relevance judgements (recording, start, end).
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..data.manifest import Row
from ..data.passages import stream_passages
from ..retrieval.encoder import Encoder
from ..retrieval.index import SpeechIndex
from ..retrieval.moments import embed_windows, find_moments
from ..retrieval.search import POOL, joint_score
from ..transcript_clsr import Word
from .benchmark_set import Question
from .significance import mean_interval, paired_test

CUTS = (1, 5, 10)
OVERLAP = 0.5  # share of the answer's time that a moment must cover to be a hit
TESTED = ("hit_at_1", "hit_at_5")


@dataclass(frozen=True)
class FoundMoment:
    """A piece of a recording, start and end in seconds from its start."""

    recording: str
    start: float
    end: float


class MomentSystem(Protocol):
    """One system."""

    name: str

    def index(self, recordings: Sequence[Row]) -> float:
        """Hear the recordings; return the seconds that took."""

    def find(self, question: str, k: int) -> list[FoundMoment]:
        """Return the k best moments, best first."""


def moment_measures(
    found: Sequence[Sequence[FoundMoment]], questions: Sequence[Question]
) -> dict[str, np.ndarray]:
    """Judge moments.

    Args:
        found: for each question its moments, best first.
        questions: with their spans; `context_id` names the recording.

    Returns:
        For each question: hit_at_k, 1 if one of the first k covers half of the time of an answer; start_error, the
        distance in seconds from the start of the best hit to that of its answer; length, that of the first moment.
        The last two are NaN where there is no hit, or no moment.

    Raises:
        ValueError: a question has no span.
    """
    measures = {f"hit_at_{k}": np.zeros(len(questions)) for k in CUTS}
    measures |= {name: np.full(len(questions), np.nan) for name in ("start_error", "length")}
    for row, (moments, question) in enumerate(zip(found, questions, strict=True)):
        if not question.spans:
            raise ValueError(
                f"question {question.id} has 0 spans but its answer's time is needed; leave it out"
            )
        if moments:
            measures["length"][row] = moments[0].end - moments[0].start
        for rank, moment in enumerate(moments[: max(CUTS)]):
            hit = [span for span in question.spans if covers(moment, question.context_id, span)]
            if hit:
                for k in CUTS:
                    measures[f"hit_at_{k}"][row] = float(rank < k)
                measures["start_error"][row] = min(abs(moment.start - start) for start, _ in hit)
                break
    return measures


def covers(moment: FoundMoment, recording: str, span: tuple[float, float]) -> bool:
    """Tell whether a moment holds half of an answer's time."""
    start, end = span
    both = min(moment.end, end) - max(moment.start, start)
    return moment.recording == recording and both > 0 and both >= OVERLAP * (end - start)


def evaluate_moments(
    recordings: Sequence[Row], questions: Sequence[Question], systems: Sequence[MomentSystem]
) -> dict[str, Any]:
    """Measure systems on the questions whose answer's time is known; the first is tested against the others.

    Raises:
        ValueError: no question has a span.
    """
    asked = [question for question in questions if question.spans]
    if not asked:
        raise ValueError(
            f"0 of {len(questions)} questions have spans; use a set with the times of its answers"
        )
    groups = [question.id for question in asked]
    hours = sum(row.duration or 0.0 for row in recordings) / 3600
    figures: dict[str, Any] = {
        "questions": len(asked),
        "recordings": len(recordings),
        "hours": hours,
        "systems": {},
        "paired": {},
    }
    measured: dict[str, dict[str, np.ndarray]] = {}
    for system in systems:
        seconds = system.index(recordings)
        start = time.perf_counter()
        found = [system.find(question.question, max(CUTS)) for question in asked]
        search_ms = 1000 * (time.perf_counter() - start) / len(asked)
        measured[system.name] = values = moment_measures(found, asked)
        row: dict[str, Any] = {"seconds": seconds, "search_ms": search_ms}
        if seconds:
            row["times_real_time"] = 3600 * hours / seconds
        for k in CUTS:
            name = f"hit_at_{k}"
            row |= {
                name: float(values[name].mean()),
                f"{name}_interval": list(mean_interval(values[name], groups)),
            }
        for name in ("start_error", "length"):
            known = values[name][~np.isnan(values[name])]
            quantiles = np.quantile(known, [0.5, 0.9]).tolist() if len(known) else [None, None]
            row |= {f"{name}_median_s": quantiles[0], f"{name}_p90_s": quantiles[1]}
        figures["systems"][system.name] = row
    first, *others = measured
    for other in others:
        figures["paired"][f"{first} - {other}"] = {
            name: vars(paired_test(measured[first][name], measured[other][name], groups)) for name in TESTED
        }
    return figures


class IndexMoments:
    """`clsr index` and `clsr search`.

    Args:
        encoder: of the checkpoint.
        whole_passages: give each hit's passage instead of its moment: the control that shows what moments add.
        name: in the tables.
        folder: of the index, to find it again; temporary if None.
    """

    def __init__(
        self,
        encoder: Encoder,
        whole_passages: bool = False,
        name: str = "clsr",
        folder: Path | None = None,
    ):
        self.encoder, self.whole_passages, self.name = encoder, whole_passages, name
        self._temporary = None if folder else tempfile.TemporaryDirectory()
        self.folder = folder or Path(self._temporary.name) / "index"  # type: ignore[union-attr]
        self._names: dict[str, str] = {}

    def index(self, recordings: Sequence[Row]) -> float:
        """Index the files; those that are indexed already cost nothing."""
        self._names = {str(Path(row.audio).absolute()): row.id for row in recordings}
        start = time.perf_counter()
        self._index = SpeechIndex.open_or_create(self.folder, self.encoder)
        self._index.add([row.audio for row in recordings], progress=True)
        return time.perf_counter() - start

    def find(self, question: str, k: int) -> list[FoundMoment]:
        """Search."""
        found = []
        for hit in self._index.search(question, k):
            moment = None if self.whole_passages else hit.moment
            start, end = (moment.start_s, moment.end_s) if moment else (hit.start_s, hit.end_s)
            found.append(FoundMoment(self._names[hit.source], start, end))
        return found


@dataclass(frozen=True)
class _Piece:
    recording: str
    text: str
    words: list[Word]


class CascadeMoments:
    """A recogniser that times its words, then a text encoder: the same cuts and the same rule as the index's.

    Args:
        hear: waveform (S,) at 16 kHz -> timed words.
        encode_texts: texts -> (N, D) unit vectors.
        name: in the tables.
    """

    def __init__(
        self,
        hear: Callable[[np.ndarray], list[Word]],
        encode_texts: Callable[[list[str]], np.ndarray],
        name: str = "cascade",
    ):
        self.hear, self._encode, self.name = hear, encode_texts, name

    def encode_texts(self, texts: list[str], truncation: bool = True) -> np.ndarray:
        """Embed texts; sentence-transformers always cuts long ones."""
        return self._encode(texts)

    def index(self, recordings: Sequence[Row]) -> float:
        """Cut, recognise, embed."""
        start = time.perf_counter()
        self._pieces: list[_Piece] = []
        for row in recordings:
            for passage, waveform in stream_passages(row.audio):
                shift = passage.start_s
                words = [
                    replace(word, start=word.start + shift, end=word.end + shift)
                    for word in self.hear(waveform)
                ]
                if words:
                    text = "".join(word.text for word in words).strip()
                    self._pieces.append(_Piece(row.id, text, words))
        self._vectors = self.encode_texts([piece.text for piece in self._pieces])
        return time.perf_counter() - start

    def find(self, question: str, k: int) -> list[FoundMoment]:
        """Rank all pieces by the vectors, the nearest ones again with their moments."""
        vector = self.encode_texts([question])[0]
        cosines = self._vectors @ vector
        nearest = np.argsort(-cosines)[: max(k, POOL)].tolist()
        pieces = [self._pieces[place] for place in nearest]
        texts, words = [piece.text for piece in pieces], [piece.words for piece in pieces]
        moments = find_moments(vector, texts, words, embed_windows(self, texts, words))
        ranked = sorted(
            zip(nearest, pieces, moments, strict=True),
            key=lambda entry: -joint_score(float(cosines[entry[0]]), entry[2].score if entry[2] else None),
        )
        return [
            FoundMoment(piece.recording, moment.start_s, moment.end_s)
            for _, piece, moment in ranked[:k]
            if moment is not None
        ]
