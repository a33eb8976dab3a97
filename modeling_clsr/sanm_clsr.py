"""SAN-M speech encoder and parallel decoder, the recogniser of Paraformer.

Enters: stacked frames (B, F, M), or token vectors (B, U, H) with encoder states. Leaves: states, zero off the
mask. Sources: Gao et al. 2020, arXiv 2006.01713 (SAN-M); Gao et al. 2022, arXiv 2206.08317 (Paraformer).
Axes: B batch, F frames, M input width, U tokens, H width.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class SANMEncoder(nn.Module):
    """Encode frames by self-attention layers with a memory beside each attention.

    The first layer takes the input width to `hidden_size` and so has no residual around its attention.
    Sources: Gao et al. 2020; FunASR's `SANMEncoder`.

    Args:
        config: object with `input_size`, `hidden_size`, `num_hidden_layers`, `num_attention_heads`,
            `intermediate_size`, `memory_kernel_size`, `memory_shift`, `dropout`, `attention_dropout`,
            `layer_norm_eps` and `_attn_implementation` (SDPA where None or absent).
    """

    def __init__(self, config: Any):
        super().__init__()
        _choose_attention(config)
        self.config = config
        self.layers = nn.ModuleList(
            SANMEncoderLayer(config, config.hidden_size if index else config.input_size)
            for index in range(config.num_hidden_layers)
        )
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs
    ) -> BaseModelOutput:
        """Encode stacked and normalised frames.

        Args:
            input_features: (B, F, M), any float type.
            attention_mask: 1 on real frames, (B, F); all frames are real if None.
            **kwargs: passed to the attention function.

        Returns:
            `last_hidden_state`: (B, F, H), exactly zero off the mask.
        """
        if input_features.shape[-1] != self.config.input_size:
            raise ValueError(
                f"frames are {input_features.shape[-1]} wide but the encoder expects "
                f"{self.config.input_size}; stack them as the checkpoint's feature extractor does"
            )
        padding = None if attention_mask is None else ~attention_mask.bool().unsqueeze(-1)  # (B, F, 1)
        x = input_features.float() * math.sqrt(self.config.hidden_size)
        x = x + sinusoids(x.shape[1], x.shape[2], x.device)
        if padding is not None:
            x = x.masked_fill(padding, 0.0)
        x = x.to(self.layer_norm.weight.dtype)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=x, attention_mask=attention_mask)
        for layer in self.layers:
            x = layer(x, padding, mask, **kwargs)
        x = self.layer_norm(x)  # (B, F, H)
        return BaseModelOutput(last_hidden_state=x if padding is None else x.masked_fill(padding, 0.0))


class SANMEncoderLayer(GradientCheckpointingLayer):
    """Attention with memory, then a feed-forward network, each normalised before.

    Args:
        config: see `SANMEncoder`.
        input_size: width of the incoming states.
    """

    def __init__(self, config: Any, input_size: int):
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(input_size, eps=config.layer_norm_eps)
        self.self_attn = SANMAttention(config, input_size)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.is_widening = input_size != config.hidden_size

    def forward(self, x: Tensor, padding: Tensor | None, attention_mask: Tensor | None, **kwargs) -> Tensor:
        """Map (B, F, H) to (B, F, H); `padding` is True off the mask, (B, F, 1)."""
        attended = self.dropout(
            self.self_attn(self.self_attn_layer_norm(x), padding, attention_mask, **kwargs)
        )
        x = attended if self.is_widening else x + attended
        hidden = self.dropout(F.relu(self.fc1(self.final_layer_norm(x))))  # (B, F, intermediate)
        return x + self.dropout(self.fc2(hidden))


class SANMAttention(nn.Module):
    """Self-attention plus an FSMN memory over its values, as FunASR's `MultiHeadedAttentionSANM`."""

    is_causal = False

    def __init__(self, config: Any, input_size: int):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.attention_dropout
        self.scaling = _head_size(config) ** -0.5
        self.qkv_proj = nn.Linear(input_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.memory = FSMNMemory(config)

    def forward(self, x: Tensor, padding: Tensor | None, attention_mask: Tensor | None, **kwargs) -> Tensor:
        """Map (B, F, input) to (B, F, H)."""
        query, key, value = self.qkv_proj(x).chunk(3, dim=-1)  # three of (B, F, H)
        attended = _attend(self, query, key, value, attention_mask, **kwargs)
        return self.out_proj(attended) + self.memory(value, padding)


class FSMNMemory(nn.Module):
    """Add to each state a depth-wise convolution of its neighbours; padding counts as zero.

    Source: Zhang et al. 2018, arXiv 1803.05030 (deep FSMN), as FunASR's `fsmn_block`.
    """

    def __init__(self, config: Any):
        super().__init__()
        size, kernel = config.hidden_size, config.memory_kernel_size
        self.conv = nn.Conv1d(size, size, kernel, groups=size, bias=False)
        self.left = (kernel - 1) // 2 + config.memory_shift
        self.right = kernel - 1 - self.left
        self.dropout = nn.Dropout(config.attention_dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Map (B, F, H) to (B, F, H); zero where `padding` (B, F, 1) is True."""
        if padding is not None:
            x = x.masked_fill(padding, 0.0)
        context = F.pad(x.transpose(1, 2), (self.left, self.right))  # (B, F, H) -> (B, H, left + F + right)
        x = self.dropout(self.conv(context).transpose(1, 2) + x)
        return x if padding is None else x.masked_fill(padding, 0.0)


class SANMDecoder(nn.Module):
    """Decode all tokens at once; they see each other only through the memory, without positions.

    The output layer over the vocabulary belongs to the caller. Sources: Gao et al. 2022; FunASR's
    `ParaformerSANMDecoder`.

    Args:
        config: object with the fields of `SANMEncoder`'s config, less `input_size`, plus
            `encoder_hidden_size`, the width of the encoder states.
    """

    def __init__(self, config: Any):
        super().__init__()
        _choose_attention(config)
        self.config = config
        self.layers = nn.ModuleList(SANMDecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.last_feed_forward_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.last_feed_forward = SANMDecoderFeedForward(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        token_states: Tensor,
        token_mask: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Decode token vectors against encoder states.

        Args:
            token_states: one vector per token, (B, U, H); U may be 0.
            token_mask: True on real tokens, (B, U).
            encoder_hidden_states: (B, F, encoder width).
            encoder_attention_mask: 1 on real frames, (B, F); all frames are real if None.
            **kwargs: passed to the attention function.

        Returns:
            `last_hidden_state`: (B, U, H), exactly zero off the mask.
        """
        if token_states.shape[-1] != self.config.hidden_size:
            raise ValueError(
                f"token vectors are {token_states.shape[-1]} wide but the decoder expects "
                f"{self.config.hidden_size}; build the predictor with the decoder's hidden_size"
            )
        x = token_states.to(self.layer_norm.weight.dtype)
        if x.shape[1] == 0:  # nobody speaks in the whole batch; convolution and attention refuse empty input
            return BaseModelOutput(last_hidden_state=x)
        padding = ~token_mask.bool().unsqueeze(-1)  # (B, U, 1)
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
        )
        for layer in self.layers:
            x = layer(x, encoder_hidden_states, padding, mask, **kwargs)
        x = self.last_feed_forward(self.last_feed_forward_layer_norm(x))
        return BaseModelOutput(last_hidden_state=self.layer_norm(x).masked_fill(padding, 0.0))


class SANMDecoderLayer(GradientCheckpointingLayer):
    """Feed-forward without residual, memory across tokens, attention to the encoder.

    Args:
        config: see `SANMDecoder`.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.feed_forward_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = SANMDecoderFeedForward(config)
        self.memory_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.memory = FSMNMemory(config)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder_attn = SANMCrossAttention(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        encoder_hidden_states: Tensor,
        padding: Tensor | None,
        attention_mask: Tensor | None,
        **kwargs,
    ) -> Tensor:
        """Map (B, U, H) to (B, U, H); `padding` is True off the token mask, (B, U, 1)."""
        hidden = self.memory_layer_norm(self.feed_forward(self.feed_forward_layer_norm(x)))
        x = x + self.dropout(self.memory(hidden, padding))
        hidden = self.encoder_attn_layer_norm(x)
        return x + self.dropout(self.encoder_attn(hidden, encoder_hidden_states, attention_mask, **kwargs))


class SANMDecoderFeedForward(nn.Module):
    """Two linear maps with ReLU, dropout and a LayerNorm between; the second has no bias."""

    def __init__(self, config: Any):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.layer_norm = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, U, H) to (B, U, H)."""
        return self.fc2(self.layer_norm(self.dropout(F.relu(self.fc1(x)))))


class SANMCrossAttention(nn.Module):
    """Attention of tokens to encoder frames, keys and values from one matrix."""

    is_causal = False

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.attention_dropout
        self.scaling = _head_size(config) ** -0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.kv_proj = nn.Linear(config.encoder_hidden_size, 2 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, x: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None, **kwargs
    ) -> Tensor:
        """Map (B, U, H) and (B, F, encoder width) to (B, U, H)."""
        key, value = self.kv_proj(encoder_hidden_states).chunk(2, dim=-1)  # two of (B, F, H)
        return self.out_proj(_attend(self, self.q_proj(x), key, value, attention_mask, **kwargs))


def sinusoids(num_positions: int, size: int, device: torch.device | None = None) -> Tensor:
    """Return position codes for positions 1 to `num_positions`: all sines, then all cosines.

    Computed when needed, because buffers outside the checkpoint hold garbage after loading.

    Args:
        num_positions: number of rows.
        size: width, even and at least 4.
        device: of the result.

    Returns:
        (num_positions, size), float32.
    """
    if size % 2 or size < 4:
        raise ValueError(f"position codes need an even width of at least 4, got {size}; change input_size")
    rate = -math.log(10000.0) / (size // 2 - 1)
    rates = torch.exp(torch.arange(size // 2, dtype=torch.float32, device=device) * rate)
    angles = torch.arange(1, num_positions + 1, dtype=torch.float32, device=device).unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs
) -> Tensor:
    """Run the chosen attention function on (B, length, H) inputs and return (B, U, H)."""
    heads = [x.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for x in (query, key, value)]
    function = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, _eager_attention)
    dropout = module.attention_dropout if module.training else 0.0
    attended, _ = function(module, *heads, attention_mask, dropout=dropout, scaling=module.scaling, **kwargs)
    return attended.flatten(2)  # (B, U, heads, head size) -> (B, U, H)


def _eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype), dropout, module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def _head_size(config: Any) -> int:
    size, heads = config.hidden_size, config.num_attention_heads
    if size % heads:
        raise ValueError(
            f"hidden_size {size} is not a multiple of num_attention_heads {heads}; change one of them"
        )
    return size // heads


def _choose_attention(config: Any) -> None:
    # Outside a PreTrainedModel nobody has chosen yet, and an unknown choice would silently drop the padding
    # mask.
    if getattr(config, "_attn_implementation", None) is None:
        config._attn_implementation = "sdpa"
