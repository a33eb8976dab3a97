"""Take a checkpoint apart again: its recogniser and its text encoder as folders to start another model from.

    python recipes/mini_en/parts.py CHECKPOINT --out PARTS [--companions FOLDER]

What stands beside the weights (tokenizers, settings) comes from the packages of the default parts, or from speech/ and
text/ in FOLDER.
"""

import argparse
import shutil
from pathlib import Path

import torch

from modeling_clsr import CLSRModel
from modeling_clsr.hub.parts import minilm_folder, write_whisper_base
from modeling_clsr.hub.release import checkpoint_folder

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("checkpoint", help="folder, clsr-mini-en, or 'default'")
parser.add_argument("--companions", type=Path)
parser.add_argument("--out", required=True, type=Path)
args = parser.parse_args()
if args.companions:
    shutil.copytree(args.companions, args.out, dirs_exist_ok=True)
else:
    write_whisper_base(args.out / "speech")
    shutil.copytree(minilm_folder(), args.out / "text", dirs_exist_ok=True)
model = CLSRModel.from_pretrained(checkpoint_folder(args.checkpoint), dtype=torch.float32)
for name, part in (("speech", model.speech_model), ("text", model.text_model)):
    part.save_pretrained(args.out / name)
