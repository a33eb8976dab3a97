"""What a checkpoint hears in the clips of manifests: one line of JSON a clip, {"id", "text"}.

    python recipes/mini_en/hear.py squad=speech/squad/manifest.jsonl --out heard/base [--noise_dir noise --snr_db 0,15]

Several clips are heard at once, also on a GPU; clips that were heard are not heard again. With `--states` a clip is
encoded once for all checkpoints of one speech encoder, and suspicious transcripts get no second look.
"""

import argparse
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from modeling_clsr import CLSRModel, CLSRProcessor
from modeling_clsr.data.audio import SAMPLING_RATE, load_audio
from modeling_clsr.data.augmentation import Augmentation, load_noises
from modeling_clsr.data.json_lines import keep_line, read_kept_lines
from modeling_clsr.data.manifest import Row, distinct_clips, read_manifest
from modeling_clsr.data.sampler import length_batches
from modeling_clsr.evaluation.conditions import chosen_conditions, degrade
from modeling_clsr.hub.release import checkpoint_folder
from modeling_clsr.training.features import Shards, keep_states

MAX_BATCH = 64
NOISE_SEED = 7
DTYPES = ("float32", "bfloat16", "auto")


def noise_and_rooms(noise_dir: str, snr_db: str) -> Augmentation:
    """Open the noise of training: on every clip, in a range as "0,15", with a room for half of them."""
    low, high = map(float, snr_db.split(","))
    noises, rooms = load_noises(noise_dir)
    return Augmentation(noises, rooms, noise_probability=1.0, room_probability=0.5, snr_db=(low, high))


class Batches(Dataset):
    """Batches of like length as features or states, made by the workers of a `DataLoader`."""

    def __init__(
        self,
        rows: list[Row],
        processor: CLSRProcessor,
        augment: Augmentation | None,
        states: Shards | None = None,
    ):
        self.batches = [
            [rows[index] for index in batch]
            for batch in length_batches([row.duration or 0.0 for row in rows], MAX_BATCH)
        ]
        self.processor, self.augment, self.states = processor, augment, states

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int):
        names = [row.id for row in self.batches[number]]
        if self.states is not None:
            states = [self.states[name] for name in names]
            ones = [torch.ones(len(entry)) for entry in states]
            return names, {
                "speech_states": pad_sequence(states, batch_first=True),
                "speech_mask": pad_sequence(ones, batch_first=True),
            }
        waveforms = [self._waveform(row) for row in self.batches[number]]
        return names, dict(self.processor(audio=waveforms, sampling_rate=SAMPLING_RATE))

    def _waveform(self, row: Row) -> np.ndarray:
        waveform = load_audio(row.audio)
        if self.augment is None:
            return waveform
        # By the clip's name, so that a shard hears what the whole would.
        return self.augment(waveform, SAMPLING_RATE, (NOISE_SEED, 0, zlib.crc32(row.id.encode())))


def chosen_dtype(name: str, device: str) -> torch.dtype:
    """Return a dtype by its name; "auto" is bfloat16 where a CPU has matrix products in it, else float32."""
    if name == "auto":
        pays = device == "cpu" and torch.cpu.get_capabilities().get("amx_bf16")
        name = "bfloat16" if pays else "float32"
    return getattr(torch, name)


@torch.inference_mode()
def hear(model: CLSRModel, batches: Batches, title: str, workers: int) -> Iterator[dict[str, str]]:
    """Yield what was heard, batch by batch, longest clips first."""
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    for names, features in tqdm(loader, desc=title, unit="batch"):
        on_device = {name: value.to(model.device) for name, value in features.items()}
        if batches.states is None:
            written = model.transcribe(**on_device)
        else:
            written = model.get_audio_features(**on_device, embed=False).transcripts
        for name, transcript in zip(names, written, strict=True):
            yield {"id": name, "text": transcript.text}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifests", nargs="+", metavar="NAME=MANIFEST")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--out", required=True, help="folder; gets NAME.jsonl")
    parser.add_argument("--columns", default="", help="other column names, as 'duration=dur'")
    parser.add_argument("--audio_root", help="folder of relative audio paths, if another one")
    parser.add_argument("--shard", default="0/1", help="which part of the clips, as 0/4")
    parser.add_argument("--noise_dir", help="of noise* and rir* files")
    parser.add_argument(
        "--snr_db", help="range of noise that is mixed in, as 0,15; half of the clips get a room"
    )
    parser.add_argument("--conditions", default="clean", help="of the robustness test, as 'clean;5 dB'")
    parser.add_argument("--degraded", help="folder of the clips under those conditions")
    parser.add_argument("--states", help="folder that keeps the states of the speech encoder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="auto: bfloat16 where a CPU has matrix products in it, else float32",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if args.states and args.snr_db:
        parser.error(f"--states is {args.states} but --snr_db {args.snr_db} draws noise; leave one out")
    folder = checkpoint_folder(args.checkpoint)
    dtype = chosen_dtype(args.dtype, args.device)
    model = CLSRModel.from_pretrained(folder, dtype=dtype).eval().to(args.device)
    processor = CLSRProcessor.from_pretrained(folder)
    columns = dict(pair.split("=", 1) for pair in args.columns.split(",") if pair)
    shard, shards = map(int, args.shard.split("/"))
    augment = noise_and_rooms(args.noise_dir, args.snr_db) if args.snr_db else None
    out = Path(args.out)
    for entry in args.manifests:
        name, path = entry.split("=", 1)
        clips = distinct_clips(read_manifest(path, columns=columns, audio_root=args.audio_root))
        short = [row for row in clips if (row.duration or 0.0) <= model.config.max_audio_s]
        if len(short) < len(clips):
            print(
                f"{name}: {len(clips) - len(short)} clips are longer than one pass and left out",
                file=sys.stderr,
            )
        clips = short[shard::shards]
        for condition in chosen_conditions(args.conditions):
            rows = clips
            if condition.name != "clean":
                rows = degrade(clips, condition, Path(args.noise_dir), Path(args.degraded) / name)
            label = name if condition.name == "clean" else f"{name}-{condition.name.replace(' ', '')}"
            file = out / (f"{label}.jsonl" if shards == 1 else f"{label}.{shard}.jsonl")
            known = {entry["id"] for entry in read_kept_lines(file)}
            todo = [row for row in rows if row.id not in known]
            states = keep_states(model, processor, todo, Path(args.states) / label) if args.states else None
            for heard in hear(model, Batches(todo, processor, augment, states), label, args.workers):
                keep_line(file, heard)


if __name__ == "__main__":
    main()
