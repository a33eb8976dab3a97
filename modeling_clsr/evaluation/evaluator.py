"""Systems on a benchmark set: scores in, measures with intervals and paired tests out.

Enters: a folder from `sets` and systems. Leaves: plain figures for a report.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.manifest import Row, read_manifest
from .metrics import character_error_rate, whisper_words, word_error_rate
from .ranking import query_measures, relevance_of
from .sets import Question, read_questions
from .significance import mean_interval, paired_test
from .systems import System

TESTED = ("recall_at_1", "hit_at_5", "mrr_at_10")


def load_set(folder: str | Path) -> tuple[list[Row], list[Question]]:
    """Read passages and questions of a built set.

    Raises:
        FileNotFoundError: it is not built.
        ValueError: a question's passage is not in the pool.
    """
    folder = Path(folder)
    if not (folder / "questions.jsonl").is_file():
        raise FileNotFoundError(
            f"{folder} holds no questions.jsonl; build the set with python -m modeling_clsr.evaluation.sets"
        )
    passages, questions = read_manifest(folder / "passages.jsonl"), read_questions(folder)
    pool = {row.context_id for row in passages}
    lost = [question for question in questions if question.context_id not in pool]
    if lost:
        raise ValueError(
            f"question {lost[0].id} asks about {lost[0].context_id} but the pool has {len(pool)} other passages; "
            "build the set again"
        )
    return passages, questions


def evaluate_systems(
    passages: Sequence[Row],
    questions: Sequence[Question],
    systems: Sequence[System],
    reference: str | None = None,
) -> dict[str, Any]:
    """Measure systems on the same questions and passages.

    Args:
        passages: the whole pool.
        questions: each with its `context_id`.
        systems: in the order of the table.
        reference: name of the system that the others are tested against; the first if None.

    Returns:
        {"systems": {name: {measure: value, measure_interval: [low, high], …}}, "paired": {pair: …}}.
    """
    groups = [question.context_id for question in questions]
    relevant = relevance_of(np.array(groups), np.array([row.context_id for row in passages]))
    hours = sum(row.duration or 0.0 for row in passages) / 3600
    figures: dict[str, Any] = {"systems": {}, "paired": {}}
    found: dict[str, dict[str, np.ndarray]] = {}
    for system in systems:
        scored = system.score([question.question for question in questions], passages)
        found[system.name] = query_measures(scored.scores, relevant)
        row: dict[str, Any] = {}
        for name, values in found[system.name].items():
            row |= {name: float(values.mean()), f"{name}_interval": list(mean_interval(values, groups))}
        row |= {"seconds": scored.seconds}
        if scored.seconds:
            row["times_real_time"] = 3600 * hours / scored.seconds
        truths = [passage.transcript for passage in passages]
        if scored.transcripts is not None and all(truths):
            row |= _errors([str(truth) for truth in truths], scored.transcripts)
        figures["systems"][system.name] = row
    first = reference or systems[0].name
    for name in found:
        if name != first:
            figures["paired"][f"{first} - {name}"] = {
                measure: vars(paired_test(found[first][measure], found[name][measure], groups))
                for measure in TESTED
            }
    return figures


def _errors(truths: list[str], heard: list[str]) -> dict[str, Any]:
    words, word_interval = word_error_rate(truths, heard, normalize=whisper_words)
    letters, letter_interval = character_error_rate(truths, heard)
    return {
        "wer": words,
        "wer_interval": list(word_interval),
        "cer": letters,
        "cer_interval": list(letter_interval),
    }
