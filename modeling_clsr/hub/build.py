"""The default checkpoint: Whisper base and all-MiniLM-L6-v2 joined without training, built once and cached.

Enters: the installed parts, or others by folder or Hub id. Leaves: a checkpoint folder.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..modeling_clsr import CLSRModel
from ..processing_clsr import CLSRProcessor
from .export import export_checkpoint
from .parts import MINILM_ID, WHISPER_ID, minilm_folder, write_whisper_base

NAME = "clsr-base-en"
STAMP_FILE = "build.json"
DOUBT_FILE = "doubt.json"  # of a checkpoint folder, see retrieval/doubt.py
CARD = Path(__file__).with_name(f"{NAME}.md")
CALIBRATION = Path(__file__).with_name(f"{NAME}.doubt.json")  # by evaluation/doubt.py


def default_checkpoint() -> Path:
    """Return the default checkpoint; build it if the cache has none, or one made by other code.

    Returns:
        The folder in the environment variable CLSR_CHECKPOINT if set, else
        `$XDG_CACHE_HOME/clsr/clsr-base-en-<version>` (XDG_CACHE_HOME defaults to ~/.cache).

    Raises:
        FileNotFoundError: CLSR_CHECKPOINT names something else than a checkpoint folder.
        ImportError: a package of the extra "parts" is not installed.
    """
    chosen = os.environ.get("CLSR_CHECKPOINT")
    if chosen:
        if not (Path(chosen).expanduser() / "config.json").is_file():
            raise FileNotFoundError(
                f"CLSR_CHECKPOINT is {chosen} but there is no config.json in it; "
                "set it to a checkpoint folder or unset it"
            )
        return Path(chosen).expanduser()
    folder = cache_folder(NAME)
    if read_stamp(folder) != code_stamp():
        sys.stderr.write(f"clsr: building the default checkpoint in {folder}, once\n")
        _build(folder, None, None)
    return folder


def build_default_checkpoint(
    folder: str | Path, *, speech: str | Path | None = None, text: str | Path | None = None
) -> Path:
    """Build a checkpoint from the default parts.

    Args:
        folder: to write; must be absent or empty. It appears when it is complete.
        speech: folder or Hub id of another recogniser, for instance "openai/whisper-base"; the packages if None.
        text: folder or Hub id of another text encoder, for instance "sentence-transformers/all-MiniLM-L6-v2".

    Returns:
        `folder`, with weights, code, tokenizer and, for the default parts, the card.

    Raises:
        FileExistsError: the folder holds files.
        ImportError: a package of the extra "parts" is not installed.
    """
    return _build(free_folder(folder), speech, text)


def cache_folder(name: str) -> Path:
    """Return where a checkpoint of this name is cached, whether or not it is there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "clsr" / f"{name}-{_package_version()}"


def free_folder(folder: str | Path) -> Path:
    """Return the absolute path of a folder to write.

    Raises:
        FileExistsError: it holds files, or is one.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; choose another one or remove it")
    return folder


def move_into_place(stage: Path, folder: Path) -> None:
    """Put a finished checkpoint where another may be; `stage` lies in a temporary folder beside it."""
    if folder.exists():
        folder.rename(stage.with_name("replaced"))
    stage.rename(folder)


def _build(folder: Path, speech: str | Path | None, text: str | Path | None) -> Path:
    """Build beside `folder`, then move into place, so that nobody sees a half-written checkpoint."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        stage = Path(temporary) / folder.name
        speech_part = speech or write_whisper_base(Path(temporary) / "whisper")
        text_part = text or minilm_folder()
        model = CLSRModel.from_pretrained_parts(speech=speech_part, text=text_part)
        # The configs name their origin; a folder of this machine would say nothing elsewhere.
        model.speech_model.config._name_or_path = _origin(speech or WHISPER_ID)
        model.text_model.config._name_or_path = _origin(text or MINILM_ID)
        processor = CLSRProcessor.from_pretrained_parts(speech=speech_part, text=text_part)
        is_default = speech in (None, WHISPER_ID) and text in (None, MINILM_ID)
        export_checkpoint(model, processor, stage, CARD if is_default else None)
        if is_default:
            shutil.copyfile(CALIBRATION, stage / DOUBT_FILE)
            (stage / STAMP_FILE).write_text(json.dumps(code_stamp(), indent=2) + "\n", encoding="utf-8")
            if read_stamp(folder) == code_stamp():  # another process was faster
                return folder
        move_into_place(stage, folder)
    return folder


def _origin(part: str | Path) -> str:
    return Path(part).absolute().name if Path(part).is_dir() else str(part)


def code_stamp() -> dict[str, str]:
    """Return what the checkpoint depends on: the version, and the code that is shipped with it or builds it."""
    hub = Path(__file__).parent
    sources = [
        *sorted(hub.parent.glob("*_clsr.py")),
        hub / "build.py",
        hub / "card.py",
        hub / "export.py",
        hub / "parts.py",
        hub / "whisper_ct2.py",
        CARD,
        CALIBRATION,
    ]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return {"modeling_clsr": _package_version(), "code_sha256": digest.hexdigest()}


def read_stamp(folder: Path) -> dict[str, Any] | None:
    """Return what a built checkpoint says it was made of; None if it says nothing."""
    file = folder / STAMP_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _package_version() -> str:
    try:
        return version("modeling-clsr")
    except PackageNotFoundError:  # run from the source folder
        return "source"
