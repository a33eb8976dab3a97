"""Real tables, real pauses; the encoder knows its clips by heart, so that words and times are exact."""

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_clsr.data.passages import CutSettings, FixedWindows
from modeling_clsr.retrieval import IndexMismatchError, SpeechIndex
from modeling_clsr.retrieval.reader import TableReader, wait
from modeling_clsr.retrieval.schema import IndexMetadata, create_table

from .conftest import write_recording
from .known_clips import KnownClips


@pytest.fixture
def index(tmp_path: Path, encoder: KnownClips) -> SpeechIndex:
    return SpeechIndex.create(tmp_path / "index", encoder)


def rows(index: SpeechIndex) -> list[dict]:
    columns = ["id", "source", "fingerprint", "start_s", "end_s", "transcript", "words"]
    found = index._table.search().select(columns).to_list()
    return sorted(found, key=lambda row: row["id"])


def test_every_clip_is_found_in_its_file_at_its_time(tmp_path, index, talks):
    report = index.add([tmp_path / "talks"])
    assert (report.added, report.skipped, report.failed) == (3, 0, [])
    assert report.passages == len(index)
    for name, where in talks.items():
        for text, (start, end) in where.items():
            hit = index.search(text, k=1)[0]
            assert hit.path == str(tmp_path / "talks" / name)
            assert hit.start_s < start + 0.5 and end - 0.5 < hit.end_s
            assert hit.end_s - hit.start_s <= 29.0
            assert text in hit.transcript
            words = [word for word in hit.words if start - 0.01 <= word.start and word.end <= end + 0.01]
            assert " ".join(word.text for word in words) == text
            # A clip that ends without a full stop shares its last words' sentence with the next one.
            assert hit.moment.start_s < end and start < hit.moment.end_s
            spoken = [w.text for w in hit.words if hit.moment.start_s <= w.start < hit.moment.end_s]
            assert hit.moment.text.split() == spoken


def test_passages_of_several_recordings_share_batches_of_like_length(tmp_path, index, talks, encoder):
    index.add([tmp_path / "talks"], batch_size=4)
    assert sum(map(len, encoder.batches)) == len(index)
    assert all(len(lengths) <= 4 and min(lengths) > 0.5 * max(lengths) for lengths in encoder.batches)
    assert len(encoder.batches) < len(index)


def test_unchanged_recordings_are_skipped(tmp_path, index, talks, encoder):
    index.add([tmp_path / "talks"])
    before, batches = rows(index), len(encoder.batches)
    report = SpeechIndex.open(tmp_path / "index", encoder).add([tmp_path / "talks", tmp_path / "talks/a.wav"])
    assert (report.added, report.skipped) == (0, 3)
    assert len(encoder.batches) == batches
    assert rows(index) == before


def test_changed_recording_is_replaced_and_the_others_stay(tmp_path, index, talks, clips):
    index.add([tmp_path / "talks"])
    before = {row["id"]: row for row in rows(index) if not row["source"].endswith("a.wav")}
    texts = list(clips)
    write_recording(tmp_path / "talks" / "a.wav", [texts[11]], clips)
    report = index.add([tmp_path / "talks"])
    assert (report.added, report.skipped) == (1, 2)
    after = rows(index)
    assert {row["id"]: row for row in after if not row["source"].endswith("a.wav")} == before
    assert [row["transcript"] for row in after if row["source"].endswith("a.wav")] == [texts[11]]


def test_index_is_the_same_built_at_once_or_file_by_file(tmp_path, index, talks, encoder):
    index.add([tmp_path / "talks"])
    other = SpeechIndex.create(tmp_path / "other", encoder)
    for name in reversed(talks):
        other.add([tmp_path / "talks" / name], batch_size=1)
    assert rows(other) == rows(index)


def test_silent_recording_is_remembered_but_never_found(tmp_path, index, talks, encoder):
    soundfile.write(tmp_path / "talks" / "silence.wav", np.zeros(80000), 16000)
    assert index.add([tmp_path / "talks"]).added == 4
    assert index.add([tmp_path / "talks"]).skipped == 4
    hits = index.search("Printing", k=100)
    assert len(hits) == len(index)
    assert not any("silence" in hit.source for hit in hits)


def test_speech_the_model_says_nothing_to_leaves_no_passage(tmp_path, encoder, talks):
    encoder.clips = dict(list(encoder.clips.items())[:4])  # those of a.wav
    index = SpeechIndex.create(tmp_path / "index", encoder)
    assert index.add([tmp_path / "talks"]).added == 3
    assert {Path(row["source"]).name for row in rows(index) if row["transcript"]} == {"a.wav"}


def test_bad_recording_is_named_and_the_others_are_indexed(tmp_path, index, talks):
    (tmp_path / "talks" / "notes.wav").write_text("These are the minutes of the meeting.\n" * 9)
    whole = (tmp_path / "talks" / "b.flac").read_bytes()
    (tmp_path / "talks" / "cut.flac").write_bytes(whole[: len(whole) * 2 // 3])
    report = index.add([tmp_path / "talks"])
    assert report.added == 3
    assert [Path(path).name for path, _ in report.failed] == ["notes.wav", "cut.flac"]
    assert "notes.wav begins with b'These ar'" in report.failed[0][1]
    assert not any("cut.flac" in row["source"] for row in rows(index))


def test_interrupted_run_keeps_finished_recordings_and_a_second_run_ends_it(tmp_path, index, talks, encoder):
    complete = SpeechIndex.create(tmp_path / "complete", encoder)
    complete.add([tmp_path / "talks"])

    class Interrupting(KnownClips):
        def encode_passages(self, waveforms):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().encode_passages(waveforms)

    files = [tmp_path / "talks" / name for name in talks]
    interrupted = SpeechIndex.open(tmp_path / "index", Interrupting(encoder.clips))
    with pytest.raises(KeyboardInterrupt):
        interrupted.add(files, batch_size=1)
    kept = {row["source"] for row in rows(index)}
    assert {row["id"] for row in rows(index)} <= {row["id"] for row in rows(complete)}
    report = index.add(files)
    assert report.skipped == len(kept)
    assert rows(index) == rows(complete)


def test_two_indexers_at_once_write_each_recording_once(tmp_path, index, encoder):
    """They meet before each recording, and silence is read in no time, so that they commit together."""
    files = [tmp_path / f"{number}.wav" for number in range(10)]
    for file in files:
        soundfile.write(file, np.zeros(8000), 16000)
    together = threading.Barrier(2)

    def add_all(run: SpeechIndex) -> None:
        for file in files:
            together.wait(timeout=20)
            assert run.add([file]).failed == []

    runs = [SpeechIndex.open(tmp_path / "index", encoder) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(add_all, runs))
    assert sorted(row["source"] for row in rows(index)) == [str(file) for file in files]


def test_open_index_sees_what_another_adds(tmp_path, index, talks, encoder):
    SpeechIndex.open(tmp_path / "index", encoder).add([tmp_path / "talks"])
    assert index.add([tmp_path / "talks"]).skipped == 3


def test_recording_that_grows_while_it_is_read_is_left_for_the_next_run(tmp_path, talks, encoder):
    class Touching(KnownClips):
        def encode_passages(self, waveforms):
            os.utime(tmp_path / "talks" / "it's 100%_c.wav", ns=(1, 1))
            return super().encode_passages(waveforms)

    index = SpeechIndex.create(tmp_path / "index", encoder)
    index._encoder = Touching(encoder.clips)
    names = [tmp_path / "talks" / name for name in talks]
    import modeling_clsr.retrieval.indexing as indexing

    pool, indexing.POOL = indexing.POOL, 1
    try:
        report = index.add(names)
    finally:
        indexing.POOL = pool
    assert [message for _, message in report.failed] == [
        f"{names[2]} was changed while it was read; index it again"
    ]
    assert index.add(names).added == 1


def test_deleted_recordings_are_found_no_more(tmp_path, index, talks):
    index.add([tmp_path / "talks"])
    assert index.delete([tmp_path / "talks" / "it's 100%_c.wav"]) == 1
    assert {Path(source).name for source in index.sources()} == {"a.wav", "b.flac"}
    assert index.delete([tmp_path / "talks"]) == 2
    assert len(index) == 0
    with pytest.raises(FileNotFoundError, match=r"talks is not among the 0 recordings of .*index; check"):
        index.delete([tmp_path / "talks"])


def test_index_refuses_other_checkpoint(tmp_path, index, encoder):
    other = KnownClips(encoder.clips, name="other-clips", fingerprint="0" * 32)
    with pytest.raises(
        IndexMismatchError, match=r"by known-clips@ffffffff but the model is other-clips@00000000"
    ):
        SpeechIndex.open(tmp_path / "index", other)


def test_new_index_needs_a_folder_of_its_own(tmp_path, index, talks, encoder):
    with pytest.raises(FileExistsError, match=r"talks holds 3 files already \(a\.wav, …\) but"):
        SpeechIndex.create(tmp_path / "talks", encoder)
    with pytest.raises(FileExistsError):
        SpeechIndex.create(tmp_path / "index", encoder)


def test_index_of_other_settings_is_refused(tmp_path, index, encoder):
    with pytest.raises(IndexMismatchError, match=r"cut by pauses .* but fixed \(max_s 20, overlap_s 5\)"):
        SpeechIndex.open(tmp_path / "index", encoder, FixedWindows(20.0, 5.0))
    with pytest.raises(ValueError, match="max_s is 40 s but known-clips takes 29 s"):
        SpeechIndex.create(tmp_path / "forty", encoder, FixedWindows(40.0, 5.0))


def test_windows_overlap_and_hits_that_overlap_are_merged(tmp_path, encoder, talks):
    index = SpeechIndex.create(tmp_path / "windows", encoder, FixedWindows(20.0, 10.0))
    index.add([tmp_path / "talks" / "a.wav"])
    stored = sorted(rows(index), key=lambda row: row["start_s"])
    assert all(a["end_s"] - b["start_s"] == pytest.approx(10.0) for a, b in itertools.pairwise(stored))
    hits = index.search(next(iter(talks["a.wav"])), k=50, mode="dense")
    spans = sorted((hit.start_s, hit.end_s) for hit in hits)
    assert len(hits) < len(stored) and all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    for hit in hits:
        times = [word.start for word in hit.words]
        assert times == sorted(times)
        assert hit.moment.text == hit.transcript[hit.moment.start_char : hit.moment.end_char]


def test_vanished_recordings_are_pruned_but_never_those_of_a_missing_folder(tmp_path, index, talks):
    index.add([tmp_path / "talks"])
    (tmp_path / "talks" / "a.wav").unlink()
    assert index.prune([tmp_path / "elsewhere.wav"]) == []
    assert index.prune([tmp_path / "talks"]) == [str(tmp_path / "talks" / "a.wav")]
    assert {Path(source).name for source in index.sources()} == {"b.flac", "it's 100%_c.wav"}
    (tmp_path / "talks").rename(tmp_path / "unmounted")
    with pytest.raises(FileNotFoundError, match="talks does not exist but pruning needs the folder"):
        index.prune([tmp_path / "talks"])
    (tmp_path / "talks").mkdir()  # the mount point of a disk that is not there
    with pytest.raises(
        FileNotFoundError, match="talks holds none of its 2 recordings any more; mount it, or use"
    ):
        index.prune([tmp_path / "talks"])
    assert len(index.sources()) == 2
    gone = tmp_path / "talks" / "b.flac"
    assert index.prune([gone]) == [str(gone)] and len(index.sources()) == 1
    (tmp_path / "unmounted" / "b.flac").rename(tmp_path / "talks" / "new.flac")
    assert [Path(source).name for source in index.prune([tmp_path / "talks"])] == ["it's 100%_c.wav"]


def test_pruning_a_missing_folder_with_a_dot_in_its_name_is_refused(tmp_path, index, talks):
    (tmp_path / "talks").rename(tmp_path / "talks.2024")
    index.add([tmp_path / "talks.2024"])
    (tmp_path / "talks.2024").rename(tmp_path / "unmounted")
    with pytest.raises(FileNotFoundError, match=r"talks\.2024 does not exist but pruning needs the folder"):
        index.prune([tmp_path / "talks.2024"])
    assert len(index.sources()) == 3


def test_empty_index_says_what_to_do(tmp_path, index):
    with pytest.raises(ValueError, match=r"holds 0 recordings and 0 passages of speech; add recordings with"):
        index.search("who?")


def test_vector_that_search_could_not_find_is_refused(tmp_path, index, talks, encoder):
    encode = encoder.encode_passages
    encoder.encode_passages = lambda waveforms: [(text, 0 * vector) for text, vector in encode(waveforms)]
    with pytest.raises(ValueError, match=r"a\.wav at \d.* has a vector of norm 0 but 1 is needed"):
        index.add([tmp_path / "talks" / "a.wav"])
    assert rows(index) == []


def test_index_at_an_address_is_that_of_a_folder(tmp_path, index, talks, encoder):
    index.add([tmp_path / "talks"])
    address = (tmp_path / "store" / "talks.clsr").as_uri()
    with pytest.raises(FileNotFoundError, match="holds no index"):
        SpeechIndex.open(address, encoder)
    stored = SpeechIndex.create(address, encoder)
    stored.add([tmp_path / "talks"])
    assert rows(SpeechIndex.open(address, encoder)) == rows(index)
    question = next(iter(talks["a.wav"]))
    assert SpeechIndex.open(address, encoder).search(question) == index.search(question)
    with pytest.raises(FileExistsError, match="holds an index already"):
        SpeechIndex.create(address, encoder)


def test_large_table_gets_a_vector_index_and_a_new_one_when_it_has_grown(tmp_path, index, talks, monkeypatch):
    from modeling_clsr.retrieval import index as module

    random = np.random.default_rng(0)
    monkeypatch.setattr(module, "VECTOR_INDEX_ROWS", 300)

    def grow(first: int, count: int) -> None:
        vectors = random.standard_normal((count, 128)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        made = index._table.search().limit(1).to_list()[0]
        made |= {"transcript": "made"}
        rows = [made | {"id": f"{first + n}", "vector": vector.tolist()} for n, vector in enumerate(vectors)]
        index._table.add(rows)
        index.maintain()

    def trained() -> list[str]:
        return [found.name for found in index._table.list_indices() if found.name.startswith("vector_")]

    index.add([tmp_path / "talks"])
    question = next(iter(talks["a.wav"]))
    first = index.search(question, k=1, mode="dense")
    assert trained() == []
    grow(0, 400)
    (name,) = trained()
    assert index.search(question, k=1, mode="dense")[0].transcript == first[0].transcript
    grow(400, 100)
    assert trained() == [name] and index._table.index_stats(name).num_unindexed_rows == 0
    grow(500, 1600)
    (other,) = trained()
    assert other != name
    assert index.search(question, k=1, mode="dense")[0].transcript == first[0].transcript


def test_prewarmed_indices_are_in_memory(tmp_path, index, talks, monkeypatch):
    from modeling_clsr.retrieval import index as module

    monkeypatch.setattr(module, "VECTOR_INDEX_ROWS", 1)
    index.add([tmp_path / "talks"])
    assert len(index._table.list_indices()) == 2
    question = next(iter(talks["a.wav"]))
    hits = SpeechIndex.open(index.uri, index.encoder).search(question)
    cold, warm = (SpeechIndex.open(index.uri, index.encoder) for _ in range(2))
    warm.prewarm()
    for file in Path(index.uri).rglob("_indices/*/*"):
        file.unlink()
    assert warm.search(question) == hits
    with pytest.raises(Exception, match=r"(?i)not found"):
        cold.search(question)


@pytest.mark.parametrize("dim", [12, 128])
def test_vector_index_finds_the_nearest_at_any_width(tmp_path, dim, monkeypatch):
    from modeling_clsr.retrieval import index as module

    monkeypatch.setattr(module, "VECTOR_INDEX_ROWS", 300)
    vectors = np.random.default_rng(0).standard_normal((400, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    metadata = IndexMetadata("made", "0" * 32, dim, 16000, CutSettings())
    table = create_table(str(tmp_path / "index"), metadata)
    rows = [{"id": f"{n}", "transcript": "made", "vector": vector} for n, vector in enumerate(vectors)]
    table.add([*rows, {"id": "silence", "transcript": "", "vector": None}])
    SpeechIndex(str(tmp_path / "index"), table, metadata).maintain()
    assert [found.name for found in table.list_indices()].count("vector_400") == 1
    reader, recalls = TableReader(str(tmp_path / "index")), []
    for vector in vectors[:20]:
        tenth = np.sort(vectors @ vector)[-10]
        found = list(wait(reader.nearest(vector, 10)).values())
        assert found[0] == pytest.approx(1.0, abs=1e-5)
        recalls.append(sum(cosine > tenth - 1e-5 for cosine in found) / 10)
    assert np.mean(recalls) > 0.85  # its clusters start at random; vectors of no structure are the hardest
