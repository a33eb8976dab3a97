"""Word times: known paths, and the vectorised search against a plain one."""

import itertools

import pytest
import torch

from modeling_clsr.alignment_clsr import attention_matrix, monotonic_path, running_median


def test_path_follows_a_clear_diagonal():
    evidence = torch.zeros(3, 7)
    evidence[0, :2] = evidence[1, 2:3] = evidence[2, 3:] = 1.0
    assert monotonic_path(evidence) == [0, 2, 3]


@pytest.mark.parametrize("seed", range(20))
def test_path_is_the_best_of_all_paths(seed):
    generator = torch.Generator().manual_seed(seed)
    evidence = torch.randn(3, 8, generator=generator)

    def value(starts):
        ends = [*starts[1:], 8]
        return sum(float(evidence[n, s:e].sum()) for n, (s, e) in enumerate(zip(starts, ends, strict=True)))

    every = [[0, *rest] for rest in itertools.combinations(range(1, 8), 2)]
    assert monotonic_path(evidence) == max(every, key=value)


def test_more_tokens_than_frames_spread_evenly():
    assert monotonic_path(torch.zeros(4, 2)) == [0, 0, 1, 1]


def test_attention_that_looks_at_one_place_each_is_found():
    keys = torch.eye(8)[None].repeat(2, 1, 1) * 20  # (heads, F, D)
    looks = torch.tensor([1, 3, 6])
    queries = torch.eye(8)[looks].repeat(1, 2) * 20  # (N, heads * D)
    matrix = attention_matrix([queries], [keys], [[0, 1]])
    assert matrix.shape == (3, 8)
    starts = monotonic_path(torch.nn.functional.one_hot(looks, 8).float())
    assert starts[0] == 0 and starts[1] in (2, 3) and starts[2] in (4, 5, 6)


def test_median_of_seven_neighbours():
    # A network of comparisons that is right for all zeros and ones is right for all values (Knuth, 5.3.4).
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=7)))
    assert torch.equal(running_median(every), every.median(dim=1, keepdim=True).values)
    values = torch.randn(3, 4, 20)
    assert torch.equal(running_median(values), values.unfold(-1, 7, 1).median(dim=-1).values)
