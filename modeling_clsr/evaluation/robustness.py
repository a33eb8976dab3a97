"""Robustness: the same questions over clips with noise and in rooms, every system on the same degraded clips.

Enters: a set, noises, systems. Leaves: figures for each condition; `robustness_report` shows them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.manifest import Row
from .benchmark_set import Question
from .conditions import CONDITIONS, Condition, degrade
from .evaluator import evaluate_systems
from .systems import System


def evaluate_robustness(
    passages: Sequence[Row],
    questions: Sequence[Question],
    systems: Sequence[System],
    noise_folder: Path,
    out: Path,
    reference: str | None = None,
    conditions: Sequence[Condition] = CONDITIONS,
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Measure systems under every condition: {condition: what `evaluate_systems` returns}; see `degrade` and there."""
    return {
        condition.name: evaluate_systems(
            degrade(passages, condition, noise_folder, out), questions, systems, reference, pairs
        )
        for condition in conditions
    }
