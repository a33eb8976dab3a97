"""Question answering over long recordings: a retriever picks pieces, a large audio language model answers from them.

Enters: recordings, questions with answers, systems that score pieces, an answering model. Leaves: exact match, F1 and
seconds of the picked piece beside four controls: the whole recording, a random piece, the piece that holds the answer,
and the cascade's piece (paper, section on long-form question answering and Table 5).
"""

import itertools
import re
import string
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from ..data.audio import SAMPLING_RATE, load_audio
from ..data.manifest import Row
from ..data.passages import CutSettings, stream_passages
from ..retrieval.answering import AnswerModel
from .benchmark_set import Question, draw
from .significance import mean_interval, paired_test
from .systems import System

PIECE_S = 40.0  # the paper's
PASSAGE_S = 28.0  # longest input of a retriever: a longer piece is scored by the best of its parts


@dataclass(frozen=True)
class Piece:
    """A piece of a recording, start and end in seconds; `parts` are places among the passages of a retriever."""

    recording: str
    start: float
    end: float
    parts: tuple[int, ...]


def cut_pieces(
    recordings: Sequence[Row], out: Path, by: str = "fixed", piece_s: float = PIECE_S
) -> tuple[list[Piece], list[Row]]:
    """Cut recordings of any length.

    Args:
        recordings: to cut.
        out: folder for the parts' clips.
        by: "fixed" (the paper's way, which may cut a word) or "pauses".
        piece_s: longest piece, in seconds; every piece of "fixed" has this length.

    Returns:
        Pieces, and the passages that retrievers score: each piece, or its parts if it is longer than `PASSAGE_S`.

    Raises:
        ValueError: `by` is unknown.
    """
    if by not in ("fixed", "pauses"):
        raise ValueError(f"by is {by!r} but must be 'fixed' or 'pauses'; choose one")
    out.mkdir(parents=True, exist_ok=True)
    pieces: list[Piece] = []
    passages: list[Row] = []
    for row in recordings:
        waveform = load_audio(row.audio)
        for start, end in _bounds(row, len(waveform), by, piece_s):
            count = int(np.ceil((end - start) / SAMPLING_RATE / PASSAGE_S))
            edges = np.linspace(start, end, max(count, 1) + 1).astype(int)
            places = []
            for first, last in itertools.pairwise(edges.tolist()):
                name = f"{row.id}-{first}-{last}"
                path = out / f"{name}.flac"
                if not path.exists():
                    soundfile.write(path, waveform[first:last], SAMPLING_RATE, format="FLAC")
                places.append(len(passages))
                duration = (last - first) / SAMPLING_RATE
                passages.append(Row(name, str(path), context_id=row.id, duration=duration))
            pieces.append(Piece(row.id, start / SAMPLING_RATE, end / SAMPLING_RATE, tuple(places)))
    return pieces, passages


def _bounds(row: Row, samples: int, by: str, piece_s: float) -> Iterable[tuple[int, int]]:
    if by == "fixed":
        step = round(piece_s * SAMPLING_RATE)
        return [(start, min(start + step, samples)) for start in range(0, samples, step)]
    return [
        (round(passage.start_s * SAMPLING_RATE), round(passage.end_s * SAMPLING_RATE))
        for passage, _ in stream_passages(row.audio, CutSettings(max_s=piece_s))
    ]


def evaluate_long_form(
    recordings: Sequence[Row],
    questions: Sequence[Question],
    systems: Sequence[System],
    model: AnswerModel,
    out: Path,
    by: str = "fixed",
    piece_s: float = PIECE_S,
    k: int = 1,
) -> dict[str, Any]:
    """Answer every question from the pieces of its own recording that each system, and each control, picks.

    Args:
        recordings: of any length.
        questions: with answers; those without are left out. The oracle needs spans.
        systems: that pick pieces; the first is tested against the others and the controls.
        model: that answers.
        out: folder for the pieces.
        by: see `cut_pieces`.
        piece_s: see `cut_pieces`.
        k: pieces that the model hears.

    Returns:
        {"systems": {name: {"em", "f1" with intervals, "found" (share of questions whose answer is in the pieces),
        "seconds" (picking and answering all questions), "speed_up" (against the whole recording)}}, "paired": …}

    Raises:
        ValueError: no question has an answer and its time.
    """
    asked = [question for question in questions if question.answer and question.spans]
    if not asked:
        raise ValueError(
            f"0 of {len(questions)} questions have an answer and its span; use a set that has both"
        )
    pieces, passages = cut_pieces(recordings, out, by, piece_s)
    waveforms = {row.id: load_audio(row.audio) for row in recordings}
    picks = _picks(systems, asked, pieces, passages, k)
    figures: dict[str, Any] = {
        "questions": len(asked),
        "pieces": len(pieces),
        "model": model.name,
        "systems": {},
        "paired": {},
    }
    scores: dict[str, dict[str, np.ndarray]] = {}
    known: dict[tuple, tuple[str, float]] = {}  # equal inputs need one answer
    for name, (chosen, picking) in picks.items():
        seconds, written = picking, []
        for question, places in zip(tqdm(asked, unit="question", desc=name), chosen, strict=True):
            key = (question.id, *places)
            if key not in known:
                clips = [_clip(waveforms, pieces[place]) for place in places]
                start = time.perf_counter()
                answer = model.answer(question.question, clips)
                known[key] = answer, time.perf_counter() - start
            written.append(known[key][0])
            seconds += known[key][1]
        pairs = list(zip(written, asked, strict=True))
        scores[name] = {
            "em": np.array([exact_match(answer, str(q.answer)) for answer, q in pairs]),
            "f1": np.array([answer_f1(answer, str(q.answer)) for answer, q in pairs]),
            "found": np.array(
                [
                    float(any(_shared(pieces[place], q) > 0.5 for place in places))
                    for places, q in zip(chosen, asked, strict=True)
                ]
            ),
        }
        row: dict[str, Any] = {"seconds": seconds}
        for measure, values in scores[name].items():
            row |= {measure: float(values.mean()), f"{measure}_interval": list(mean_interval(values))}
        figures["systems"][name] = row
    for row in figures["systems"].values():
        row["speed_up"] = figures["systems"]["whole"]["seconds"] / row["seconds"]
    first = systems[0].name
    for name in scores:
        if name != first:
            figures["paired"][f"{first} - {name}"] = {
                measure: vars(paired_test(scores[first][measure], scores[name][measure]))
                for measure in ("em", "f1")
            }
    return figures


def _picks(
    systems: Sequence[System],
    questions: Sequence[Question],
    pieces: Sequence[Piece],
    passages: Sequence[Row],
    k: int,
) -> dict[str, tuple[list[list[int]], float]]:
    """Return for each system and control the pieces of each question, and the seconds that picking took."""
    own = [
        [place for place, piece in enumerate(pieces) if piece.recording == question.context_id]
        for question in questions
    ]
    picks: dict[str, tuple[list[list[int]], float]] = {}
    for system in systems:
        start = time.perf_counter()
        scored = system.score([question.question for question in questions], passages)
        best = np.stack([scored.scores[:, list(piece.parts)].max(axis=1) for piece in pieces], axis=1)
        chosen = [
            [places[rank] for rank in np.argsort(-line[places], kind="stable")[:k]]
            for places, line in zip(own, best, strict=True)
        ]
        # What was heard in an earlier run counts, too.
        picks[system.name] = chosen, max(scored.seconds, time.perf_counter() - start)
    drawn = [draw(question.id) for question in questions]
    shares = [[_shared(piece, question) for piece in pieces] for question in questions]
    return picks | {
        "whole": (own, 0.0),
        "random": (
            [[places[int(chance * len(places))]] for places, chance in zip(own, drawn, strict=True)],
            0.0,
        ),
        "oracle": ([[int(np.argmax(line))] for line in shares], 0.0),
    }


def normalize_answer(text: str) -> str:
    """Lower-case, drop punctuation and articles, as SQuAD's official script does.

    >>> normalize_answer("The  Levi's Stadium.")
    'levis stadium'
    """
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact_match(answer: str, truth: str) -> float:
    """Return 1 if two answers are the same words."""
    return float(normalize_answer(answer) == normalize_answer(truth))


def answer_f1(answer: str, truth: str) -> float:
    """Return the harmonic mean of precision and recall of the answer's words.

    >>> answer_f1("at Santa Clara", "Santa Clara")
    0.8
    """
    given, wanted = normalize_answer(answer).split(), normalize_answer(truth).split()
    shared = sum((Counter(given) & Counter(wanted)).values())
    if not given or not wanted:
        return float(given == wanted)
    return 2 * shared / (len(given) + len(wanted))


def _shared(piece: Piece, question: Question) -> float:
    """Return which share of the answer's time lies in a piece."""
    if piece.recording != question.context_id:
        return 0.0
    return max(
        max(min(piece.end, end) - max(piece.start, start), 0.0) / max(end - start, 1e-6)
        for start, end in question.spans
    )


def _clip(waveforms: dict[str, np.ndarray], piece: Piece) -> np.ndarray:
    first, last = (round(at * SAMPLING_RATE) for at in (piece.start, piece.end))
    return waveforms[piece.recording][first:last]
