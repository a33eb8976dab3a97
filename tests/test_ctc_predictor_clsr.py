"""CTC predictor: greedy paths, forced alignment, vectors and spans of tokens."""

import pytest
import torch

from modeling_clsr.ctc_predictor_clsr import CTCPredictor, align_ctc, ctc_loss, greedy_ctc

from .reference import best_ctc_path


def one_hot_logits(path: list[int], num_classes: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor([path]), num_classes).float() * 20


def test_greedy_ctc_merges_repeats_and_drops_blanks():
    logits = one_hot_logits([0, 2, 2, 0, 2, 3, 3, 1])
    frame_mask = torch.arange(8).unsqueeze(0) < 7
    frame_units, unit_ids = greedy_ctc(logits, frame_mask, blank_id=0)
    assert unit_ids.tolist() == [[2, 2, 3]]
    assert frame_units.tolist() == [[-1, 0, 0, -1, 1, 2, 2, -1]]


@pytest.mark.parametrize("units", [[], [1], [1, 1], [2, 1], [1, 2, 2], [2, 1, 2]])
def test_ctc_alignment_equals_the_best_of_all_paths(units):
    torch.manual_seed(len(units))
    log_probs = torch.randn(6, 5, 3).log_softmax(dim=-1)
    labels = torch.full((6, 4), -100)
    labels[:, : len(units)] = torch.tensor(units)
    aligned = align_ctc(log_probs, torch.ones(6, 5, dtype=torch.bool), labels, blank_id=0)
    for item in range(6):
        _, path = best_ctc_path(log_probs[item], units, blank_id=0)
        spelt = [units[unit] if unit >= 0 else 0 for unit in aligned[item].tolist()]
        assert spelt == path


def test_ctc_alignment_of_an_item_alone_equals_the_padded_batch():
    torch.manual_seed(5)
    log_probs = torch.randn(2, 12, 5).log_softmax(dim=-1)
    frame_mask = torch.arange(12) < torch.tensor([[12], [7]])
    labels = torch.tensor([[1, 2, 2, 4], [3, 3, -100, -100]])
    batch = align_ctc(log_probs, frame_mask, labels, blank_id=0)
    alone = align_ctc(log_probs[1:, :7], frame_mask[1:, :7], labels[1:, :2], blank_id=0)
    assert batch[1].tolist() == alone[0].tolist() + [-1] * 5


def test_ctc_alignment_with_too_few_frames_names_both_counts():
    labels = torch.tensor([[1, 1, 2]])
    with pytest.raises(ValueError, match="3 frames but 3 CTC units"):
        align_ctc(torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool), labels, blank_id=0)


def spelling_predictor(path: list[int]) -> tuple[CTCPredictor, torch.Tensor]:
    """Return a predictor that hears what the one-hot states say."""
    predictor = CTCPredictor(4, 4)
    predictor.load_state_dict(
        {
            "head.weight": torch.eye(4),
            "head.bias": torch.zeros(4),
            "projection.weight": torch.eye(4),
            "projection.bias": torch.zeros(4),
        }
    )
    return predictor, one_hot_logits(path)


def test_ctc_predictor_averages_the_posteriors_of_each_token():
    predictor, states = spelling_predictor([0, 2, 2, 0, 3, 0])
    states[0, 2, 2] = 1.0  # the second frame of unit 2 is less certain
    output = predictor(states)
    posteriors = states.softmax(dim=-1)
    torch.testing.assert_close(output.token_states[0, 0], posteriors[0, 1:3].mean(dim=0))
    torch.testing.assert_close(output.token_states[0, 1], posteriors[0, 4])
    assert output.draft_ids.tolist() == [[2, 3]]
    assert output.token_spans.tolist() == [[[1, 3], [4, 5]]]


def test_ctc_predictor_on_its_own_draft_equals_the_greedy_pass():
    torch.manual_seed(1)
    predictor = CTCPredictor(6, 5)
    states, mask = torch.randn(3, 30, 6), torch.arange(30) < torch.tensor([[30], [17], [9]])
    greedy = predictor(states, mask)
    aligned = predictor(states, mask, greedy.draft_ids)
    torch.testing.assert_close(aligned.token_states, greedy.token_states)
    assert torch.equal(aligned.token_spans, greedy.token_spans)


def test_ctc_predictor_gathers_characters_into_word_pieces():
    predictor, states = spelling_predictor([1, 2, 0, 3, 3, 1])
    units, per_token = torch.tensor([[1, 2, 3, 1]]), torch.tensor([[3, 1, 0]])
    output = predictor(states, None, units, per_token)
    posteriors = states.softmax(dim=-1)
    assert output.token_mask.tolist() == [[True, True]]
    torch.testing.assert_close(output.token_states[0, 0], posteriors[0, [0, 1, 3, 4]].mean(dim=0))
    assert output.token_spans.tolist() == [[[0, 5], [5, 6]]]


def test_ctc_predictor_hears_nothing_in_blanks():
    predictor, states = spelling_predictor([0, 0, 0])
    output = predictor(states)
    assert output.token_states.shape == (1, 0, 4) and output.draft_ids.shape == (1, 0)


def test_ctc_posteriors_carry_gradients_to_the_encoder():
    torch.manual_seed(1)
    predictor = CTCPredictor(6, 5)
    states = torch.randn(1, 12, 6, requires_grad=True)
    predictor(states, None, torch.tensor([[1, 3]])).token_states.square().sum().backward()
    assert states.grad.abs().sum() > 0


def test_ctc_loss_is_the_negative_log_of_all_paths_per_unit():
    logits = torch.zeros(1, 2, 2)  # two frames, blank and one unit: 3 of 4 equally likely paths spell it
    loss = ctc_loss(logits, torch.ones(1, 2, dtype=torch.bool), torch.tensor([[1, -100]]), blank_id=0)
    torch.testing.assert_close(loss, -torch.tensor(0.75).log())
