"""Systems on a benchmark set: scores in, measures with intervals and paired tests out.

Enters: a folder from `sets` and systems. Leaves: plain figures for a report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.manifest import Row, read_manifest
from .metrics import character_error_rate, whisper_words, word_error_rate
from .ranking import query_measures, relevance_of, square_measures
from .sets import Question, read_questions
from .significance import mean_interval, paired_test
from .systems import System

TESTED = ("recall_at_1", "hit_at_5", "mrr_at_10")


def load_set(folder: str | Path, distractors: str | Path | None = None) -> tuple[list[Row], list[Question]]:
    """Read passages and questions of a built set.

    Args:
        folder: of the set.
        distractors: manifest of clips that join the pool and answer nothing.

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
    if distractors is not None:
        passages += [
            replace(row, id=f"distractor/{row.id}", context_id=f"distractor/{row.id}", question=None)
            for row in read_manifest(distractors)
        ]
    return passages, questions


def evaluate_systems(
    passages: Sequence[Row],
    questions: Sequence[Question],
    systems: Sequence[System],
    reference: str | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    timed: bool = True,
) -> dict[str, Any]:
    """Measure systems on the same questions and passages.

    Args:
        passages: the whole pool.
        questions: each with its `context_id`.
        systems: in the order of the table.
        reference: name of the system that the others are tested against; the first if None.
        pairs: names of other systems that are tested, the first against the second.
        timed: False leaves speed out, where clips were heard beside other work.

    Returns:
        {"systems": {name: {measure: value, measure_interval: [low, high], …}}, "paired": {pair: …}}. Of each system,
        "square" has the paper's protocol (`one_to_one`) both ways, "splits" the measures of each split.
    """
    groups = [question.context_id for question in questions]
    relevant = relevance_of(np.array(groups), np.array([row.context_id for row in passages]))
    hours = sum(row.duration or 0.0 for row in passages) / 3600
    figures: dict[str, Any] = {
        "questions": len(questions),
        "passages": len(passages),
        "hours": hours,
        "systems": {},
        "paired": {},
    }
    own = one_to_one(questions, passages)
    splits = sorted({question.split for question in questions if question.split})
    found: dict[str, dict[str, np.ndarray]] = {}
    for system in systems:
        scored = system.score([question.question for question in questions], passages)
        found[system.name] = query_measures(scored.scores, relevant)
        row: dict[str, Any] = _means(found[system.name], groups)
        if timed:
            row["seconds"] = scored.seconds
        if timed and scored.seconds:
            row["times_real_time"] = 3600 * hours / scored.seconds
        row |= _errors(passages, scored.transcripts)
        row["square"] = {
            direction: {name: float(values.mean()) for name, values in measures.items()}
            for direction, measures in square_measures(scored.scores[np.ix_(*own)]).items()
        }
        row["square"]["questions"] = len(own[0])
        for split in splits:
            members = [place for place, question in enumerate(questions) if question.split == split]
            asked = {groups[place] for place in members}
            heard = [place for place, passage in enumerate(passages) if passage.context_id in asked]
            row.setdefault("splits", {})[split] = (
                {"questions": len(members)}
                | _means(
                    {name: values[members] for name, values in found[system.name].items()},
                    [groups[place] for place in members],
                )
                | _errors(
                    [passages[place] for place in heard],
                    scored.transcripts and [scored.transcripts[place] for place in heard],
                )
            )
        figures["systems"][system.name] = row
    first = reference or systems[0].name
    for better, worse in dict.fromkeys([*((first, name) for name in found if name != first), *pairs]):
        figures["paired"][f"{better} - {worse}"] = {
            measure: vars(paired_test(found[better][measure], found[worse][measure], groups))
            for measure in TESTED
        }
    return figures


def one_to_one(questions: Sequence[Question], passages: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Choose what the paper's square protocol compares: the passages asked about, and the first question of each.

    Returns:
        Places of questions and of passages, in the same order.
    """
    first: dict[str, int] = {}
    for place, question in enumerate(questions):
        first.setdefault(question.context_id, place)
    chosen: dict[str, int] = {}
    for place, passage in enumerate(passages):
        if passage.context_id in first:
            chosen.setdefault(str(passage.context_id), place)
    return [first[context] for context in chosen], list(chosen.values())


def _means(values: Mapping[str, np.ndarray], groups: Sequence[str]) -> dict[str, Any]:
    """Return each measure with its interval."""
    found: dict[str, Any] = {}
    for name, single in values.items():
        found |= {name: float(single.mean()), f"{name}_interval": list(mean_interval(single, groups))}
    return found


def _errors(passages: Sequence[Row], heard: Sequence[str] | None) -> dict[str, Any]:
    """Return the errors in what was heard; nothing where that, or a true text, is unknown."""
    truths = [str(passage.transcript) for passage in passages if passage.transcript]
    if heard is None or len(truths) < len(passages):
        return {}
    words, word_interval = word_error_rate(truths, heard, normalize=whisper_words)
    letters, letter_interval = character_error_rate(truths, heard)
    return {
        "wer": words,
        "wer_interval": list(word_interval),
        "cer": letters,
        "cer_interval": list(letter_interval),
    }
