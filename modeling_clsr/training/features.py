"""Caches of what does not change while a part is frozen: states of the speech encoder, transcripts, teacher's targets.

Enters: rows and a model. Leaves: a folder of shards that the training reads in place of the audio; what is there
already, of the same model and rows, is not made again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..data.audio import load_audio
from ..data.manifest import Row, distinct_clips
from ..data.sampler import length_batches
from ..modeling_clsr import CLSRModel
from ..parallel_clsr import ParallelRecognizer
from ..recognizer_clsr import encode_speech, speech_encoder_of

logger = logging.getLogger(__name__)

SHARD_CLIPS = 128
CPU_BATCH_SIZE, DEVICE_BATCH_SIZE = 8, 64  # two cores are fastest with few
TEACHER_BEST = 32  # tokens of the teacher's distribution that are kept
# Settings that change no entry of a cache.
OF_LOSSES = (
    "contrastive_weight",
    "recognition_weight",
    "quantity_weight",
    "minimum_error_weight",
    "label_smoothing",
    "sampler_ratio",
    "logit_scale_init_value",
)
# What saving a checkpoint writes into its settings.
OF_SAVING = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "auto_map",
    "custom_pipelines",
    "dtype",
)

Entry = dict[str, Tensor]
MakeEntries = Callable[[list[Any]], list[Entry]]  # waveforms -> what is kept of each


class Shards(Mapping):
    """Entries on disk, by row id; memory holds only their places.

    Args:
        folder: made by `fill`.
        rows: those of one clip share its entry, whichever of them it was made for.
        single: return the tensor of this name in place of the whole entry.
    """

    def __init__(self, folder: str | Path, rows: Sequence[Row], single: str | None = None):
        self.folder = Path(folder)
        self.single = single
        self.places: dict[str, tuple[str, int]] = {}
        for file in sorted(self.folder.glob("shard-*.json")):
            for number, name in enumerate(json.loads(file.read_text(encoding="utf-8"))):
                self.places[name] = (file.stem, number)
        of_clips = {row.audio: self.places[row.id] for row in rows if row.id in self.places}
        self.places |= {row.id: of_clips[row.audio] for row in rows if row.audio in of_clips}

    def __getitem__(self, name: str) -> Any:
        shard, number = self.places[name]
        with safe_open(self.folder / f"{shard}.safetensors", "pt") as file:
            keys = [key for key in file.keys() if key.startswith(f"{number}.")]
            entry = {key.split(".", 1)[1]: file.get_tensor(key) for key in keys}
        return entry[self.single] if self.single else entry

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)


def fill(
    folder: str | Path,
    rows: Sequence[Row],
    make: MakeEntries,
    fingerprint: str,
    sampling_rate: int,
    title: str,
    device: str = "cpu",
) -> Path:
    """Make the entries that are missing, shard by shard; killed half-way it goes on from the last whole shard.

    Of several processes that need the same folder (those of one run, or runs of several seeds) one makes them and the
    others wait for it.

    Args:
        folder: of all caches; the entries of another model go to another folder in it.
        rows: in any order; equal ids must be equal clips, and clips with several rows are made once.
        make: see `MakeEntries`.
        fingerprint: of what the entries depend on beside the audio.
        sampling_rate: of the waveforms, in Hz.
        title: of the progress bar.
        device: type of the model's device; decides how many clips go together.

    Returns:
        The folder for `Shards`.
    """
    place = Path(folder) / f"{title.replace(' ', '-')}-{fingerprint[:16]}"
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        known = Shards(place, rows)
        todo = sorted(
            distinct_clips(row for row in rows if row.id not in known), key=lambda row: row.duration or 0.0
        )
        first = len(list(place.glob("shard-*.json")))
        batch_size = CPU_BATCH_SIZE if device == "cpu" else DEVICE_BATCH_SIZE
        seconds = sum(row.duration or 0.0 for row in todo)
        with tqdm(total=round(seconds), unit="s", desc=title, disable=not todo) as bar:
            for number, start in enumerate(range(0, len(todo), SHARD_CLIPS), start=first):
                shard = todo[start : start + SHARD_CLIPS]
                _write_shard(place, number, shard, make, sampling_rate, batch_size)
                bar.update(round(sum(row.duration or 0.0 for row in shard)))
    return place


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold a folder that one process at a time may fill."""
    lock = FileLock(place / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for another process that fills %s", place)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_shard(
    place: Path, number: int, rows: list[Row], make: MakeEntries, sampling_rate: int, batch_size: int
) -> None:
    tensors: dict[str, Tensor] = {}
    waveforms = [load_audio(row.audio, sampling_rate) for row in rows]
    for batch in length_batches([len(wave) for wave in waveforms], batch_size):
        for index, entry in zip(batch, make([waveforms[index] for index in batch]), strict=True):
            tensors |= {f"{index}.{name}": tensor.contiguous() for name, tensor in entry.items()}
    stem = f"shard-{number:05d}"
    save_file(tensors, place / f"{stem}.tmp")
    (place / f"{stem}.tmp").replace(place / f"{stem}.safetensors")
    # The list comes last: a shard without one was not finished and is written again.
    listing = place / f"{stem}.json.tmp"
    listing.write_text(json.dumps([row.id for row in rows]), encoding="utf-8")
    listing.replace(place / f"{stem}.json")


def fingerprint(model: CLSRModel, processor: Any, *parts: str) -> str:
    """Return a hash of features, settings, and the weights of the named parts ("speech_model", …).

    Arms that differ in their losses alone share their caches, and so do a stage and the next, if the part is frozen.
    """
    digest = hashlib.sha256()
    for settings in (processor.feature_extractor.to_dict(), model.config.to_dict()):
        digest.update(json.dumps(_lasting(settings), sort_keys=True, default=str).encode())
    kept = (
        *(f"{part}." for part in parts),
        "speech_model.cmvn_",
    )  # the statistics of a filterbank belong to every part
    for name, weight in model.state_dict().items():
        if name.startswith(kept):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _lasting(settings: Any) -> Any:
    """Drop, at any depth, what changes no entry of a cache."""
    if not isinstance(settings, dict):
        return settings
    return {
        str(name): _lasting(value) for name, value in settings.items() if name not in (*OF_LOSSES, *OF_SAVING)
    }


def keep_states(model: CLSRModel, processor: Any, rows: Sequence[Row], folder: str | Path) -> Shards:
    """Run a frozen speech encoder over all clips, unless it was done; read (F, H) states by row id."""
    recognizer: Any = model.speech_model
    parallel = isinstance(recognizer, ParallelRecognizer)
    encoder = recognizer.encoder if parallel else speech_encoder_of(recognizer)
    name = next(name for name, module in model.named_modules() if module is encoder)
    place = fill(
        folder,
        rows,
        encoder_states(model, processor),
        fingerprint(model, processor, name),
        processor.feature_extractor.sampling_rate,
        "states",
        model.device.type,
    )
    return Shards(place, rows, "states")


@torch.no_grad()
def encoder_states(model: CLSRModel, processor: Any) -> MakeEntries:
    """Make the states of the speech encoder at true length, float16."""

    def make(waveforms: list[Any]) -> list[Entry]:
        batch = _features(model, processor, waveforms)
        speech = (
            model.speech_model.encode(**batch)
            if isinstance(model.speech_model, ParallelRecognizer)
            else encode_speech(model.speech_model, **batch)
        )
        return [
            {"states": states[mask].half().cpu()}
            for states, mask in zip(speech.states, speech.mask, strict=True)
        ]

    return torch.no_grad()(make)


def transcripts(model: CLSRModel, processor: Any) -> MakeEntries:
    """Make what the recogniser writes, as UTF-8 bytes."""

    def make(waveforms: list[Any]) -> list[Entry]:
        batch = processor(audio=waveforms, sampling_rate=processor.feature_extractor.sampling_rate)
        written = model.transcribe(**{name: value.to(model.device) for name, value in batch.items()})
        return [
            {"text": torch.tensor(list(transcript.text.encode()), dtype=torch.uint8)}
            for transcript in written
        ]

    return make


class Texts(Mapping):
    """`Shards` of UTF-8 bytes, read as strings."""

    def __init__(self, shards: Shards):
        self.shards = shards

    def __getitem__(self, name: str) -> str:
        return bytes(self.shards[name]["text"].tolist()).decode()

    def __len__(self) -> int:
        return len(self.shards)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shards)


def _features(model: CLSRModel, processor: Any, waveforms: list[Any]) -> dict[str, Tensor]:
    batch = processor(audio=waveforms, sampling_rate=processor.feature_extractor.sampling_rate)
    return {
        "input_features": batch["input_features"].to(model.device),
        "mask": batch["feature_attention_mask"].to(model.device),
    }
