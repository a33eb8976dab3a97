"""The recogniser: any Hugging Face speech recogniser behind two calls, `encode_speech` and `decode_tokens`.

Enters: `input_features` and their mask. Leaves: encoder states (B, F, H) with their mask, and token scores (…, V).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    PreTrainedModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.models.whisper.modeling_whisper import WhisperDecoder, WhisperEncoder

# Feature frames that a CPU encodes at once, 30 s of speech: what lies between two layers then stays in its cache.
CPU_FRAMES = 3000


@dataclass
class SpeechStates:
    """What the speech encoder hands on.

    Attributes:
        states: (B, F, H) encoder states.
        mask: (B, F) bool, True on frames of the clip (the silence put behind it included).
        logits: (B, F, V) CTC scores, None for a recogniser with a decoder.
    """

    states: Tensor
    mask: Tensor
    logits: Tensor | None = None

    def rows(self, index: Tensor) -> "SpeechStates":
        """Return the rows of the batch that `index` names."""
        logits = None if self.logits is None else self.logits[index]
        return SpeechStates(self.states[index], self.mask[index], logits)


class TrueLengthWhisperEncoder(WhisperEncoder):
    """Whisper's encoder for clips of any length up to its window, with padding masked.

    A full window gives the values of the original bit for bit; a row of a padded batch those of the clip alone.
    """

    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs
    ) -> BaseModelOutput:
        """Encode log-mel features.

        Args:
            input_features: (B, M, T) log-mel.
            attention_mask: (B, T), 1 on the clip; None for no padding.
            **kwargs: passed to the attention layers.

        Returns:
            `last_hidden_state`, (B, (T + 1) // 2, H).

        Raises:
            ValueError: T exceeds the table of positions.
        """
        frames, window = (input_features.shape[-1] + 1) // 2, self.config.max_source_positions
        if frames > window:
            raise ValueError(
                f"input_features hold {frames} encoder frames but Whisper has {window} positions; "
                "cut the clip with modeling_clsr.data.passages.cut_passages"
            )
        keep = mask = None
        if attention_mask is not None and not bool(attention_mask.all()):
            keep = attention_mask[:, None].to(input_features.dtype)  # (B, 1, T)
            input_features = input_features * keep
        hidden = F.gelu(self.conv1(input_features))
        if keep is not None:
            hidden = hidden * keep  # the second convolution must not see what the first made of the padding
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)  # (B, H, F) -> (B, F, H)
        hidden = hidden + self.embed_positions.weight[:frames]
        hidden = F.dropout(hidden, p=self.dropout, training=self.training)
        if attention_mask is not None and keep is not None:
            mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden, attention_mask=attention_mask[:, ::2]
            )
        for layer in self.layers:
            hidden = layer(hidden, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden))


class CrossMaskedWhisperDecoder(WhisperDecoder):
    """Whisper's decoder with a mask over the encoder frames, which the original does not take."""

    def forward(
        self,
        input_ids: Tensor | None,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        cache=None,
        use_cache: bool | None = None,
        token_states: Tensor | None = None,
        token_mask: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Decode against `encoder_hidden_states`, (B, F, H), seen where their mask is 1.

        Args:
            input_ids: (B, L) tokens, each of which sees those before it; or None with `token_states`.
            encoder_hidden_states: (B, F, H).
            encoder_attention_mask: (B, F).
            cache: of the tokens before these.
            use_cache: whether it is filled.
            token_states: (B, L, H) vectors in place of tokens, all of which see each other.
            token_mask: (B, L), 1 on real ones.
            **kwargs: passed to the attention layers.
        """
        past = cache.get_seq_length() if cache is not None else 0
        embeds = self.embed_tokens(input_ids) if token_states is None else token_states
        hidden = embeds + self.embed_positions(embeds[..., 0], cache_length=past)
        hidden = F.dropout(hidden, p=self.dropout, training=self.training)
        if token_states is None:
            mask = create_causal_mask(
                config=self.config, inputs_embeds=embeds, attention_mask=None, cache=cache
            )
        else:
            mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=embeds, attention_mask=token_mask
            )
            kwargs["is_causal"] = False  # which its layers are where a batch needs no mask
        cross = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=embeds,
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
        )
        for layer in self.layers:
            hidden = layer(
                hidden,
                mask,
                encoder_hidden_states,
                encoder_attention_mask=cross,
                cache=cache,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.layer_norm(hidden), cache=cache
        )


class TrueLengthWhisper(WhisperForConditionalGeneration):
    """Whisper with the two halves above; parameter names are those of the original."""

    def __init__(self, config: WhisperConfig):
        super().__init__(config)
        self.model.encoder = TrueLengthWhisperEncoder(config)
        self.model.decoder = CrossMaskedWhisperDecoder(config)
        self.post_init()


def build_recognizer(speech_config, recognizer_type: str) -> PreTrainedModel:
    """Make the recogniser of a part config, with random weights."""
    if recognizer_type == "ctc":
        return AutoModelForCTC.from_config(speech_config)
    if speech_config.model_type == "whisper":
        return TrueLengthWhisper(speech_config)
    return AutoModelForSpeechSeq2Seq.from_config(speech_config)


def speech_encoder_of(recognizer: Any) -> Any:
    """Return the half of a pretrained recogniser that turns features into states."""
    if hasattr(recognizer, "model"):  # Whisper, Moonshine
        return recognizer.model.encoder
    if hasattr(recognizer, "encoder"):  # Parakeet
        return recognizer.encoder
    return recognizer.base_model  # wav2vec2, HuBERT


def encode_speech(recognizer: Any, input_features: Tensor, mask: Tensor | None) -> SpeechStates:
    """Run the speech encoder (and the CTC head, if that is the recogniser's kind).

    Args:
        recognizer: from `build_recognizer`.
        input_features: (B, M, T), (B, T, M) or (B, S), see `CLSRFeatureExtractor`.
        mask: (B, T) or (B, S), 1 on the clip; None for no padding.
    """
    return add_ctc_scores(recognizer, encode_frames(speech_encoder_of(recognizer), input_features, mask))


def add_ctc_scores(recognizer: Any, speech: SpeechStates) -> SpeechStates:
    """Run the CTC head over encoder states, fresh or cached, if the recogniser has one."""
    if hasattr(recognizer, "ctc_head"):  # Parakeet
        speech.logits = recognizer.ctc_head(speech.states)
    elif hasattr(recognizer, "lm_head"):  # wav2vec2, HuBERT
        speech.logits = recognizer.lm_head(recognizer.dropout(speech.states))
    return speech


def encode_frames(encoder: Any, input_features: Tensor, mask: Tensor | None) -> SpeechStates:
    """Run any speech encoder.

    Encoders that read the waveform are run clip by clip: their first normalisation (group norm over time) sees the
    padding, so that a clip's vector would depend on its neighbours in the batch.

    Args:
        encoder: of a recogniser, see `speech_encoder_of`, or from `parallel_clsr.build_speech_encoder`.
        input_features: (B, M, T) for Whisper, (B, S) for waveforms, (B, T, M) otherwise.
        mask: 1 on the clip; None for no padding.
    """
    input_features = input_features.to(next(encoder.parameters()).dtype)
    if mask is None:
        time_axis = 2 if isinstance(encoder, WhisperEncoder) else 1
        mask = input_features.new_ones(len(input_features), input_features.shape[time_axis], dtype=torch.long)
    if isinstance(encoder, WhisperEncoder):
        if input_features.device.type == "cpu" and not torch.is_grad_enabled():
            states = _few_at_once(encoder, input_features, mask)
        else:
            states = encoder(input_features, mask).last_hidden_state
        return SpeechStates(states, mask[:, ::2].bool())
    if input_features.ndim == 2:
        rows = [
            encoder(wave[None, :length]).last_hidden_state[0]
            for wave, length in zip(input_features, mask.sum(dim=1).tolist(), strict=True)
        ]
        states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=states.device)
        return SpeechStates(states, torch.arange(states.shape[1], device=states.device) < lengths[:, None])
    output = encoder(input_features, attention_mask=mask)
    frames = output.last_hidden_state.shape[1]
    if getattr(output, "attention_mask", None) is not None:
        return SpeechStates(output.last_hidden_state, output.attention_mask.bool())
    stride = math.ceil(mask.shape[1] / frames)
    return SpeechStates(output.last_hidden_state, mask[:, ::stride][:, :frames].bool())


def _few_at_once(encoder: Any, input_features: Tensor, mask: Tensor) -> Tensor:
    """Run Whisper's encoder over neighbours in the batch that are `CPU_FRAMES` long together, without their padding.

    Returns:
        (B, F, H), zero behind the clips.
    """
    lengths = mask.sum(dim=1).clamp(min=1).tolist()
    parts: list[tuple[int, int, int]] = []  # first row, last row + 1, longest
    for row, length in enumerate(lengths):
        first, end, longest = parts[-1] if parts else (0, 0, 0)
        longest = max(longest, length)
        if parts and (end + 1 - first) * longest <= CPU_FRAMES:
            parts[-1] = (first, row + 1, longest)
        else:
            parts.append((row, row + 1, length))
    states: Tensor | None = None
    for first, end, longest in parts:
        part = slice(first, end)
        found = encoder(input_features[part, :, :longest], mask[part, :longest]).last_hidden_state
        if states is None:
            frames = (input_features.shape[2] + 1) // 2
            states = found.new_zeros(len(mask), frames, found.shape[2])
        states[part, : found.shape[1]] = found
    assert states is not None
    return states


def decode_tokens(
    recognizer: Any, token_ids: Tensor, speech: SpeechStates, cache=None
) -> tuple[Tensor, object]:
    """Score the next tokens with the recogniser's decoder.

    Args:
        recognizer: one with a decoder.
        token_ids: (B, L) tokens so far, or since `cache` was last filled.
        speech: from `encode_speech`.
        cache: key-value cache of earlier calls, or None to run without one.

    Returns:
        logits, (B, L, V), and the cache.
    """
    mask = None if bool(speech.mask.all()) else speech.mask
    output = recognizer.model.decoder(
        input_ids=token_ids,
        encoder_hidden_states=speech.states,
        encoder_attention_mask=mask,
        cache=cache,
        use_cache=cache is not None,
    )
    return recognizer.proj_out(output.last_hidden_state), output.cache


def cross_attentions(recognizer: Any) -> list[nn.Module]:
    """Return the cross-attention module of each decoder layer, in order."""
    return [layer.encoder_attn for layer in recognizer.model.decoder.layers]
