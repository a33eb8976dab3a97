"""CLSRConfig: the sizes of both encoders and every choice between waveform and vector.

Enters: part configs (Whisper, Moonshine, Parakeet, wav2vec2, HuBERT; any text encoder). Leaves: one checked config.
"""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

RECOGNIZER_TYPES = ("seq2seq", "ctc")
ADAPTOR_TYPES = ("retokenize",)
POOLING_TYPES = ("mean", "cls")


@strict
class CLSRConfig(PreTrainedConfig):
    """Configuration of a contrastive language-speech retriever (CLSR, arXiv 2511.09282).

    Args:
        speech_config: config of the recogniser, with its own decoder or CTC head.
        text_config: config of the text encoder that embeds transcripts and questions.
        recognizer_type: "seq2seq" (encoder and autoregressive decoder) or "ctc" (encoder and CTC head).
        adaptor_type: how the transcript enters the text encoder; "retokenize" cuts it again by the text
            encoder's tokenizer.
        adaptor_temperature: temperature of the softmax that carries the gradient back (the paper's gamma).
        pooling: "mean" over the text encoder's states, or its "cls" state.
        max_text_tokens: longest input of the text encoder, in its tokens, special tokens included.
        sampling_rate: of the waveform, in Hz.
        max_audio_s: longest clip in one pass, in seconds, without the silence put behind it.
        tail_silence_s: silence put behind each clip before the encoder sees it, in seconds.
        frames_per_second: frames of the speech encoder in a second.
        decoder_prompt_ids: tokens the decoder starts from (seq2seq).
        eos_token_id: token that ends a transcript (seq2seq).
        blank_token_id: token that stands for nothing (ctc).
        suppress_token_ids: tokens never chosen.
        begin_suppress_token_ids: tokens never chosen first.
        no_speech_token_id: token whose probability at the first position says "nobody speaks", if there is one.
        alignment_heads: (layer, head) pairs whose cross-attention follows the words; all heads of the upper half
            of the decoder when empty.
        no_speech_threshold: above this no-speech probability a hesitant transcript is dropped.
        logprob_threshold: mean log probability below which a transcript is hesitant.
        compression_ratio_threshold: transcripts that zlib shrinks by more than this are loops.
        min_characters_per_second: slower transcripts stopped too early, in characters per second of audio.
        max_characters_per_second: faster transcripts are invented.
        redecode_padded: decode suspicious transcripts again at the recogniser's full padded window, if it has one.
        logit_scale_init_value: initial inverse temperature of the contrastive loss.
    """

    model_type = "clsr"
    sub_configs_defaults = {  # noqa: RUF012 - the library's own form
        "speech_config": SubConfigSpec(AutoConfig, model_type="whisper"),
        "text_config": SubConfigSpec(AutoConfig, model_type="bert"),
    }

    speech_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    recognizer_type: str = "seq2seq"
    adaptor_type: str = "retokenize"
    adaptor_temperature: float | int = 1.0
    pooling: str = "mean"
    max_text_tokens: int = 512
    sampling_rate: int = 16000
    max_audio_s: float | int = 29.0
    tail_silence_s: float | int = 1.0
    frames_per_second: float | int = 50.0
    decoder_prompt_ids: list[int] | tuple[int, ...] = ()
    eos_token_id: int | list[int] | None = None
    blank_token_id: int | None = None
    suppress_token_ids: list[int] | tuple[int, ...] = ()
    begin_suppress_token_ids: list[int] | tuple[int, ...] = ()
    no_speech_token_id: int | None = None
    alignment_heads: list[list[int]] | tuple[tuple[int, int], ...] = ()
    no_speech_threshold: float | int = 0.6
    logprob_threshold: float | int = -1.0
    compression_ratio_threshold: float | int = 2.4
    min_characters_per_second: float | int = 8.0
    max_characters_per_second: float | int = 26.0
    redecode_padded: bool = True
    logit_scale_init_value: float | int = 14.0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # DeepSpeed's "auto" values and some tools ask a composite config for one width.
        self.hidden_size = self.embed_dim

    @property
    def embed_dim(self) -> int:
        """Width of `audio_embeds` and `text_embeds`."""
        return self.text_config.hidden_size  # type: ignore[union-attr]  # a config after __post_init__

    def validate_choices(self):
        """Refuse a choice that is not in its list."""
        for name, allowed in (
            ("recognizer_type", RECOGNIZER_TYPES),
            ("adaptor_type", ADAPTOR_TYPES),
            ("pooling", POOLING_TYPES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r} but must be one of {', '.join(allowed)}")

    def validate_recognizer(self):
        """A decoder must know where it starts and ends, a CTC head its blank."""
        if self.recognizer_type == "ctc" and self.blank_token_id is None:
            raise ValueError(
                "recognizer_type is 'ctc' but blank_token_id is None; give the id of the blank token"
            )

    def validate_ranges(self):
        """Refuse numbers that no recording could satisfy."""
        if self.adaptor_temperature <= 0:
            raise ValueError(f"adaptor_temperature is {self.adaptor_temperature} but must be above 0")
        if self.min_characters_per_second >= self.max_characters_per_second:
            raise ValueError(
                f"min_characters_per_second is {self.min_characters_per_second} but max_characters_per_second is "
                f"{self.max_characters_per_second}; the first must be the smaller one"
            )
        positions = getattr(self.text_config, "max_position_embeddings", None)
        if positions is not None and self.max_text_tokens > positions:
            raise ValueError(
                f"max_text_tokens is {self.max_text_tokens} but the text encoder has {positions} positions; "
                "lower max_text_tokens"
            )


CLSRConfig.register_for_auto_class()

__all__ = ["CLSRConfig"]
