"""Quantiser: exact values, the mixture's gradient, ablations."""

import pytest
import torch

from modeling_clsr.vq_clsr import VQ_TYPES, VQAdaptor, ban_tokens, expected_embeds, quantize_straight_through

from .reference import quantize_with_one_hot


def scores_table_mask(dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    return torch.randn(2, 4, 11, dtype=dtype), torch.randn(11, 6, dtype=dtype), mask


def test_value_is_the_best_row_bit_for_bit():
    logits, table, mask = scores_table_mask()
    embeds, ids = quantize_straight_through(logits.requires_grad_(), table, mask)
    best = logits.argmax(dim=-1)
    assert torch.equal(embeds[mask], table[best][mask])
    assert torch.equal(ids[mask], best[mask])
    assert not embeds[~mask].any() and (ids[~mask] == -1).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_gradient_equals_the_one_hot_version(temperature):
    logits, table, mask = scores_table_mask(torch.float64)
    gradients = []
    for quantize in (
        lambda x, y: quantize_straight_through(x, y, mask, temperature)[0],
        lambda x, y: quantize_with_one_hot(x, y, temperature) * mask.unsqueeze(-1),
    ):
        inputs = logits.clone().requires_grad_(), table.clone().requires_grad_()
        pull = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        gradients.append(torch.autograd.grad((quantize(*inputs) * pull).sum(), inputs))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    assert not gradients[0][0][~mask].any()


def test_gradient_equals_the_formula():
    """Per token: p * (s - <p, s>) / gamma with s = table g."""
    logits, table, _ = scores_table_mask()
    row = logits[:1, :1].clone().requires_grad_()
    pull = torch.randn(6)
    embeds, _ = quantize_straight_through(row, table, torch.ones(1, 1, dtype=torch.bool), 0.1)
    (embeds[0, 0] @ pull).backward()
    soft, slopes = (row[0, 0].detach() / 0.1).softmax(dim=-1), table @ pull
    torch.testing.assert_close(row.grad[0, 0], soft * (slopes - soft @ slopes) / 0.1)


def test_frozen_table_receives_no_gradient():
    logits, table, mask = scores_table_mask()
    embeds, _ = quantize_straight_through(logits.requires_grad_(), table, mask)
    embeds.sum().backward()
    assert logits.grad.any() and table.grad is None


def test_nothing_as_large_as_the_scores_is_kept_for_the_backward_pass():
    logits, table, mask = scores_table_mask()
    inputs = {logits.requires_grad_().data_ptr(), table.data_ptr()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        quantize_straight_through(logits, table, mask)
    assert all(tensor.numel() < logits.numel() for tensor in kept if tensor.data_ptr() not in inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_exact_row(dtype):
    logits, table, mask = scores_table_mask(dtype)
    embeds, ids = quantize_straight_through(logits.requires_grad_(), table, mask)
    assert embeds.dtype == dtype and torch.equal(embeds[mask], table[ids[mask]])
    embeds.sum().backward()
    assert logits.grad.dtype == dtype and logits.grad.isfinite().all()


def test_scores_and_table_of_different_vocabularies_name_both():
    _, table, mask = scores_table_mask()
    with pytest.raises(ValueError, match=r"score 9 tokens.*has 11 rows"):
        quantize_straight_through(torch.randn(2, 4, 9), table, mask)


@pytest.mark.parametrize("vq_type", VQ_TYPES)
def test_every_type_masks_padding_and_passes_gradients(vq_type):
    logits, table, mask = scores_table_mask()
    states = torch.randn(2, 4, 5, requires_grad=True)
    logits.requires_grad_()
    adaptor = VQAdaptor(vq_type, hidden_size=5, embed_size=6, banned_ids=(3,))
    embeds, ids = adaptor(logits, table, mask, states)
    assert embeds.shape == (2, 4, 6) and not embeds[~mask].any()
    assert (ids[~mask] == -1).all() and not (ids == 3).any()
    embeds.square().sum().backward()
    gradient = states.grad if vq_type == "projection" else logits.grad
    assert gradient.isfinite().all() and gradient.any()
    if vq_type != "projection":
        assert not logits.grad[..., 3].any()


def test_softmax_type_is_the_mixture_and_logits_type_the_product():
    logits, table, mask = scores_table_mask()
    mask = torch.ones_like(mask)
    mixed, _ = VQAdaptor("softmax", temperature=0.5)(logits, table, mask)
    torch.testing.assert_close(mixed, (logits / 0.5).softmax(dim=-1) @ table)
    product, _ = VQAdaptor("logits")(logits, table, mask)
    torch.testing.assert_close(product, logits @ table)


def test_expected_embedding_of_one_is_the_row_and_of_all_is_the_mixture():
    logits, table, _ = scores_table_mask()
    torch.testing.assert_close(expected_embeds(logits, table, 1, 0.5), table[logits.argmax(dim=-1)])
    torch.testing.assert_close(
        expected_embeds(logits, table, 99, 0.5), (logits / 0.5).softmax(dim=-1) @ table
    )


def test_probabilities_give_the_same_value_and_a_flatter_gradient():
    logits, table, mask = scores_table_mask()
    results = []
    for uses_probabilities in (False, True):
        scores = logits.clone().requires_grad_()
        embeds, _ = VQAdaptor(uses_probabilities=uses_probabilities)(scores, table, mask)
        embeds.sum().backward()
        results.append((embeds.detach(), scores.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1], results[1][1])


def test_banned_tokens_are_never_chosen():
    logits = torch.tensor([[[5.0, 1.0, 3.0]]])
    assert ban_tokens(logits, (0,)).argmax() == 2 and logits.argmax() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vq_type": "onehot"}, "'onehot'.*vq, softmax"),
        ({"temperature": 0}, "temperature is 0"),
        ({"vq_type": "projection"}, "hidden_size is None"),
    ],
)
def test_wrong_choices_name_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        VQAdaptor(**arguments)
