"""Two batches at a time: results in order, errors pass, threads are given back, and an index does not depend on it."""

import threading

import pytest
import torch

from modeling_clsr.retrieval import Encoder
from modeling_clsr.retrieval.lanes import in_lanes
from tests.tiny_parts import noise_clips, tiny_parts


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def test_two_run_at_the_same_time_with_half_of_the_threads_each(four_threads):
    both = threading.Barrier(2)

    def work(number):
        both.wait(timeout=30)  # passes only if two are here
        return number, threading.current_thread().name[:4], torch.get_num_threads()

    assert list(in_lanes(work, range(6), "cpu")) == [(number, "lane", 2) for number in range(6)]


def test_items_are_drawn_a_little_ahead_and_in_the_thread_of_the_caller(four_threads):
    drawn = []

    def items():
        for number in range(8):
            drawn.append(threading.current_thread())
            yield number

    results = in_lanes(lambda number: number, items(), "cpu")
    assert next(results) == 0 and len(drawn) == 3
    assert list(results) == [1, 2, 3, 4, 5, 6, 7]
    assert set(drawn) == {threading.current_thread()}


@pytest.mark.parametrize(("device", "items", "threads"), [("cuda", 3, 4), ("cpu", 1, 4), ("cpu", 3, 1)])
def test_all_is_done_in_one_place_where_lanes_gain_nothing(four_threads, device, items, threads):
    torch.set_num_threads(threads)
    here = list(in_lanes(lambda _: threading.current_thread(), range(items), device))
    assert here == [threading.current_thread()] * items
    torch.set_num_threads(4)


def test_error_of_a_lane_is_raised_and_an_abandoned_run_ends(four_threads):
    done = []

    def work(number):
        if number == 2:
            raise ValueError("item 2 is bad")
        done.append(number)
        return number

    results = in_lanes(work, range(100), "cpu")
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="item 2 is bad"):
        next(results)
    assert len(done) < 10 and torch.get_num_threads() == 4
    results = in_lanes(work, range(3, 100), "cpu")
    next(results)
    results.close()
    assert torch.get_num_threads() == 4


def test_a_model_hears_the_same_in_lanes(four_threads, tmp_path):
    parts = tiny_parts("whisper", tmp_path)
    parts.model().save_pretrained(tmp_path / "tiny")
    parts.processor().save_pretrained(tmp_path / "tiny")
    encoder = Encoder.from_pretrained(tmp_path / "tiny", device="cpu")
    batches = [noise_clips(0.5 + 0.1 * number, 1.3) for number in range(12)]
    apart = list(map(encoder.encode_passages, batches))
    for found, expected in zip(
        in_lanes(encoder.encode_passages, batches, encoder.device), apart, strict=True
    ):
        for (transcript, vector), (own, other) in zip(found, expected, strict=True):
            assert transcript.text == own.text
            times = [(word.start, word.end) for word in transcript.words]
            assert times == [(word.start, word.end) for word in own.words] and times
            assert vector == pytest.approx(other, abs=1e-5)
