"""Letters: what a misheard word still shares with the one that was said.

"Schwarzenegger" heard as "Schwarz and Egger" has no word in common with the question, but most letters in the same
order. So the passages that a search has found are compared with the question by runs of letters, across the gaps
between words.
"""

import math
import re
from collections.abc import Sequence

import numpy as np

RUN = 4  # letters
SATURATION, LENGTH_SHARE = 1.5, 0.75  # k1 and b of BM25


def letter_shares(question: str, transcripts: Sequence[str]) -> np.ndarray:
    """Score transcripts by the runs of four letters that they share with a question, as shares of the best.

    Which runs are rare is counted among these transcripts: they all suit the question, and what tells them apart
    matters.

    Args:
        question: in words.
        transcripts: N of the passages that may answer.

    Returns:
        (N,) BM25 of the runs divided by its maximum, 0 where none is shared. Source: Robertson et al. 1994, with
        Lucene's weights of rarity.
    """
    texts = [run_together(transcript) for transcript in transcripts]
    asked = run_together(question)
    lengths = np.array([max(len(text) - RUN + 1, 0) for text in texts], dtype=np.float64)
    scores = np.zeros(len(texts))
    if not lengths.any():
        return scores
    slowness = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * lengths / lengths.mean())
    for run in sorted({asked[start : start + RUN] for start in range(len(asked) - RUN + 1)}):
        counts = np.array([text.count(run) for text in texts], dtype=np.float64)
        holders = np.count_nonzero(counts)
        if holders:
            rarity = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5))
            scores += rarity * counts / (counts + slowness)
    return scores / max(scores.max(initial=0.0), 1e-9)


def run_together(text: str) -> str:
    """Return the letters and digits of a text alone.

    >>> run_together("Levi's Stadium")
    'levisstadium'
    """
    return "".join(re.findall(r"\w", text.lower()))
