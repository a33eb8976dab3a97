"""Pretrained parts: what a recogniser and a sentence encoder say about themselves, as fields of CLSRConfig.

Enters: Hugging Face models, tokenizers and folders. Leaves: config fields, feature-extractor settings, weights.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from .recognizer_clsr import speech_encoder_of
from .strings_clsr import token_bytes_of

SEQ2SEQ_TYPES = ("whisper", "moonshine")
CTC_TYPES = ("wav2vec2", "hubert", "parakeet_ctc")
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")  # positions start behind the padding id
WAVEFORM_TYPES = ("wav2vec2", "hubert", "wavlm", "moonshine")
LONGEST_CLIP_S = 30.0
MEL_BINS = 80  # of the Kaldi front end


def recognizer_type(speech_config) -> str:
    """Return "seq2seq" or "ctc".

    Raises:
        ValueError: the recogniser is of a kind that CLSR does not know.
    """
    if speech_config.model_type in SEQ2SEQ_TYPES:
        return "seq2seq"
    if speech_config.model_type in CTC_TYPES:
        return "ctc"
    raise ValueError(
        f"the recogniser is of type {speech_config.model_type!r} but CLSR takes "
        f"{', '.join(SEQ2SEQ_TYPES + CTC_TYPES)}; choose a checkpoint of one of these types"
    )


def load_recognizer(speech: str | Path | PreTrainedModel) -> PreTrainedModel:
    """Load a recogniser by folder or Hub id; a model passes through."""
    if isinstance(speech, PreTrainedModel):
        return speech
    kind = recognizer_type(AutoConfig.from_pretrained(speech))
    loader = AutoModelForCTC if kind == "ctc" else AutoModelForSpeechSeq2Seq
    return loader.from_pretrained(speech, dtype=torch.float32)


def recognizer_settings(model: PreTrainedModel, tokenizer, language: str) -> dict:
    """Return the fields of CLSRConfig that the recogniser decides.

    Args:
        model: the recogniser.
        tokenizer: its tokenizer.
        language: two-letter code of the speech, for multilingual Whisper.
    """
    config = model.config
    kind = recognizer_type(config)
    settings = {"recognizer_type": kind, "frames_per_second": frames_per_second(config)} | clip_limits(config)
    if kind == "ctc":
        return settings | {"blank_token_id": config.pad_token_id}
    generation = getattr(model, "generation_config", None) or GenerationConfig()
    prompt = [config.decoder_start_token_id]
    vocabulary = tokenizer.get_vocab()
    if f"<|{language}|>" in vocabulary and getattr(generation, "is_multilingual", True):
        prompt += [vocabulary[f"<|{language}|>"], vocabulary["<|transcribe|>"]]
    if "<|notimestamps|>" in vocabulary:
        prompt.append(vocabulary["<|notimestamps|>"])
    nobody = [vocabulary[name] for name in ("<|nospeech|>", "<|nocaptions|>") if name in vocabulary]
    return settings | {
        "decoder_prompt_ids": prompt,
        "eos_token_id": config.eos_token_id,
        "suppress_token_ids": list(getattr(generation, "suppress_tokens", None) or ()),
        "begin_suppress_token_ids": list(getattr(generation, "begin_suppress_tokens", None) or ()),
        "no_speech_token_id": nobody[0] if nobody else None,
        "alignment_heads": [list(pair) for pair in getattr(generation, "alignment_heads", None) or ()],
    }


def parallel_settings(speech: Any, text_tokenizer) -> dict:
    """Return the fields of CLSRConfig that the speech encoder of a parallel recogniser decides.

    Args:
        speech: folder, Hub id, model or config.
        text_tokenizer: of the text encoder, whose special tokens are never written.
    """
    config = speech_config_of(speech)
    config = getattr(config, "encoder_config", config)  # Parakeet keeps that of its encoder apart
    return {
        "speech_config": config,
        "frames_per_second": frames_per_second(config),
        "suppress_token_ids": sorted(text_tokenizer.all_special_ids),
    } | clip_limits(config, parallel=True)


def clip_limits(config, parallel: bool = False) -> dict[str, float]:
    """Return the silence put behind a clip and the longest clip, in seconds; both leave Whisper's window full.

    Args:
        config: of the recogniser.
        parallel: for a parallel recogniser, whose decoder does not wait for silence.
    """
    tail = 1.0 if config.model_type == "whisper" and not parallel else 0.0
    return {"tail_silence_s": tail, "max_audio_s": LONGEST_CLIP_S - tail}


def speech_config_of(speech: Any):
    """Return the config of a speech part given as folder, Hub id, model or config."""
    if isinstance(speech, PreTrainedModel):
        return speech.config
    return speech if isinstance(speech, PreTrainedConfig) else AutoConfig.from_pretrained(speech)


def start_parallel_weights(recognizer: Any, speech: Any, speech_tokenizer, text_tokenizer, config) -> None:
    """Fill a parallel recogniser with what a pretrained one has: the encoder and, for "whisper", the decoder layers.

    Every token row of the decoder starts as the mean of Whisper's rows of the same string (recipe, section 2).

    Args:
        recognizer: ParallelRecognizer, changed in place.
        speech: folder, Hub id or model; a config leaves everything at random weights.
        speech_tokenizer: of the recogniser, for "whisper"; loaded from `speech` if None.
        text_tokenizer: of the text encoder.
        config: CLSRConfig.
    """
    if isinstance(speech, PreTrainedConfig):
        return
    source: Any = load_recognizer(speech)
    copy_weights(speech_encoder_of(source), recognizer.encoder)
    if config.decoder_type != "whisper":
        return
    if source.config.model_type != "whisper":
        raise ValueError(
            f"decoder_type is 'whisper' but the recogniser is of type {source.config.model_type!r}; pass a Whisper"
        )
    weights = source.model.decoder.state_dict()
    rows = weights.pop("embed_tokens.weight")
    recognizer.decoder.load_state_dict(weights, strict=False)
    speech_tokenizer = speech_tokenizer or AutoTokenizer.from_pretrained(speech)
    tokens = list(config.vocabulary_ids) or range(config.text_config.vocab_size)
    strings = [
        token.decode("utf-8", "ignore")
        for token in token_bytes_of(text_tokenizer, config.text_config.vocab_size)
    ]
    with torch.no_grad():
        target = recognizer.decoder.embed_tokens.weight
        for row, token in enumerate(tokens):
            ids = speech_tokenizer.encode(strings[token], add_special_tokens=False) if strings[token] else []
            if ids:
                target[row] = rows[ids].mean(dim=0)
        # The predictor's vectors enter where token rows do, as large as those.
        nn.init.orthogonal_(recognizer.bridge[1].weight)
        recognizer.bridge[0].weight.fill_(float(target.std()))
        target[recognizer.start_row] = rows[source.config.decoder_start_token_id]
        target[recognizer.end_row] = rows[source.config.eos_token_id]


def frames_per_second(speech_config) -> float:
    """Return the frames of the speech encoder in a second."""
    if speech_config.model_type == "whisper":
        return 50.0
    if speech_config.model_type == "moonshine":
        return 16000 / (64 * 3 * 2)  # strides of its three convolutions
    if speech_config.model_type == "clsr_sanm":
        return 100.0 / speech_config.frame_stride
    if speech_config.model_type in ("parakeet_ctc", "parakeet_encoder"):
        return 100.0 / getattr(speech_config, "encoder_config", speech_config).subsampling_factor
    if speech_config.model_type == "wav2vec2-bert":
        return 50.0  # pairs of filterbank frames
    return 16000 / math.prod(speech_config.conv_stride)


def feature_settings(speech: Any, parallel: bool = False) -> dict:
    """Return the arguments of CLSRFeatureExtractor that the recogniser decides.

    Args:
        speech: folder, Hub id, model or config of the recogniser or speech encoder.
        parallel: for a parallel recogniser, which needs no silence behind the clip.
    """
    config = speech_config_of(speech)
    limits = clip_limits(config, parallel)
    if config.model_type == "whisper":
        return limits | {"feature_type": "whisper", "feature_size": config.num_mel_bins}
    if config.model_type in ("parakeet_ctc", "parakeet_encoder"):
        size = getattr(config, "encoder_config", config).num_mel_bins
        return limits | {"feature_type": "parakeet", "feature_size": size, "n_fft": 512}
    if config.model_type == "clsr_sanm":
        if config.input_size % MEL_BINS:
            raise ValueError(
                f"input_size is {config.input_size} but stacked frames are a multiple of {MEL_BINS} wide; "
                "choose such a one"
            )
        return limits | {
            "feature_type": "kaldi",
            "feature_size": MEL_BINS,
            "num_stacked": config.input_size // MEL_BINS,
            "frame_stride": config.frame_stride,
        }
    if config.model_type not in WAVEFORM_TYPES:
        raise ValueError(
            f"the speech encoder is of type {config.model_type!r}, whose features CLSRFeatureExtractor does not "
            "make; make them with its own extractor and pass them to the model"
        )
    own = (
        {}
        if isinstance(speech, PreTrainedModel | PreTrainedConfig)
        else _read_json(speech, "preprocessor_config.json")
    )
    normalize = own.get("do_normalize", config.model_type != "moonshine")
    return limits | {"feature_type": "waveform", "feature_size": 1, "do_normalize": normalize}


def text_settings(text: str | Path | PreTrainedModel, text_config, tokenizer) -> dict:
    """Return the fields of CLSRConfig that the text encoder decides: pooling and length.

    Args:
        text: folder, Hub id or model of the text encoder.
        text_config: its config.
        tokenizer: its tokenizer.

    Raises:
        ValueError: a sentence-transformers folder pools in another way or goes on behind its pooling.
    """
    positions = getattr(text_config, "max_position_embeddings", None) or tokenizer.model_max_length
    if text_config.model_type in OFFSET_POSITIONS:
        positions -= text_config.pad_token_id + 1
    settings = {"pooling": "mean", "max_text_tokens": int(min(positions, tokenizer.model_max_length))}
    if isinstance(text, PreTrainedModel):
        return settings
    modules: Any = _read_json(text, "modules.json")  # a list, where there is one
    later = [
        module["type"] for module in modules if module["type"].rsplit(".", 1)[-1] in ("Dense", "CNN", "LSTM")
    ]
    if later:
        raise ValueError(
            f"the text encoder goes on with {later[0]} behind its pooling, which CLSR does not take"
        )
    pooling = _read_json(text, "1_Pooling/config.json")
    modes = {name.removeprefix("pooling_mode_") for name, on in pooling.items() if on is True} - {
        "include_prompt"
    }
    modes |= {pooling["pooling_mode"]} if isinstance(pooling.get("pooling_mode"), str) else set()
    if modes:
        names = {"mean_tokens": "mean", "cls_token": "cls", "mean": "mean", "cls": "cls"}
        if len(modes) > 1 or not modes <= names.keys():
            raise ValueError(
                f"the text encoder pools by {', '.join(sorted(modes))} but CLSR takes mean or cls"
            )
        settings["pooling"] = names[modes.pop()]
    longest = _read_json(text, "sentence_bert_config.json").get("max_seq_length")
    if longest:
        settings["max_text_tokens"] = min(settings["max_text_tokens"], longest)
    return settings


def copy_weights(source: PreTrainedModel, target: nn.Module) -> None:
    """Copy the weights of a pretrained part; the target may lack the pooler, and nothing else.

    Raises:
        ValueError: the two differ in their weights.
    """
    missing, unexpected = target.load_state_dict(source.state_dict(), strict=False)
    unexpected = [name for name in unexpected if not name.startswith("pooler.")]
    if missing or unexpected:
        raise ValueError(
            f"{type(source).__name__} lacks {missing[:3]} and brings {unexpected[:3]} beside {type(target).__name__}; "
            "load it with the class that its config names"
        )


def _read_json(folder: str | Path, name: str) -> dict:
    """Read a JSON file of a local folder or Hub repository; {} if there is none."""
    file = cached_file(
        folder,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
