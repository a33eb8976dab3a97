"""Systems to compare, behind one small protocol: questions and passages in, scores and seconds out.

What is heard or embedded of a passage is kept by content (`Cache`), so that a second run or one more system costs only
what is new.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from ..data.audio import load_audio
from ..data.json_lines import keep_line, read_kept_lines
from ..data.manifest import Row
from ..data.passages import cut_passages
from ..data.sampler import length_batches
from ..retrieval.encoder import Encoder
from ..retrieval.lanes import in_lanes
from .recognisers import Recogniser
from .scoring import EncodeTexts, KnownTexts, score_texts

BATCH_SIZE = 8
Heard = tuple[str | None, list[float] | None]  # transcript and vector of a clip
Hear = Callable[[list[np.ndarray]], Iterable[Heard]]


@dataclass
class Scored:
    """What a system found.

    Attributes:
        scores: (Q, N), larger is better.
        transcripts: of the passages; None where nothing is recognised.
        seconds: spent on the passages' audio, from its files on; that of earlier runs is included.
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
        for row in read_kept_lines(self.file) if self.folder is not None else ():
            clip = row.pop("clip")
            self.known[clip] = Entry(**row)

    @property
    def file(self) -> Path:
        """Where the entries are."""
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(self.key.encode()).hexdigest()[:16]}.jsonl"

    def fill(self, passages: Sequence[Row], hear: Hear, title: str, device: str | None = None) -> list[Entry]:
        """Return an entry for each passage; those that are missing are heard in batches of like length.

        Args:
            passages: of the pool.
            hear: gives transcript and vector of each clip of a batch.
            title: of the bar.
            device: of a model that hears in lanes, as `clsr index` does; None for one that has its own threads.
        """
        self._read()  # another system may share the recogniser
        clips = [hashlib.sha256(Path(row.audio).read_bytes()).hexdigest() for row in passages]
        todo = [number for number, clip in enumerate(clips) if clip not in self.known]
        lengths = [passages[number].duration or 0.0 for number in todo]
        batches = [[todo[place] for place in batch] for batch in length_batches(lengths, BATCH_SIZE)]

        def heard(numbers: list[int]) -> list[tuple[int, Heard]]:
            waveforms = [load_audio(passages[number].audio) for number in numbers]
            return list(zip(numbers, hear(waveforms), strict=True))

        with tqdm(total=len(todo), unit="clip", desc=title, disable=not todo) as bar:
            start = time.perf_counter()
            for found in map(heard, batches) if device is None else in_lanes(heard, batches, device):
                now = time.perf_counter()  # batches overlap in lanes: what passed since the last one counts
                for number, (text, vector) in found:
                    self._add(clips[number], Entry(text, vector, (now - start) / len(found)))
                start = now
                bar.update(len(found))
        return [self.known[clip] for clip in clips]

    def _add(self, clip: str, entry: Entry) -> None:
        self.known[clip] = entry
        if self.folder is not None:
            keep_line(self.file, {"clip": clip} | vars(entry))


class TextSystem:
    """A text retriever on true transcripts: the upper bound.

    Args:
        encode: of a text retriever; not used by the scoring "bm25".
        scoring: one of `scoring.SCORINGS`.
        name: in the tables.
    """

    def __init__(self, encode: EncodeTexts, scoring: str = "dense", name: str = "text"):
        self.encode, self.scoring, self.name = encode, scoring, name

    def score(self, questions: Sequence[str], passages: Sequence[Row]) -> Scored:
        """Score as `score_texts` does."""
        texts = [row.transcript or "" for row in passages]
        return Scored(score_texts(self.scoring, self.encode, questions, texts), texts)


class CLSRSystem:
    """A CLSR checkpoint: by its vectors, or also by the words it heard.

    Args:
        encoder: of the checkpoint.
        scoring: one of `scoring.SCORINGS`.
        cache_dir: of `Cache`.
        name: in the tables.
        recognises: False for a dual encoder, whose words nothing has taught.
        encode: the checkpoint's text side, if other systems share what it has embedded.
    """

    def __init__(
        self,
        encoder: Encoder,
        scoring: str = "dense",
        cache_dir: Path | None = None,
        name: str = "clsr",
        recognises: bool = True,
        encode: EncodeTexts | None = None,
    ):
        self.encode = encode or partial(encoder.encode_texts, truncation=True)
        self.encoder, self.scoring, self.name, self.recognises = encoder, scoring, name, recognises
        self.cache = Cache(cache_dir, f"clsr/{encoder.fingerprint}")

    def score(self, questions: Sequence[str], passages: Sequence[Row]) -> Scored:
        """Score as `score_texts` does, with the vectors of the one pass over the audio."""
        entries = self.cache.fill(passages, self._hear, self.name, self.encoder.device)
        texts = [entry.text or "" for entry in entries]
        vectors = np.array([entry.vector for entry in entries], dtype=np.float32)
        scores = score_texts(self.scoring, self.encode, questions, texts, vectors)
        return Scored(scores, texts if self.recognises else None, sum(entry.seconds for entry in entries))

    def _hear(self, clips: list[np.ndarray]) -> Iterator[tuple[str, list[float]]]:
        """Yield transcript and vector of each clip; one that is too long for one pass is cut in its pauses."""
        pieces = [pieces_of(clip, self.encoder) for clip in clips]
        heard = iter(self.encoder.encode_passages([piece for own in pieces for piece in own]))
        for own in pieces:
            found = [next(heard) for _ in own]
            text = " ".join(transcript.text for transcript, _ in found)
            vector = found[0][1]
            if len(found) > 1:
                # The vector of a transcript is the text encoder's; without words there is the mean alone.
                whole = [vector for _, vector in found]
                vector = self.encode([text])[0] if self.recognises else unit(np.mean(whole, axis=0)[None])[0]
            yield text, vector.tolist()


class CascadeSystem:
    """A recogniser, then a text retriever.

    Args:
        recogniser: see `recognisers`.
        recogniser_key: names it and its settings, for the cache.
        encode: of a text retriever; not used by the scoring "bm25".
        scoring: one of `scoring.SCORINGS`.
        cache_dir: of `Cache`.
        name: in the tables.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        recogniser_key: str,
        encode: KnownTexts,
        scoring: str = "dense",
        cache_dir: Path | None = None,
        name: str = "cascade",
    ):
        self.recogniser, self.encode, self.scoring, self.name = recogniser, encode, scoring, name
        self.cache = Cache(cache_dir, f"recogniser/{recogniser_key}")

    def score(self, questions: Sequence[str], passages: Sequence[Row]) -> Scored:
        """Recognise, embed, score."""
        entries = self.cache.fill(passages, self._hear, self.name)
        texts = [entry.text or "" for entry in entries]
        is_embedded = self.scoring != "bm25"
        vectors = self.encode(texts) if is_embedded else None
        embedding_s = self.encode.seconds(texts) if is_embedded else 0.0
        scores = score_texts(self.scoring, self.encode, questions, texts, vectors)
        return Scored(scores, texts, sum(entry.seconds for entry in entries) + embedding_s)

    def _hear(self, clips: list[np.ndarray]) -> list[tuple[str, None]]:
        return [(text, None) for text in self.recogniser(clips)]


def pieces_of(clip: np.ndarray, encoder: Encoder) -> list[np.ndarray]:
    """Cut a clip that is too long for one pass in its pauses."""
    rate, longest = encoder.sampling_rate, encoder.max_audio_s
    if len(clip) <= longest * rate:
        return [clip]
    cut = cut_passages(clip, rate, longest)
    pieces = [clip[round(piece.start_s * rate) : round(piece.end_s * rate)] for piece in cut]
    return pieces or [clip[: int(longest * rate)]]  # where nobody speaks


def unit(vectors: np.ndarray) -> np.ndarray:
    """Bring rows to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
