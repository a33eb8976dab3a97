"""CTC predictor: encoder frames in, one vector and one time span per token out, cut by CTC posteriors.

Enters: encoder states (B, F, H) and their mask. Leaves: `PredictorOutput`. Source: An et al. 2024, arXiv
2409.17746 (Paraformer-v2). Axes: B batch, F frames, U tokens, N CTC units, C CTC classes, S states, H width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .predictor_clsr import PredictorOutput

IGNORED_ID = -100  # what Hugging Face collators pad labels with; any negative id counts as padding here


class CTCPredictor(nn.Module):
    """Give every token the mean CTC posterior of its frames, mapped to the decoder's width.

    In training the frames of a token come from forced alignment, at inference from the greedy path. Departs
    from its source: the CTC classes may be finer than the tokens (characters under word pieces); then
    `units_per_token` says how many units make each token.

    Args:
        hidden_size: width of encoder states and token vectors.
        num_classes: CTC classes, the blank among them.
        blank_id: class that stands for nothing.
    """

    def __init__(self, hidden_size: int, num_classes: int, blank_id: int = 0):
        super().__init__()
        if not 0 <= blank_id < num_classes:
            raise ValueError(f"blank_id is {blank_id} but CTC has {num_classes} classes; choose one of them")
        self.blank_id = blank_id
        self.head = nn.Linear(hidden_size, num_classes)
        self.projection = nn.Linear(num_classes, hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        unit_ids: Tensor | None = None,
        units_per_token: Tensor | None = None,
    ) -> PredictorOutput:
        """Find the tokens.

        Args:
            hidden_states: encoder states, (B, F, H).
            attention_mask: 1 on real frames, (B, F); all frames are real if None.
            unit_ids: true units in training, or a draft whose tokens are known, (B, N), negative on padding;
                the greedy path if None.
            units_per_token: (B, U), 0 on padding; each unit is a token if None.

        Returns:
            PredictorOutput with `token_states`, `token_mask`, `token_spans`, `ctc_logits`, and `draft_ids`
            when `unit_ids` is None.

        Raises:
            ValueError: an item has too few frames for its units.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(hidden_states[..., 0])
        frame_mask = attention_mask.bool()
        logits = self.head(hidden_states).float()  # (B, F, C)
        draft_ids = None
        if unit_ids is None:
            frame_units, draft_ids = greedy_ctc(logits, frame_mask, self.blank_id)
            num_units = (draft_ids >= 0).sum(dim=-1)
        else:
            frame_units = align_ctc(logits.log_softmax(dim=-1), frame_mask, unit_ids, self.blank_id)
            num_units = (unit_ids >= 0).sum(dim=-1)
        if units_per_token is None:
            frame_tokens, num_tokens = frame_units, num_units
        else:
            bounds = units_per_token.cumsum(dim=-1)
            frame_tokens = torch.searchsorted(bounds, frame_units, right=True)
            frame_tokens = frame_tokens.masked_fill(frame_units < 0, -1)
            num_tokens = (units_per_token > 0).sum(dim=-1)
        tokens = torch.arange(int(num_tokens.max()), device=logits.device)
        token_mask = tokens < num_tokens.unsqueeze(-1)  # (B, U)
        members = frame_tokens.unsqueeze(1) == tokens.unsqueeze(-1)  # (B, U, F)
        shares = members / members.sum(dim=-1, keepdim=True).clamp(min=1)
        posteriors = shares @ logits.softmax(dim=-1)  # (B, U, F) x (B, F, C) -> (B, U, C)
        token_states = self.projection(posteriors.to(self.projection.weight.dtype))
        return PredictorOutput(
            token_states=token_states.masked_fill(~token_mask.unsqueeze(-1), 0.0),
            token_mask=token_mask,
            token_spans=member_spans(members),
            ctc_logits=logits,
            draft_ids=draft_ids,
        )


@torch.no_grad()
def greedy_ctc(logits: Tensor, frame_mask: Tensor, blank_id: int) -> tuple[Tensor, Tensor]:
    """Take the best class of each frame, merge repeats and drop blanks.

    Args:
        logits: (B, F, C).
        frame_mask: True on real frames, (B, F).
        blank_id: class that stands for nothing.

    Returns:
        frame_units: index of the unit each frame belongs to, (B, F), -1 on blanks and padding.
        unit_ids: (B, N), -100 behind the last unit.
    """
    path = logits.argmax(dim=-1).masked_fill(~frame_mask, blank_id)  # (B, F)
    is_unit = path != blank_id
    is_new = is_unit & (path != F.pad(path, (1, -1), value=blank_id))
    frame_units = (is_new.cumsum(dim=-1) - 1).masked_fill(~is_unit, -1)
    num_units = int(is_new.sum(dim=-1).max())
    # One spare column takes the blanks.
    unit_ids = path.new_full((path.shape[0], num_units + 1), IGNORED_ID)
    unit_ids.scatter_(1, frame_units.masked_fill(~is_unit, num_units), path)
    return frame_units, unit_ids[:, :num_units]


@torch.no_grad()
def align_ctc(log_probs: Tensor, frame_mask: Tensor, unit_ids: Tensor, blank_id: int) -> Tensor:
    """Return the most probable CTC path of known units (Viterbi over units with blanks between).

    Args:
        log_probs: (B, F, C).
        frame_mask: True on real frames, real ones first, (B, F).
        unit_ids: (B, N), negative on padding.
        blank_id: class that stands for nothing.

    Returns:
        Index of the unit each frame belongs to, (B, F), int64, -1 on blanks and padding.

    Raises:
        ValueError: an item has too few frames for its units.
    """
    batch_size, num_frames, _ = log_probs.shape
    num_units = (unit_ids >= 0).sum(dim=-1)  # (B,)
    states = log_probs.new_full((batch_size, 2 * unit_ids.shape[1] + 1), blank_id, dtype=torch.long)
    states[:, 1::2] = unit_ids.clamp(min=0)  # blank, unit, blank, unit, ..., blank: (B, S)
    emissions = log_probs.gather(2, states.unsqueeze(1).expand(-1, num_frames, -1))  # (B, F, S)
    index = torch.arange(states.shape[1], device=states.device)
    impossible = float("-inf")
    emissions = emissions.masked_fill((index > 2 * num_units.unsqueeze(-1)).unsqueeze(1), impossible)
    # Only the blank between two different units may be skipped.
    may_skip = (index % 2 == 1) & (states != F.pad(states, (2, -2), value=blank_id))
    scores = emissions[:, 0].masked_fill(index > 1, impossible)  # (B, S)
    steps = []
    for frame in range(1, num_frames):
        skipped = F.pad(scores, (2, -2), value=impossible).masked_fill(~may_skip, impossible)
        moves = torch.stack([scores, F.pad(scores, (1, -1), value=impossible), skipped])  # (3, B, S)
        best, step = moves.max(dim=0)
        is_real = frame_mask[:, frame, None]
        scores = torch.where(is_real, best + emissions[:, frame], scores)
        steps.append(torch.where(is_real, step, 0))
    last = torch.stack([2 * num_units, (2 * num_units - 1).clamp(min=0)], dim=-1)  # blank or the last unit
    final, choice = scores.gather(1, last).max(dim=-1)
    _check_alignable(final, frame_mask, num_units)
    state = last.gather(1, choice.unsqueeze(-1))  # (B, 1)
    path = [state]
    for step in reversed(steps):
        state = state - step.gather(1, state)
        path.append(state)
    frame_states = torch.cat(path[::-1], dim=-1)  # (B, F)
    return ((frame_states - 1) // 2).masked_fill((frame_states % 2 == 0) | ~frame_mask, -1)


def ctc_loss(logits: Tensor, frame_mask: Tensor, unit_ids: Tensor, blank_id: int) -> Tensor:
    """Return the CTC loss per target unit; items with too few frames count as 0.

    Args:
        logits: (B, F, C).
        frame_mask: True on real frames, (B, F).
        unit_ids: (B, N), negative on padding.
        blank_id: class that stands for nothing.

    Returns:
        Scalar.
    """
    num_units = (unit_ids >= 0).sum(dim=-1)
    loss = F.ctc_loss(
        logits.float().log_softmax(dim=-1).transpose(0, 1),  # (B, F, C) -> (F, B, C)
        unit_ids.clamp(min=0),
        frame_mask.sum(dim=-1),
        num_units,
        blank=blank_id,
        reduction="sum",
        zero_infinity=True,
    )
    return loss / num_units.sum().clamp(min=1)


def member_spans(members: Tensor) -> Tensor:
    """Return first frame and the frame behind the last of each token: (B, U, F) -> (B, U, 2)."""
    starts = members.int().argmax(dim=-1)
    ends = members.shape[-1] - members.flip(-1).int().argmax(dim=-1)
    spans = torch.stack([starts, ends], dim=-1).float()
    return spans.masked_fill(~members.any(dim=-1, keepdim=True), 0.0)


def _check_alignable(final: Tensor, frame_mask: Tensor, num_units: Tensor) -> None:
    blocked = final.isinf().nonzero().flatten().tolist()
    if blocked:
        item = blocked[0]
        raise ValueError(
            f"item {item} has {int(frame_mask[item].sum())} frames but {int(num_units[item])} CTC units and the "
            "blanks between equal ones; drop it or cut its transcript"
        )
