"""Distillation losses against closed forms."""

import math

import pytest
import torch

from modeling_clsr.training.losses import (
    agreement_loss,
    distribution_distillation,
    embedding_distillation,
    score_distillation,
    states_distillation,
)


def test_embedding_distillation_is_one_less_the_cosine():
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    teacher = torch.tensor([[5.0, 0.0], [4.0, 0.0], [1.0, 0.0]])
    distance = embedding_distillation(student, teacher)
    assert distance.tolist() == pytest.approx([0.0, 1.0, 1 - math.sqrt(0.5)], abs=1e-6)


def test_score_distillation_is_zero_where_the_student_agrees_and_the_closed_form_elsewhere():
    teacher = torch.tensor([[1.0, 0.0]])
    assert score_distillation(teacher / 0.5, teacher, temperature=0.5).item() == pytest.approx(0.0, abs=1e-6)
    uniform = torch.zeros(1, 2)
    p = 1 / (1 + math.exp(-2.0))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert score_distillation(uniform, teacher, temperature=0.5).item() == pytest.approx(expected, rel=1e-5)


def test_agreement_is_zero_for_equal_vectors_and_one_for_opposite_ones():
    equal = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    opposite = torch.tensor([[[0.0, 1.0], [0.0, -1.0]]])
    even = torch.zeros(1, 2)
    assert agreement_loss(equal, even).item() == pytest.approx(0.0, abs=1e-6)
    assert agreement_loss(opposite, even).item() == pytest.approx(1.0)
    sure = torch.tensor([[0.0, -1e9]])
    assert agreement_loss(opposite, sure).item() == pytest.approx(0.0, abs=1e-6)


def test_states_distillation_is_relative_and_blind_to_padding():
    teacher = torch.tensor([[[3.0, 4.0], [1.0, 1.0]]])
    student = torch.tensor([[[3.0, 5.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, False]])
    assert states_distillation(student, teacher, mask).item() == pytest.approx(1 / 25)


def test_distribution_distillation_is_zero_where_the_student_agrees():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 20)
    log_probs, ids = logits.log_softmax(dim=-1).topk(4, dim=-1)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    value = distribution_distillation(logits, ids, log_probs, mask)
    assert value.tolist() == pytest.approx([0.0, 0.0], abs=1e-5)


def test_distribution_distillation_with_all_tokens_is_the_divergence():
    torch.manual_seed(1)
    student, teacher = torch.randn(1, 1, 5), torch.randn(1, 1, 5).log_softmax(dim=-1)
    log_probs, ids = teacher.topk(4, dim=-1)
    value = distribution_distillation(student, ids, log_probs, torch.ones(1, 1).bool())
    exact = (teacher.exp() * (teacher - student.log_softmax(dim=-1))).sum()
    # four tokens and the fifth as "the rest": nothing is merged, so the value is exact
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)


def test_distribution_distillation_of_an_untaught_clip_is_zero_with_a_finite_gradient():
    logits = torch.randn(1, 2, 9, requires_grad=True)
    value = distribution_distillation(
        logits, torch.zeros(1, 2, 3).long(), torch.zeros(1, 2, 3), torch.zeros(1, 2).bool()
    )
    value.sum().backward()
    assert value.item() == 0.0
    assert torch.isfinite(logits.grad).all()
