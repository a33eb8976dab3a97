"""Word and character errors: texts in, rates with 95 % intervals out. Ranking measures: `ranking`."""

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from .significance import ratio_interval

try:
    import jiwer
except ImportError as error:
    raise ImportError(
        'word error rates need jiwer, which is not installed; install the "eval" extra of this package'
    ) from error

# British to American spellings, as Whisper's normaliser has them (openai/whisper, MIT).
SPELLINGS = Path(__file__).with_name("english_spellings.json")


def plain_words(text: str) -> str:
    """Lower-case a text and drop its punctuation, hyphens becoming spaces.

    >>> plain_words("Twenty-one, he said.")
    'twenty one he said'
    """
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("-", " ")).split())


def whisper_words(text: str) -> str:
    """Normalise an English text as Whisper's authors do before they count errors.

    >>> whisper_words("Mr. Grey won't pay twenty-one dollars, um, today!")
    'mister gray will not pay $21 today'

    Source: arXiv 2212.04356, appendix C; the code is that of transformers.
    """
    return " ".join(_english_normalizer()(text).split())


def whisper_letters(text: str) -> str:
    """Normalise a text of any language for character errors: no case, marks, punctuation or spaces.

    >>> whisper_letters("你好，世界！")
    '你好世界'
    """
    return "".join(BasicTextNormalizer()(text).split())


def word_error_rate(
    truths: Sequence[str],
    heard: Sequence[str],
    seed: int = 0,
    normalize: Callable[[str], str] = plain_words,
) -> tuple[float, tuple[float, float]]:
    """Return the word error rate over all clips and its bootstrap interval over clips.

    Args:
        truths: N transcripts, not all empty.
        heard: N transcripts of the recogniser.
        seed: of the resampling.
        normalize: applied to both.

    Raises:
        ValueError: the two differ in number.
    """
    return _rate(*count_word_errors(truths, heard, normalize), seed)


def count_word_errors(
    truths: Sequence[str], heard: Sequence[str], normalize: Callable[[str], str] = plain_words
) -> tuple[np.ndarray, np.ndarray]:
    """Return each clip's word errors and its true words, (N,) each; arguments and errors as `word_error_rate`."""
    return _count(truths, heard, lambda truth, guess: jiwer.process_words(normalize(truth), normalize(guess)))


def character_error_rate(
    truths: Sequence[str],
    heard: Sequence[str],
    seed: int = 0,
    normalize: Callable[[str], str] = whisper_letters,
) -> tuple[float, tuple[float, float]]:
    """Return the character error rate over all clips and its interval, for languages without spaces above all.

    Arguments and errors as `word_error_rate`.
    """
    counted = _count(
        truths, heard, lambda truth, guess: jiwer.process_characters(normalize(truth), normalize(guess))
    )
    return _rate(*counted, seed)


def proportion_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, such as R@1.

    Args:
        successes: of the trials.
        trials: 1 or more.

    Source: Wilson 1927.
    """
    z = 1.959964
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return (centre - spread) / scale, (centre + spread) / scale


def _count(truths: Sequence[str], heard: Sequence[str], compare: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Count the edits that `compare` finds in each pair, and the true length."""
    if len(truths) != len(heard):
        raise ValueError(f"there are {len(truths)} true transcripts but {len(heard)} heard ones; pass pairs")
    errors, units = np.zeros(len(truths)), np.zeros(len(truths))
    for row, (truth, guess) in enumerate(zip(truths, heard, strict=True)):
        counts = compare(truth, guess)
        errors[row] = counts.substitutions + counts.deletions + counts.insertions
        units[row] = counts.hits + counts.substitutions + counts.deletions
    return errors, units


def _rate(errors: np.ndarray, units: np.ndarray, seed: int) -> tuple[float, tuple[float, float]]:
    """Divide the sums; the interval is over clips."""
    return float(errors.sum() / units.sum()), ratio_interval(errors, units, seed)


@cache
def _english_normalizer() -> EnglishTextNormalizer:
    return EnglishTextNormalizer(json.loads(SPELLINGS.read_text(encoding="utf-8")))
