"""Indexing by Ray: two workers, one of them killed, write what one process writes."""

import logging
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from modeling_clsr.data.audio import load_audio
from modeling_clsr.retrieval import Encoder, SpeechIndex
from modeling_clsr.retrieval.schema import unpack_windows

ray = pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def cluster():
    settings = {"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}}
    ray.init(
        num_cpus=2,
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=False,
        runtime_env=settings,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def talks(tmp_path_factory, reread) -> Path:
    """Eight recordings of two sentences, and one that is none."""
    folder = tmp_path_factory.mktemp("ray") / "talks"
    folder.mkdir()
    for number in range(8):
        clips = [load_audio(row["path"]) for row in reread[2 * number : 2 * number + 2]]
        gap = np.zeros(32000, np.float32)
        soundfile.write(folder / f"{number}.flac", np.concatenate([clips[0], gap, clips[1]]), 16000)
    (folder / "notes.wav").write_text("no audio")
    return folder


def rows(index: SpeechIndex) -> list[dict]:
    return sorted(index._table.search().to_list(), key=lambda row: row["id"])


def kill_a_worker(killed: list[int]) -> None:
    """Kill one actor once it has begun to work."""
    for _ in range(1200):
        for process in psutil.process_iter(["pid", "cmdline"]):
            if any(
                "IndexWorker" in part and part.startswith("ray::") for part in process.info["cmdline"] or []
            ):
                time.sleep(1.0)
                os.kill(process.info["pid"], signal.SIGKILL)
                killed.append(process.info["pid"])
                return
        time.sleep(0.05)


@pytest.mark.slow
def test_two_workers_one_killed_write_what_one_process_writes(cluster, talks, default_checkpoint, tmp_path):
    from modeling_clsr.retrieval.ray_indexing import add_with_ray

    encoder = Encoder.from_pretrained(default_checkpoint, device="cpu")
    alone = SpeechIndex.create(tmp_path / "alone", encoder)
    alone.add([talks])
    spread = SpeechIndex.create(tmp_path / "spread", encoder)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(killed,))
    killer.start()
    report = add_with_ray(spread, [talks], workers=2)
    killer.join()
    assert len(killed) == 1
    assert (report.added, len(report.failed)) == (8, 1) and "notes.wav" in report.failed[0][0]
    expected, found = rows(alone), rows(spread)
    assert [row["id"] for row in found] == [row["id"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.pop("vector"), other.pop("vector"), atol=1e-4)
        windows = [unpack_windows(row.pop("window_vectors"), encoder.embed_dim) for row in (one, other)]
        np.testing.assert_allclose(*windows, atol=1e-3)
        for word, same in zip(one.pop("words"), other.pop("words"), strict=True):
            assert word["text"] == same["text"] and word["start"] == pytest.approx(same["start"], abs=0.05)
        assert one.pop("probability") == pytest.approx(other.pop("probability"), abs=1e-3)
        assert one == other
    again = add_with_ray(spread, [talks], workers=2)
    assert (again.added, again.skipped) == (0, 8)
