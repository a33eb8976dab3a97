"""Output rows of a parallel recogniser and tokens of the text encoder: there, back, and framed as its input.

`vocabulary_ids` lists the token of each row; all tokens in order if it is empty. Axes: B batch, U tokens, L input
tokens, V rows, E text width.
"""

import warnings
from typing import cast

import torch
from torch import Tensor, nn

from .ctc_predictor_clsr import IGNORED_ID
from .decoding_clsr import Decoded
from .parallel_clsr import ParallelOutput
from .recognizer_clsr import SpeechStates
from .strings_clsr import TokenStrings
from .transcript_clsr import Transcript, clip_seconds, read_words


def row_embeddings(weight: Tensor, config) -> Tensor:
    """Return the text encoder's word embeddings of the rows, (V, E)."""
    if not config.vocabulary_ids:
        return weight
    return weight[torch.tensor(list(config.vocabulary_ids), device=weight.device)]


def rows_of_tokens(token_ids: Tensor, token_mask: Tensor | None, config) -> Tensor:
    """Turn true transcripts into rows.

    Args:
        token_ids: (B, U) tokens of the text encoder.
        token_mask: (B, U), 1 on real tokens; None for no padding.
        config: CLSRConfig.

    Returns:
        (B, U), `IGNORED_ID` on padding, without columns of padding alone.

    Raises:
        ValueError: a token has no row.
    """
    real = torch.ones_like(token_ids).bool() if token_mask is None else token_mask.bool()
    labels = token_ids
    if config.vocabulary_ids:
        rows = token_ids.new_full((config.text_config.vocab_size,), -1)
        known = torch.tensor(list(config.vocabulary_ids), device=rows.device)
        rows[known] = torch.arange(len(known), device=rows.device)
        labels = rows[token_ids]
    lost = real & (labels < 0)
    if bool(lost.any()):
        row = int(lost.any(dim=1).nonzero()[0])
        raise ValueError(
            f"transcript {row} holds token {int(token_ids[lost][0])} but vocabulary_ids lists only "
            f"{len(config.vocabulary_ids)} tokens without it; list it or leave the transcript out"
        )
    # A piece of a larger batch keeps its padding, the predictor does not.
    return labels.masked_fill(~real, IGNORED_ID)[:, : int(real.sum(dim=1).max())]


def frame_text(
    embeds: Tensor, token_mask: Tensor, embedding: nn.Module, strings: TokenStrings, max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Put the text encoder's special tokens before and behind each transcript.

    Args:
        embeds: (B, U, E) of the adaptor.
        token_mask: (B, U).
        embedding: word embeddings of the text encoder.
        strings: of its tokens.
        max_tokens: longest input; the rest is cut off with a warning.

    Returns:
        (B, L, E) and its mask (B, L).
    """
    before, behind = strings.frame()
    room = max_tokens - len(before) - len(behind)
    if embeds.shape[1] > room:
        warnings.warn(
            f"a transcript has {embeds.shape[1]} tokens but the text encoder takes {room}; "
            "its vector leaves out the rest, cut the clip shorter",
            stacklevel=2,
        )
        embeds, token_mask = embeds[:, :room], token_mask[:, :room]
    special = embedding(torch.tensor(before + behind, device=embeds.device)).expand(len(embeds), -1, -1)
    tail = torch.zeros_like(special[:, len(before) :])
    inputs = torch.cat([special[:, : len(before)], embeds, tail], dim=1)  # (B, L, E)
    ends = len(before) + token_mask.sum(dim=1)  # (B,)
    places = ends[:, None] + torch.arange(len(behind), device=ends.device)
    inputs = inputs.scatter(
        1, places[..., None].expand(-1, -1, inputs.shape[-1]), special[:, len(before) :].to(inputs.dtype)
    )
    mask = torch.arange(inputs.shape[1], device=ends.device) < (ends + len(behind))[:, None]
    return inputs, mask.long()


@torch.no_grad()
def read_rows(
    rows: Tensor, found: ParallelOutput, speech: SpeechStates, strings: TokenStrings, config
) -> list[Transcript]:
    """Read the words of the parallel recogniser.

    Args:
        rows: (B, U) chosen rows, negative on padding.
        found: their scores and frames.
        speech: the encoder's states.
        strings: of the text encoder's tokens.
        config: CLSRConfig.
    """
    vocabulary = config.vocabulary_ids
    log_probs = cast(Tensor, found.logits).float().log_softmax(dim=-1)
    best = log_probs.gather(-1, rows.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (B, U)
    transcripts = []
    for clip, seconds in enumerate(clip_seconds(speech, config)):
        real = rows[clip] >= 0
        written = rows[clip][real].tolist()
        decoded = Decoded(
            [vocabulary[row] for row in written] if vocabulary else written,
            best[clip][real].tolist(),
            [(start, end) for start, end in cast(Tensor, found.token_spans)[clip][real].tolist()],
        )
        transcripts.append(read_words(decoded, seconds, strings, config))
    return transcripts
