"""The retrieval loss against closed forms."""

import math

import pytest
import torch

from modeling_clsr.contrastive_clsr import MAX_LOGIT_SCALE, contrastive_loss, info_nce, temperature_scale


def unit(*rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)


def test_equal_scores_give_the_log_of_the_batch():
    same = unit(*[[1.0, 0.0]] * 5)
    assert contrastive_loss(same, same, 14.0).item() == pytest.approx(math.log(5))


def test_orthogonal_pairs_give_the_closed_form():
    pairs = torch.eye(4)
    expected = math.log(math.exp(3.0) + 3) - 3.0
    assert contrastive_loss(pairs, pairs, 3.0).item() == pytest.approx(expected, rel=1e-6)


def test_clips_of_the_same_passage_are_no_negatives():
    questions, clips = unit([1, 0], [1, 0], [0, 1]), unit([1, 0], [1, 0], [0, 1])
    masked = contrastive_loss(questions, clips, 2.0, groups=torch.tensor([7, 7, 9]))
    # what is left: rows 0 and 1 against one clip of another passage, row 2 against two
    one, two = math.log(1 + math.exp(-2.0)), math.log(1 + 2 * math.exp(-2.0))
    assert masked.item() == pytest.approx((2 * one + two) / 3, rel=1e-6)


def test_unknown_passages_share_nothing():
    vectors = torch.eye(3)
    unknown = torch.full((3,), -1)
    assert torch.equal(
        contrastive_loss(vectors, vectors, 2.0, unknown), contrastive_loss(vectors, vectors, 2.0)
    )


def test_hard_negatives_are_candidates_of_questions_only():
    questions, clips = unit([1, 0, 0], [0, 1, 0]), unit([1, 0, 0], [0, 1, 0], [0, 0, 1])
    forward = math.log(math.exp(2.0) + 2) - 2.0
    backward = math.log(math.exp(2.0) + 1) - 2.0
    loss = contrastive_loss(questions, clips, 2.0, groups=torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((forward + backward) / 2, rel=1e-6)


def test_rows_of_one_process_average_to_the_whole():
    torch.manual_seed(0)
    queries, clips = torch.randn(6, 4), torch.randn(6, 4)
    whole = info_nce(queries, clips, torch.arange(6), 1.5)
    halves = [info_nce(queries[i : i + 3], clips, torch.arange(i, i + 3), 1.5) for i in (0, 3)]
    assert sum(halves).item() / 2 == pytest.approx(whole.item(), rel=1e-6)


def test_temperature_stops_at_a_hundred():
    assert temperature_scale(torch.tensor([MAX_LOGIT_SCALE + 5])).item() == pytest.approx(100.0)
