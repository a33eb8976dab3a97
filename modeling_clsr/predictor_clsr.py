"""Token predictors: encoder frames in, one vector and one time span per token out, all tokens at once.

Enters: encoder states (B, F, H) and their mask. Leaves: `PredictorOutput`. `CIFPredictor` counts by
continuous integrate-and-fire (Dong & Xu 2020, arXiv 1905.11235), `CTCPredictor` by CTC posteriors (An et al.
2024, arXiv 2409.17746). Axes: B batch, F frames, U tokens, N CTC units, C CTC classes, H width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

IGNORED_ID = -100  # what Hugging Face collators pad labels with; any negative id counts as padding here


@dataclass
class PredictorOutput(ModelOutput):
    """What a predictor found.

    Args:
        token_states: one vector per token, (B, U, H), zero off the mask; float32 from CIF.
        token_mask: True on real tokens, (B, U).
        token_spans: start and end of each token in frames, (B, U, 2), float32, zero off the mask. Ordered and
            disjoint; fractions of a frame are kept. Multiply by the seconds per frame for times.
        firing_weights: CIF mass per frame before any rescaling, (B, F), float32, zero on padding.
        token_counts: sum of `firing_weights`, (B,), float32; the quantity loss is taken on it.
        ctc_logits: scores of the CTC classes, (B, F, C), float32.
        draft_ids: CTC units heard in greedy decoding, (B, N), -100 behind the last.
    """

    token_states: Tensor | None = None
    token_mask: Tensor | None = None
    token_spans: Tensor | None = None
    firing_weights: Tensor | None = None
    token_counts: Tensor | None = None
    ctc_logits: Tensor | None = None
    draft_ids: Tensor | None = None


class CIFPredictor(nn.Module):
    """Weigh each frame, add the weights up, and fire a token whenever the sum reaches the threshold.

    In training the weights are scaled so that exactly the target number of tokens fires. At inference a rest
    of at least `threshold - tail_threshold` still becomes a token. Source: Gao et al. 2022, arXiv 2206.08317,
    section 3.2. Departs from it: a frame may complete several tokens, and padded states never reach the
    convolution.

    Args:
        hidden_size: width of the encoder states.
        left_context: frames before each frame that its weight depends on.
        right_context: frames after it.
        threshold: mass of one token.
        tail_threshold: mass granted behind the last frame at inference.
        smooth_factor: factor on the weights.
        noise_threshold: taken off the weights; what falls below 0 counts as silence.
    """

    def __init__(
        self,
        hidden_size: int,
        left_context: int = 1,
        right_context: int = 1,
        threshold: float = 1.0,
        tail_threshold: float = 0.45,
        smooth_factor: float = 1.0,
        noise_threshold: float = 0.0,
    ):
        super().__init__()
        self.context = (left_context, right_context)
        self.threshold = threshold
        self.tail_threshold = tail_threshold
        self.smooth_factor = smooth_factor
        self.noise_threshold = noise_threshold
        self.conv = nn.Conv1d(hidden_size, hidden_size, left_context + right_context + 1)
        self.projection = nn.Linear(hidden_size, 1)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, num_tokens: Tensor | None = None
    ) -> PredictorOutput:
        """Find the tokens.

        Args:
            hidden_states: encoder states, (B, F, H).
            attention_mask: 1 on real frames, (B, F); all frames are real if None.
            num_tokens: true token counts, (B,), in training; predicted if None.

        Returns:
            PredictorOutput with `token_states`, `token_mask`, `token_spans`, `firing_weights`,
            `token_counts`.
        """
        # Half precision miscounts: a sum over hundreds of weights must be right to a fraction of one weight.
        with torch.autocast(hidden_states.device.type, enabled=False):
            frames = hidden_states.float()
            if attention_mask is not None:
                frames = frames.masked_fill(~attention_mask.bool().unsqueeze(-1), 0.0)
            weights = self._weigh(frames)  # (B, F)
            if attention_mask is not None:
                weights = weights.masked_fill(~attention_mask.bool(), 0.0)
            token_states, token_mask, token_spans = integrate_and_fire(
                frames, weights, num_tokens, threshold=self.threshold, tail=self.tail_threshold
            )
        return PredictorOutput(
            token_states=token_states,
            token_mask=token_mask,
            token_spans=token_spans,
            firing_weights=weights,
            token_counts=weights.sum(dim=-1) / self.threshold,
        )

    def _weigh(self, frames: Tensor) -> Tensor:
        context = F.pad(frames.transpose(1, 2), self.context)  # (B, F, H) -> (B, H, left + F + right)
        hidden = F.relu(self.conv(context.to(self.conv.weight.dtype))).transpose(1, 2)
        weights = self.projection(hidden).squeeze(-1).float().sigmoid()  # (B, F)
        return F.relu(weights * self.smooth_factor - self.noise_threshold)


def integrate_and_fire(
    frames: Tensor,
    weights: Tensor,
    num_tokens: Tensor | None = None,
    threshold: float = 1.0,
    tail: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the frames where their summed weight passes multiples of the threshold; sum each piece.

    Frame t covers the stretch from the sum before it to the sum after it; token k covers [k, k + 1)
    thresholds. A frame counts for a token by the overlap of the two, so any number of tokens may fire in one
    frame. Equal to the frame-by-frame walk of Dong & Xu 2020, arXiv 1905.11235, algorithm 1; sums run in
    float64.

    Args:
        frames: (B, F, H), float32.
        weights: at least 0, 0 on padding, (B, F), float32.
        num_tokens: (B,); weights are scaled to fire exactly so many tokens. If None, tokens are counted.
        threshold: mass of one token.
        tail: mass granted behind the last frame if tokens are counted.

    Returns:
        token_states: (B, U, H), dtype of `frames`, zero off the mask.
        token_mask: (B, U), bool.
        token_spans: start and end in frames, (B, U, 2), float32, without gradient.

    Raises:
        ValueError: shapes of `frames` and `weights` disagree.
    """
    if frames.shape[:2] != weights.shape:
        raise ValueError(
            f"frames are {tuple(frames.shape[:2])} but weights are {tuple(weights.shape)}; "
            "give one weight per frame"
        )
    exact = torch.float32 if weights.device.type == "mps" else torch.float64  # MPS has no float64
    ends = weights.to(exact).cumsum(dim=-1) / threshold  # (B, F), in tokens
    totals = ends[:, -1:]
    if num_tokens is None:
        # Rounded to float32 first: 2.9999999 tokens are 3.
        num_tokens = (totals.squeeze(-1) + tail / threshold).float().floor().long()
    else:
        ends = ends * (num_tokens.unsqueeze(-1) / totals.clamp(min=1e-9))
    tokens = torch.arange(int(num_tokens.max()), device=weights.device, dtype=exact)  # (U,)
    token_mask = tokens < num_tokens.unsqueeze(-1)  # (B, U)
    first = tokens.view(1, -1, 1)
    # Clamping also settles the gradient of frames without weight: it is that of giving them some.
    reached = ends.unsqueeze(1).clamp(first, first + 1)  # (B, U, F)
    overlap = reached.diff(dim=-1, prepend=first.expand(len(ends), -1, 1)) * threshold
    overlap = overlap.masked_fill(~token_mask.unsqueeze(-1), 0.0)
    token_states = overlap.to(frames.dtype) @ frames  # (B, U, H)
    return token_states, token_mask, _token_spans(ends.detach(), token_mask)


def quantity_loss(token_counts: Tensor, num_tokens: Tensor) -> Tensor:
    """Return the mean absolute error of the token count, per target token.

    Args:
        token_counts: predicted, (B,), float32.
        num_tokens: true, (B,).

    Returns:
        Scalar. Source: Gao et al. 2022, section 3.4, with FunASR's normalisation by length.
    """
    return (token_counts - num_tokens).abs().sum() / num_tokens.sum().clamp(min=1)


class CTCPredictor(nn.Module):
    """Give every token the mean CTC posterior of its frames, mapped to the decoder's width.

    In training the frames of a token come from forced alignment, at inference from the greedy path. Source:
    An et al. 2024, arXiv 2409.17746 (Paraformer-v2), section 3.2. Departs from it: the CTC classes may be
    finer than the tokens (characters under word pieces); then `units_per_token` says how many units make each
    token.

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
            frame_tokens = torch.searchsorted(bounds, frame_units, right=True).masked_fill(
                frame_units < 0, -1
            )
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
            token_spans=_member_spans(members),
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
    may_skip = (index % 2 == 1) & (
        states != F.pad(states, (2, -2), value=blank_id)
    )  # the blank between two units
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


def _token_spans(ends: Tensor, token_mask: Tensor) -> Tensor:
    """Say where the summed weight (B, F) passes k and k + 1, in frames: (B, U, 2)."""
    starts = F.pad(ends, (1, -1))
    first = torch.arange(token_mask.shape[1], device=ends.device, dtype=ends.dtype).repeat(len(ends), 1)
    last = torch.minimum(first + 1, ends[:, -1:])  # a token completed by the tail ends with the mass

    def place(mass: Tensor, frame: Tensor) -> Tensor:
        frame = frame.clamp(max=ends.shape[1] - 1)
        start, end = starts.gather(1, frame), ends.gather(1, frame)
        return frame + ((mass - start) / (end - start).clamp(min=1e-12)).clamp(0, 1)

    from_frame = torch.searchsorted(ends, first, right=True)  # skips frames without weight before the token
    until_frame = torch.searchsorted(ends, last)
    spans = torch.stack([place(first, from_frame), place(last, until_frame)], dim=-1)
    return spans.masked_fill(~token_mask.unsqueeze(-1), 0.0).float()


def _member_spans(members: Tensor) -> Tensor:
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
