r"""Noisy copies of the clips of a manifest, for what hears them many times: several hearings, several arms.

    python recipes/mini_en/noisy.py speech/squad/manifest.jsonl --noise_dir noise --snr_db=-2,8 --out WORK/noisy
    python recipes/mini_en/hear.py noisy=WORK/noisy/manifest.jsonl --out WORK/heard
    python recipes/mini_en/noisy.py speech/squad/manifest.jsonl --noise_dir noise --snr_db=-2,8 --out WORK/noisy \
        --heard WORK/heard

Writes the clips and `manifest.jsonl`; with what `hear.py` heard of them also `pseudo.jsonl`, where that stands for the
true words: the rows of somebody who has recordings and questions, but no transcripts. Copies that are there are kept.
"""

import argparse
import zlib
from dataclasses import replace
from pathlib import Path

from labels import MAX_DURATION_S, read_heard
from tqdm import tqdm

from modeling_clsr.data.audio import SAMPLING_RATE, load_audio
from modeling_clsr.data.augmentation import Augmentation, load_noises
from modeling_clsr.data.manifest import read_manifest, write_manifest
from modeling_clsr.data.voices import write_opus

NOISE_SEED = 11
NAME = "noisy"  # under which `hear.py` heard the copies


def noise_and_rooms(noise_dir: str, snr_db: str) -> Augmentation:
    """Open the noise of training: on every clip, in a range as "-2,8", with a room for half of them."""
    low, high = map(float, snr_db.split(","))
    noises, rooms = load_noises(noise_dir)
    return Augmentation(noises, rooms, noise_probability=1.0, room_probability=0.5, snr_db=(low, high))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--noise_dir", required=True, help="of noise* and rir* files")
    parser.add_argument(
        "--snr_db", required=True, help="range of the noise, as -2,8; half of the clips get a room"
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--heard", type=Path, help=f"folder of hear.py, with {NAME}")
    args = parser.parse_args()
    augment = noise_and_rooms(args.noise_dir, args.snr_db)
    rows = [row for row in read_manifest(args.manifest) if (row.duration or 0.0) <= MAX_DURATION_S]
    (args.out / "clips").mkdir(parents=True, exist_ok=True)
    copies = {row.audio: args.out / "clips" / f"{Path(row.audio).stem}.opus" for row in rows}
    for source, copy in tqdm(copies.items(), unit="clip", desc="noise"):
        if not copy.exists():
            key = (NOISE_SEED, 0, zlib.crc32(copy.stem.encode()))  # by the clip's name alone
            write_opus(copy, augment(load_audio(source), SAMPLING_RATE, key))
    noisy = [replace(row, audio=str(copies[row.audio])) for row in rows]
    write_manifest(args.out / "manifest.jsonl", noisy)
    if args.heard:
        heard = read_heard(args.heard, NAME)
        by_clip = {row.audio: heard[row.id] for row in noisy if row.id in heard}
        labelled = [replace(row, transcript=by_clip[row.audio]) for row in noisy if by_clip.get(row.audio)]
        write_manifest(args.out / "pseudo.jsonl", labelled)
        print(f"{len(labelled)} of {len(noisy)} rows were heard")


if __name__ == "__main__":
    main()
