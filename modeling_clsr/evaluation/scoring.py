"""How questions are scored against what was heard: by vectors, by words, by moments, and as `clsr search` does.

One rule for every system that has transcripts, so that a CLSR and its cascade differ in nothing else.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import bm25s
import numpy as np

from ..retrieval.letters import letter_shares
from ..retrieval.moments import BREVITY_MARGIN, window_texts
from ..retrieval.search import LETTER_WEIGHT, MOMENT_SHARE, POOL, lexical_score
from ..transcript_clsr import Word

EncodeTexts = Callable[[list[str]], np.ndarray]  # texts -> (N, D) unit vectors
SCORINGS = ("dense", "hybrid", "moments", "search", "rrf", "bm25")
HYBRID_WEIGHT = 0.01  # of BM25 beside a cosine
NOT_FOUND = -10.0  # below the sum of all that speaks for a text
FUSION_RANK = 60  # of reciprocal rank fusion (Cormack et al. 2009)


class KnownTexts:
    """A text encoder that embeds each text once, since systems share questions, passages and moments.

    Args:
        encode: of a text retriever.
    """

    def __init__(self, encode: EncodeTexts):
        self._encode = encode
        self._vectors: dict[str, np.ndarray] = {}
        self._seconds: dict[str, float] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, (N, D)."""
        new = list(dict.fromkeys(text for text in texts if text not in self._vectors))
        if new:
            start = time.perf_counter()
            self._vectors |= zip(new, self._encode(new), strict=True)
            share = (time.perf_counter() - start) / len(new)
            self._seconds |= dict.fromkeys(new, share)
        return np.stack([self._vectors[text] for text in texts])

    def seconds(self, texts: Sequence[str]) -> float:
        """Return how long it took to embed texts, whenever that was."""
        return sum(self._seconds[text] for text in texts)


def score_texts(
    scoring: str,
    encode: EncodeTexts,
    questions: Sequence[str],
    texts: Sequence[str],
    vectors: np.ndarray | None = None,
) -> np.ndarray:
    """Score every text for every question.

    Args:
        scoring: "dense" is the cosine of the vectors; "bm25" counts words; "hybrid" adds 0.01 × BM25 to the cosine;
            "moments" is the mean of the text's cosine and that of its best sentence or two, as `clsr search --mode
            dense` ranks, over the whole pool. "search" adds words and letters as `clsr search` does: those that it
            would not have found stand behind those that it would. "rrf" fuses "moments" and BM25 by the reciprocals
            of their ranks.
        encode: of the text retriever.
        questions: Q texts.
        texts: N transcripts.
        vectors: (N, D) of the transcripts; made by `encode` if None.

    Returns:
        (Q, N), larger is better.

    Raises:
        ValueError: the scoring is unknown.
    """
    if scoring not in SCORINGS:
        raise ValueError(f"scoring is {scoring!r} but must be one of {', '.join(SCORINGS)}; choose one")
    if scoring == "bm25":
        return bm25_scores(questions, texts)
    asked = encode(list(questions))
    dense = asked @ (encode(list(texts)) if vectors is None else vectors).T
    if scoring == "dense":
        return dense
    if scoring == "hybrid":
        return dense + HYBRID_WEIGHT * bm25_scores(questions, texts)
    joint = moment_scores(encode, asked, texts, dense)
    if scoring == "moments":
        return joint
    words = bm25_scores(questions, texts)
    if scoring == "search":
        return search_scores(joint, words, letters_of_found(questions, texts, dense, words))
    # A text without any of the words is in no list of words.
    return _reciprocal_ranks(joint) + np.where(words > 0, _reciprocal_ranks(words), 0.0)


def moment_scores(
    encode: EncodeTexts, asked: np.ndarray, texts: Sequence[str], dense: np.ndarray
) -> np.ndarray:
    """Return (Q, N) means of the text's cosine and its moment's; without times, sentences end at punctuation alone.

    Args:
        encode: of the text retriever.
        asked: (Q, D) of the questions.
        texts: N transcripts.
        dense: (Q, N) cosines of whole texts.
    """
    owners, counts, pieces = [], [], []
    for number, text in enumerate(texts):
        words = [Word(word, float(place), float(place + 1), 1.0) for place, word in enumerate(text.split())]
        for piece, count in window_texts(text, words):
            owners.append(number)
            counts.append(count)
            pieces.append(piece)
    scores = dense.copy()
    if not pieces:
        return scores
    cosines = asked @ encode(pieces).T  # (Q, W)
    preferences = cosines - BREVITY_MARGIN * (np.array(counts) - 1)
    owner = np.array(owners)
    for number in np.unique(owner):
        own = np.flatnonzero(owner == number)
        best = own[preferences[:, own].argmax(axis=1)]
        moment = np.take_along_axis(cosines, best[:, None], axis=1)[:, 0]
        scores[:, number] = (1 - MOMENT_SHARE) * dense[:, number] + MOMENT_SHARE * moment
    return scores


def letters_of_found(
    questions: Sequence[str], texts: Sequence[str], dense: np.ndarray, words: np.ndarray
) -> np.ndarray:
    """Return (Q, N) shares of the best letters; NaN for the texts that `clsr search` would not have found.

    Args:
        questions: Q texts.
        texts: N transcripts.
        dense: (Q, N) cosines.
        words: (Q, N) BM25.
    """
    shares = np.full(dense.shape, np.nan, dtype=np.float32)
    for row, question in enumerate(questions):
        nearest = np.argsort(-dense[row], kind="stable")[:POOL]
        worded = [place for place in np.argsort(-words[row], kind="stable")[:POOL] if words[row, place] > 0]
        found = np.union1d(nearest, np.array(worded, dtype=nearest.dtype))
        shares[row, found] = letter_shares(question, [texts[place] for place in found])
    return shares


def search_scores(
    joint: np.ndarray, words: np.ndarray, letters: np.ndarray, letter_weight: float = LETTER_WEIGHT
) -> np.ndarray:
    """Return (Q, N) scores as those of `clsr search`.

    Args:
        joint: (Q, N) from `moment_scores`.
        words: (Q, N) BM25.
        letters: (Q, N) from `letters_of_found`.
        letter_weight: of the letters.
    """
    shares = words / np.maximum(words.max(axis=1, keepdims=True), 1e-9)
    scores = joint + lexical_score(shares, np.nan_to_num(letters), letter_weight)
    return np.where(np.isnan(letters), NOT_FOUND + scores, scores)


def sentence_encoder(model: str | Path) -> EncodeTexts:
    """Return the text encoder of any sentence-transformers model."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")
    return partial(encoder.encode, normalize_embeddings=True, show_progress_bar=False)


def bm25_scores(questions: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Return (Q, N) BM25 scores (Lucene's variant), words lower-cased, without a stop list."""
    if not any(any(c.isalnum() for c in text) for text in texts):
        return np.zeros((len(questions), len(texts)), dtype=np.float32)
    retriever = bm25s.BM25(method="lucene")
    retriever.index(bm25s.tokenize(list(texts), stopwords=None, show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(questions), stopwords=None, return_ids=False, show_progress=False)
    known = retriever.vocab_dict
    return np.stack(
        [
            retriever.get_scores(found)
            if (found := [word for word in words if word in known])
            else np.zeros(len(texts), dtype=np.float32)
            for words in asked
        ]
    )


def _reciprocal_ranks(scores: np.ndarray) -> np.ndarray:
    """Return 1 / (60 + rank) along each row; equals share the better rank."""
    order = -np.sort(-scores, axis=1)
    ranks = np.stack(
        [np.searchsorted(-line, -row, side="left") + 1 for line, row in zip(order, scores, strict=True)]
    )
    return 1.0 / (FUSION_RANK + ranks)
