"""Conditions of a robustness test: clips in, the same clips with noise and in rooms out.

Enters: a set's clips and the folder of noises. Leaves: degraded clips on disk, the same for every system.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.audio import load_audio
from ..data.augmentation import add_noise, add_room
from ..data.clips import safe_name, write_changed
from ..data.manifest import Row
from .benchmark_set import draw

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


def chosen_conditions(names: str | None) -> tuple[Condition, ...]:
    """Return conditions by their names, in the table's order.

    Args:
        names: with ";" between them, as "clean;5 dB"; all if None.

    Raises:
        ValueError: there is none of a name.
    """
    known = {condition.name: condition for condition in CONDITIONS}
    wanted = list(known) if names is None else [name.strip() for name in names.split(";")]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(
            f"the condition is {unknown[0]!r} but must be one of {'; '.join(known)}; choose among them"
        )
    return tuple(condition for name, condition in known.items() if name in wanted)


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

    def change(name: str, waveform: np.ndarray) -> np.ndarray:
        places = [draw(f"{what}/{name}") for what in ("room", "noise", "start")]
        if condition.room:
            waveform = add_room(waveform, rooms[int(places[0] * len(rooms))])
        if condition.snr_db is not None:
            noise = noises[int(places[1] * len(noises))]
            waveform = add_noise(waveform, noise, condition.snr_db, int(places[2] * len(noise)))
        return waveform / max(float(np.abs(waveform).max()), 1.0)

    return write_changed(passages, change, out / safe_name(condition.name), condition.name)
