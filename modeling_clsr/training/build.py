"""The model of a run: a checkpoint to go on from, pretrained parts, or a recogniser that starts from random weights.

Enters: `ModelArguments` and the training rows. Leaves: model, processor, and how transcripts become tokens.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from ..configuration_clsr import CLSRConfig, SANMConfig
from ..data.audio import load_audio
from ..data.manifest import Row
from ..hub.parts import WHISPER_ID, whisper_tokenizer
from ..hub.release import checkpoint_folder
from ..modeling_clsr import CLSRModel
from ..parallel_clsr import ParallelRecognizer
from ..predictor_clsr import CIFPredictor
from ..processing_clsr import CLSRProcessor
from .arguments import ModelArguments

STATISTICS_CLIPS = 500  # heard for the mean and deviation of the filterbank
STACKED_BANDS = 560  # 7 frames of 80 bands


@dataclass
class Built:
    """What `build_model` returns.

    Attributes:
        model: in float32.
        processor: of the model.
        transcript_tokenizer: cuts true transcripts for the recognition loss.
        leading_space: whether the recogniser writes a space first.
        new_parameters: names of those that start from random weights.
    """

    model: CLSRModel
    processor: CLSRProcessor
    transcript_tokenizer: Any
    leading_space: bool = False
    new_parameters: list[str] = field(default_factory=list)


def build_model(args: ModelArguments, rows: Sequence[Row], seed: int = 0) -> Built:
    """Load or make the model.

    Args:
        args: either `model`, or `speech` and `text`.
        rows: of the training, for a restricted vocabulary.
        seed: of the random weights.

    Raises:
        ValueError: both or neither way of naming a model is used.
    """
    if (args.model is None) == (args.speech is None or args.text is None):
        raise ValueError(
            f"model is {args.model!r}, speech {args.speech!r} and text {args.text!r}; "
            "give model (a checkpoint) alone, or speech and text (parts to join)"
        )
    torch.manual_seed(seed)
    return _from_checkpoint(args) if args.model is not None else _from_parts(args, rows)


def _from_checkpoint(args: ModelArguments) -> Built:
    folder = str(checkpoint_folder(str(args.model)))
    config = CLSRConfig.from_pretrained(folder, **args.config_fields())
    model, report = CLSRModel.from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True
    )
    processor = CLSRProcessor.from_pretrained(folder)
    return Built(model, processor, *_transcripts(args, model, processor), sorted(report["missing_keys"]))


def _from_parts(args: ModelArguments, rows: Sequence[Row]) -> Built:
    fields, text = args.config_fields(), str(args.text)
    parallel = fields.get("decoder_type", "recognizer") != "recognizer"
    speech: Any = args.speech
    if args.speech == "sanm":
        speech = _sanm(args, num_hidden_layers=args.encoder_layers, input_size=STACKED_BANDS)
    if fields.get("decoder_type") == "sanm":
        width = getattr(speech, "hidden_size", None)
        fields["decoder_config"] = _sanm(
            args,
            num_hidden_layers=args.decoder_layers,
            encoder_hidden_size=width or _encoder_width(args.speech),
        )
    if fields.get("decoder_type") == "whisper":  # its own decoder's sizes
        fields["decoder_config"] = AutoConfig.from_pretrained(speech).to_dict()
    tokenizer = AutoTokenizer.from_pretrained(text)
    if parallel and args.vocabulary == "train":
        words = {row.transcript or "" for row in rows}
        ids = tokenizer(sorted(words), add_special_tokens=False, verbose=False)["input_ids"]
        fields["vocabulary_ids"] = sorted(
            {token for row in ids for token in row} - set(tokenizer.all_special_ids)
        )
    model = CLSRModel.from_pretrained_parts(speech=speech, text=text, **fields)
    processor = CLSRProcessor.from_pretrained_parts(speech=speech, text=text, parallel=parallel)
    if args.tokens_per_s is not None:
        _set_pace(model, args.tokens_per_s)
    kept = ["speech_model.encoder."] if args.speech != "sanm" else []
    if fields.get("decoder_type") == "whisper":
        kept.append("speech_model.decoder.")  # layers, and rows averaged from the recogniser's
    new = [
        name
        for name, _ in model.named_parameters()
        if parallel and name.startswith(("speech_model.", "adaptor.")) and not name.startswith(tuple(kept))
    ]
    return Built(model, processor, *_transcripts(args, model, processor), new)


@torch.no_grad()
def _set_pace(model: CLSRModel, tokens_per_s: float) -> None:
    """Start a CIF predictor at a pace, by the bias of its weights: without true counts nothing else slows it down."""
    predictor: Any = getattr(model.speech_model, "predictor", None)
    share = tokens_per_s / model.config.frames_per_second
    if not isinstance(predictor, CIFPredictor) or not 0 < share < 1:
        raise ValueError(
            f"tokens_per_s is {tokens_per_s:g} with predictor_type {model.config.predictor_type!r} but a CIF predictor "
            f"over {model.config.frames_per_second:g} frames a second takes less than that; lower it or leave it out"
        )
    predictor.projection.bias.fill_(math.log(share / (1 - share)))


def _sanm(args: ModelArguments, **sizes: Any) -> SANMConfig:
    return SANMConfig(
        hidden_size=args.width,
        num_attention_heads=args.heads,
        intermediate_size=args.feedforward,
        dropout=args.dropout,
        attention_dropout=args.dropout,
        **sizes,
    )


def _encoder_width(speech: Any) -> int:
    return AutoConfig.from_pretrained(speech).hidden_size


def _transcripts(args: ModelArguments, model: CLSRModel, processor: CLSRProcessor) -> tuple[Any, bool]:
    """Return the tokenizer of true transcripts, and whether a text starts with a space."""
    if isinstance(model.speech_model, ParallelRecognizer):
        return processor.tokenizer, False
    speech_config: Any = model.config.speech_config
    origin: Any = args.recognizer_tokenizer or args.speech or speech_config._name_or_path
    if origin == WHISPER_ID and args.recognizer_tokenizer is None:
        try:
            return whisper_tokenizer(), True
        except ImportError:
            pass  # the packages are not installed; the Hub has it, too
    tokenizer = AutoTokenizer.from_pretrained(origin)
    return tokenizer, any(token.startswith("Ġ") for token in list(tokenizer.get_vocab())[:5000])


def fill_statistics(built: Built, rows: Sequence[Row], seed: int) -> None:
    """Measure the filterbank of a new SAN-M encoder on training clips (CMVN)."""
    speech: Any = built.model.speech_model
    shift = getattr(speech, "cmvn_shift", None)
    if shift is None or bool(shift.any()):
        return
    extractor = built.processor.feature_extractor
    heard = random.Random(seed).sample(list(rows), min(STATISTICS_CLIPS, len(rows)))
    total, squares, count = torch.zeros_like(shift).double(), torch.zeros_like(shift).double(), 0
    for row in heard:
        frames = extractor(load_audio(row.audio, extractor.sampling_rate), extractor.sampling_rate)[
            "input_features"
        ]
        total += frames[0].double().sum(dim=0)
        squares += frames[0].double().square().sum(dim=0)
        count += frames.shape[1]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=1e-10).sqrt()
    speech.cmvn_shift.copy_(-mean)
    speech.cmvn_scale.copy_(1 / deviation)
