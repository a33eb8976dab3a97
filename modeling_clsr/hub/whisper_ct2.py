"""Read Whisper from a CTranslate2 folder, the layout of faster-whisper, without CTranslate2.

Enters: a folder with model.bin, config.json, tokenizer.json and vocabulary.txt or .json.
Leaves: a `WhisperForConditionalGeneration` and its tokenizer, or a stock Hugging Face folder.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

BINARY_VERSION = 6
SPEC = ("WhisperSpec", 3)  # name and revision
DTYPES = {
    0: torch.float32,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.float16,
    5: torch.bfloat16,
}
NUM_TIMESTAMPS = 1501  # <|0.00|> to <|30.00|> in steps of 0.02 s
MULTILINGUAL_VOCAB_SIZE = 51865  # the English-only models have one token less
NUM_BYTES = 256  # the byte-level vocabulary starts with one token for each byte

# Scope in model.bin -> modules in transformers; a tuple holds the parts that CTranslate2 stacks in one matrix.
_ENCODER_LAYER = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
    "ffn/layer_norm": ("final_layer_norm",),
}
_DECODER_LAYER = _ENCODER_LAYER | {
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
}
_OUTER = {
    "conv1": "conv1",
    "conv2": "conv2",
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
    "layer_norm": "layer_norm",
}
_LEAVES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}


def load_ct2_whisper(folder: str | Path) -> tuple[WhisperForConditionalGeneration, WhisperTokenizer]:
    """Load model and tokenizer.

    Args:
        folder: of a CTranslate2 Whisper, stored in float32, float16 or bfloat16.

    Returns:
        The model (float32, eval mode, generation config filled) and the tokenizer (with timestamps).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the file has another format, is cut off, or holds weights that Whisper lacks.
    """
    folder = Path(folder)
    for name in ("model.bin", "config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; give a folder made by ct2-transformers-converter"
            )
    tensors = read_model_bin(folder / "model.bin")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    state = rename_weights(tensors)
    vocab_size, width = state["model.decoder.embed_tokens.weight"].shape
    tokenizer = _load_tokenizer(folder, vocab_size, state["model.decoder.embed_positions.weight"].shape[0])
    ids = tokenizer.get_vocab()
    end = ids["<|endoftext|>"]
    config = WhisperConfig(
        vocab_size=vocab_size,
        d_model=width,
        num_mel_bins=state["model.encoder.conv1.weight"].shape[1],
        encoder_layers=_count_layers(state, "encoder"),
        decoder_layers=_count_layers(state, "decoder"),
        encoder_attention_heads=int(tensors["encoder/num_heads"]),
        decoder_attention_heads=int(tensors["decoder/num_heads"]),
        encoder_ffn_dim=state["model.encoder.layers.0.fc1.weight"].shape[0],
        decoder_ffn_dim=state["model.decoder.layers.0.fc1.weight"].shape[0],
        max_source_positions=state["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=state["model.decoder.embed_positions.weight"].shape[0],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=ids["<|startoftranscript|>"],
    )
    model = WhisperForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing != ["proj_out.weight"] or unexpected:
        raise ValueError(
            f"model.bin lacks {missing} and brings {unexpected} but only the tied proj_out.weight may be missing; "
            "convert the model again"
        )
    model.tie_weights()
    model.generation_config = _generation_config(settings, tokenizer, config)
    return model.eval(), tokenizer


def convert_ct2_whisper(folder: str | Path, target: str | Path) -> Path:
    """Write a CTranslate2 Whisper as a stock Hugging Face folder.

    Args:
        folder: as for `load_ct2_whisper`.
        target: folder to write; made if absent.

    Returns:
        `target`, with model, tokenizer, generation config and feature extractor.
    """
    model, tokenizer = load_ct2_whisper(folder)
    for part in (model, tokenizer, WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)):
        part.save_pretrained(target)
    return Path(target)


def read_model_bin(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a model.bin.

    Args:
        path: of the file. Little endian: u32 version, spec, u32 revision, u32 count; per tensor its name, u8 rank,
            u32 sizes, u8 dtype, u32 bytes, data. Strings: u16 length with the closing NUL, bytes.

    Returns:
        Tensors by name, in the dtype of the file. Aliases behind the tensors (the tied output layer) are left out.

    Raises:
        ValueError: another version, model or dtype, or the file is cut off.
    """
    path = Path(path)
    with path.open("rb") as file:
        version = _read_number(file, "I", path)
        if version != BINARY_VERSION:
            raise ValueError(
                f"{path} has binary version {version} but version {BINARY_VERSION} is read; "
                "convert the model with a current CTranslate2"
            )
        spec = (_read_string(file, path), _read_number(file, "I", path))
        if spec != SPEC:
            raise ValueError(
                f"{path} holds {spec[0]} revision {spec[1]} but {SPEC[0]} revision {SPEC[1]} is read; "
                "give a Whisper model converted with a current CTranslate2"
            )
        return dict(_read_tensor(file, path) for _ in range(_read_number(file, "I", path)))


def rename_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights the names they have in transformers; take stacked projections apart; cast to float32.

    Args:
        tensors: from `read_model_bin`. Scalars are settings and are skipped.

    Returns:
        State dict of `WhisperForConditionalGeneration`, without the tied `proj_out.weight`.

    Raises:
        ValueError: a weight is quantized, is unknown, or a key projection has a bias (Whisper's has none).
    """
    state = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 0:
            continue
        if not tensor.is_floating_point():
            raise ValueError(
                f"{name} is stored as {tensor.dtype} but float32, float16 or bfloat16 is read; "
                "convert the model with --quantization float16"
            )
        half, modules, leaf = _modules(name)
        for module, part in zip(modules, tensor.float().chunk(len(modules)), strict=True):
            if module.endswith("k_proj") and leaf == "bias":
                if part.any():
                    raise ValueError(
                        f"{name} has a key bias of up to {part.abs().max():g} but Whisper's is 0; "
                        "the parts are stacked in another order"
                    )
                continue
            state[f"model.{half}.{module}.{leaf}"] = part.clone()
    return state


def _modules(name: str) -> tuple[str, tuple[str, ...], str]:
    """Split "decoder/layer_0/ffn/linear_0/weight" to ("decoder", ("layers.0.fc1",), "weight")."""
    half, _, rest = name.partition("/")
    scope, _, leaf = rest.rpartition("/")
    layer, _, inner = scope.partition("/")
    if half in ("encoder", "decoder") and leaf in _LEAVES:
        if scope in _OUTER:
            return half, (_OUTER[scope],), _LEAVES[leaf]
        number = layer.removeprefix("layer_")
        modules = (_ENCODER_LAYER if half == "encoder" else _DECODER_LAYER).get(inner)
        if number.isdigit() and modules:
            return half, tuple(f"layers.{number}.{module}" for module in modules), _LEAVES[leaf]
    raise ValueError(
        f"model.bin holds {name}, which no Whisper of transformers has; give a plain Whisper model"
    )


def _count_layers(state: dict[str, Tensor], half: str) -> int:
    prefix = f"model.{half}.layers."
    return 1 + max(int(name.split(".")[3]) for name in state if name.startswith(prefix))


def _read_tensor(file: BinaryIO, path: Path) -> tuple[str, Tensor]:
    name = _read_string(file, path)
    shape = [_read_number(file, "I", path) for _ in range(_read_number(file, "B", path))]
    dtype = _read_number(file, "B", path)
    if dtype not in DTYPES:
        raise ValueError(
            f"{path} stores {name} as dtype {dtype} but {sorted(DTYPES)} are known; convert it again"
        )
    data = bytearray(_read(file, _read_number(file, "I", path), path))
    return name, torch.frombuffer(data, dtype=DTYPES[dtype]).reshape(shape)


def _read_string(file: BinaryIO, path: Path) -> str:
    return _read(file, _read_number(file, "H", path), path).rstrip(b"\0").decode("utf-8", errors="replace")


def _read_number(file: BinaryIO, kind: str, path: Path) -> int:
    return struct.unpack(f"<{kind}", _read(file, struct.calcsize(f"<{kind}"), path))[0]


def _read(file: BinaryIO, size: int, path: Path) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError(
            f"{path} ends at byte {file.tell()} where {size - len(data)} more were expected; "
            "copy the file again, all parts of it"
        )
    return data


def _load_tokenizer(folder: Path, vocab_size: int, max_length: int) -> WhisperTokenizer:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    special = [token for token in content["added_tokens"] if token["special"]]
    tokenizer = WhisperTokenizer(
        vocab=vocabulary,
        merges=all_merges(content["model"]["merges"], vocabulary),
        pad_token="<|endoftext|>",
        model_max_length=max_length,
        extra_special_tokens=[
            token["content"]
            for token in sorted(special, key=lambda token: token["id"])
            if token["content"] != "<|endoftext|>"
        ],
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token in _timestamps(vocab_size - len(tokenizer))]
    )
    if len(tokenizer) != vocab_size:
        raise ValueError(
            f"tokenizer.json makes {len(tokenizer)} tokens but the model has {vocab_size} rows; "
            "take both from one model"
        )
    for index, token in enumerate(_read_vocabulary(folder)):
        if index >= vocab_size or tokenizer.convert_ids_to_tokens(index) != token:
            raise ValueError(
                f"token {index} is {token!r} in the vocabulary but not in tokenizer.json; take both from one model"
            )
    return tokenizer


def all_merges(merges: list, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges as pairs, with the first one put back.

    Some Whisper folders have lost it: their merges.txt once had no header, and its first line was taken for one.
    Then " t" is never merged and most words behind a space are cut otherwise than in training.
    """
    pairs = []
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        pairs.append((left, right))
    first = next((token for token, index in vocabulary.items() if index == NUM_BYTES), None)
    if first is not None and len(first) == 2 and (not pairs or "".join(pairs[0]) != first):
        pairs.insert(0, (first[0], first[1]))
    return pairs


def _timestamps(missing: int) -> Iterator[str]:
    """Return the timestamp tokens, which the packages' tokenizer.json leaves out."""
    if missing == NUM_TIMESTAMPS:
        yield from (f"<|{number / 50:.2f}|>" for number in range(NUM_TIMESTAMPS))


def _read_vocabulary(folder: Path) -> list[str]:
    if (folder / "vocabulary.json").is_file():
        return json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    if (folder / "vocabulary.txt").is_file():
        # Only a line feed ends a token: str.splitlines would also cut at characters within one.
        return (folder / "vocabulary.txt").read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    raise FileNotFoundError(f"{folder} has no vocabulary.txt or vocabulary.json; copy the whole folder")


def _generation_config(
    settings: dict[str, Any], tokenizer: WhisperTokenizer, config: WhisperConfig
) -> GenerationConfig:
    """Make the generation config of openai/whisper-*: English, transcribe, no timestamps."""
    ids = tokenizer.get_vocab()
    multilingual = config.vocab_size >= MULTILINGUAL_VOCAB_SIZE
    fields: dict[str, Any] = {
        "alignment_heads": settings["alignment_heads"],
        "begin_suppress_tokens": settings["suppress_ids_begin"],
        "suppress_tokens": settings["suppress_ids"],
        "is_multilingual": multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": config.max_target_positions,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
    }
    if multilingual:
        languages = tokenizer.convert_ids_to_tokens(settings["lang_ids"])
        fields |= {
            "lang_to_id": dict(zip(languages, settings["lang_ids"], strict=True)),
            "task_to_id": {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")},
            "language": "en",
            "task": "transcribe",
        }
    return GenerationConfig(**fields)
