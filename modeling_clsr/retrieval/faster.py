"""Faster forms of a checkpoint for the CPU: its encoders as ONNX or OpenVINO graphs, its weights in int8.

Enters: a checkpoint folder. Leaves: graphs beside its weights, and the same model running them.
"""

import contextlib
import importlib
import json
import logging
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from ..hub.card import EXAMPLE
from ..modeling_clsr import CLSRModel
from ..processing_clsr import CLSRProcessor
from ..recognizer_clsr import TrueLengthWhisperEncoder, speech_encoder_of
from .encoder import checkpoint_fingerprint

# Text encoder and speech encoder of each form, named as optimum and sentence-transformers name them.
FILES = {
    "onnx": ("onnx/model.onnx", "onnx/speech_encoder.onnx"),
    "onnx-int8": ("onnx/model_qint8.onnx", "onnx/speech_encoder_qint8.onnx"),
    "openvino": ("openvino/openvino_model.xml", "openvino/openvino_speech_encoder.xml"),
}
FORMS = ("bfloat16", "int8", *FILES)  # the first two are made of the weights when they are loaded
INPUTS = (("input_ids", "attention_mask"), ("input_features", "attention_mask"))
OUTPUT = "last_hidden_state"
OPSET = 23  # the first with attention as one operator; unfused, its scores fill the memory
# Largest over root mean square of a layer's input. One scale serves a whole batch: at 30 the mean input is two of the
# 63 steps on either side of zero.
MAX_CREST = 30.0

Graph = Callable[[Tensor, Tensor], Tensor]


def export_form(folder: str | Path, form: str) -> Path:
    """Write the graphs of a form into a checkpoint.

    Args:
        folder: of the checkpoint; the form replaces an older one of its name, and appears when it is complete.
        form: "onnx", "onnx-int8" or "openvino".

    Returns:
        The file that says the form is there, `<folder>/<onnx or openvino>/<form>.json`.

    Raises:
        ValueError: there is no such form to write, or none for this kind of recogniser.
        ImportError: a package of the extra "faster" is not installed.
    """
    if form not in FILES:
        raise ValueError(f"form is {form!r} but {', '.join(FILES)} can be written; choose one of them")
    folder = Path(folder).absolute()
    packages = [_needed(name) for name in ("onnx", "onnxscript", *_runtimes(form))]
    model = CLSRModel.from_pretrained(folder, dtype=torch.float32).eval()
    _check_kind(model)
    loud = loud_layers(model, CLSRProcessor.from_pretrained(folder)) if form == "onnx-int8" else []
    target = folder / Path(FILES[form][0]).parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=".form-") as temporary:
        stage, other = Path(temporary) / "stage", Path(temporary) / "other"
        stage.mkdir()
        other.mkdir()
        # The other forms are made of the plain graphs, which may be there.
        if form != "onnx" and has_form(folder, "onnx"):
            plain = [folder / name for name in FILES["onnx"]]
        else:
            plain = [(stage if form == "onnx" else other) / Path(name).name for name in FILES["onnx"]]
            _write_onnx(_TextGraph(model.text_model), INPUTS[0], plain[0])
            _write_onnx(_SpeechGraph(speech_encoder_of(model.speech_model)), INPUTS[1], plain[1])
        for source, name in zip(plain, FILES[form], strict=True):
            if form == "onnx-int8":
                weights = [model.get_submodule(layer).weight for layer in loud]
                _quantize_onnx(source, stage / Path(name).name, weights)
            elif form == "openvino":
                openvino = _needed("openvino")
                graph = openvino.Core().read_model(str(source))
                openvino.save_model(graph, str(stage / Path(name).name), compress_to_fp16=False)
        told = {
            "checkpoint": checkpoint_fingerprint(folder),
            "float32_layers": loud,
            "packages": {package.__name__: package.__version__ for package in packages},
        }
        note = other / f"{form}.json"
        note.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        target.mkdir(exist_ok=True)
        (target / note.name).unlink(missing_ok=True)  # until all files are there, there is no such form
        for file in (*stage.iterdir(), note):
            file.replace(target / file.name)
    return target / note.name


def has_form(folder: Path, form: str) -> bool:
    """Tell whether a checkpoint has a form of `FILES`, made of the weights that are there now."""
    note = _note(folder, form)
    return note.is_file() and (
        json.loads(note.read_text(encoding="utf-8"))["checkpoint"] == checkpoint_fingerprint(folder)
    )


def use_form(model: CLSRModel, processor: CLSRProcessor, folder: Path, form: str) -> None:
    """Make a model run in a form, for inference only. Its interface stays; the replaced weights are given free.

    Args:
        model: of the checkpoint, in eval mode on the CPU; changed in place.
        processor: of the checkpoint.
        folder: of the checkpoint.
        form: one of `FORMS`.

    Raises:
        ValueError: there is no such form, none for this kind of recogniser, or it was made of other weights.
        FileNotFoundError: the checkpoint has no such form.
        ImportError: a package of the extra "faster" is not installed.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r} but must be one of {', '.join(FORMS)}")
    _check_kind(model)
    if form == "bfloat16":
        model.bfloat16()
        return
    model.float()
    if form == "int8":
        _quantize(model, loud_layers(model, processor))
        return
    told = _read_note(folder, form)
    load = _openvino_graph if form == "openvino" else _onnx_graph
    text, speech = (load(folder / name) for name in FILES[form])
    encoder = speech_encoder_of(model.speech_model)

    # Only `forward` is exchanged: what asks for the class or dtype of a part, or hooks into it, goes on working.
    def encode_text(input_ids: Tensor, attention_mask: Tensor, **kwargs) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=text(input_ids, attention_mask))

    def encode_speech(input_features: Tensor, attention_mask: Tensor, **kwargs) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=speech(input_features, attention_mask))

    model.text_model.forward = encode_text
    encoder.forward = encode_speech
    model.text_model.to("meta")
    encoder.layers.to("meta")
    if form == "onnx-int8":
        _quantize(model, told["float32_layers"], ("speech_model.model.decoder.", "speech_model.proj_out"))


@torch.inference_mode()
def loud_layers(model: CLSRModel, processor: CLSRProcessor, max_crest: float = MAX_CREST) -> list[str]:
    """Name the linear layers that int8 would spoil: those whose input has a few values far above all others.

    Whisper's encoder has such values behind the activation of its upper layers; one of these layers alone can make
    up most of the error. Heard on the example that comes with every checkpoint.

    Args:
        model: in eval mode.
        processor: of the model.
        max_crest: largest over root mean square that a layer's input may have.

    Source: outlier features (LLM.int8, arXiv 2208.07339, section 3), which also stay in floating point there.
    """
    crests: dict[str, float] = {}

    def listen(name: str):
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            values = args[0].float()
            crest = values.abs().max() / values.square().mean().sqrt().clamp(min=1e-12)
            crests[name] = max(crests.get(name, 0.0), float(crest))

        return hook

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    hooks = [layer.register_forward_pre_hook(listen(name)) for name, layer in layers.items()]
    try:
        rate = model.config.sampling_rate
        model.get_audio_features(**processor(audio=[processor.read_audio(str(EXAMPLE))], sampling_rate=rate))
    finally:
        for hook in hooks:
            hook.remove()
    return sorted(name for name, crest in crests.items() if crest > max_crest)


class _SpeechGraph(nn.Module):
    """`TrueLengthWhisperEncoder` with its mask always applied, since a graph has no branches."""

    def __init__(self, encoder: TrueLengthWhisperEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_features: Tensor, attention_mask: Tensor) -> Tensor:
        """Turn (B, M, T) and (B, T) into (B, F, H)."""
        keep = attention_mask[:, None].to(input_features.dtype)
        hidden = F.gelu(self.encoder.conv1(input_features * keep)) * keep
        hidden = F.gelu(self.encoder.conv2(hidden)).transpose(1, 2)  # (B, H, F) -> (B, F, H)
        frames = hidden.shape[1]
        hidden = hidden + self.encoder.embed_positions.weight[:frames]
        mask = attention_mask[:, None, None, ::2].bool().expand(-1, 1, frames, -1)  # (B, 1, F, F)
        for layer in self.encoder.layers:
            hidden = layer(hidden, mask)
        return self.encoder.layer_norm(hidden)


class _TextGraph(nn.Module):
    """The text encoder without pooling, which stays outside."""

    def __init__(self, text_model: nn.Module):
        super().__init__()
        self.text_model = text_model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Turn (B, L) twice into (B, L, E)."""
        return self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def _write_onnx(part: _SpeechGraph | _TextGraph, names: tuple[str, str], file: Path) -> None:
    """Trace a part on a padded batch; batch size and length stay open."""
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 30:] = 0
    if isinstance(part, _SpeechGraph):
        values = torch.randn(2, part.encoder.config.num_mel_bins, 40)
    else:
        values = torch.ones(2, 40, dtype=torch.long)
    axis = torch.export.Dim.DYNAMIC
    with _quiet():
        program = torch.onnx.export(
            part.eval(),
            (values, mask),
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=({0: axis, values.ndim - 1: axis}, {0: axis, 1: axis}),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
        )
        cast(Any, program).save(str(file))


def _quantize_onnx(source: Path, target: Path, loud: list[Tensor]) -> None:
    """Store the weights of a graph's matrix products in int8, each output channel with its scale, but for `loud`.

    Seven of the eight bits: without VNNI two products are added in 16 bits, which eight would overflow.
    """
    onnx, quantization = _needed("onnx"), _needed("onnxruntime.quantization")
    model = onnx.load(source)
    weights = {entry.name: entry for entry in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            weight = torch.from_numpy(onnx.numpy_helper.to_array(weights[node.input[1]]).copy()).T
            if any(torch.equal(weight, other) for other in loud):
                kept.append(node.name)
    with _quiet():
        quantization.quantize_dynamic(
            model,  # of a file it would write a second one beside it
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=kept,
        )


def _quantize(model: CLSRModel, loud: list[str], parts: tuple[str, ...] = ("",)) -> None:
    """Exchange linear layers for ones with int8 weights, a scale for each output channel, but for `loud`.

    Keys and values of cross-attention stay, too: decoding uses their weights, not the layers, see `WhisperSteps`.

    Args:
        model: changed in place; the embedding that shares its weights with the last layer keeps them.
        loud: names of layers that stay.
        parts: beginnings of the names of the others.
    """
    try:
        from torch.ao import quantization
    except ImportError as error:
        raise ImportError(
            f"int8 needs torch.ao.quantization, which torch {torch.__version__} no longer has; install an older torch"
        ) from error
    chosen = {
        name: quantization.per_channel_dynamic_qconfig
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith(parts)
        if name not in loud and not name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))
    }
    with _quiet():
        quantization.quantize_dynamic(model, chosen, inplace=True)


def _onnx_graph(file: Path) -> Graph:
    runtime = _needed("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(values: Tensor, mask: Tensor) -> Tensor:
        return torch.from_numpy(
            session.run(None, dict(zip(names, (values.numpy(), mask.numpy()), strict=True)))[0]
        )

    return run


def _openvino_graph(file: Path) -> Graph:
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = _needed("openvino").compile_model(str(file), "CPU", settings)
    request, alone = compiled.create_infer_request(), threading.Lock()

    def run(values: Tensor, mask: Tensor) -> Tensor:
        # The server's threads call at the same time. Requests of their own crash now and then while they are made.
        with alone:
            return torch.from_numpy(request.infer([values.numpy(), mask.numpy()])[0].copy())

    return run


def _read_note(folder: Path, form: str) -> dict[str, Any]:
    """Read what `export_form` wrote about a form; refuse one that is absent or of other weights."""
    note, remedy = _note(folder, form), f"`clsr build {folder} --form {form}`"
    if not note.is_file():
        raise FileNotFoundError(f"{folder} has no form {form}; make it with {remedy}")
    told = json.loads(note.read_text(encoding="utf-8"))
    found = checkpoint_fingerprint(folder)
    if told["checkpoint"] != found:
        raise ValueError(
            f"the form {form} was made of {told['checkpoint'][:8]} but {folder} is {found[:8]} now; "
            f"make it again with {remedy}"
        )
    return told


def _note(folder: Path, form: str) -> Path:
    return folder / Path(FILES[form][0]).parent / f"{form}.json"


def _check_kind(model: CLSRModel) -> None:
    config: Any = model.config
    own = config.decoder_type == "recognizer"
    if not own or config.speech_config.model_type != "whisper":
        kind = config.speech_config.model_type if own else f"parallel ({config.decoder_type})"
        raise ValueError(
            f"the recogniser is {kind} but only a pretrained whisper has faster forms; leave the form out"
        )


def _runtimes(form: str) -> tuple[str, ...]:
    return ("openvino",) if form == "openvino" else ("onnxruntime",)


def _needed(name: str) -> Any:
    if name == "openvino":
        # It reports every import to a web service of its maker; without this package of its own it does not.
        sys.modules.setdefault("openvino_telemetry", cast(Any, None))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"faster forms need {name.split('.')[0]}, which is not installed; "
            'install the "faster" extra of this package'
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the advice of exporters and quantisers about their own internals; errors are raised all the same."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
