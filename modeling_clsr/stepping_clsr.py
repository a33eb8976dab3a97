"""The decoder of a recogniser, step by step: encoder states in, scores of the next token out.

Enters: `SpeechStates`. Leaves: logits of every step, and the queries and keys that time the words.
"""

from collections.abc import Iterable
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from .alignment_clsr import QueryRecorder
from .recognizer_clsr import SpeechStates, TrueLengthWhisper, cross_attentions, decode_tokens


class Steps(Protocol):
    """One decoding of a batch; rows whose clip has ended are left out of the next steps."""

    def next(self, token_ids: Tensor) -> Tensor:
        """Read (rows, L) tokens behind those before; return the scores (rows, L, V) of what follows each."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the last step alone."""

    def queries(self, layer: int, rows: list[int]) -> Tensor:
        """Return what cross-attention of a timed layer asked for in the steps of one clip, (N, H).

        Args:
            layer: of the decoder.
            rows: of the clip in every step it took part in.
        """

    def keys(self, layer: int) -> Tensor:
        """Return the cross-attention keys of a timed layer for all clips, (B, heads, F, D)."""


def start_decoding(recognizer: PreTrainedModel, speech: SpeechStates, timed: Iterable[int]) -> Steps:
    """Begin to decode a batch.

    Args:
        recognizer: one with a decoder, from `build_recognizer`.
        speech: encoder states of B clips.
        timed: layers whose cross-attention tells when words are said.
    """
    if isinstance(recognizer, TrueLengthWhisper) and speech.states.device.type == "cpu":
        return WhisperSteps(recognizer, speech, timed)
    return CachedSteps(recognizer, speech, timed)


class CachedSteps:
    """The steps of any decoder, with the library's cache."""

    def __init__(self, recognizer: PreTrainedModel, speech: SpeechStates, timed: Iterable[int]):
        attentions = cross_attentions(recognizer)
        self.recognizer, self.speech = recognizer, speech
        self.recorder = QueryRecorder({layer: attentions[layer] for layer in timed})
        self.cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._keys: dict[int, Tensor] = {}

    def next(self, token_ids: Tensor) -> Tensor:
        """See `Steps`."""
        with self.recorder:
            logits, self.cache = decode_tokens(self.recognizer, token_ids, self.speech, self.cache)
        if not self._keys:
            layers = self.cache.cross_attention_cache.layers
            self._keys = {layer: layers[layer].keys for layer in self.recorder.attentions}
        return logits

    def keep(self, rows: Tensor) -> None:
        """See `Steps`."""
        self.speech = self.speech.rows(rows)
        self.cache.batch_select_indices(rows)

    def queries(self, layer: int, rows: list[int]) -> Tensor:
        """See `Steps`."""
        return self.recorder.clip(layer, rows)

    def keys(self, layer: int) -> Tensor:
        """See `Steps`."""
        return self._keys[layer]


class WhisperSteps:
    """The steps of Whisper's decoder on a CPU, whose time goes into reading memory.

    Cross-attention asks the encoder states themselves. With the states S (F, H) and the weights of a head, the scores
    q (S Wk)ᵀ are (q Wkᵀ) Sᵀ, and the sum a (S Wv + b) is (a S) Wv + b; a bias of the keys shifts all scores of a
    query alike. So all heads of all layers read the same H values of a frame, where a cache holds 2 H for each layer:
    a twelfth of the memory for Whisper base's six layers and half of the reading, the values equal but for rounding.

    Source: weight absorption of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).
    """

    def __init__(self, recognizer: TrueLengthWhisper, speech: SpeechStates, timed: Iterable[int]):
        self.recognizer = recognizer
        self.states = self.all_states = speech.states
        self.mask: Tensor | None = None
        if not bool(speech.mask.all()):
            barred = ~speech.mask[:, None, None]  # (B, 1, 1, F)
            self.mask = speech.states.new_zeros(barred.shape).masked_fill(barred, -torch.inf)
        layers = cast(Any, recognizer.model.decoder).layers
        self.self_attentions = [_SelfAttention(layer.self_attn) for layer in layers]
        self.cross_attentions = [_StatesAttention(layer.encoder_attn) for layer in layers]
        self.asked: dict[int, list[Tensor]] = {layer: [] for layer in timed}
        self.past = 0

    def next(self, token_ids: Tensor) -> Tensor:
        """See `Steps`."""
        decoder = cast(Any, self.recognizer.model.decoder)
        embeds = decoder.embed_tokens(token_ids)
        hidden = embeds + decoder.embed_positions(token_ids, cache_length=self.past)
        self.past += token_ids.shape[1]
        for number, layer in enumerate(decoder.layers):
            hidden = hidden + self.self_attentions[number](layer.self_attn_layer_norm(hidden))
            cross = self.cross_attentions[number]
            queries = cross.attention.q_proj(layer.encoder_attn_layer_norm(hidden))  # (rows, L, H)
            if number in self.asked:
                self.asked[number].append(queries[:, -1])
            hidden = hidden + cross(queries, self.states, self.mask)
            inner = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
            hidden = hidden + layer.fc2(inner)
        return self.recognizer.proj_out(decoder.layer_norm(hidden))

    def keep(self, rows: Tensor) -> None:
        """See `Steps`."""
        self.states = self.states[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        for attention in self.self_attentions:
            attention.keep(rows)

    def queries(self, layer: int, rows: list[int]) -> Tensor:
        """See `Steps`."""
        return torch.stack([asked[row] for asked, row in zip(self.asked[layer], rows, strict=False)])

    def keys(self, layer: int) -> Tensor:
        """See `Steps`."""
        attention = self.cross_attentions[layer].attention
        return _by_head(attention.k_proj(self.all_states), attention.num_heads)


class _SelfAttention:
    """Self-attention over all tokens so far, whose keys and values it keeps."""

    def __init__(self, attention: Any):
        self.attention = attention
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Turn (rows, L, H) into the same."""
        own = self.attention
        queries, keys, values = (
            _by_head(project(hidden), own.num_heads) for project in (own.q_proj, own.k_proj, own.v_proj)
        )
        is_first = self.keys is None
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        # Behind others a token stands alone and sees them all.
        assert is_first or hidden.shape[1] == 1
        found = F.scaled_dot_product_attention(queries, keys, values, is_causal=is_first, scale=own.scaling)
        return own.out_proj(found.transpose(1, 2).reshape(hidden.shape))

    def keep(self, rows: Tensor) -> None:
        """Keep these rows."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[rows], self.values[rows]


class _StatesAttention:
    """Cross-attention with its key and value weights moved to the side of the query, see `WhisperSteps`."""

    def __init__(self, attention: Any):
        self.attention = attention
        heads = attention.num_heads
        self.key_weight, self.value_weight = (
            layer.weight.unflatten(0, (heads, -1)) for layer in (attention.k_proj, attention.v_proj)
        )  # (heads, D, H)

    def __call__(self, queries: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        """Turn queries (rows, L, H) over states (rows, F, H) into (rows, L, H)."""
        own, (num_rows, length, size) = self.attention, queries.shape
        per_head = (queries * own.scaling).view(num_rows * length, own.num_heads, -1).transpose(0, 1)
        moved = torch.bmm(per_head, self.key_weight).transpose(0, 1)  # (rows * L, heads, H)
        moved = moved.reshape(num_rows, 1, length * own.num_heads, size)
        frames = states[:, None]  # (rows, 1, F, H)
        found = F.scaled_dot_product_attention(moved, frames, frames, attn_mask=mask, scale=1.0)
        found = found.view(num_rows * length, own.num_heads, size).transpose(0, 1)
        values = torch.bmm(found, self.value_weight.transpose(1, 2)).transpose(0, 1)  # (rows * L, heads, D)
        return own.out_proj(values.reshape(queries.shape) + own.v_proj.bias)


def _by_head(values: Tensor, num_heads: int) -> Tensor:
    """Turn (rows, L, heads * D) into (rows, heads, L, D)."""
    return values.unflatten(-1, (num_heads, -1)).transpose(1, 2)
