"""CLSRConfig: the sizes of both encoders and every choice between waveform and vector.

Enters: part configs (Whisper, Moonshine, Parakeet, wav2vec2, HuBERT; any text encoder). Leaves: one checked config.
"""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

RECOGNIZER_TYPES = ("seq2seq", "ctc")
DECODER_TYPES = ("recognizer", "sanm", "whisper")
PREDICTOR_TYPES = ("cif", "ctc")
CTC_UNITS = ("tokens", "characters")
VQ_TYPES = ("vq", "softmax", "logits", "expected", "projection")
ADAPTOR_TYPES = ("retokenize", *VQ_TYPES)
POOLING_TYPES = ("mean", "cls")


@strict
class SANMConfig(PreTrainedConfig):
    """Configuration of the SAN-M encoder or decoder of Paraformer (arXiv 2206.08317); defaults of Paraformer-large.

    Args:
        input_size: width of a stacked frame (encoder).
        encoder_hidden_size: width of the encoder states (decoder).
        hidden_size: width of the layers.
        num_hidden_layers: 50 in the large encoder, 16 in its decoder.
        num_attention_heads: heads of each attention.
        intermediate_size: width inside the feed-forward networks.
        memory_kernel_size: frames (tokens) that the memory spans.
        memory_shift: frames by which the memory looks further ahead.
        dropout: of the layers' outputs.
        attention_dropout: of the attention weights.
        layer_norm_eps: of every layer norm.
        frame_stride: filterbank frames (10 ms) between two encoder frames.
    """

    model_type = "clsr_sanm"

    input_size: int = 560
    encoder_hidden_size: int = 512
    hidden_size: int = 512
    num_hidden_layers: int = 50
    num_attention_heads: int = 4
    intermediate_size: int = 2048
    memory_kernel_size: int = 11
    memory_shift: int = 0
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    layer_norm_eps: float | int = 1e-12
    frame_stride: int = 6

    def validate_heads(self):
        """Every head has the same width."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size} but num_attention_heads is {self.num_attention_heads}; "
                "the first must be a multiple of the second"
            )


# A part config must be known by name wherever this file is loaded from, a checkpoint folder included.
AutoConfig.register("clsr_sanm", SANMConfig, exist_ok=True)


@strict
class CLSRConfig(PreTrainedConfig):
    """Configuration of a contrastive language-speech retriever (CLSR, arXiv 2511.09282).

    Args:
        speech_config: config of the recogniser, with its own decoder or CTC head.
        text_config: config of the text encoder that embeds transcripts and questions.
        recognizer_type: "seq2seq" (encoder and autoregressive decoder) or "ctc" (encoder and CTC head).
        decoder_type: "recognizer": the pretrained recogniser keeps its own decoder or head; "sanm": the paper's
            parallel decoder; "whisper": the layers of a Whisper decoder over the text encoder's vocabulary.
        decoder_config: config of the "sanm" (SANMConfig) or "whisper" (WhisperConfig) decoder.
        predictor_type: "cif" (the paper's) or "ctc" (Paraformer-v2); needed beside "sanm" and "whisper".
        ctc_units: "tokens": the CTC predictor's classes are the output vocabulary; "characters": UTF-8 bytes, for
            speech encoders with a frame for each.
        tail_threshold: mass granted to the CIF predictor behind the last frame, so that a rest becomes a token.
        adaptor_type: how the transcript enters the text encoder. "retokenize" cuts it again by the text encoder's
            tokenizer; "vq" (the paper's) shares its vocabulary; "softmax", "logits", "expected" and "projection"
            are the ablations.
        adaptor_temperature: temperature of the softmax that carries the gradient back (the paper's gamma).
        adaptor_num_best: rows that "expected" mixes.
        draft_passes: passes of the "whisper" decoder: one over the predictor's vectors, all at once (the paper's way),
            and further, causal ones over what the pass before wrote; 0 writes token by token.
        vocabulary_ids: the text encoder's tokens that the decoder can write, in the order of its output rows; all
            of them if empty.
        tie_output: score tokens by the text encoder's word embeddings instead of an output layer of its own.
        sampler_ratio: share of the first pass's errors that the glancing sampler shows (lambda of Algorithm 1).
        label_smoothing: of the recognition loss.
        minimum_error_weight: weight of the MWER loss beside the recognition loss; 0 leaves it out.
        contrastive_weight: weight of the contrastive loss where transcripts are given.
        quantity_weight: weight of the predictor's loss (token count, or CTC).
        recognition_weight: weight of the recognition loss.
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
        logprob_floor: mean log probability below which a transcript is dropped whatever the recogniser says of
            silence (music, noise), where the recogniser has a no-speech token.
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
    decoder_type: str = "recognizer"
    decoder_config: dict | PreTrainedConfig | None = None
    predictor_type: str | None = None
    ctc_units: str = "tokens"
    tail_threshold: float | int = 0.45
    adaptor_type: str = "retokenize"
    adaptor_temperature: float | int = 1.0
    adaptor_num_best: int = 8
    draft_passes: int = 1
    vocabulary_ids: list[int] | tuple[int, ...] = ()
    tie_output: bool = False
    sampler_ratio: float | int = 0.75
    label_smoothing: float | int = 0.1
    minimum_error_weight: float | int = 0.0
    contrastive_weight: float | int = 1 / 3
    quantity_weight: float | int = 1 / 3
    recognition_weight: float | int = 1 / 3
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
    logprob_threshold: float | int = -0.6
    logprob_floor: float | int = -1.6
    compression_ratio_threshold: float | int = 2.4
    min_characters_per_second: float | int = 8.0
    max_characters_per_second: float | int = 26.0
    redecode_padded: bool = True
    logit_scale_init_value: float | int = 14.0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if isinstance(self.decoder_config, dict):
            kind = self.decoder_config.get("model_type", "clsr_sanm")
            fields = {name: value for name, value in self.decoder_config.items() if name != "model_type"}
            self.decoder_config = AutoConfig.for_model(kind, **fields)
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
            ("decoder_type", DECODER_TYPES),
            ("predictor_type", (None, *PREDICTOR_TYPES)),
            ("ctc_units", CTC_UNITS),
            ("adaptor_type", ADAPTOR_TYPES),
            ("pooling", POOLING_TYPES),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r} but must be one of {', '.join(map(str, allowed))}"
                )

    def validate_recognizer(self):
        """A decoder must know where it starts and ends, a CTC head its blank."""
        if self.recognizer_type == "ctc" and self.blank_token_id is None:
            raise ValueError(
                "recognizer_type is 'ctc' but blank_token_id is None; give the id of the blank token"
            )

    def validate_decoder(self):
        """Each decoder has the adaptor and the predictor that it can work with."""
        pretrained = self.decoder_type == "recognizer"
        if pretrained != (self.adaptor_type == "retokenize"):
            raise ValueError(
                f"decoder_type is {self.decoder_type!r} but adaptor_type is {self.adaptor_type!r}; "
                "'recognizer' goes with 'retokenize', the other decoders with the other adaptors"
            )
        if pretrained != (self.predictor_type is None):
            raise ValueError(
                f"decoder_type is {self.decoder_type!r} but predictor_type is {self.predictor_type!r}; "
                "'recognizer' has none, the other decoders need 'cif' or 'ctc'"
            )
        if self.ctc_units != "tokens" and self.predictor_type != "ctc":
            raise ValueError(
                f"ctc_units is {self.ctc_units!r} but predictor_type is {self.predictor_type!r}; only 'ctc' has units"
            )
        if pretrained != (self.decoder_config is None):
            raise ValueError(
                f"decoder_type is {self.decoder_type!r} but decoder_config is {self.decoder_config}; "
                "'recognizer' has none, the other decoders need one"
            )
        expected = {"sanm": "clsr_sanm", "whisper": "whisper"}.get(self.decoder_type)
        if expected and self.decoder_config.model_type != expected:  # type: ignore[union-attr]
            raise ValueError(
                f"decoder_type is {self.decoder_type!r} but decoder_config is of type "
                f"{self.decoder_config.model_type!r}; give one of type {expected!r}"  # type: ignore[union-attr]
            )

    def validate_vocabulary(self):
        """Every listed token exists, once."""
        size = self.text_config.vocab_size  # type: ignore[union-attr]
        outside = [token for token in self.vocabulary_ids if not 0 <= token < size]
        if outside:
            raise ValueError(
                f"vocabulary_ids lists {outside[0]} but the text encoder has {size} tokens; list only its own"
            )
        if len(set(self.vocabulary_ids)) != len(self.vocabulary_ids):
            raise ValueError(
                f"vocabulary_ids lists {len(self.vocabulary_ids)} tokens but only {len(set(self.vocabulary_ids))} "
                "different ones; list each once"
            )

    def validate_ranges(self):
        """Refuse numbers that no recording could satisfy."""
        if not 0 < self.sampler_ratio < 1:
            raise ValueError(
                f"sampler_ratio is {self.sampler_ratio} but must lie between 0 and 1; 0.75 is usual"
            )
        if self.draft_passes < 0 or (self.draft_passes == 0 and self.predictor_type == "ctc"):
            raise ValueError(
                f"draft_passes is {self.draft_passes} but predictor_type is {self.predictor_type!r}; "
                "choose 1 or more, or 0 with 'cif'"
            )
        if self.tie_output and self.decoder_type != "sanm":
            raise ValueError(
                f"tie_output is True but decoder_type is {self.decoder_type!r}; only 'sanm' can tie its output"
            )
        weights = (self.contrastive_weight, self.quantity_weight, self.recognition_weight)
        if min(weights) < 0:
            raise ValueError(
                f"a loss weight is {min(weights):g} but must be 0 or more; 1/3 each is the paper's choice"
            )
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

__all__ = ["CLSRConfig", "SANMConfig"]
