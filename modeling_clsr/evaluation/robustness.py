"""Robustness: the same questions over clips with noise and in rooms, every system on the same degraded clips.

Enters: a set, noises, systems. Leaves: figures for each condition, a table, and pictures of recall against noise and
against word errors (the paper's Figure 6).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from ..data.audio import SAMPLING_RATE, load_audio
from ..data.augmentation import add_noise, add_room
from ..data.manifest import Row
from ..data.synthesis import safe_name
from .benchmark_set import Question, draw
from .evaluator import evaluate_systems
from .systems import System

try:
    import matplotlib.figure
except ImportError:  # the "train" extra
    matplotlib = None  # type: ignore[assignment]

# Kept for tests: training may use the others of the folder.
TEST_NOISES = ("noise4", "noise5")
TEST_ROOMS = ("rir3", "rir4")


@dataclass(frozen=True)
class Condition:
    """What is done to every clip.

    Attributes:
        name: in tables.
        snr_db: of the noise; None adds none.
        room: convolve with a room's response before.
    """

    name: str
    snr_db: float | None = None
    room: bool = False


CONDITIONS = (
    Condition("clean"),
    *(Condition(f"{snr_db} dB", float(snr_db)) for snr_db in (20, 10, 5, 0)),
    Condition("room", room=True),
    Condition("room, 10 dB", 10.0, room=True),
)


def degrade(passages: Sequence[Row], condition: Condition, noise_folder: Path, out: Path) -> list[Row]:
    """Write every clip under a condition; clips that are there are kept.

    Which noise, which of its samples and which room is drawn from the clip's name, so it is the same for all systems
    and at all levels.

    Args:
        passages: clean.
        condition: what to do.
        noise_folder: with the files of `TEST_NOISES` and `TEST_ROOMS`.
        out: folder for the clips, in 16-bit FLAC.

    Raises:
        FileNotFoundError: a noise or room is missing.
    """
    if condition.snr_db is None and not condition.room:
        return list(passages)
    noises, rooms = (
        [load_audio(noise_folder / f"{name}.flac") for name in names] for names in (TEST_NOISES, TEST_ROOMS)
    )
    folder = out / safe_name(condition.name)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for passage in tqdm(passages, unit="clip", desc=condition.name):
        path = folder / f"{safe_name(passage.id)}.flac"
        if not path.exists():
            waveform = load_audio(passage.audio)
            places = [draw(f"{what}/{passage.id}") for what in ("room", "noise", "start")]
            if condition.room:
                waveform = add_room(waveform, rooms[int(places[0] * len(rooms))])
            if condition.snr_db is not None:
                noise = noises[int(places[1] * len(noises))]
                waveform = add_noise(waveform, noise, condition.snr_db, int(places[2] * len(noise)))
            peak = float(np.abs(waveform).max())
            unfinished = path.with_suffix(".tmp")
            soundfile.write(unfinished, waveform / max(peak, 1.0), SAMPLING_RATE, format="FLAC")
            unfinished.replace(path)
        rows.append(replace(passage, audio=str(path)))
    return rows


def evaluate_robustness(
    passages: Sequence[Row],
    questions: Sequence[Question],
    systems: Sequence[System],
    noise_folder: Path,
    out: Path,
    reference: str | None = None,
    conditions: Sequence[Condition] = CONDITIONS,
) -> dict[str, Any]:
    """Measure systems under every condition: {condition: what `evaluate_systems` returns}. See `degrade`."""
    return {
        condition.name: evaluate_systems(
            degrade(passages, condition, noise_folder, out), questions, systems, reference
        )
        for condition in conditions
    }


def robustness_table(figures: dict[str, Any]) -> str:
    """Return R@1 and WER of each system under each condition, and the paired tests, as Markdown."""
    names = list(next(iter(figures.values()))["systems"])
    lines = [
        f"| condition | {' | '.join(f'R@1, {name} | WER, {name}' for name in names)} |",
        "|---|" + "---|---|" * len(names),
    ]
    for condition, found in figures.items():
        cells = []
        for name in names:
            row = found["systems"][name]
            low, high = row["recall_at_1_interval"]
            cells.append(f"{100 * row['recall_at_1']:.1f} ({100 * low:.1f}–{100 * high:.1f})")
            cells.append(f"{100 * row['wer']:.1f}" if "wer" in row else "")
        lines.append(f"| {condition} | {' | '.join(cells)} |")
    lines.append("")
    for condition, found in figures.items():
        for pair, tests in found["paired"].items():
            test = tests["recall_at_1"]
            lines.append(
                f"- {condition}, {pair}, R@1: {100 * test['difference']:+.1f} points "
                f"({100 * test['low']:+.1f} to {100 * test['high']:+.1f}), p = {test['p_value']:.3f}"
            )
    return "\n".join(lines) + "\n"


def draw_robustness(figures: dict[str, Any], file: Path) -> None:
    """Draw R@1 against the condition, and against WER; nothing without matplotlib."""
    if matplotlib is None:
        return
    figure = matplotlib.figure.Figure(figsize=(10, 4), layout="constrained")
    by_condition, by_errors = figure.subplots(1, 2, sharey=True)
    for name in next(iter(figures.values()))["systems"]:
        rows = [found["systems"][name] for found in figures.values()]
        recall = [100 * row["recall_at_1"] for row in rows]
        spread = [
            [value - 100 * row["recall_at_1_interval"][0] for value, row in zip(recall, rows, strict=True)],
            [100 * row["recall_at_1_interval"][1] - value for value, row in zip(recall, rows, strict=True)],
        ]
        by_condition.errorbar(range(len(rows)), recall, spread, marker="o", capsize=3, label=name)
        if all("wer" in row for row in rows):
            pairs = sorted((100 * row["wer"], value) for row, value in zip(rows, recall, strict=True))
            by_errors.plot(*zip(*pairs, strict=True), marker="o", label=name)
    by_condition.set_xticks(range(len(figures)), list(figures), rotation=30, ha="right")
    by_condition.set_ylabel("R@1 (%), with 95 % intervals")
    by_condition.legend()
    by_errors.set_xlabel("WER (%)")
    by_errors.legend()
    figure.savefig(file, dpi=120)
