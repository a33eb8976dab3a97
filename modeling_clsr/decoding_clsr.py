"""Greedy decoding of a batch: encoder states in, tokens with their scores and frames out.

Enters: `SpeechStates`. Leaves: one `Decoded` a clip.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .alignment_clsr import attention_matrix, monotonic_path
from .ctc_predictor_clsr import greedy_ctc, member_spans
from .recognizer_clsr import SpeechStates
from .stepping_clsr import start_decoding

TOKENS_PER_SECOND = 12  # far above fast speech; ends runaways of short clips early
MAX_PERIOD = 48  # longest phrase looked for when a decoder repeats itself, in tokens
LOOP_CHECK_STEPS = 8


@dataclass
class Decoded:
    """One decoded clip.

    Attributes:
        token_ids: tokens without prompt and end.
        log_probs: log probability of each.
        spans: encoder frames [start, end) of each.
        no_speech_probability: of the clip, 0 where the recogniser has no such token.
        looped: a repeated phrase was cut off the end.
    """

    token_ids: list[int]
    log_probs: list[float]
    spans: list[tuple[int, int]] = field(default_factory=list)
    no_speech_probability: float = 0.0
    looped: bool = False

    @property
    def mean_log_prob(self) -> float:
        """Mean log probability of the tokens; 0 for none."""
        return sum(self.log_probs) / len(self.log_probs) if self.log_probs else 0.0


@torch.no_grad()
def greedy_decode(recognizer: PreTrainedModel, speech: SpeechStates, config) -> list[Decoded]:
    """Decode each clip of the batch greedily.

    Args:
        recognizer: from `build_recognizer`.
        speech: encoder states of B clips.
        config: CLSRConfig.

    Returns:
        B results in order.
    """
    if config.recognizer_type == "ctc":
        return _decode_ctc(speech, config.blank_token_id)
    return _decode_seq2seq(recognizer, speech, config)


def repeated_tail(token_ids: list[int]) -> int:
    """Return how many tokens at the end repeat what stands before them; 0 if nothing loops.

    A phrase of p tokens loops when it stands at the end four times or more and these fill at least twelve tokens, so
    that "no, no, no" and spelt numbers stay.
    """
    for period in range(1, min(MAX_PERIOD, len(token_ids) // 4) + 1):
        repeats = 1
        tail = token_ids[-period:]
        end = len(token_ids) - period
        while end >= period and token_ids[end - period : end] == tail:
            repeats += 1
            end -= period
        if repeats >= 4 and repeats * period >= 12:
            return (repeats - 1) * period
    return 0


def _decode_ctc(speech: SpeechStates, blank: int) -> list[Decoded]:
    assert speech.logits is not None
    frame_units, token_ids = greedy_ctc(speech.logits, speech.mask, blank)  # (B, F), (B, N)
    members = frame_units.unsqueeze(1) == torch.arange(token_ids.shape[1], device=token_ids.device).unsqueeze(
        -1
    )
    spans = member_spans(members).long()  # (B, N, 2)
    best = speech.logits.float().log_softmax(dim=-1).amax(dim=-1)  # (B, F)
    log_probs = best.unsqueeze(1).masked_fill(~members, -torch.inf).amax(dim=-1)  # (B, N)
    results = []
    for row, real in enumerate(token_ids >= 0):
        edges = [(start, end) for start, end in spans[row][real].tolist()]
        results.append(Decoded(token_ids[row][real].tolist(), log_probs[row][real].tolist(), edges))
    return results


def _decode_seq2seq(recognizer: PreTrainedModel, speech: SpeechStates, config) -> list[Decoded]:
    device = speech.states.device
    num_clips = len(speech.states)
    frames = speech.mask.sum(dim=1)  # (B,)
    heads = _alignment_heads(recognizer, config)
    ends = {config.eos_token_id} if isinstance(config.eos_token_id, int) else set(config.eos_token_id or ())
    prompt = torch.tensor(config.decoder_prompt_ids, device=device).repeat(num_clips, 1)  # (B, P)
    limits = _token_limits(frames, len(config.decoder_prompt_ids), recognizer, config)
    suppress = torch.tensor(list(config.suppress_token_ids), dtype=torch.long, device=device)
    begin_suppress = torch.tensor(list(config.begin_suppress_token_ids), dtype=torch.long, device=device)

    results = [Decoded([], []) for _ in range(num_clips)]
    steps: list[list[int]] = [
        [] for _ in range(num_clips)
    ]  # the row of each clip in every step it took part in
    decoding = start_decoding(recognizer, speech, heads)
    active = list(range(num_clips))
    inputs, first = prompt, True
    while active:
        logits = decoding.next(inputs)
        if first and config.no_speech_token_id is not None:
            nobody = logits[:, 0].float().softmax(dim=-1)[:, config.no_speech_token_id].tolist()
            for result, probability in zip(results, nobody, strict=True):
                result.no_speech_probability = probability
        scores = logits[:, -1].float()  # (rows, V)
        scores[:, suppress] = -torch.inf
        if first:
            scores[:, begin_suppress] = -torch.inf
        first = False
        best = scores.log_softmax(dim=-1).max(dim=-1)
        staying = []
        for row, (clip, token, log_prob) in enumerate(
            zip(active, best.indices.tolist(), best.values.tolist(), strict=True)
        ):
            steps[clip].append(row)
            if token not in ends:
                results[clip].token_ids.append(token)
                results[clip].log_probs.append(log_prob)
                if _goes_on(results[clip], limits[clip]):
                    staying.append(row)
        inputs = best.indices[:, None]  # (rows, 1)
        if len(staying) < len(active):
            active = [active[row] for row in staying]
            if active:
                keep = torch.tensor(staying, dtype=torch.long, device=device)
                decoding.keep(keep)
                inputs = inputs[keep]
    keys = {layer: decoding.keys(layer) for layer in heads}
    for clip, result in enumerate(results):
        _cut_loop(result)
        asked = {layer: decoding.queries(layer, steps[clip]) for layer in heads}
        result.spans = _token_spans(result, clip, asked, keys, heads, int(frames[clip]))
    return results


def _goes_on(result: Decoded, limit: int) -> bool:
    count = len(result.token_ids)
    if count >= limit:
        return False
    return count % LOOP_CHECK_STEPS != 0 or repeated_tail(result.token_ids) == 0


def _cut_loop(result: Decoded) -> None:
    surplus = repeated_tail(result.token_ids)
    if surplus:
        result.looped = True
        del result.token_ids[-surplus:], result.log_probs[-surplus:]


def _token_limits(frames: Tensor, prompt_length: int, recognizer: PreTrainedModel, config) -> list[int]:
    """Return the most tokens each clip may have."""
    names = ("max_target_positions", "max_position_embeddings")
    positions = next(getattr(recognizer.config, name) for name in names if hasattr(recognizer.config, name))
    seconds = frames / config.frames_per_second - config.tail_silence_s
    most = (seconds.clamp(min=1.0) * TOKENS_PER_SECOND).ceil().long() + 8
    return most.clamp(max=positions - prompt_length - 1).tolist()


def _alignment_heads(recognizer: PreTrainedModel, config) -> dict[int, list[int]]:
    """Return {layer: heads} that follow the words; all heads of the upper half if none are known."""
    if config.alignment_heads:
        chosen: dict[int, list[int]] = {}
        for layer, head in config.alignment_heads:
            chosen.setdefault(layer, []).append(head)
        return chosen
    num_layers = len(recognizer.model.decoder.layers)
    num_heads = (
        recognizer.config.decoder_attention_heads
        if hasattr(recognizer.config, "decoder_attention_heads")
        else recognizer.config.decoder_num_attention_heads
    )
    return {layer: list(range(num_heads)) for layer in range(num_layers // 2, num_layers)}


def _token_spans(
    result: Decoded,
    clip: int,
    queries: dict[int, Tensor],
    keys: dict[int, Tensor],
    heads: dict[int, list[int]],
    frames: int,
) -> list[tuple[int, int]]:
    """Align one clip: step n predicts token n, the step after the last token predicts the end."""
    if not result.token_ids:
        return []
    num_steps = len(result.token_ids) + 1
    evidence = attention_matrix(
        [queries[layer][:num_steps] for layer in heads],
        [keys[layer][clip, :, :frames] for layer in heads],
        list(heads.values()),
    )
    starts = monotonic_path(evidence)
    starts.append(frames)  # where the last step is a token's, it ends with the clip
    return [(starts[token], starts[token + 1]) for token in range(len(result.token_ids))]
