"""Make the folder that gpu.sh works in.

    python recipes/mini_en/work.py --data ../shared/data --sets sets --out WORK [--pieces 4]

It holds all but the training speech (see README.md): the checkpoint, what stands beside the weights of its two parts,
noises and rooms, texts, read clips, and the test sets. With `--pieces` the weights are cut into so many files, in
float16, for a machine that takes small files alone; `assemble.py` joins them there.
"""

import argparse
import gzip
import json
import shutil
from pathlib import Path

import torch
from collection import read_learners
from safetensors.torch import load_file, save

from modeling_clsr.evaluation.conditions import TEST_NOISES, TEST_ROOMS
from modeling_clsr.hub.build import default_checkpoint
from modeling_clsr.hub.parts import minilm_folder, write_whisper_base

TRAINING_NOISES = ("noise1", "noise2", "noise3", "rir1", "rir2")
TEXTS = ("squad_train_pairs.jsonl.gz", "medquad.jsonl.gz", "factbook_sentences.txt.gz")
LJ_TEXTS = "ljspeech_texts.tsv.gz"
LJ_TEST_CHAPTERS = ("LJ001-", "LJ002-", "LJ003-")  # read in real-mix
SETS = {"real-mix": "real-mix", "spoken-squad-mini": "mini"}
EVERY = 2  # of the read clips, to travel light


def copy_clips(data: Path, out: Path) -> int:
    """Copy read clips and write their manifest; return how many."""
    rows = read_learners(data, EVERY)
    (out / "ocean").mkdir(parents=True, exist_ok=True)
    with (out / "ocean.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            name = Path(row.audio).name
            shutil.copyfile(row.audio, out / "ocean" / name)
            entry = {
                "id": row.id,
                "audio": f"ocean/{name}",
                "transcript": row.transcript,
                "duration": row.duration,
            }
            file.write(json.dumps(entry) + "\n")
    return len(rows)


def copy_texts(data: Path, out: Path) -> None:
    """Copy the texts, those of LJ Speech without the test set's."""
    out.mkdir(parents=True, exist_ok=True)
    for name in TEXTS:
        shutil.copyfile(data / "qa" / name, out / name)
    with gzip.open(data / "qa" / LJ_TEXTS, "rt", encoding="utf-8") as source:
        kept = [line for line in source if not line.startswith(LJ_TEST_CHAPTERS)]
    with gzip.open(out / LJ_TEXTS, "wt", encoding="utf-8") as target:
        target.writelines(kept)


def copy_beside_weights(source: Path, target: Path) -> None:
    """Copy a model's folder without its weights and other forms."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix not in (".safetensors", ".bin"):
            shutil.copyfile(file, target / file.name)


def cut(weights: Path, out: Path, pieces: int) -> None:
    """Write weights in float16 as so many files of like size."""
    half = {
        name: weight.half() if weight.dtype == torch.float32 else weight
        for name, weight in load_file(weights).items()
    }
    data = save(half, {"format": "pt"})
    size = -(-len(data) // pieces)
    for number in range(pieces):
        (out / f"part{number}").write_bytes(data[number * size : (number + 1) * size])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="folder with qa/, speech/ and noise/")
    parser.add_argument("--sets", required=True, type=Path, help="folder of the built test sets")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--pieces", type=int, default=0, help="cut the weights into so many files")
    args = parser.parse_args()
    checkpoint, out = default_checkpoint(), args.out
    copy_beside_weights(checkpoint, out / "checkpoint")
    if args.pieces:
        cut(checkpoint / "model.safetensors", out, args.pieces)
    else:
        shutil.copyfile(checkpoint / "model.safetensors", out / "checkpoint" / "model.safetensors")
    whisper = write_whisper_base(out / "whisper")
    copy_beside_weights(whisper, out / "companions" / "speech")
    shutil.rmtree(whisper)
    copy_beside_weights(minilm_folder(), out / "companions" / "text")
    for folder, names in (("noise", TRAINING_NOISES), ("testnoise", (*TEST_NOISES, *TEST_ROOMS))):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(args.data / "noise" / f"{name}.flac", out / folder / f"{name}.flac")
    copy_texts(args.data, out / "text")
    print(f"{copy_clips(args.data, out)} read clips")
    for name, short in SETS.items():
        shutil.copytree(args.sets / name, out / short, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
