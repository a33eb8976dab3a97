"""Take a checkpoint apart again: its recogniser and its text encoder as folders to start another model from.

    python recipes/mini_en/parts.py CHECKPOINT --companions FOLDER --out PARTS

FOLDER holds speech/ and text/ with what stands beside the weights (tokenizers, settings); PARTS gets the same with
weights.
"""

import argparse
import shutil
from pathlib import Path

import torch

from modeling_clsr import CLSRModel

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint")
parser.add_argument("--companions", required=True, type=Path)
parser.add_argument("--out", required=True, type=Path)
args = parser.parse_args()
model = CLSRModel.from_pretrained(args.checkpoint, dtype=torch.float32)
for name, part in (("speech", model.speech_model), ("text", model.text_model)):
    part.save_pretrained(args.out / name)
    shutil.copytree(args.companions / name, args.out / name, dirs_exist_ok=True)
