"""A pretrained recogniser over given tokens: their scores with gradient, its loss, and what it would have written.

Enters: `SpeechStates` and tokens. Leaves: scores (B, N, V); for true transcripts also a loss and a draft (`Decoded`).
"""

from typing import Any

import torch
from torch import Tensor

from .ctc_predictor_clsr import IGNORED_ID, ctc_loss
from .decoding_clsr import Decoded, greedy_decode
from .recognizer_clsr import SpeechStates, decode_tokens
from .sampler_clsr import recognition_loss


def score_tokens(recognizer: Any, speech: SpeechStates, decoded: list[Decoded], config) -> Tensor:
    """Score decoded tokens again, with gradient. Shape (B, N, V), N the longest result, at least 1.

    A decoder is run once in parallel over its own transcript; a CTC token has the mean of its spike's frames.
    """
    longest = max(1, max(len(result.token_ids) for result in decoded))
    if speech.logits is not None:
        rows = []
        for row, result in enumerate(decoded):
            scores = [speech.logits[row, start:end].mean(dim=0) for start, end in result.spans]
            scores += [speech.logits[row, 0]] * (longest - len(scores))
            rows.append(torch.stack(scores))
        return torch.stack(rows)
    filler = config.decoder_prompt_ids[-1]
    tokens = [(result.token_ids + [filler] * longest)[:longest] for result in decoded]
    return _decoder_scores(recognizer, speech, torch.tensor(tokens, device=speech.states.device), config)[
        :, :-1
    ]


def teach_recognizer(
    recognizer: Any, speech: SpeechStates, token_ids: Tensor, token_mask: Tensor | None, config
) -> tuple[list[Decoded], Tensor, Tensor]:
    """Run the recogniser beside a true transcript.

    A decoder sees the true tokens so far at every position (teacher forcing); its best token there is the draft, so
    that one pass gives the recognition loss and, through the draft, the retrieval loss. A CTC head decodes freely.

    Args:
        recognizer: from `build_recognizer`.
        speech: its encoder states of B clips.
        token_ids: (B, U) true transcripts in the recogniser's tokens, without prompt and end.
        token_mask: (B, U), 1 on real tokens.
        config: CLSRConfig.

    Returns:
        The drafts; scores of their tokens, for a decoder also of what follows the last, (B, N, V) or (B, U + 1, V);
        the recognition loss, a scalar per token.

    Raises:
        ValueError: a token lies outside the recogniser's vocabulary.
    """
    real = torch.ones_like(token_ids).bool() if token_mask is None else token_mask.bool()
    labels = token_ids.masked_fill(~real, IGNORED_ID)
    if labels.numel() and int(labels.max()) >= recognizer.config.vocab_size:
        raise ValueError(
            f"transcript_ids hold token {int(labels.max())} but the recogniser has {recognizer.config.vocab_size}; "
            "cut transcripts by the recogniser's own tokenizer, not the text encoder's"
        )
    if speech.logits is not None:
        loss = ctc_loss(speech.logits, speech.mask, labels, config.blank_token_id)
        decoded = greedy_decode(recognizer, speech, config)
        return decoded, score_tokens(recognizer, speech, decoded, config), loss
    filler = config.decoder_prompt_ids[-1]
    logits = _decoder_scores(
        recognizer, speech, token_ids.masked_fill(~real, filler), config
    )  # (B, U + 1, V)
    end = config.eos_token_id if isinstance(config.eos_token_id, int) else config.eos_token_id[0]
    lengths = real.sum(dim=1, keepdim=True)
    with_end = torch.nn.functional.pad(labels, (0, 1), value=IGNORED_ID).scatter(1, lengths, end)
    loss = recognition_loss(logits, with_end, config.label_smoothing)
    return _drafts(logits[:, :-1].detach(), real, config), logits, loss


def _decoder_scores(recognizer: Any, speech: SpeechStates, token_ids: Tensor, config) -> Tensor:
    """Score each of U tokens and what follows the last: (B, U) -> (B, U + 1, V)."""
    prompt = torch.tensor(list(config.decoder_prompt_ids), device=token_ids.device).repeat(len(token_ids), 1)
    logits, _ = decode_tokens(recognizer, torch.cat([prompt, token_ids], dim=1), speech)
    return logits[:, prompt.shape[1] - 1 :]


def _drafts(logits: Tensor, real: Tensor, config) -> list[Decoded]:
    """Take the best allowed token of each real position."""
    ends = [config.eos_token_id] if isinstance(config.eos_token_id, int) else list(config.eos_token_id or ())
    barred = torch.tensor([*config.suppress_token_ids, *ends], dtype=torch.long, device=logits.device)
    log_probs, tokens = logits.float().log_softmax(dim=-1).index_fill(-1, barred, -torch.inf).max(dim=-1)
    return [
        Decoded(tokens[row][where].tolist(), log_probs[row][where].tolist()) for row, where in enumerate(real)
    ]
