"""What training changed in a checkpoint, small enough for a repository, and the same weights again on every machine.

    python -m modeling_clsr.hub.changes --base FOLDER --tuned FOLDER --bits 4 --text_bits 8 --out FOLDER

Enters: the weights before and after. Leaves: `changes-*.safetensors` and `changes.json`, or a release (`release.py`).
A matrix's difference is kept in steps of 4 or 8 bits.
"""

import argparse
import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

QUANTISED = ("steps", "scale")
BLOCK = 128  # elements of a row that share a scale
VALUE = "value"
FILES = "changes-*.safetensors"
REPORT_FILE = "changes.json"
# Of a weight's name: the part of the model, the first that fits.
PARTS = {
    "speech encoder": "speech_model.model.encoder.",
    "speech decoder": "speech_model.",
    "text encoder": "text_model.",
    "rest": "",
}
FILE_BYTES = 15 << 20  # of tensors, below the 16 MiB of a file in the repository with its header
UNUSED = ("pooler.", "embeddings.position_ids")  # of a text encoder; a CLSR has neither


def compress_changes(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], bits: int | Mapping[str, int]
) -> dict[str, Tensor]:
    """Keep what differs: of matrices the difference in a few bits, all else as it is.

    Args:
        base: weights before training.
        tuned: weights behind it; those that it lacks did not change.
        bits: of an element of a difference, 4 or 8; or by regular expression, of which the first that is found in a
            weight's name counts.

    Returns:
        `<weight>.steps` (m, n) int8, or (m, n / 2) uint8 with two elements in a byte, and `<weight>.scale` (m, n / 128)
        float32, of a matrix (m, n) or a convolution kernel (m, …) seen as one, n filled up to whole blocks;
        `<weight>.value`, float32, of others.

    Raises:
        ValueError: the base lacks a weight or has it in another shape, a weight is not finite, or the bits are neither
            4 nor 8.
    """
    changes: dict[str, Tensor] = {}
    for name, new in sorted(tuned.items()):
        old = _weight_of(base, name, tuple(new.shape))
        weight = new.to(old.dtype)
        if torch.equal(old, weight):
            continue
        if not weight.isfinite().all():
            raise ValueError(
                f"{name} of the tuned weights is not finite; choose an earlier step of the training"
            )
        if weight.ndim >= 2:
            difference = (weight.float() - old.float()).flatten(1)  # (m, n)
            parts = _quantise(difference, _bits_of(name, bits))
            changes |= {f"{name}.{part}": value for part, value in parts.items()}
        else:
            changes[f"{name}.{VALUE}"] = weight.float().contiguous()
    return changes


def _quantise(difference: Tensor, bits: int) -> dict[str, Tensor]:
    """Round (m, n) to equal steps, of which each block of a row has its own size.

    Training moves every weight a little and no few directions much, so that a product of thin matrices would lose more
    of the difference than this does in the same bytes.
    """
    rows, columns = difference.shape
    blocks = torch.nn.functional.pad(difference, (0, -columns % BLOCK)).view(rows, -1, BLOCK)
    most = 2 ** (bits - 1) - 1
    scale = (blocks.abs().amax(dim=-1) / most).clamp(min=torch.finfo(torch.float32).tiny)
    steps = (blocks / scale.unsqueeze(-1)).round().clamp(-most, most).to(torch.int8).flatten(1)
    if bits == 4:
        pairs = (steps + 8).to(torch.uint8).view(rows, -1, 2)
        steps = pairs[..., 0] | (pairs[..., 1] << 4)
    return {"steps": steps.contiguous(), "scale": scale.contiguous()}


def apply_changes(base_state: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights behind training, bit for bit the same on every machine: all is done element by element.

    Args:
        base_state: weights before training; those without changes are handed on as they are.
        changes: from `compress_changes`.

    Raises:
        ValueError: the base lacks a changed weight or has it in another shape, or a part is missing.
    """
    state = dict(base_state)
    for name, parts in _by_weight(changes).items():
        if VALUE in parts:
            old = _weight_of(state, name, tuple(parts[VALUE].shape))
            state[name] = parts[VALUE].to(old.dtype)
            continue
        if missing := [part for part in QUANTISED if part not in parts]:
            raise ValueError(f"the changes of {name} lack {', '.join(missing)}; fetch all files of them")
        steps, scale = parts["steps"], parts["scale"]
        if steps.dtype == torch.uint8:
            pairs = torch.stack([steps & 15, steps >> 4], dim=-1)
            steps = pairs.flatten(1).to(torch.int8) - 8
        old = _weight_of(state, name)
        rows, columns = len(old), math.prod(old.shape[1:])
        if tuple(steps.shape) != (rows, columns + -columns % BLOCK):
            raise ValueError(
                f"{name} is {tuple(steps.shape)} in the changes but {tuple(old.shape)} in the base; "
                "take the base that was tuned"
            )
        difference = (steps.view(rows, -1, BLOCK).float() * scale.unsqueeze(-1)).flatten(1)[:, :columns]
        state[name] = (old.float() + difference.view_as(old)).to(old.dtype)
    return state


def change_errors(
    base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], changes: Mapping[str, Tensor]
) -> dict[str, dict[str, Any]]:
    """Tell for every changed weight what of its change is lost.

    Args:
        base: weights before training.
        tuned: weights behind it.
        changes: from `compress_changes`.

    Returns:
        By weight: `bits` (None: kept whole); `change`, the size of the difference relative to the weight; `error`,
        the size of what is lost relative to the difference; sizes are Frobenius norms.
    """
    kept = apply_changes(base, changes)
    errors = {}
    for name, parts in _by_weight(changes).items():
        old, new = base[name].double(), tuned[name].double()
        difference = float((new - old).norm())
        errors[name] = {
            "bits": None if VALUE in parts else 4 if parts["steps"].dtype == torch.uint8 else 8,
            "change": difference / max(float(old.norm()), 1e-30),
            "error": float((kept[name].double() - new).norm()) / difference,
        }
    return errors


def _by_weight(changes: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in sorted(changes.items()):
        name, _, part = key.rpartition(".")
        if part not in (*QUANTISED, VALUE):
            raise ValueError(
                f"the changes hold {key} but know only the endings {', '.join(QUANTISED)} and {VALUE}"
            )
        weights.setdefault(name, {})[part] = value
    return weights


def _weight_of(base: Mapping[str, Tensor], name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return a weight of the base, which must have this shape."""
    if name not in base:
        raise ValueError(f"{name} has changed but the base lacks it; take the base that was tuned")
    own = tuple(base[name].shape)
    if shape is not None and shape != own:
        raise ValueError(
            f"{name} is {shape} in the changes but {own} in the base; take the base that was tuned"
        )
    return base[name]


def _bits_of(name: str, bits: int | Mapping[str, int]) -> int:
    patterns = {"": bits} if isinstance(bits, int) else bits
    for pattern, value in patterns.items():
        if re.search(pattern, name):
            if value not in (4, 8):
                raise ValueError(f"{name} is to be kept in {value} bits but 4 or 8 are known; choose one")
            return value
    raise ValueError(f"{name} has changed but none of {', '.join(patterns)} matches it; add its bits")


def save_changes(folder: str | Path, changes: Mapping[str, Tensor]) -> None:
    """Write changes as files below 16 MiB, in place of those that the folder holds.

    Args:
        folder: made if absent.
        changes: from `compress_changes`.

    Raises:
        ValueError: a tensor does not fit into a file.
    """
    parts: list[dict[str, Tensor]] = []
    room = 0
    for name, tensor in sorted(changes.items()):
        if tensor.nbytes > FILE_BYTES:
            raise ValueError(
                f"{name} has {tensor.nbytes / 2**20:.1f} MiB but a file takes {FILE_BYTES >> 20}; take fewer bits"
            )
        if tensor.nbytes > room:
            parts.append({})
            room = FILE_BYTES
        parts[-1][name] = tensor
        room -= tensor.nbytes
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob(FILES):
        file.unlink()
    for number, part in enumerate(parts, start=1):
        save_file(part, folder / f"changes-{number:05d}-of-{len(parts):05d}.safetensors")


def load_changes(folder: str | Path) -> dict[str, Tensor]:
    """Read what `save_changes` wrote.

    Raises:
        FileNotFoundError: there are no files of changes, or not all of them.
    """
    files = sorted(Path(folder).glob(FILES))
    whole = int(files[0].stem.rsplit("-", 1)[-1]) if files else 1
    if len(files) != whole:
        raise FileNotFoundError(f"{folder} holds {len(files)} of {whole} files {FILES}; fetch all of them")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def load_weights(folder: str | Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint folder, in one file or several.

    Raises:
        FileNotFoundError: there are none.
    """
    folder = Path(folder)
    files = sorted(folder.glob("model.safetensors")) or sorted(folder.glob("model-*-of-*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no model.safetensors; name the folder of a checkpoint")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def overlay(
    tuned: Sequence[str | Path] = (), speech: str | Path | None = None, text: str | Path | None = None
) -> dict[str, Tensor]:
    """Join tuned weights; later ones stand over earlier ones.

    Args:
        tuned: checkpoint folders, of which all weights count.
        speech: checkpoint folder, of which the recogniser counts.
        text: checkpoint folder, of which the text encoder counts, or the text encoder's own folder as transformers and
            sentence-transformers write it.

    Raises:
        ValueError: nothing is named, or a folder has no such part.
    """
    state: dict[str, Tensor] = {}
    for folder in tuned:
        state |= load_weights(folder)
    if speech is not None:
        state |= _part(load_weights(speech), "speech_model.", speech)
    if text is not None:
        weights = load_weights(text)
        if not any(name.startswith("text_model.") for name in weights):  # no CLSR
            weights = {
                f"text_model.{name}": weight
                for name, weight in weights.items()
                if not name.startswith(UNUSED)
            }
        state |= _part(weights, "text_model.", text)
    if not state:
        raise ValueError("no tuned weights are named; give --tuned, --tuned_speech or --tuned_text")
    return state


def _part(weights: Mapping[str, Tensor], prefix: str, folder: str | Path) -> dict[str, Tensor]:
    part = {name: weight for name, weight in weights.items() if name.startswith(prefix)}
    if not part:
        raise ValueError(
            f"{folder} holds {', '.join(sorted(weights)[:2])} … but no {prefix}*; name a CLSR checkpoint"
        )
    return part


def file_sha256(file: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_changes(
    folder: str | Path, base: str | Path, tuned: Mapping[str, Tensor], bits: int | Mapping[str, int]
) -> dict[str, Any]:
    """Compress and write the files of changes and `changes.json`.

    Args:
        folder: made if absent.
        base: checkpoint folder before training.
        tuned: weights behind it.
        bits: see `compress_changes`.

    Returns:
        What `changes.json` holds: the bits, the SHA-256 of the base's weights, and `change_errors` by weight.
    """
    state = load_weights(base)
    changes = compress_changes(state, tuned, bits)
    save_changes(folder, changes)
    report = {
        "base_sha256": file_sha256(Path(base) / "model.safetensors"),
        "bits": bits,
        "bytes": sum(tensor.nbytes for tensor in changes.values()),
        "weights": change_errors(state, tuned, changes),
    }
    (Path(folder) / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def render_changes(report: Mapping[str, Any]) -> str:
    """Return the Markdown table of what training changed, by part.

    Args:
        report: what `changes.json` holds.
    """
    by_part: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for name, weight in report["weights"].items():
        by_part[next(part for part, prefix in PARTS.items() if name.startswith(prefix))].append(weight)
    lines = [
        "| part | weights | bits | change of a matrix, median | lost of it, median | most |",
        "|---|---|---|---|---|---|",
    ]
    for part, weights in by_part.items():
        matrices = [weight for weight in weights if weight["bits"] is not None]
        if matrices:
            change, lost = (median(weight[kind] for weight in matrices) for kind in ("change", "error"))
            bits, most = (
                max(weight["bits"] for weight in matrices),
                max(weight["error"] for weight in matrices),
            )
            lines.append(f"| {part} | {len(weights)} | {bits} | {change:.2%} | {lost:.1%} | {most:.1%} |")
        elif weights:
            lines.append(f"| {part} | {len(weights)} | whole | | | |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return 0."""
    parser = argparse.ArgumentParser(
        prog="modeling_clsr.hub.changes", description="Write what training changed in a checkpoint."
    )
    parser.add_argument("--base", type=Path, required=True, metavar="FOLDER", help="before training")
    parser.add_argument(
        "--tuned", default="", metavar="FOLDER,…", help="behind it; the last stands uppermost"
    )
    parser.add_argument("--tuned_speech", metavar="FOLDER", help="checkpoint whose recogniser stands over it")
    parser.add_argument(
        "--tuned_text", metavar="FOLDER", help="checkpoint or text encoder that stands over it"
    )
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4, help="of a kept difference (4)")
    parser.add_argument("--text_bits", type=int, choices=(4, 8), help="in the text encoder; default: --bits")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, metavar="FOLDER", help="where the files go")
    target.add_argument(
        "--release", type=Path, metavar="FOLDER", help="release to freeze; its name is the model's"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=JSON",
        help="of the release's config, repeatable; beside what the tuned recogniser's says otherwise than the base's",
    )
    arguments = parser.parse_args(argv)
    folders = [folder for folder in arguments.tuned.split(",") if folder]
    tuned = overlay(folders, arguments.tuned_speech, arguments.tuned_text)
    bits = {r"^text_model\.": arguments.text_bits or arguments.bits, "": arguments.bits}
    if arguments.release:
        from .release import freeze_release, settings_of  # needs more packages than the rest

        settings: dict[str, Any] = {}
        for folder in filter(None, (*folders, arguments.tuned_speech)):
            settings |= settings_of(arguments.base, folder)
        settings |= {
            field: json.loads(value) for field, value in (pair.split("=", 1) for pair in arguments.set)
        }
        report = freeze_release(arguments.release, arguments.base, tuned, bits, settings)
    else:
        report = write_changes(arguments.out, arguments.base, tuned, bits)
    sys.stdout.write(f"{report['bytes'] / 1e6:.1f} MB\n\n{render_changes(report)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
