"""The Space: the page of `clsr ui` over the recordings beside this file, indexed at the first start."""

import os
from pathlib import Path

from modeling_clsr.hub.build import default_checkpoint
from modeling_clsr.retrieval import Encoder, SpeechIndex
from modeling_clsr.serving.page import launch

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CLSR_SPACE_DATA", HERE / "data"))


def open_index(recordings: Path, folder: Path) -> SpeechIndex:
    """Open the index, made at the first start."""
    encoder = Encoder.from_pretrained(default_checkpoint())
    index = SpeechIndex.open_or_create(folder, encoder)
    index.add([recordings])
    return index


def main() -> None:
    library = HERE / "library" if (HERE / "library").is_dir() else HERE.parent / "library"
    index = open_index(library, DATA / "index")
    launch(index, DATA / "uploads", "0.0.0.0", int(os.environ.get("GRADIO_SERVER_PORT", "7860")))


if __name__ == "__main__":
    main()
