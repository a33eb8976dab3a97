"""A checkpoint folder as it stands on the Hub: written beside, checked by loading it again, moved into place.

Enters: model and processor. Leaves: the folder.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..export_clsr import COPIES
from ..modeling_clsr import CLSRModel
from ..processing_clsr import CLSRProcessor
from .card import EXAMPLE, render_card

NEEDED = (
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "retokenizer.json",
    "modeling_clsr.py",
    "configuration_clsr.py",
    "processing_clsr.py",
    "modules.json",
    "config_sentence_transformers.json",
    "requirements.txt",
    "README.md",
    EXAMPLE.name,
    *COPIES.values(),
)


def export_checkpoint(
    model: CLSRModel, processor: CLSRProcessor, folder: str | Path, card: str | Path | None = None
) -> Path:
    """Write a complete checkpoint folder.

    Args:
        model: in any mode; saved as it is.
        processor: of the model.
        folder: replaced if it is there; it appears when it is complete and checked.
        card: file of a written card; rendered from the configuration if None.

    Returns:
        `folder`.

    Raises:
        RuntimeError: what was written does not load again, or gives other vectors.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        stage = Path(temporary) / "checkpoint"
        model.save_pretrained(stage)
        processor.save_pretrained(stage)
        text = render_card(folder.name, model) if card is None else Path(card).read_text(encoding="utf-8")
        (stage / "README.md").write_text(text, encoding="utf-8")
        shutil.copyfile(EXAMPLE, stage / EXAMPLE.name)
        check_checkpoint(stage, model, processor)
        if folder.exists():
            folder.rename(Path(temporary) / "replaced")
        stage.rename(folder)
    return folder


@torch.no_grad()
def check_checkpoint(folder: Path, model: CLSRModel, processor: CLSRProcessor) -> None:
    """Load a folder again and compare: files, weights, and the vectors of a text and a sound, bit for bit.

    Raises:
        RuntimeError: something is missing or differs.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing and not (
        missing == ["model.safetensors"] and (folder / "model.safetensors.index.json").is_file()
    ):
        raise RuntimeError(
            f"{folder} has no {', '.join(missing)}; the checkpoint was not written whole, export it again"
        )
    again, report = CLSRModel.from_pretrained(folder, dtype="auto", output_loading_info=True)
    if report["missing_keys"] or report["unexpected_keys"]:
        names = sorted([*report["missing_keys"], *report["unexpected_keys"]])
        raise RuntimeError(f"{folder} lacks or adds weights ({', '.join(names[:3])} …); export it again")
    own, other = _vectors(model, processor), _vectors(again, CLSRProcessor.from_pretrained(folder))
    if not all(torch.equal(first, second) for first, second in zip(own, other, strict=True)):
        raise RuntimeError(
            f"{folder} gives other vectors than the model it was written from; export it again"
        )


def _vectors(model: CLSRModel, processor: CLSRProcessor) -> list[torch.Tensor]:
    was_training = model.training
    model.eval()
    rate = processor.feature_extractor.sampling_rate
    sound = np.sin(np.arange(rate) / rate * 2 * np.pi * 300).astype(np.float32) * 0.1
    batch: Any = processor(text=["a question"], audio=[sound], sampling_rate=rate)
    batch = {name: value.to(model.device) for name, value in batch.items()}
    output = model(**batch)
    model.train(was_training)
    return [output.text_embeds.cpu(), output.audio_embeds.cpu()]
