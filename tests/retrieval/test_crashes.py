"""What a crash, a full disk or a bad file leaves: a valid index of whole recordings, and nothing twice."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_clsr.retrieval import SpeechIndex

from .conftest import RATE, write_recording
from .known_clips import KnownClips

ROOT = Path(__file__).parents[2]
KILLS = 10


def rows(index: SpeechIndex) -> list[dict]:
    columns = ["id", "source", "fingerprint", "recorded", "start_s", "end_s", "transcript", "words", "vector"]
    found = index._table.search().select(columns).to_list()
    return sorted(found, key=lambda row: row["id"])


def child(folder: Path) -> list[str]:
    paths = (folder / "talks", folder / "index", folder / "clips.npz")
    return [sys.executable, "-m", "tests.retrieval.index_child", *map(str, paths)]


@pytest.mark.slow
def test_index_killed_at_ten_points_is_that_of_one_run(tmp_path, clips, encoder):
    (tmp_path / "talks").mkdir()
    texts = list(clips)
    for number in range(6):
        write_recording(tmp_path / "talks" / f"{number}.wav", texts[number : number + 3], clips)
    np.savez(tmp_path / "clips.npz", **clips)
    whole = SpeechIndex.create(tmp_path / "whole", encoder)
    whole.add([tmp_path / "talks"])
    settings = {
        "env": os.environ | {"OMP_NUM_THREADS": "1"},
        "cwd": ROOT,
        "stdout": subprocess.PIPE,
        "text": True,
    }
    draw = random.Random(0)
    expected = {row["id"] for row in rows(whole)}
    killed = 0
    for kill in range(KILLS):
        with subprocess.Popen(child(tmp_path), **settings) as run:
            if kill:  # the first is killed wherever it is, perhaps before there is a table
                assert run.stdout.readline() == "begun\n"
                time.sleep(draw.uniform(0.0, 0.5))
            else:
                time.sleep(draw.uniform(2.0, 4.0))
            run.send_signal(signal.SIGKILL)
            killed += run.wait() == -signal.SIGKILL
        if (tmp_path / "index").is_dir():
            stored = rows(SpeechIndex.open(tmp_path / "index", encoder))
            assert len({row["id"] for row in stored}) == len(stored)
            assert {row["id"] for row in stored} <= expected
            by_source = {row["source"] for row in stored}
            assert [row for row in rows(whole) if row["source"] in by_source] == stored  # whole recordings
    assert killed >= 2
    subprocess.run(child(tmp_path), check=True, **{**settings, "stdout": subprocess.DEVNULL})
    assert rows(SpeechIndex.open(tmp_path / "index", encoder)) == rows(whole)


def test_full_disk_is_reported_and_the_index_stays_valid(tmp_path, talks, encoder):
    index = SpeechIndex.create(tmp_path / "index", encoder)
    index.add([tmp_path / "talks" / "a.wav"])
    before = rows(index)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))  # no file may grow: as if the disk were full
    try:
        with pytest.raises((OSError, RuntimeError)):
            index.add([tmp_path / "talks"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert rows(SpeechIndex.open(tmp_path / "index", encoder)) == before
    assert index.add([tmp_path / "talks"]).added == 2


def broken_files(folder: Path, clips) -> dict[str, str]:
    """Write one file of every kind that goes wrong; return what is said of it."""
    clip = next(iter(clips.values()))
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "no-samples.wav", np.zeros(0), RATE)
    (folder / "text.wav").write_text("These are the minutes of the meeting.\n" * 9)
    soundfile.write(folder / "whole.flac", clip, RATE)
    (folder / "truncated.flac").write_bytes((folder / "whole.flac").read_bytes()[:9000])
    (folder / "whole.flac").unlink()
    return {
        "empty.wav": "has 0 bytes",
        "no-samples.wav": "holds 0 samples",
        "text.wav": "begins with b'These ar'",
        "truncated.flac": "is broken after",
    }


def test_every_broken_file_is_named_and_the_rest_is_indexed(tmp_path, talks, clips, encoder):
    expected = broken_files(tmp_path / "talks", clips)
    index = SpeechIndex.create(tmp_path / "index", encoder)
    report = index.add([tmp_path / "talks"])
    messages = {Path(path).name: message for path, message in report.failed}
    assert messages.keys() == expected.keys()
    for name, part in expected.items():
        assert part in messages[name] and name in messages[name]
    assert report.added == 3 and len(index.search(next(iter(clips)), k=1)) == 1


@pytest.mark.parametrize(("rate", "channels"), [(192_000, 1), (8_000, 1), (16_000, 8)])
def test_other_rates_and_many_channels_are_heard(tmp_path, clips, encoder, rate, channels):
    import soxr

    text, clip = next(iter(clips.items()))
    samples = soxr.resample(clip, RATE, rate) if rate != RATE else clip
    soundfile.write(tmp_path / "a.wav", np.stack([samples] * channels, axis=1), rate)
    index = SpeechIndex.create(tmp_path / "index", encoder)
    assert index.add([tmp_path / "a.wav"]).failed == []
    assert index._table.count_rows() == 1
    assert index.sources().keys() == {str(tmp_path / "a.wav")}
    if rate != 8_000:  # half the band is gone there: known by heart no more
        assert index.search(text, k=1)[0].transcript == text


def test_recording_that_vanishes_while_it_is_read_is_named(tmp_path, talks, clips):
    class Vanishing(KnownClips):
        def encode_passages(self, waveforms):
            (tmp_path / "talks" / "b.flac").unlink(missing_ok=True)
            return super().encode_passages(waveforms)

    index = SpeechIndex.create(tmp_path / "index", Vanishing(clips))
    import modeling_clsr.retrieval.indexing as indexing

    pool, indexing.POOL = indexing.POOL, 1
    try:
        report = index.add([tmp_path / "talks"])
    finally:
        indexing.POOL = pool
    assert [Path(path).name for path, _ in report.failed] == ["b.flac"]
    assert "does not exist" in report.failed[0][1] or "No such file" in report.failed[0][1]
    assert report.added == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_named(tmp_path, talks, encoder):
    (tmp_path / "talks" / "a.wav").chmod(0)
    report = SpeechIndex.create(tmp_path / "index", encoder).add([tmp_path / "talks"])
    assert [Path(path).name for path, _ in report.failed] == ["a.wav"] and report.added == 2


def test_silence_of_an_hour_leaves_no_passage_and_is_known(tmp_path, encoder):
    block = np.zeros(60 * RATE, dtype=np.int16)
    with soundfile.SoundFile(tmp_path / "silence.flac", "w", RATE, 1) as file:
        for _ in range(60):
            file.write(block)
    index = SpeechIndex.create(tmp_path / "index", encoder)
    report = index.add([tmp_path / "silence.flac"])
    assert (report.added, report.passages, len(index)) == (1, 0, 0)
    assert index.add([tmp_path / "silence.flac"]).skipped == 1
