import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_clsr.data.sampler import length_batches

LENGTHS = st.lists(st.floats(0.1, 30.0), max_size=60)


@given(LENGTHS, st.integers(1, 17))
def test_every_clip_is_in_one_batch_of_the_right_size(lengths, batch_size):
    batches = length_batches(lengths, batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)


@given(LENGTHS, st.floats(0.0, 0.9))
def test_padding_of_each_batch_stays_below_its_share(lengths, max_padding):
    for batch in length_batches(lengths, 16, max_padding):
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded - sum(lengths[index] for index in batch) <= max_padding * padded + 1e-6


def test_longest_clips_come_first():
    assert length_batches([3.0, 29.0, 28.0, 3.1], batch_size=2) == [[1, 2], [3, 0]]


def test_equal_lengths_fill_batches_in_order():
    assert length_batches([5.0] * 5, batch_size=2) == [[0, 1], [2, 3], [4]]


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"batch_size is 0 and max_padding 0\.2 .* change them"):
        length_batches([1.0], batch_size=0)
