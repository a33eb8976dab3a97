"""Average the weights of a trained checkpoint with those that it started from.

    python recipes/mini_en/average.py out/trained --share 0.5 --out out/averaged

Half of the way keeps most of what a short training taught and undoes most of what it spoilt (arXiv 2109.01903).
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from modeling_clsr.hub.release import checkpoint_folder

WEIGHTS = "model.safetensors"
IGNORED = shutil.ignore_patterns("checkpoint-*", WEIGHTS, "training_args.bin")


def mix_weights(before: dict[str, Tensor], after: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return `share` of the way from the weights before training to those after it, by name."""
    return {
        name: before[name].float().lerp(weight.float(), share).to(weight.dtype)
        if weight.is_floating_point()
        else weight
        for name, weight in after.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trained", type=Path)
    parser.add_argument("--base", default="default")
    parser.add_argument("--share", type=float, default=0.5, help="of the trained weights")
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    base = Path(checkpoint_folder(args.base))
    before, after = load_file(base / WEIGHTS), load_file(args.trained / WEIGHTS)
    if before.keys() != after.keys():
        parser.error(
            f"{args.trained} and {base} hold different weights; give the checkpoint that it started from"
        )
    shutil.copytree(args.trained, args.out, dirs_exist_ok=True, ignore=IGNORED)
    save_file(mix_weights(before, after, args.share), args.out / WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
