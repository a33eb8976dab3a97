"""Systems to compare, behind one small protocol: questions and passages in, scores and seconds out.

What is heard or embedded of a passage is kept by content (`Cache`), so that a second run or one more system costs only
what is new.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import bm25s
import numpy as np
from tqdm import tqdm

from ..data.audio import load_audio
from ..data.manifest import Row
from ..data.sampler import length_batches
from ..retrieval.encoder import Encoder
from .recognisers import Recogniser

BATCH_SIZE = 8
EncodeTexts = Callable[[list[str]], np.ndarray]  # texts -> (N, D) unit vectors
HYBRID_WEIGHT = 0.01  # of BM25 beside a cosine, from the first recipe


@dataclass
class Scored:
    """What a system found.

    Attributes:
        scores: (Q, N), larger is better.
        transcripts: of the passages; None where nothing is recognised.
        seconds: spent on the passages' audio, that of earlier runs included.
    """

    scores: np.ndarray
    transcripts: list[str] | None = None
    seconds: float = 0.0


class System(Protocol):
    """One system."""

    name: str

    def score(self, questions: Sequence[str], passages: Sequence[Row]) -> Scored:
        """Score every passage for every question."""


@dataclass
class Entry:
    """What is known of one passage: its transcript, its vector, and the seconds that took."""

    text: str | None
    vector: list[float] | None
    seconds: float


@dataclass
class Cache:
    """Entries of one system on disk, by the content of a passage's audio.

    Args:
        folder: of all caches; None keeps them in memory.
        key: of the system: checkpoint, settings, versions.
    """

    folder: Path | None
    key: str
    known: dict[str, Entry] = field(default_factory=dict)

    def _read(self) -> None:
        if self.folder is not None and self.file.is_file():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # the last line of a killed run
                    continue
                clip = row.pop("clip")
                self.known[clip] = Entry(**row)

    @property
    def file(self) -> Path:
        """Where the entries are."""
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(self.key.encode()).hexdigest()[:16]}.jsonl"

    def fill(
        self, passages: Sequence[Row], make: Callable[[list[np.ndarray]], list[Entry]], title: str
    ) -> list[Entry]:
        """Return an entry for each passage; those that are missing are made in batches of like length."""
        self._read()  # another system may share the recogniser
        clips = [hashlib.sha256(Path(row.audio).read_bytes()).hexdigest() for row in passages]
        todo = [number for number, clip in enumerate(clips) if clip not in self.known]
        lengths = [passages[number].duration or 0.0 for number in todo]
        with tqdm(total=len(todo), unit="clip", desc=title, disable=not todo) as bar:
            for batch in length_batches(lengths, BATCH_SIZE):
                numbers = [todo[place] for place in batch]
                waveforms = [load_audio(passages[number].audio) for number in numbers]
                for number, entry in zip(numbers, make(waveforms), strict=True):
                    self._add(clips[number], entry)
                bar.update(len(batch))
        return [self.known[clip] for clip in clips]

    def _add(self, clip: str, entry: Entry) -> None:
        self.known[clip] = entry
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"clip": clip} | vars(entry)) + "\n")


class TextSystem:
    """A text retriever on true transcripts: the upper bound.

    Args:
        encode: of a text retriever; None ranks by BM25.
        name: in the tables.
    """

    def __init__(self, encode: EncodeTexts | None, name: str = "text"):
        self.encode, self.name = encode, name

    def score(self, questions: Sequence[str], passages: Sequence[Row]) -> Scored:
        """Score by cosine, or by BM25."""
        texts = [row.transcript or "" for row in passages]
        if self.encode is None:
            return Scored(bm25_scores(questions, texts), texts)
        return Scored(cosines(self.encode, questions, texts), texts)


class CLSRSystem:
    """A CLSR checkpoint: by its vectors, or also by the words it heard.

    Args:
        encoder: of the checkpoint.
        hybrid: weight of BM25 on its transcripts; 0 for the vectors alone.
        cache_dir: of `Cache`.
        name: in the tables.
    """

    def __init__(
        self, encoder: Encoder, hybrid: float = 0.0, cache_dir: Path | None = None, name: str = "clsr"
    ):
        self.encoder, self.hybrid, self.name = encoder, hybrid, name
        self.cache = Cache(cache_dir, f"clsr/{encoder.fingerprint}")

    def score(self, questions: Sequence[str], passages: Sequence[Row]) -> Scored:
        """Score by cosine, plus weighted BM25."""
        entries = self.cache.fill(passages, self._hear, self.name)
        texts = [entry.text or "" for entry in entries]
        vectors = np.array([entry.vector for entry in entries], dtype=np.float32)
        scores: np.ndarray = self.encoder.encode_texts(list(questions), truncation=True) @ vectors.T
        if self.hybrid:
            scores = scores + self.hybrid * bm25_scores(questions, texts)
        return Scored(scores, texts, sum(entry.seconds for entry in entries))

    def _hear(self, waveforms: list[np.ndarray]) -> list[Entry]:
        return clip_entries(
            waveforms,
            lambda clips: [
                (transcript.text, vector.tolist())
                for transcript, vector in self.encoder.encode_passages(clips)
            ],
        )


class CascadeSystem:
    """A recogniser, then a text retriever.

    Args:
        recogniser: see `recognisers`.
        recogniser_key: names it and its settings, for the cache.
        encode: of a text retriever; None ranks by BM25 alone.
        hybrid: weight of BM25 beside the cosine.
        cache_dir: of `Cache`.
        name: in the tables.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        recogniser_key: str,
        encode: EncodeTexts | None,
        hybrid: float = 0.0,
        cache_dir: Path | None = None,
        name: str = "cascade",
    ):
        self.recogniser, self.encode, self.hybrid, self.name = recogniser, encode, hybrid, name
        self.cache = Cache(cache_dir, f"recogniser/{recogniser_key}")

    def score(self, questions: Sequence[str], passages: Sequence[Row]) -> Scored:
        """Recognise, embed, score."""
        entries = self.cache.fill(passages, self._hear, self.name)
        texts = [entry.text or "" for entry in entries]
        start = time.perf_counter()
        words = bm25_scores(questions, texts) if self.hybrid or self.encode is None else 0.0
        if self.encode is None:
            scores: np.ndarray = np.asarray(words)
        else:
            scores = cosines(self.encode, questions, texts) + self.hybrid * words
        return Scored(scores, texts, sum(e.seconds for e in entries) + time.perf_counter() - start)

    def _hear(self, waveforms: list[np.ndarray]) -> list[Entry]:
        return clip_entries(waveforms, lambda clips: [(text, None) for text in self.recogniser(clips)])


def clip_entries(
    waveforms: list[np.ndarray],
    hear: Callable[[list[np.ndarray]], Iterable[tuple[str | None, list[float] | None]]],
) -> list[Entry]:
    """Run a batch and share its seconds among the clips; `hear` gives transcript and vector of each."""
    start = time.perf_counter()
    found = list(hear(waveforms))
    share = (time.perf_counter() - start) / len(waveforms)
    return [Entry(text, vector, share) for text, vector in found]


def sentence_encoder(model: str | Path) -> EncodeTexts:
    """Return the text encoder of any sentence-transformers model."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")
    return partial(encoder.encode, normalize_embeddings=True, show_progress_bar=False)


def cosines(encode: EncodeTexts, questions: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Return (Q, N) cosines of texts."""
    return encode(list(questions)) @ encode(list(texts)).T


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


def unit(vectors: np.ndarray) -> np.ndarray:
    """Bring rows to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
