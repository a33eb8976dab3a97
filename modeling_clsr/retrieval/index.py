"""SpeechIndex: recordings in, a LanceDB table of passages out; questions in, hits out.

A recording enters the table in one commit, after its last passage, so that no crash leaves half of it.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lancedb.index import FTS, IvfRq, IvfSq

from ..data.audio import find_recordings
from ..data.passages import CutSettings, Cutting
from ..hub.build import default_checkpoint
from .encoder import Encoder
from .indexing import AddReport, Recording, absolute, changed_recordings, encode_recordings
from .progress import AudioBar
from .reader import TableReader, wait
from .schema import IndexMetadata, create_table, open_table, pa, quoted
from .search import Hit, Query, row_condition, search_table

VECTOR_INDEX_ROWS = 10_000  # below, comparing all vectors takes milliseconds
RETRAIN_FACTOR = 4  # growth after which its partitions are drawn anew
VECTOR_INDEX = "vector_"  # its name, before the number of rows it was trained on
PARTITION_ROWS = 4096
VECTOR_BITS = 4  # of a number in the vector index
OLD_FILES_KEPT = timedelta(hours=1)  # of earlier versions of the table, for processes that still read them
COMMIT_S = 10.0  # seconds between two commits; so much work is lost if the machine fails


class SpeechIndex:
    """A searchable index of recordings, in a folder or in an object store. Made by `create` or `open`."""

    def __init__(self, uri: str, table: Any, metadata: IndexMetadata, encoder: Encoder | None = None):
        if encoder is not None:
            metadata.check_model(encoder.name, encoder.fingerprint)
        self.uri = uri
        self.metadata = metadata
        self._encoder = encoder
        self._table = table

    @cached_property
    def _reader(self) -> TableReader:
        return TableReader(self.uri)

    @classmethod
    def create(cls, uri: str | Path, encoder: Encoder, cut: Cutting | None = None) -> "SpeechIndex":
        """Make an empty index.

        Args:
            uri: folder, new or empty, or address in an object store ("s3://bucket/talks.clsr").
            encoder: the model that makes the vectors; the index belongs to it from now on.
            cut: how recordings are cut; at pauses, passages as long as the model takes, if None.

        Raises:
            FileExistsError: the folder holds something.
            ValueError: `cut` makes longer passages than the model takes.
        """
        cut = cut or CutSettings(max_s=encoder.max_audio_s)
        if cut.max_s > encoder.max_audio_s:
            raise ValueError(
                f"max_s is {cut.max_s:g} s but {encoder.name} takes {encoder.max_audio_s:g} s; lower it"
            )
        metadata = IndexMetadata(
            encoder.name, encoder.fingerprint, encoder.embed_dim, encoder.sampling_rate, cut
        )
        return cls(str(uri), create_table(str(uri), metadata), metadata, encoder)

    @classmethod
    def open(
        cls, uri: str | Path, encoder: Encoder | None = None, cut: Cutting | None = None
    ) -> "SpeechIndex":
        """Open an index.

        Args:
            uri: of the index.
            encoder: its model; loaded from where the index says, when needed, if None.
            cut: refuse an index of other settings; any are taken if None.

        Raises:
            FileNotFoundError: there is no index.
            IndexMismatchError: it was built by another model, or with other settings.
        """
        table, metadata = open_table(str(uri))
        metadata.check_cut(cut)
        return cls(str(uri), table, metadata, encoder)

    @classmethod
    def open_or_create(
        cls, uri: str | Path, encoder: Encoder | None = None, cut: Cutting | None = None
    ) -> "SpeechIndex":
        """Open an index, or make it if there is none.

        Args:
            uri: of the index.
            encoder: its model; if None the one that the index names, and for a new index the default checkpoint.
            cut: as in `open` and `create`.

        Raises:
            IndexMismatchError: it was built by another model, or with other settings.
            ValueError: `cut` makes longer passages than the model takes.
        """
        try:
            return cls.open(uri, encoder, cut)
        except FileNotFoundError:
            return cls.create(uri, encoder or Encoder.from_pretrained(default_checkpoint()), cut)

    @property
    def encoder(self) -> Encoder:
        """The model of the index."""
        if self._encoder is None:
            encoder = Encoder.from_pretrained(self.metadata.model)
            self.metadata.check_model(encoder.name, encoder.fingerprint)
            self._encoder = encoder
        return self._encoder

    def __len__(self) -> int:
        """Return the number of passages."""
        return self._table.count_rows("vector IS NOT NULL")

    def sources(self) -> dict[str, str]:
        """Return the fingerprint of each indexed recording by its absolute path."""
        rows = self._table.search().select(["source", "fingerprint"]).to_arrow()
        return dict(zip(rows["source"].to_pylist(), rows["fingerprint"].to_pylist(), strict=True))

    def passages(self, source: str | Path) -> list[dict]:
        """Return the rows of one recording, in no order, without vectors.

        Args:
            source: absolute path of the recording.
        """
        columns = [name for name in self._table.schema.names if name not in ("vector", "window_vectors")]
        condition = f"source = {quoted(str(source))} AND vector IS NOT NULL"
        return self._table.search().where(condition).select(columns).to_list()

    def add(
        self,
        paths: Iterable[str | Path],
        batch_size: int = 16,
        progress: bool = False,
        on_progress: Callable[[float, float], Any] | None = None,
    ) -> AddReport:
        """Index recordings; those that have not changed since they were indexed are skipped.

        Args:
            paths: recordings and folders of them.
            batch_size: most passages in a batch of the model.
            progress: show a bar on stderr.
            on_progress: called with the seconds of audio done, and of all, as often as the bar moves.

        Returns:
            What was done. A recording that cannot be read is named there and does not stop the others.

        Raises:
            FileNotFoundError: a path does not exist, or a folder holds no recordings.
        """
        report = AddReport()
        recordings = changed_recordings(find_recordings(paths), self.sources(), report)
        if not recordings:
            return report
        encoded = encode_recordings(recordings, self.encoder, self.metadata.cut, batch_size, report)
        total = sum(recording.duration_s for recording in recordings)
        done = 0.0
        with AudioBar(total=total, disable=not progress) as bar:

            def advance(seconds: float) -> None:
                nonlocal done
                done += seconds
                bar.update(seconds)
                if on_progress is not None:
                    on_progress(done, total)

            self.commit_all(encoded, report, advance)
        return report

    def commit_all(
        self,
        encoded: Iterable[tuple[float, list[Recording]]],
        report: AddReport,
        advance: Callable[[float], Any] = lambda seconds: None,
    ) -> None:
        """Write recordings as they come, every `COMMIT_S` and at the end, also when interrupted.

        Args:
            encoded: seconds of audio done, and the recordings that were completed by them.
            report: counts what was written.
            advance: called with the seconds.
        """
        finished: list[Recording] = []
        last_commit = time.monotonic()
        try:
            for seconds, recordings in encoded:
                advance(seconds)
                finished += recordings
                if time.monotonic() - last_commit > COMMIT_S:
                    self._commit(finished, report)
                    finished, last_commit = [], time.monotonic()
        finally:  # what is finished is kept
            self._commit(finished, report)
        self.maintain()

    def delete(self, paths: Iterable[str | Path]) -> int:
        """Take recordings, or all recordings of a folder, out of the index.

        Args:
            paths: recordings and folders, which need not exist any more.

        Returns:
            The number of recordings taken out.

        Raises:
            FileNotFoundError: the index holds nothing of a path; then nothing is taken out.
        """
        known = self.sources()
        doomed: set[str] = set()
        for path in paths:
            source = absolute(path)
            found = {other for other in known if other == source or other.startswith(f"{source}/")}
            if not found:
                raise FileNotFoundError(
                    f"{path} is not among the {len(known)} recordings of {self.uri}; check the spelling"
                )
            doomed |= found
        if doomed:
            self._table.delete(_of_sources(doomed))
        return len(doomed)

    def prune(self, paths: Iterable[str | Path]) -> list[str]:
        """Take out recordings under the given folders whose files have vanished.

        Args:
            paths: folders (or files); one that is not there, or holds no recording at all, is refused, so that an
                unmounted disk empties nothing.

        Returns:
            The sources that were taken out.

        Raises:
            FileNotFoundError: a path's own folder does not exist, or holds no recording.
        """
        gone: set[str] = set()
        known = self.sources()
        for path in paths:
            root = absolute(path)
            inside = {source for source in known if source.startswith(f"{root}/")}
            is_folder = bool(inside) or Path(root).is_dir() or not Path(root).suffix
            if not (Path(root) if is_folder else Path(root).parent).is_dir():
                raise FileNotFoundError(
                    f"{path} does not exist but pruning needs the folder; mount it, or use `clsr delete`"
                )
            vanished = {source for source in inside if not Path(source).exists()}
            if inside and vanished == inside and _is_empty(root):
                raise FileNotFoundError(
                    f"{path} holds none of its {len(inside)} recordings any more; mount it, or use `clsr delete`"
                )
            gone |= vanished
            if root in known and not Path(root).exists():
                gone.add(root)
        if gone:
            self._table.delete(_of_sources(gone))
        return sorted(gone)

    def search(
        self,
        question: str | np.ndarray,
        k: int = 5,
        file: str | None = None,
        mode: str = "hybrid",
        after: date | None = None,
        before: date | None = None,
        exclude: str | None = None,
    ) -> list[Hit]:
        """Find the moments that answer a question.

        Args:
            question: in words; or spoken, a waveform (S,) at the rate of the index.
            k: number of hits.
            file: glob; only recordings whose path it matches.
            mode: "hybrid", "dense" or "text", see `search_table`.
            after: only recordings last changed on this day or later.
            before: only recordings last changed before this day.
            exclude: glob; not the recordings whose path it matches.

        Returns:
            At most `k` hits, best first.

        Raises:
            ValueError: the index is empty, the question is empty, or no recording passes the filters.
        """
        condition = row_condition(file, after, before, exclude)
        hits = []
        if self._table.count_rows():
            query = self._query(question)
            hits = search_table(self._reader, query, k, mode, condition, self.encoder.doubt)
        if not hits:  # only now asked why, as it takes longer than a search
            filters = {"file": file, "exclude": exclude, "after": after, "before": before}
            self._check_not_empty(condition, filters)
        return hits

    def prewarm(self) -> None:
        """Read the indices of vectors and words into memory, so that first searches are as fast as later ones.

        For programs that answer many questions; one question is answered sooner without.
        """
        wait(self._reader.prewarm())

    def answered(self, hits: Sequence[Hit]) -> bool | None:
        """Tell whether one of the hits of a search is probable enough to count as an answer.

        Returns:
            None if the checkpoint has no calibration, see `evaluation.doubt`.
        """
        doubt = self.encoder.doubt
        return None if doubt is None else doubt.is_answered([hit.probability for hit in hits])

    def _check_not_empty(self, condition: str | None, filters: dict[str, Any]) -> None:
        """Refuse a search of nothing: of an index without speech, or with filters that leave none of it."""
        if not self._has_row("vector IS NOT NULL"):
            raise ValueError(
                f"{self.uri} holds {len(self.sources())} recordings and 0 passages of speech; "
                f"add recordings with `clsr index PATH --index {self.uri}`"
            )
        if condition and not self._has_row(condition):
            named = ", ".join(f"{name} {value}" for name, value in filters.items() if value is not None)
            raise ValueError(
                f"{named} leaves no recording of the index; `*` in a path stands for any characters"
            )

    def _has_row(self, condition: str) -> bool:
        """Tell whether any row meets a filter; stops at the first that is read."""
        return bool(self._table.search().where(condition).select(["id"]).limit(1).to_list())

    def _query(self, question: str | np.ndarray) -> Query:
        if isinstance(question, str):
            return Query(question, self.encoder.encode_texts([question or " "])[0])
        ((transcript, vector),) = self.encoder.encode_passages([question])
        if not transcript.text.strip():
            raise ValueError(
                f"in the spoken question of {len(question) / self.metadata.sampling_rate:.1f} s no words were heard; "
                "speak louder, or write it"
            )
        return Query(transcript.text, vector)

    def maintain(self) -> None:
        """Join the small files that commits leave, and bring the indices of words and vectors up to date.

        If another process writes meanwhile, that can wait: rows that no index has yet are searched one by one.
        """
        known = {index.name for index in self._table.list_indices()}
        try:
            if "transcript_idx" not in known:
                self._table.create_index("transcript", config=FTS(stem=True, remove_stop_words=False))
            rows = len(self)
            trained = [name for name in known if name.startswith(VECTOR_INDEX)]
            if rows >= max(
                [RETRAIN_FACTOR * int(name.removeprefix(VECTOR_INDEX)) for name in trained]
                or [VECTOR_INDEX_ROWS]
            ):
                self._train_vector_index(rows)
                for name in trained:
                    self._table.drop_index(name)
            self._table.optimize(cleanup_older_than=OLD_FILES_KEPT)
        except RuntimeError as error:
            if "commit conflict" not in str(error):
                raise

    def _train_vector_index(self, rows: int) -> None:
        """Divide the vectors into partitions; the index's name says how many rows it was trained on."""
        partitions = max(rows // PARTITION_ROWS, 1)
        config: Any = IvfRq(distance_type="cosine", num_partitions=partitions, num_bits=VECTOR_BITS)
        if self.metadata.embed_dim % 8:  # which that kind cannot take
            config = IvfSq(distance_type="cosine", num_partitions=partitions)
        self._table.create_index("vector", config=config, name=f"{VECTOR_INDEX}{rows}")

    def _commit(self, recordings: list[Recording], report: AddReport) -> None:
        """Write recordings in one commit, in place of whatever the table has of them."""
        if not recordings:
            return
        rows = [row for recording in recordings for row in recording.rows or [recording.row()]]
        (
            self._table.merge_insert("id")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .when_not_matched_by_source_delete(_of_sources(recording.source for recording in recordings))
            .execute(pa.Table.from_pylist(rows, schema=self._table.schema), on_bad_vectors="null")
        )
        report.added += len(recordings)
        report.passages += sum(len(recording.rows) for recording in recordings)
        report.audio_s += sum(recording.duration_s for recording in recordings)


def _is_empty(folder: str) -> bool:
    """Tell whether there is no recording in a folder."""
    try:
        find_recordings([folder])
    except FileNotFoundError:
        return True
    return False


def _of_sources(sources: Iterable[str]) -> str:
    return f"source IN ({', '.join(quoted(source) for source in sorted(sources))})"
