"""Caches of frozen parts, made by several processes at once."""

import logging
import threading
import time

import torch

from modeling_clsr.training.features import Shards, fill
from tests.training.tiny_runs import RATE, tone_rows


def test_one_fills_a_folder_while_others_wait_for_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("modeling_clsr.training.features.SHARD_CLIPS", 2)
    rows = tone_rows(tmp_path / "tones", 6)
    made, places = [], []

    def make(waveforms):
        time.sleep(0.2)  # long enough for the other to begin
        made.extend(map(len, waveforms))
        return [{"length": torch.tensor(len(waveform))} for waveform in waveforms]

    def run():
        places.append(fill(tmp_path / "cache", rows, make, "same model", RATE, "lengths"))

    runs = [threading.Thread(target=run) for _ in range(2)]
    with caplog.at_level(logging.WARNING):
        for thread in runs:
            thread.start()
        for thread in runs:
            thread.join()
    assert len(made) == 6 and places[0] == places[1]
    lengths = {name: int(length) for name, length in Shards(places[0], rows, "length").items()}
    assert lengths == {row.id: round(row.duration * RATE) for row in rows}
    assert [record.message for record in caplog.records] == [
        f"waiting for another process that fills {places[0]}"
    ]
