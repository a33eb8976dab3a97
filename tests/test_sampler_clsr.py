"""Glancing sampler, recognition loss and risk over sampled hypotheses."""

import pytest
import torch

from modeling_clsr.sampler_clsr import GlancingSampler, glance, minimum_error_loss, recognition_loss

from .reference import smoothed_cross_entropy

OUTPUT_WEIGHT = torch.arange(20.0).unsqueeze(-1) + torch.zeros(20, 4) + 100  # row y holds 100 + y


def draft_with_errors(num_errors: int, num_real: int = 10, width: int = 12) -> tuple[torch.Tensor, ...]:
    labels = torch.arange(width).unsqueeze(0).clone()
    labels[:, num_real:] = -100
    draft = labels.clone()
    draft[:, :num_errors] += 1
    return torch.randn(1, width, 4), draft, labels


@pytest.mark.parametrize(("num_errors", "num_shown"), [(8, 6), (1, 0), (0, 0), (10, 7)])
def test_sampler_shows_the_floor_of_errors_times_ratio(num_errors, num_shown):
    torch.manual_seed(0)
    states, draft, labels = draft_with_errors(num_errors)
    sampled = glance(states, draft, labels, OUTPUT_WEIGHT, ratio=0.75)
    changed = (sampled[0, :10] != states[0, :10]).any(dim=-1)
    assert changed.sum() == num_shown
    assert torch.equal(sampled[0, :10][changed], OUTPUT_WEIGHT[labels[0, :10][changed]])
    assert not sampled[0, 10:].any()


def test_shown_positions_are_drawn_among_right_and_wrong_ones():
    generator = torch.Generator().manual_seed(0)
    states, draft, labels = draft_with_errors(4)
    shown = torch.zeros(10)
    for _ in range(400):
        shown += (glance(states, draft, labels, OUTPUT_WEIGHT, 0.75, generator) != states)[0, :10].any(dim=-1)
    assert shown.sum() == 400 * 3
    assert (shown > 80).all() and (shown < 160).all()  # 120 each, were it perfectly even


def test_padding_is_never_shown_and_items_are_independent():
    torch.manual_seed(1)
    labels = torch.tensor([[5, 6, 7, 8], [9, -100, -100, -100], [1, 2, -100, -100]])
    draft = torch.zeros(3, 4, dtype=torch.long)
    states = torch.randn(3, 4, 4)
    sampled = glance(states, draft, labels, OUTPUT_WEIGHT, ratio=0.5)
    changed = ((sampled != states).any(dim=-1) & (labels >= 0)).sum(dim=-1)
    assert changed.tolist() == [2, 0, 1]
    assert not sampled[labels < 0].any()


def test_sampler_changes_nothing_in_evaluation():
    states, draft, labels = draft_with_errors(8)
    sampler = GlancingSampler(0.75)
    assert not torch.equal(sampler.train()(states, draft, labels, OUTPUT_WEIGHT), states)
    assert torch.equal(sampler.eval()(states, draft, labels, OUTPUT_WEIGHT), states)


def test_gradient_reaches_kept_states_and_the_rows_shown():
    torch.manual_seed(0)
    states, draft, labels = draft_with_errors(8)
    weight = OUTPUT_WEIGHT.clone().requires_grad_()
    glance(states.requires_grad_(), draft, labels, weight, 0.75).sum().backward()
    assert (states.grad[0].any(dim=-1).sum(), weight.grad.any(dim=-1).sum()) == (4, 6)


def test_sampler_refuses_a_ratio_or_lengths_that_do_not_fit():
    with pytest.raises(ValueError, match=r"ratio is 1\.5"):
        GlancingSampler(1.5)
    states, draft, labels = draft_with_errors(8)
    with pytest.raises(ValueError, match=r"\(1, 11\).*\(1, 12\)"):
        glance(states[:, 1:], draft, labels, OUTPUT_WEIGHT, 0.5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_recognition_loss_smooths_over_the_other_tokens(smoothing):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 7), torch.tensor([[1, 2, 3], [6, -100, -100]])
    expected = smoothed_cross_entropy(logits, labels, smoothing)
    torch.testing.assert_close(recognition_loss(logits, labels, smoothing), expected)


def test_recognition_loss_of_no_labels_is_zero():
    loss = recognition_loss(torch.randn(2, 3, 7), torch.full((2, 3), -100))
    assert loss == 0
    assert recognition_loss(torch.randn(2, 0, 7), torch.zeros(2, 0, dtype=torch.long)) == 0


def test_risk_of_equal_hypotheses_is_zero():
    loss = minimum_error_loss(torch.randn(2, 5, 9), torch.randint(0, 9, (2, 5)), block_probability=0.0)
    torch.testing.assert_close(loss, torch.tensor(0.0))


def test_risk_of_one_position_follows_the_closed_form():
    """Best and second best stand at 0.6 and 0.3; the truth is the second; hypotheses are drawn from both."""
    logits = torch.tensor([[[0.6, 0.3, 0.1]]]).log()
    generator = torch.Generator().manual_seed(4)
    is_second = torch.rand(4, 1, 1, generator=generator) < 0.5
    loss = minimum_error_loss(logits, torch.tensor([[1]]), generator=generator.manual_seed(4))
    shares = torch.where(is_second, 0.3, 0.6).flatten()
    shares, errors = shares / shares.sum(), (~is_second).float().flatten()
    assert 0 < is_second.sum() < 4
    torch.testing.assert_close(loss, (shares * (errors - errors.mean())).sum())


def test_risk_falls_when_the_right_token_gains():
    logits = torch.tensor([[[2.0, 1.0, 0.0]]], requires_grad=True)
    generator = torch.Generator().manual_seed(4)
    minimum_error_loss(logits, torch.tensor([[1]]), generator=generator).backward()
    assert logits.grad[0, 0, 1] < 0 < logits.grad[0, 0, 0]


def test_risk_ignores_padding():
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 6, 9), torch.tensor([[1, 2, 3, -100, -100, -100]])
    spoilt = logits.clone()
    spoilt[:, 3:] = 50 * torch.randn(3, 9)
    losses = [
        minimum_error_loss(x, labels, generator=torch.Generator().manual_seed(2)) for x in (logits, spoilt)
    ]
    assert torch.equal(*losses)


def test_risk_needs_two_hypotheses():
    with pytest.raises(ValueError, match="num_hypotheses is 1"):
        minimum_error_loss(torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.long), num_hypotheses=1)
