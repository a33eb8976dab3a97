"""Data sets over rows: one that knows its length, and one that streams.

Enters: `Row`s. Leaves: `Item`s with decoded, augmented audio, or what is cached in its place.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..data.audio import load_audio
from ..data.collator import Item
from ..data.manifest import Row

Augment = Callable[
    [np.ndarray, int, tuple[int, int, int]], np.ndarray
]  # waveform, rate, (seed, epoch, index)


class SpeechRows(Dataset):
    """Rows with their audio.

    Args:
        rows: of one manifest.
        sampling_rate: of the waveforms, in Hz.
        augment: changes a waveform by a key (seed, epoch, index), or None.
        seed: of the keys.
        audio: False where nothing is heard (text alone, or everything is cached).
        caches: name of an `Item` field -> what stands there for each row id.
        max_audio_s: augmented clips are cut to it, in seconds; None for no limit.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        sampling_rate: int = 16000,
        augment: Augment | None = None,
        seed: int = 0,
        audio: bool = True,
        caches: Mapping[str, Mapping[str, Any]] | None = None,
        max_audio_s: float | None = None,
    ):
        self.rows = rows
        self.sampling_rate = sampling_rate
        self.augment = augment
        self.seed = seed
        self.audio = audio
        self.caches = dict(caches or {})
        self.max_audio_s = max_audio_s
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        row = self.rows[index]
        item = Item(row, index, self.epoch, **{name: cache[row.id] for name, cache in self.caches.items()})
        if self.audio:
            item.waveform = self._hear(row.audio, index)
        if row.question is None and row.question_audio is not None:
            item.question_waveform = load_audio(row.question_audio, self.sampling_rate)
        return item

    def lengths(self) -> list[float]:
        """Length of each row, in seconds of audio, or in characters where nothing is heard."""
        if self.audio or "states" in self.caches or "teacher" in self.caches:
            return [row.duration or 0.0 for row in self.rows]
        return [float(len(row.transcript or "")) for row in self.rows]

    def _hear(self, path: str, index: int) -> np.ndarray:
        waveform = load_audio(path, self.sampling_rate)
        if self.augment is not None:
            waveform = self.augment(waveform, self.sampling_rate, (self.seed, self.epoch, index))
        return (
            waveform if self.max_audio_s is None else waveform[: int(self.max_audio_s * self.sampling_rate)]
        )


class EpochSampler(Sampler[int]):
    """Rows in an order that depends on seed and epoch alone, so that a resumed run goes on in the same order.

    Args:
        lengths: of the rows; neighbours get like lengths, so that little is computed on padding.
        group: rows of a step.
        seed: of the order.
        by_length: False gives a plain random order.
    """

    def __init__(self, lengths: Sequence[float], group: int, seed: int = 0, by_length: bool = True):
        self.lengths = [max(round(100 * length), 1) for length in lengths]
        self.group, self.seed, self.by_length = group, seed, by_length
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw another order; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if not self.by_length:
            return iter(torch.randperm(len(self.lengths), generator=generator).tolist())
        return iter(get_length_grouped_indices(self.lengths, self.group, generator=generator))


class StreamedRows(IterableDataset):
    """Rows as they come, for more than a list can hold; the Trainer then needs `max_steps`.

    Args:
        open_rows: starts a new pass over the rows.
        **settings: as `SpeechRows`.
    """

    def __init__(self, open_rows: Callable[[], Iterable[Row]], **settings: Any):
        self.open_rows = open_rows
        self.settings = settings
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Item]:
        worker = torch.utils.data.get_worker_info()
        number, of = (worker.id, worker.num_workers) if worker else (0, 1)
        for index, row in enumerate(self.open_rows()):
            if index % of == number:
                single = SpeechRows(_At(index, row), **self.settings)
                single.epoch = self.epoch
                yield single[index]


class _At(Sequence):
    """One row under its own number, so that its augmentation does not depend on how it was read."""

    def __init__(self, index: int, row: Row):
        self.number, self.row = index, row

    def __len__(self) -> int:
        return self.number + 1

    def __getitem__(self, index):
        assert index == self.number
        return self.row
