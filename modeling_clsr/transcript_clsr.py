"""Transcripts: decoded tokens in, text, words with times and a judgement out; a second look where it is bad.

Enters: `SpeechStates` and the features they came from. Leaves: one `Transcript` a clip.
"""

import math
import re
import zlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .decoding_clsr import Decoded, greedy_decode
from .recognizer_clsr import SpeechStates, encode_speech
from .strings_clsr import TokenStrings


@dataclass
class Word:
    """One word of a transcript: its text, start and end in seconds from the clip's start, mean token probability."""

    text: str
    start: float
    end: float
    probability: float


@dataclass
class Transcript:
    """What one clip says.

    Attributes:
        text: the transcript, "" where nobody speaks.
        token_ids: the recogniser's tokens.
        words: words with times.
        probability: geometric mean of the tokens' probabilities, 0 for an empty transcript.
        no_speech_probability: the recogniser's own belief that nobody speaks (0 if it has none).
    """

    text: str
    token_ids: list[int]
    words: list[Word]
    probability: float
    no_speech_probability: float = 0.0


@torch.no_grad()
def recognise(
    recognizer: Any,
    speech: SpeechStates,
    input_features: Tensor | None,
    mask: Tensor | None,
    strings: TokenStrings,
    config,
    second_look: bool = True,
) -> tuple[list[Decoded], list[Transcript]]:
    """Decode clips greedily and read their words.

    Transcripts that look wrong are decoded a second time from the clip padded to Whisper's window.

    Args:
        recognizer: from `build_recognizer`.
        speech: its encoder states of B clips.
        input_features: what they were made of; None (cached states) leaves out the second time.
        mask: of the features.
        strings: of the recogniser's tokens.
        config: CLSRConfig.
        second_look: False leaves out that second time: in training no gradient could follow there.
    """
    seconds = clip_seconds(speech, config)
    decoded = greedy_decode(recognizer, speech, config)
    if (
        second_look
        and input_features is not None
        and config.redecode_padded
        and recognizer.config.model_type == "whisper"
    ):
        _decode_suspicious_again(recognizer, decoded, seconds, input_features, mask, strings, config)
    for row, result in enumerate(decoded):
        if nobody_speaks(result, config):
            decoded[row] = replace(result, token_ids=[], log_probs=[], spans=[])
    return decoded, [
        read_words(result, length, strings, config) for result, length in zip(decoded, seconds, strict=True)
    ]


def clip_seconds(speech: SpeechStates, config) -> list[float]:
    """Return the length of each clip without the silence behind it, in seconds."""
    frames = speech.mask.sum(dim=1).tolist()
    return [max(count / config.frames_per_second - config.tail_silence_s, 0.0) for count in frames]


def suspicion(decoded: Decoded, text: str, seconds: float, config) -> str | None:
    """Name what is wrong with a transcript, or None.

    Args:
        decoded: of the clip.
        text: its transcript.
        seconds: length of the clip without the silence behind it.
        config: CLSRConfig.

    Source: Whisper's own thresholds (arXiv 2212.04356, section 4.5) and the rates of speech measured for the
    recipe: below 8 characters a second the decoder stopped early, above 26 it invents.
    """
    if decoded.looped or compression_ratio(text) > config.compression_ratio_threshold:
        return "loop"
    rate = len(text) / max(seconds, 0.1)
    if rate < config.min_characters_per_second:
        return "early stop"
    if rate > config.max_characters_per_second:
        return "invention"
    return None


def compression_ratio(text: str) -> float:
    """Return how many times zlib shrinks the text; repeated phrases shrink most."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def nobody_speaks(result: Decoded, config) -> bool:
    """Tell silence, noise and music from speech by the recogniser's own doubt.

    Whisper's rule (it says so itself, and its words are unlikely), and a floor that lies between the least sure clips
    of real speech and the surest words heard in noise and chords, see `benchmarks/nonspeech.py --speech`.
    """
    if config.no_speech_token_id is None:
        return False
    silent = result.no_speech_probability > config.no_speech_threshold
    return (
        silent and result.mean_log_prob < config.logprob_threshold
    ) or result.mean_log_prob < config.logprob_floor


def read_words(result: Decoded, seconds: float, strings: TokenStrings, config) -> Transcript:
    """Join tokens to text and words with times.

    Args:
        result: decoded clip.
        seconds: its length; no word ends later.
        strings: of the tokens.
        config: CLSRConfig.
    """
    text, spans = strings.text(result.token_ids)
    probabilities = [math.exp(value) for value in result.log_probs]
    words = []
    for match in re.finditer(r"\S+", text):
        start, end = match.span()
        members = [token for token, (left, right) in enumerate(spans) if left < end and right > start]
        if not members:
            continue
        first, last = result.spans[members[0]][0], result.spans[members[-1]][1]
        words.append(
            Word(
                text=match.group(),
                start=min(first / config.frames_per_second, seconds),
                end=min(last / config.frames_per_second, seconds),
                probability=sum(probabilities[token] for token in members) / len(members),
            )
        )
    return Transcript(
        text=text,
        token_ids=result.token_ids,
        words=words,
        probability=math.exp(result.mean_log_prob) if result.token_ids else 0.0,
        no_speech_probability=result.no_speech_probability,
    )


def _decode_suspicious_again(
    recognizer: Any,
    decoded: list[Decoded],
    seconds: list[float],
    input_features: Tensor,
    mask: Tensor | None,
    strings: TokenStrings,
    config,
) -> None:
    """Decode suspicious clips again, padded to Whisper's window; keep the better transcript in `decoded`.

    At true length Whisper sometimes stops early or loops; padded it seldom does both (recipe, section 1).
    """
    window = 2 * recognizer.config.max_source_positions

    def doubt(result: Decoded, length: float) -> str | None:
        return suspicion(result, strings.text(result.token_ids)[0], length, config)

    again = [
        row
        for row, (result, length) in enumerate(zip(decoded, seconds, strict=True))
        if doubt(result, length) and not nobody_speaks(result, config)
    ]
    full = input_features.shape[-1] == window and (mask is None or bool(mask[again].all()))
    if not again or full:
        return
    padded = input_features.new_empty(len(again), input_features.shape[1], window)
    for number, row in enumerate(again):
        length = int(mask[row].sum()) if mask is not None else input_features.shape[-1]
        padded[number, :, :length] = input_features[row, :, :length]
        # The last frame lies in the digital silence behind the clip: repeating it is what padding would give.
        padded[number, :, length:] = input_features[row, :, length - 1 : length]
    second = greedy_decode(recognizer, encode_speech(recognizer, padded, None), config)
    for number, row in enumerate(again):
        if (
            not doubt(second[number], seconds[row])
            or second[number].mean_log_prob > decoded[row].mean_log_prob
        ):
            decoded[row] = second[number]
