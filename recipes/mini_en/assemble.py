"""Join the parts of a checkpoint's weights that travelled in pieces, and widen them to float32.

python recipes/mini_en/assemble.py PART… --out checkpoint/model.safetensors
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load, save_file

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("parts", nargs="+", type=Path)
parser.add_argument("--out", required=True)
args = parser.parse_args()
weights = load(b"".join(part.read_bytes() for part in args.parts))
wide = {
    name: weight.to(torch.float32) if weight.is_floating_point() else weight
    for name, weight in weights.items()
}
save_file(wide, args.out, metadata={"format": "pt"})
