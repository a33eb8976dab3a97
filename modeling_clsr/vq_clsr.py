"""Vector-quantised adaptor: token scores in, rows like word embeddings of the text encoder out.

Enters: scores (B, U, V) and the text encoder's word embeddings (V, E). Leaves: token_embeds (B, U, E) and
token_ids (B, U). Source: the paper (arXiv 2511.09282), section "Adaptor", after SpeechCLIP (Shih et al. 2023,
arXiv 2210.00705). Axes: B batch, U tokens, V vocabulary, E text width, H speech width, K best.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

VQ_TYPES = ("vq", "softmax", "logits", "expected", "projection")


class VQAdaptor(nn.Module):
    """Turn token scores into text-like embeddings, by quantisation or one of its ablations.

    "vq": the value is the best row, the gradient that of the softmax mixture. "softmax": the mixture itself.
    "logits": scores times table. "expected": mixture of the `num_best` best rows. "projection": a linear map
    of the decoder states that uses no table, which makes the model a plain dual encoder.

    Args:
        vq_type: one of the above.
        temperature: the paper's gamma; divides the scores before the softmax.
        num_best: rows that "expected" mixes.
        banned_ids: tokens never chosen, such as padding or a mask token.
        hidden_size: H, for "projection".
        embed_size: E, for "projection".
        uses_probabilities: quantise `softmax(scores)` in place of the scores; the paper's prose can be read
            so, but then the mixture is never sharp.
    """

    def __init__(
        self,
        vq_type: str = "vq",
        temperature: float = 0.1,
        num_best: int = 8,
        banned_ids: tuple[int, ...] = (),
        hidden_size: int | None = None,
        embed_size: int | None = None,
        uses_probabilities: bool = False,
    ):
        super().__init__()
        if vq_type not in VQ_TYPES:
            raise ValueError(f"vq_type is {vq_type!r} but must be one of {', '.join(VQ_TYPES)}")
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature} but must be above 0")
        self.vq_type = vq_type
        self.temperature = temperature
        self.num_best = num_best
        self.banned_ids = tuple(banned_ids)
        self.uses_probabilities = uses_probabilities
        if vq_type == "projection":
            if hidden_size is None or embed_size is None:
                raise ValueError(
                    f"vq_type is 'projection' but hidden_size is {hidden_size} and embed_size {embed_size}; "
                    "give both"
                )
            self.projection = nn.Linear(hidden_size, embed_size)

    def forward(
        self, logits: Tensor, table: Tensor, token_mask: Tensor, token_states: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map scores to embeddings.

        Args:
            logits: recogniser scores, (B, U, V).
            table: word embeddings of the text encoder, (V, E).
            token_mask: True on real tokens, (B, U).
            token_states: decoder states, (B, U, H), for "projection".

        Returns:
            token_embeds: (B, U, E), dtype of `table`, exactly zero off the mask.
            token_ids: best token, (B, U), int64, -1 off the mask.
        """
        logits = ban_tokens(logits, self.banned_ids)
        if self.vq_type == "vq":
            scores = _widen(logits).softmax(dim=-1) if self.uses_probabilities else logits
            return quantize_straight_through(scores, table, token_mask, self.temperature)
        if self.vq_type == "projection":
            if token_states is None:
                raise ValueError(
                    "vq_type 'projection' maps decoder states but token_states is None; pass them"
                )
            embeds = self.projection(token_states).to(table.dtype)
        else:
            _check_rows(logits, table)
            if self.vq_type == "softmax":
                embeds = (_widen(logits) / self.temperature).softmax(dim=-1).to(table.dtype) @ table
            elif self.vq_type == "logits":
                # A banned score of minus infinity would make every sum infinite.
                embeds = logits.masked_fill(logits.isneginf(), 0.0).to(table.dtype) @ table
            else:
                embeds = expected_embeds(logits, table, self.num_best, self.temperature)
        return embeds.masked_fill(~token_mask.unsqueeze(-1), 0.0), self.choose(logits, token_mask)

    def choose(self, logits: Tensor, token_mask: Tensor) -> Tensor:
        """Return the best allowed token of each position, (B, U), -1 off the mask."""
        return ban_tokens(logits, self.banned_ids).argmax(dim=-1).masked_fill(~token_mask, -1)


def quantize_straight_through(
    logits: Tensor, table: Tensor, token_mask: Tensor, temperature: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Replace each token distribution by one row of the text encoder's embedding table.

    The value is the best row, bit for bit; the gradient is that of the mixture `softmax(logits / temperature)
    @ table`, so the contrastive loss reaches the recogniser. Padding takes no part in either direction.

    Args:
        logits: recogniser scores, (B, U, V).
        table: input embeddings of the text encoder, (V, E).
        token_mask: True on real tokens, (B, U), bool.
        temperature: the paper's gamma.

    Returns:
        token_embeds: (B, U, E), dtype of `table`, exactly zero off the mask.
        token_ids: (B, U), int64, -1 off the mask.

    Raises:
        ValueError: `logits` and `table` disagree on V.

    Source: van den Oord et al. 2017, arXiv 1711.00937, section 3.2. Departs from it: no codebook
    or commitment term, because the table belongs to the text encoder.
    """
    _check_rows(logits, table)
    token_embeds, token_ids = _StraightThroughLookup.apply(logits, table, temperature)
    return token_embeds.masked_fill(~token_mask.unsqueeze(-1), 0.0), token_ids.masked_fill(~token_mask, -1)


def expected_embeds(logits: Tensor, table: Tensor, num_best: int, temperature: float) -> Tensor:
    """Mix the rows of the best tokens by their renormalised probabilities.

    Args:
        logits: recogniser scores, (B, U, V).
        table: word embeddings, (V, E).
        num_best: K; 1 gives the best row alone, without gradient.
        temperature: divides the scores before the softmax.

    Returns:
        (B, U, E), dtype of `table`.
    """
    best, ids = logits.topk(min(num_best, logits.shape[-1]), dim=-1)  # (B, U, K)
    shares = (_widen(best) / temperature).softmax(dim=-1).to(table.dtype)
    return (shares.unsqueeze(-2) @ F.embedding(ids, table)).squeeze(-2)  # (B, U, 1, K) x (B, U, K, E)


def ban_tokens(logits: Tensor, banned_ids: tuple[int, ...]) -> Tensor:
    """Set the scores of tokens that may never be chosen to minus infinity."""
    if not banned_ids:
        return logits
    return logits.index_fill(-1, torch.tensor(banned_ids, device=logits.device), float("-inf"))


class _StraightThroughLookup(torch.autograd.Function):
    """Look up the best rows; differentiate the mixture. Neither direction builds the one-hot matrix.

    With g the gradient of a row, p the softmax and s = table g, the scores receive p * (s - <p, s>) /
    temperature; the table receives g on the chosen row, as from a plain look-up.
    """

    @staticmethod
    def forward(ctx, logits, table, temperature):  # (B, U, V), (V, E)
        ids = logits.argmax(dim=-1)
        ctx.save_for_backward(logits, table, ids)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(ids)
        return table[ids], ids

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):  # (B, U, E)
        logits, table, ids = ctx.saved_tensors
        grad_logits = grad_table = None
        if ctx.needs_input_grad[0]:
            soft = (_widen(logits) / ctx.temperature).softmax(dim=-1)  # (B, U, V)
            slopes = _widen(grad.to(table.dtype) @ table.T)
            slopes -= (soft * slopes).sum(dim=-1, keepdim=True)
            grad_logits = slopes.mul_(soft).div_(ctx.temperature).to(logits.dtype)
        if ctx.needs_input_grad[1]:
            grad_table = torch.zeros_like(table).index_add_(
                0, ids.flatten(), grad.flatten(0, -2).to(table.dtype)
            )
        return grad_logits, grad_table, None


def _widen(x: Tensor) -> Tensor:
    # Half precision rounds a softmax over a whole vocabulary away.
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_rows(logits: Tensor, table: Tensor) -> None:
    if logits.shape[-1] != table.shape[0]:
        raise ValueError(
            f"logits score {logits.shape[-1]} tokens but the text encoder has {table.shape[0]} rows; "
            "build the decoder with the text encoder's tokenizer (config.vocab_size)"
        )
