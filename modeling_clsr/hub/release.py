"""A trained checkpoint of which the repository holds what training changed: frozen once, built whole anywhere.

    python -m modeling_clsr.hub.changes --base FOLDER --tuned FOLDER --release checkpoints/clsr-mini-en
    clsr build --name clsr-mini-en

Enters: a release folder with `changes-*.safetensors`, `build.json`, the card and its pictures. Leaves: a checkpoint.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..configuration_clsr import CLSRConfig
from ..modeling_clsr import CLSRModel
from ..processing_clsr import CLSRProcessor
from .build import (
    NAME,
    STAMP_FILE,
    build_default_checkpoint,
    cache_folder,
    code_stamp,
    default_checkpoint,
    free_folder,
    move_into_place,
    read_stamp,
)
from .changes import (
    FILES,
    REPORT_FILE,
    apply_changes,
    file_sha256,
    load_changes,
    load_weights,
    render_changes,
    write_changes,
)
from .export import export_checkpoint
from .parts import MINILM_PACKAGE, WHISPER_PACKAGES
from .stamp import make_stamp

RELEASES = Path(__file__).parents[2] / "checkpoints"  # of a clone, or of what `pip install -e` points to
RECIPE_FILE = "build.json"
CARD_FILE = "README.md"
WEIGHTS_FILE = "model.safetensors"
DEFAULT = "default"  # names the default checkpoint
# What they say stands in the weights' shapes.
SUB_CONFIGS = ("speech_config", "text_config", "decoder_config")


def checkpoint_folder(name: str | Path) -> str | Path:
    """Return where a checkpoint lies that a person names; one that is built from packages is built and cached.

    Args:
        name: a folder, "default", one of the repository's `checkpoints`, or the id of a Hub repository.

    Returns:
        The folder; a Hub id as it is.

    Raises:
        ImportError: a package of the extra "parts" is not installed.
        FileNotFoundError: see `build.default_checkpoint`.
        ValueError: see `build_release`.
    """
    folder = Path(name).expanduser().absolute()
    if folder.is_dir():
        return folder
    if name == DEFAULT:
        return default_checkpoint()
    return cached_release(find_release(str(name))) if str(name) in release_names() else str(name)


def release_names() -> list[str]:
    """Return the names of the repository's `checkpoints`; none in an installed package."""
    return sorted(file.parent.name for file in RELEASES.glob(f"*/{RECIPE_FILE}"))


def find_release(name: str) -> Path:
    """Return the folder of a release.

    Args:
        name: one of the repository's `checkpoints`, or the path of such a folder.

    Raises:
        FileNotFoundError: there is none of this name; an installed package holds none at all.
    """
    for folder in (RELEASES / name, Path(name)):
        if (folder / RECIPE_FILE).is_file():
            return folder
    raise FileNotFoundError(
        f"{name} is neither among {RELEASES} nor a folder with {RECIPE_FILE}; "
        f"name the folder checkpoints/{Path(name).name} of a clone of the repository"
    )


def cached_release(release: str | Path) -> Path:
    """Return the built checkpoint of a release; build it if the cache has none, or one of other code or changes.

    Args:
        release: folder of the release.

    Returns:
        `$XDG_CACHE_HOME/clsr/<name>-<version>` (XDG_CACHE_HOME defaults to ~/.cache).

    Raises:
        ImportError: a package of the extra "parts" is not installed.
        ValueError: see `build_release`.
    """
    stamp = _release_stamp(Path(release))
    folder = cache_folder(stamp["name"])
    if read_stamp(folder) != stamp:
        sys.stderr.write(f"clsr: building {stamp['name']} in {folder}, once\n")
        _build(Path(release), folder, None)
    return folder


def build_release(release: str | Path, folder: str | Path, base: str | Path | None = None) -> Path:
    """Build a checkpoint from a release.

    Args:
        release: folder of the release.
        folder: to write; must be absent or empty. It appears when it is complete and its weights are those frozen.
        base: checkpoint folder that was tuned; built from the packages if None.

    Returns:
        `folder`, complete as `export_checkpoint` writes it, with the card and what else the release holds.

    Raises:
        FileExistsError: the folder holds files.
        ImportError: a package of the extra "parts" is not installed.
        ValueError: the weights of the base or those built have another SHA-256 than `build.json` says.
    """
    return _build(Path(release), free_folder(folder), base)


def _build(release: Path, folder: Path, base: str | Path | None) -> Path:
    """Build beside `folder`, then move into place, so that nobody sees a half-written checkpoint."""
    recipe = _read_json(release / RECIPE_FILE)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        start = build_default_checkpoint(Path(temporary) / NAME) if base is None else Path(base)
        _check_sha256(start, recipe["base"]["sha256"], release, "the packages that it names")
        stage = _tune(start, release, recipe["settings"], Path(temporary) / recipe["name"])
        _check_sha256(stage, recipe["sha256"], release, "the versions that its stamp names")
        stamp = json.dumps(_release_stamp(release), indent=2) + "\n"
        (stage / STAMP_FILE).write_text(stamp, encoding="utf-8")
        move_into_place(stage, folder)
    return folder


def freeze_release(
    release: str | Path,
    base: str | Path,
    tuned: Mapping[str, Tensor],
    bits: int | Mapping[str, int],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a release: the changes, `build.json` and, if there is no card yet, one to go on from.

    Args:
        release: folder to write; its name is that of the checkpoint. What else it holds stays.
        base: folder of the default checkpoint.
        tuned: weights behind training.
        bits: see `changes.compress_changes`.
        settings: fields of CLSRConfig that are to differ from the base's.

    Returns:
        What `changes.write_changes` reports.

    Raises:
        ValueError: changes do not fit the base, or CLSRConfig has no such field.
    """
    release, base, settings = Path(release).absolute(), Path(base), dict(settings or {})
    report = write_changes(release, base, tuned, bits)
    with tempfile.TemporaryDirectory(dir=release.parent, prefix=f".{release.name}-") as temporary:
        folder = _tune(base, release, settings, Path(temporary) / release.name)
        recipe = {
            "name": release.name,
            "sha256": file_sha256(folder / WEIGHTS_FILE),
            "base": {"name": NAME, "sha256": report["base_sha256"], "packages": _package_versions()},
            "settings": settings,
            "stamp": make_stamp(),
        }
        if not (release / CARD_FILE).is_file():
            card = (folder / CARD_FILE).read_text(encoding="utf-8")
            (release / CARD_FILE).write_text(_with_tables(card, report), encoding="utf-8")
    (release / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    return report


def _tune(base: Path, release: Path, settings: Mapping[str, Any], folder: Path) -> Path:
    """Write the checkpoint that a release's changes make of its base; the folder's name stands in a rendered card."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        tuned = Path(temporary)
        for file in base.iterdir():
            if file.is_file() and file.suffix != ".safetensors":
                shutil.copyfile(file, tuned / file.name)
        state = apply_changes(load_weights(base), load_changes(release))
        save_file(state, tuned / WEIGHTS_FILE, {"format": "pt"})
        _change_settings(tuned, settings)
        card = release / CARD_FILE
        model, processor = CLSRModel.from_pretrained(tuned), CLSRProcessor.from_pretrained(tuned)
        export_checkpoint(model, processor, folder, card if card.is_file() else None)
    for file in _companions(release):
        shutil.copyfile(file, folder / file.name)
    return folder


def _companions(release: Path) -> list[Path]:
    """Return what is copied from a release as it is: card, pictures, calibration."""
    made = (RECIPE_FILE, REPORT_FILE)
    return sorted(
        file
        for file in release.iterdir()
        if file.is_file() and not file.match(FILES) and file.name not in made
    )


def _release_stamp(release: Path) -> dict[str, Any]:
    """Return what a built checkpoint depends on: the recipe, the code and the files that are copied."""
    copied = {file.name: file_sha256(file) for file in _companions(release)}
    return _read_json(release / RECIPE_FILE) | code_stamp() | {"copied_sha256": copied}


def _change_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write settings into the config, and into the feature extractor's where it has the same field."""
    fields = [name for name in CLSRConfig.__annotations__ if name not in SUB_CONFIGS]
    for name in settings:
        if name not in fields:
            close = get_close_matches(name, fields, n=1) or fields[:1]
            raise ValueError(f"{name} is set but CLSRConfig has no such setting; did you mean {close[0]}?")
    for file, part in (("config.json", None), ("processor_config.json", "feature_extractor")):
        content = _read_json(folder / file)
        own = content if part is None else content[part]
        own.update({name: value for name, value in settings.items() if part is None or name in own})
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def settings_of(base: str | Path, tuned: str | Path) -> dict[str, Any]:
    """Return the fields of CLSRConfig that differ between two checkpoint folders, as the second has them."""
    old, new = (_read_json(Path(folder) / "config.json") for folder in (base, tuned))
    names = [name for name in CLSRConfig.__annotations__ if name not in SUB_CONFIGS]
    return {name: new[name] for name in names if name in new and new[name] != old.get(name)}


def _check_sha256(folder: Path, expected: str, release: Path, remedy: str) -> None:
    found = file_sha256(folder / WEIGHTS_FILE)
    if found != expected:
        raise ValueError(
            f"{WEIGHTS_FILE} of {folder.name} has SHA-256 {found} but {release / RECIPE_FILE} says {expected}; "
            f"install {remedy}"
        )


def _with_tables(card: str, report: Mapping[str, Any]) -> str:
    """Add what training changed to a rendered card, and the marks between which benchmarks/tables.py writes."""
    for name, title, table in (
        ("results", None, "Not measured yet."),
        ("changes", "What training changed", render_changes(report)),
    ):
        marked = f"<!-- {name}: benchmarks/tables.py --write -->\n{table}\n<!-- end of {name} -->"
        card = card.replace(table, marked) if title is None else f"{card}\n## {title}\n\n{marked}\n"
    return card


def _package_versions() -> dict[str, str]:
    found = {}
    for name in (*WHISPER_PACKAGES, MINILM_PACKAGE):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # the base was built elsewhere
            continue
    return found


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
