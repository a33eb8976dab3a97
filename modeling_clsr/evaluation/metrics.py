"""Metrics: pure functions of texts and counts, each with a 95 % interval."""

import math
import re
from collections.abc import Sequence

import numpy as np

try:
    import jiwer
except ImportError as error:
    raise ImportError(
        'word error rates need jiwer, which is not installed; install the "eval" extra of this package'
    ) from error

NUM_RESAMPLES = 2000


def plain_words(text: str) -> str:
    """Lower-case a text and drop its punctuation, hyphens becoming spaces.

    >>> plain_words("Twenty-one, he said.")
    'twenty one he said'
    """
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("-", " ")).split())


def word_error_rate(
    truths: Sequence[str], heard: Sequence[str], seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Return the word error rate over all clips, on `plain_words`, and its bootstrap interval over clips.

    Args:
        truths: N transcripts, not all empty.
        heard: N transcripts of the recogniser.
        seed: of the resampling.

    Raises:
        ValueError: the two differ in number.
    """
    if len(truths) != len(heard):
        raise ValueError(f"there are {len(truths)} true transcripts but {len(heard)} heard ones; pass pairs")
    errors, words = np.zeros(len(truths)), np.zeros(len(truths))
    for row, (truth, guess) in enumerate(zip(truths, heard, strict=True)):
        counts = jiwer.process_words(plain_words(truth), plain_words(guess))
        errors[row] = counts.substitutions + counts.deletions + counts.insertions
        words[row] = counts.hits + counts.substitutions + counts.deletions
    draws = np.random.default_rng(seed).integers(0, len(truths), (NUM_RESAMPLES, len(truths)))
    rates = errors[draws].sum(axis=1) / words[draws].sum(axis=1)
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(errors.sum() / words.sum()), (float(low), float(high))


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
