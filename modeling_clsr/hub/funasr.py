"""Convert FunASR Paraformer checkpoints (model.pt, am.mvn, tokens.json) to the names used here.

Enters: a folder. Leaves: `FunASRCheckpoint`, whose weights fit `SANMEncoder`, `CIFPredictor` and
`SANMDecoder` below the prefixes "encoder.", "predictor." and "decoder."; the old output layer stands below
"output_layer.".
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ..configuration_clsr import SANMConfig
from ..modeling_clsr import CLSRModel

# Old name -> new name. FunASR keeps the first encoder layer apart; `_rename` numbers the others after it.
_RENAMES = (
    (r"encoder\.encoders0\.(\d+)\.norm1\.", r"encoder.layers.\1.self_attn_layer_norm."),
    (r"encoder\.encoders0\.(\d+)\.norm2\.", r"encoder.layers.\1.final_layer_norm."),
    (r"encoder\.encoders0\.(\d+)\.self_attn\.linear_q_k_v\.", r"encoder.layers.\1.self_attn.qkv_proj."),
    (r"encoder\.encoders0\.(\d+)\.self_attn\.linear_out\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"encoder\.encoders0\.(\d+)\.self_attn\.fsmn_block\.", r"encoder.layers.\1.self_attn.memory.conv."),
    (r"encoder\.encoders0\.(\d+)\.feed_forward\.w_([12])\.", r"encoder.layers.\1.fc\2."),
    (r"encoder\.after_norm\.", r"encoder.layer_norm."),
    (r"predictor\.cif_conv1d\.", r"predictor.conv."),
    (r"predictor\.cif_output\.", r"predictor.projection."),
    (r"decoder\.decoders\.(\d+)\.norm1\.", r"decoder.layers.\1.feed_forward_layer_norm."),
    (r"decoder\.decoders\.(\d+)\.norm2\.", r"decoder.layers.\1.memory_layer_norm."),
    (r"decoder\.decoders\.(\d+)\.norm3\.", r"decoder.layers.\1.encoder_attn_layer_norm."),
    (r"decoder\.decoders\.(\d+)\.feed_forward\.w_([12])\.", r"decoder.layers.\1.feed_forward.fc\2."),
    (r"decoder\.decoders\.(\d+)\.feed_forward\.norm\.", r"decoder.layers.\1.feed_forward.layer_norm."),
    (r"decoder\.decoders\.(\d+)\.self_attn\.fsmn_block\.", r"decoder.layers.\1.memory.conv."),
    (r"decoder\.decoders\.(\d+)\.src_attn\.linear_q\.", r"decoder.layers.\1.encoder_attn.q_proj."),
    (r"decoder\.decoders\.(\d+)\.src_attn\.linear_k_v\.", r"decoder.layers.\1.encoder_attn.kv_proj."),
    (r"decoder\.decoders\.(\d+)\.src_attn\.linear_out\.", r"decoder.layers.\1.encoder_attn.out_proj."),
    (r"decoder\.decoders3\.0\.norm1\.", r"decoder.last_feed_forward_layer_norm."),
    (r"decoder\.decoders3\.0\.feed_forward\.w_([12])\.", r"decoder.last_feed_forward.fc\1."),
    (r"decoder\.decoders3\.0\.feed_forward\.norm\.", r"decoder.last_feed_forward.layer_norm."),
    (r"decoder\.after_norm\.", r"decoder.layer_norm."),
    (r"decoder\.output_layer\.", r"output_layer."),
)

# The sampler takes the output layer's rows, so FunASR's token table has no use; the rest belongs to its
# variants for time stamps, hot words and joint CTC training.
_DROPPED = re.compile(
    r"decoder\.embed\.|predictor\.(upsample_cnn|blstm|cif_output2)\.|ctc\.|bias_|seaco_|criterion|hotword_"
)


@dataclass(frozen=True)
class FunASRCheckpoint:
    """A converted checkpoint.

    Args:
        state_dict: weights under the names of this package.
        encoder_config: fields for `SANMEncoder`'s config.
        decoder_config: fields for `SANMDecoder`'s config.
        predictor_config: arguments of `CIFPredictor`.
        tokens: FunASR's vocabulary, one string for each row of `output_layer`.
        cmvn_shift: negative mean of stacked frames, (M,).
        cmvn_scale: inverse deviation, (M,).
    """

    state_dict: dict[str, Tensor]
    encoder_config: dict[str, Any]
    decoder_config: dict[str, Any]
    predictor_config: dict[str, Any]
    tokens: list[str]
    cmvn_shift: Tensor
    cmvn_scale: Tensor

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the weights of "encoder", "predictor", "decoder" or "output_layer", without the prefix."""
        start = f"{name}."
        return {
            key.removeprefix(start): value for key, value in self.state_dict.items() if key.startswith(start)
        }


def load_funasr_checkpoint(folder: str | Path) -> FunASRCheckpoint:
    """Read and convert a FunASR Paraformer folder.

    Sizes come from the weights; the number of heads, which they do not show, from config.yaml, else 4.

    Args:
        folder: with model.pt, am.mvn, tokens.json and, if there is one, config.yaml.

    Returns:
        The converted checkpoint.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a weight has no place here, or vocabulary and output layer differ.
    """
    folder = Path(folder)
    for name in ("model.pt", "am.mvn", "tokens.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; give the folder of a FunASR Paraformer checkpoint"
            )
    state = convert_funasr_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True))
    settings_file = folder / "config.yaml"
    settings = yaml.safe_load(settings_file.read_text(encoding="utf-8")) if settings_file.is_file() else {}
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    num_rows = state["output_layer.weight"].shape[0]
    if len(tokens) != num_rows:
        raise ValueError(
            f"tokens.json lists {len(tokens)} tokens but the output layer has {num_rows} rows; "
            "take both from one checkpoint"
        )
    shift, scale = read_cmvn(folder / "am.mvn")
    return FunASRCheckpoint(
        state_dict=state,
        encoder_config=_encoder_config(state, settings.get("encoder_conf", {})),
        decoder_config=_decoder_config(state, settings.get("decoder_conf", {})),
        predictor_config=_predictor_config(state, settings.get("predictor_conf", {})),
        tokens=tokens,
        cmvn_shift=shift,
        cmvn_scale=scale,
    )


def model_from_funasr(folder: str | Path, text: Any, text_tokenizer=None, **config_kwargs) -> CLSRModel:
    """Make a CLSR of a FunASR Paraformer and a text encoder.

    Encoder, predictor, decoder and CMVN keep their weights; the output layer is made anew over the text encoder's
    vocabulary and must be trained.

    Args:
        folder: FunASR checkpoint, see `load_funasr_checkpoint`.
        text: folder, Hub id or model of the text encoder.
        text_tokenizer: its tokenizer; needed if `text` is a model.
        **config_kwargs: fields of `CLSRConfig`.
    """
    checkpoint = load_funasr_checkpoint(folder)
    if len(checkpoint.cmvn_shift) != checkpoint.encoder_config["input_size"]:
        raise ValueError(
            f"am.mvn is {len(checkpoint.cmvn_shift)} wide but the encoder reads frames "
            f"{checkpoint.encoder_config['input_size']} wide; take both from one checkpoint"
        )
    predictor = checkpoint.predictor_config
    for name, usual in (
        ("left_context", 1),
        ("right_context", 1),
        ("threshold", 1.0),
        ("smooth_factor", 1.0),
    ):
        if predictor[name] != usual:
            raise ValueError(
                f"{name} of the predictor is {predictor[name]} but CLSR takes {usual}; see config.yaml"
            )
    fields: dict[str, Any] = {
        "decoder_type": "sanm",
        "predictor_type": "cif",
        "adaptor_type": "vq",
        "adaptor_temperature": 0.1,
    }
    fields["tail_threshold"] = predictor["tail_threshold"]
    model = CLSRModel.from_pretrained_parts(
        SANMConfig(**checkpoint.encoder_config),
        text,
        text_tokenizer=text_tokenizer,
        decoder_config=SANMConfig(**checkpoint.decoder_config),
        **(fields | config_kwargs),
    )
    recognizer: Any = model.speech_model
    for part in ("encoder", "predictor", "decoder"):
        getattr(recognizer, part).load_state_dict(checkpoint.part(part))
    recognizer.cmvn_shift.copy_(checkpoint.cmvn_shift)
    recognizer.cmvn_scale.copy_(checkpoint.cmvn_scale)
    return model


def convert_funasr_state_dict(state: dict[str, Any]) -> dict[str, Tensor]:
    """Rename FunASR's weights; unwrap the levels that its trainer puts around them.

    Args:
        state: content of model.pt.

    Returns:
        Weights below "encoder.", "predictor.", "decoder." and "output_layer.".

    Raises:
        ValueError: a weight has no place here.
    """
    for level in ("state_dict", "model_state_dict", "model"):
        state = state.get(level, state)
    converted = {}
    for name, value in state.items():
        name = name.removeprefix("module.")
        if not _DROPPED.match(name):
            converted[_rename(name)] = value
    return converted


def read_cmvn(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read a Kaldi nnet file of feature statistics.

    Args:
        path: of am.mvn.

    Returns:
        shift (negative mean) and scale (inverse deviation), each (M,), float32.

    Raises:
        ValueError: the file lacks one of them.
    """
    text = Path(path).read_text(encoding="utf-8")
    found = {}
    for tag in ("AddShift", "Rescale"):
        match = re.search(rf"<{tag}>.*?<LearnRateCoef>\s*\S+\s*\[([^\]]*)\]", text, flags=re.DOTALL)
        if match is None:
            raise ValueError(f"{path} has no <{tag}> with values in brackets; give FunASR's am.mvn")
        found[tag] = torch.tensor([float(value) for value in match[1].split()])
    if len(found["AddShift"]) != len(found["Rescale"]):
        raise ValueError(
            f"{path} has {len(found['AddShift'])} shifts but {len(found['Rescale'])} scales; "
            "fetch the file again"
        )
    return found["AddShift"], found["Rescale"]


def _rename(name: str) -> str:
    layer = re.match(r"encoder\.encoders\.(\d+)\.", name)
    if layer:  # FunASR counts these from the second layer
        name = f"encoder.encoders0.{int(layer[1]) + 1}.{name[layer.end() :]}"
    for old, new in _RENAMES:
        if re.match(old, name):
            return re.sub(old, new, name, count=1)
    raise ValueError(
        f"weight {name!r} has no place in a SAN-M recogniser; convert a Paraformer checkpoint whose decoder "
        "layers all attend to the encoder"
    )


def _encoder_config(state: dict[str, Tensor], settings: dict) -> dict[str, Any]:
    first = "encoder.layers.0."
    return _layer_config(state, settings, "encoder", first + "fc1", first + "self_attn.memory") | {
        "input_size": state[first + "self_attn_layer_norm.weight"].shape[0],
        "hidden_size": state[first + "fc2.weight"].shape[0],
        "attention_dropout": settings.get("attention_dropout_rate", 0.1),
    }


def _decoder_config(state: dict[str, Tensor], settings: dict) -> dict[str, Any]:
    first = "decoder.layers.0."
    return _layer_config(state, settings, "decoder", first + "feed_forward.fc1", first + "memory") | {
        "encoder_hidden_size": state[first + "encoder_attn.kv_proj.weight"].shape[1],
        "hidden_size": state[first + "encoder_attn.q_proj.weight"].shape[0],
        "attention_dropout": settings.get("src_attention_dropout_rate", 0.1),
    }


def _layer_config(
    state: dict[str, Tensor], settings: dict, part: str, feed_forward: str, memory: str
) -> dict[str, Any]:
    """Return the fields that encoder and decoder are read for alike; the last two name modules of a layer."""
    return {
        "num_hidden_layers": 1
        + max(int(name.split(".")[2]) for name in state if name.startswith(f"{part}.layers.")),
        "num_attention_heads": settings.get("attention_heads", 4),
        "intermediate_size": state[f"{feed_forward}.weight"].shape[0],
        "memory_kernel_size": state[f"{memory}.conv.weight"].shape[-1],
        "memory_shift": max(settings.get("sanm_shfit", 0), 0),
        "dropout": settings.get("dropout_rate", 0.1),
        "layer_norm_eps": 1e-12,
    }


def _predictor_config(state: dict[str, Tensor], settings: dict) -> dict[str, Any]:
    return {
        "hidden_size": state["predictor.conv.weight"].shape[0],
        "left_context": settings.get("l_order", 1),
        "right_context": settings.get("r_order", 1),
        "threshold": settings.get("threshold", 1.0),
        "tail_threshold": settings.get("tail_threshold", 0.45),
        "smooth_factor": settings.get("smooth_factor", 1.0),
        "noise_threshold": settings.get("noise_threshold", 0.0),
    }
