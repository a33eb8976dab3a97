"""CIF predictor: encoder frames in, one vector and one time span per token out, all tokens at once.

Enters: encoder states (B, F, H) and their mask. Leaves: `PredictorOutput`, which the CTC predictor shares.
Source: continuous integrate-and-fire, Dong & Xu 2020, arXiv 1905.11235; Gao et al. 2022, arXiv 2206.08317.
Axes: B batch, F frames, U tokens, N CTC units, C CTC classes, H width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput


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
    of at least `threshold - tail_threshold` still becomes a token. Source: Gao et al. 2022, predictor; FunASR's
    `CifPredictorV2`. Departs from both: a frame may complete several tokens, and padded states never reach
    the convolution.

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
    frame. Equal to the frame-by-frame walk of Dong & Xu 2020; sums run in float64.

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
        Scalar. Source: Gao et al. 2022, loss of the predictor, with FunASR's normalisation by length.
    """
    return (token_counts - num_tokens).abs().sum() / num_tokens.sum().clamp(min=1)


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
