"""CLSRModel: a recording to transcript, word times and vector in one pass; a question to a vector of the same space.

Axes: B batch, S samples, T mel frames, M mel bands, F encoder frames, N recogniser tokens, L text tokens,
V vocabulary, H speech width, E text width, D output width (= E).

features (B, M, T) -> speech encoder (B, F, H) -> decoder (B, N, V) -> adaptor (B, L, E) -> text encoder -> pool (B, D)
"""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, cached_file, can_return_tuple

from .adaptor_clsr import STRINGS_FILE, RetokenizeAdaptor, recognizer_token_bytes
from .configuration_clsr import CLSRConfig
from .decoding_clsr import Decoded, Transcript, Word, greedy_decode, suspicion
from .parts_clsr import copy_weights, load_recognizer, recognizer_settings, text_settings
from .recognizer_clsr import SpeechStates, build_recognizer, decode_tokens, encode_speech

MAX_LOGIT_SCALE = math.log(100.0)  # as in CLIP
HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


@dataclass
class CLSRAudioOutput(BaseModelOutputWithPooling):
    """What `get_audio_features` returns.

    Attributes:
        last_hidden_state: (B, L, E) states of the text encoder over the transcript.
        pooler_output: (B, D) unit vectors.
        transcripts: B transcripts with words and times.
    """

    transcripts: list[Transcript] | None = None


@dataclass
class CLSROutput(ModelOutput):
    """What `CLSRModel.forward` returns.

    Attributes:
        loss: contrastive loss, if `return_loss`.
        logits_per_audio: (B_audio, B_text) scaled cosines.
        logits_per_text: (B_text, B_audio).
        text_embeds: (B_text, D) unit vectors.
        audio_embeds: (B_audio, D) unit vectors.
        logit_scale: (1,) the factor of the cosines.
        transcripts: of the clips.
    """

    loss: Tensor | None = None
    logits_per_audio: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_embeds: Tensor | None = None
    audio_embeds: Tensor | None = None
    logit_scale: Tensor | None = None
    transcripts: list[Transcript] | None = None


class CLSRPreTrainedModel(PreTrainedModel):
    """Weights, names and abilities as the library wants them."""

    config: CLSRConfig
    base_model_prefix = "clsr"
    main_input_name = "input_features"
    input_modalities = ["audio", "text"]  # noqa: RUF012 - the library's own form
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ["logit_scale"]  # noqa: RUF012 - the library's own form
    # The contrastive loss is a mean over the batch, never a sum over tokens: the Trainer must divide it itself.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CLSRModel):
            init.constant_(module.logit_scale, math.log(self.config.logit_scale_init_value))


class CLSRModel(CLSRPreTrainedModel):
    """Contrastive language-speech retriever (arXiv 2511.09282)."""

    def __init__(self, config: CLSRConfig):
        super().__init__(config)
        self.speech_model = build_recognizer(config.speech_config, config.recognizer_type)
        self.adaptor = RetokenizeAdaptor(config.adaptor_temperature, config.max_text_tokens)
        self.text_model = AutoModel.from_config(config.text_config)
        if getattr(self.text_model, "pooler", None) is not None:
            # Never used, and an unused parameter stops distributed training silently.
            self.text_model.pooler = None
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(config.logit_scale_init_value)))
        self.post_init()

    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Embed questions (or any text).

        Args:
            input_ids: (B, L) tokens of the text encoder.
            attention_mask: (B, L), 1 on real tokens.
            token_type_ids: (B, L), for encoders that have them.

        Returns:
            `pooler_output`: (B, D) float32 unit vectors; `last_hidden_state`: (B, L, E).
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        extra = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self._embed_text(attention_mask, input_ids=input_ids, **extra)

    def get_audio_features(
        self, input_features: Tensor, feature_attention_mask: Tensor | None = None
    ) -> CLSRAudioOutput:
        """Transcribe and embed clips in one pass.

        With gradients on, the value is the same and the gradient flows back to the recogniser.

        Args:
            input_features: from `CLSRFeatureExtractor`.
            feature_attention_mask: 1 on the clip; None for no padding.

        Returns:
            `pooler_output`: (B, D) float32 unit vectors, those of the text encoder for the transcripts;
            `transcripts`: with word times.
        """
        speech = encode_speech(self.speech_model, input_features, feature_attention_mask)
        decoded, transcripts = self._recognise(speech, input_features, feature_attention_mask)
        texts = [transcript.text for transcript in transcripts]
        input_ids, mask, offsets = self.adaptor.tokenize(texts)
        input_ids, mask = input_ids.to(self.device), mask.to(self.device)
        if torch.is_grad_enabled() and speech.states.requires_grad:
            logits = self._token_logits(speech, decoded)  # (B, N, V)
            spans = [self.adaptor.text(result.token_ids)[1] for result in decoded]
            embeds = self.adaptor(input_ids, offsets, logits, spans, self.text_model.get_input_embeddings())
            output = self._embed_text(mask, inputs_embeds=embeds)
        else:
            output = self._embed_text(mask, input_ids=input_ids)
        return CLSRAudioOutput(output.last_hidden_state, output.pooler_output, transcripts=transcripts)

    @torch.no_grad()
    def transcribe(
        self, input_features: Tensor, feature_attention_mask: Tensor | None = None
    ) -> list[Transcript]:
        """Transcribe clips, without vectors. Arguments as in `get_audio_features`."""
        speech = encode_speech(self.speech_model, input_features, feature_attention_mask)
        return self._recognise(speech, input_features, feature_attention_mask)[1]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
        return_loss: bool = False,
        **kwargs,
    ) -> CLSROutput:
        """Score every clip against every text.

        Args:
            input_ids: (B_text, L) questions.
            attention_mask: (B_text, L).
            token_type_ids: (B_text, L).
            input_features: B_audio clips, see `get_audio_features`.
            feature_attention_mask: their mask.
            return_loss: also return the contrastive loss; text i belongs to clip i, the others are negatives.
            **kwargs: `return_dict` is handled by the library; anything else is refused.

        Raises:
            ValueError: text or audio is missing; `return_loss` with unequal numbers or fewer than two pairs.
        """
        kwargs.pop("output_attentions", None), kwargs.pop("output_hidden_states", None)
        if kwargs:
            raise ValueError(f"forward got {', '.join(kwargs)}, which it does not take; see its docstring")
        if input_ids is None or input_features is None:
            missing = "input_ids" if input_ids is None else "input_features"
            raise ValueError(
                f"{missing} is None but forward compares text with audio; "
                "use get_text_features or get_audio_features for one side"
            )
        if return_loss and (len(input_ids) != len(input_features) or len(input_ids) < 2):
            raise ValueError(
                f"the contrastive loss got {len(input_ids)} texts and {len(input_features)} clips but needs pairs, "
                "at least 2; pass one text for each clip"
            )
        text = self.get_text_features(input_ids, attention_mask, token_type_ids)
        audio = self.get_audio_features(input_features, feature_attention_mask)
        text_embeds, audio_embeds = cast(Tensor, text.pooler_output), cast(Tensor, audio.pooler_output)
        scale = self.logit_scale.float().clamp(max=MAX_LOGIT_SCALE).exp()
        logits_per_text = scale * text_embeds @ audio_embeds.T  # (B_text, B_audio)
        loss = None
        if return_loss:
            target = torch.arange(len(logits_per_text), device=logits_per_text.device)
            loss = (F.cross_entropy(logits_per_text, target) + F.cross_entropy(logits_per_text.T, target)) / 2
        return CLSROutput(
            loss=loss,
            logits_per_audio=logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            audio_embeds=audio_embeds,
            logit_scale=scale,
            transcripts=audio.transcripts,
        )

    def _embed_text(self, attention_mask: Tensor, **inputs) -> BaseModelOutputWithPooling:
        """Run the text encoder and pool its states to unit vectors in float32."""
        states = self.text_model(attention_mask=attention_mask, **inputs).last_hidden_state  # (B, L, E)
        if self.config.pooling == "cls":
            pooled = states[:, 0].float()
        else:
            weights = attention_mask.unsqueeze(-1).float()
            pooled = (states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=F.normalize(pooled, dim=-1))

    @torch.no_grad()
    def _recognise(
        self, speech: SpeechStates, input_features: Tensor, mask: Tensor | None
    ) -> tuple[list[Decoded], list[Transcript]]:
        """Decode the clips, decode suspicious ones again at the full window, and read the words."""
        frames = speech.mask.sum(dim=1).tolist()
        seconds = [count / self.config.frames_per_second - self.config.tail_silence_s for count in frames]
        decoded = greedy_decode(self.speech_model, speech, self.config)
        if not torch.is_grad_enabled() or not speech.states.requires_grad:
            self._redecode_padded(decoded, seconds, input_features, mask)
        transcripts = []
        for row, result in enumerate(decoded):
            if self._nobody_speaks(result):
                decoded[row] = result = replace(result, token_ids=[], log_probs=[], spans=[])
            transcripts.append(self._transcript(result, max(seconds[row], 0.0)))
        return decoded, transcripts

    def _redecode_padded(
        self, decoded: list[Decoded], seconds: list[float], input_features: Tensor, mask: Tensor | None
    ) -> None:
        """Decode suspicious clips again, padded to Whisper's window; keep the better transcript in `decoded`.

        At true length Whisper sometimes stops early or loops; padded it seldom does both (recipe, section 1).
        """
        if not self.config.redecode_padded or self.speech_model.config.model_type != "whisper":
            return
        window = 2 * self.speech_model.config.max_source_positions
        doubts = [
            suspicion(result, self.adaptor.text(result.token_ids)[0], length, self.config)
            for result, length in zip(decoded, seconds, strict=True)
        ]
        again = [row for row, doubt in enumerate(doubts) if doubt and not self._nobody_speaks(decoded[row])]
        full = input_features.shape[-1] == window and (mask is None or bool(mask[again].all()))
        if not again or full:
            return
        padded = input_features.new_empty(len(again), input_features.shape[1], window)
        for number, row in enumerate(again):
            length = int(mask[row].sum()) if mask is not None else input_features.shape[-1]
            padded[number, :, :length] = input_features[row, :, :length]
            # The last frame lies in the digital silence behind the clip: repeating it is what padding would give.
            padded[number, :, length:] = input_features[row, :, length - 1 : length]
        second = greedy_decode(self.speech_model, encode_speech(self.speech_model, padded, None), self.config)
        for number, row in enumerate(again):
            text = self.adaptor.text(second[number].token_ids)[0]
            if (
                not suspicion(second[number], text, seconds[row], self.config)
                or second[number].mean_log_prob > decoded[row].mean_log_prob
            ):
                decoded[row] = second[number]

    def _nobody_speaks(self, result: Decoded) -> bool:
        """Whisper's rule for silence: it says so itself and its words are unlikely."""
        return (
            result.no_speech_probability > self.config.no_speech_threshold
            and result.mean_log_prob < self.config.logprob_threshold
        )

    def _transcript(self, result: Decoded, seconds: float) -> Transcript:
        """Join tokens to text and words."""
        text, spans = self.adaptor.text(result.token_ids)
        words: list[Word] = []
        probabilities = [math.exp(value) for value in result.log_probs]
        for match in re.finditer(r"\S+", text):
            start, end = match.span()
            members = [token for token, (left, right) in enumerate(spans) if left < end and right > start]
            if not members:
                continue
            first, last = result.spans[members[0]][0], result.spans[members[-1]][1]
            words.append(
                Word(
                    text=text[start:end],
                    start=min(first / self.config.frames_per_second, seconds),
                    end=min(last / self.config.frames_per_second, seconds),
                    probability=sum(probabilities[token] for token in members) / len(members),
                )
            )
        return Transcript(
            text=text,
            token_ids=result.token_ids,
            words=words,
            probability=math.exp(result.mean_log_prob) if result.token_ids else 0.0,
            no_speech_probability=result.no_speech_probability,
        )

    def _token_logits(self, speech: SpeechStates, decoded: list[Decoded]) -> Tensor:
        """Score the decoded tokens again, with gradient. Shape (B, N, V).

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
        prompt = list(self.config.decoder_prompt_ids)
        filler = prompt[-1]
        inputs = [prompt + (result.token_ids + [filler] * longest)[: longest - 1] for result in decoded]
        logits, _ = decode_tokens(
            self.speech_model, torch.tensor(inputs, device=speech.states.device), speech
        )
        return logits[:, len(prompt) - 1 :]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a checkpoint folder or Hub repository, with the strings of its adaptor. See `PreTrainedModel`."""
        hub = {name: kwargs[name] for name in HUB_KEYWORDS if kwargs.get(name) is not None}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if pretrained_model_name_or_path is not None:
            file = cached_file(
                pretrained_model_name_or_path,
                STRINGS_FILE,
                _raise_exceptions_for_missing_entries=False,
                **hub,
            )
            if file is not None:
                model.adaptor.load_strings(file)
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Write weights, config, code and the strings of the adaptor. See `PreTrainedModel`."""
        super().save_pretrained(save_directory, *args, **kwargs)
        self.adaptor.save_strings(save_directory)

    @classmethod
    def from_pretrained_parts(
        cls,
        speech: str | Path | PreTrainedModel,
        text: str | Path | PreTrainedModel,
        speech_tokenizer=None,
        text_tokenizer=None,
        language: str = "en",
        **config_kwargs,
    ) -> "CLSRModel":
        """Join a recogniser and a text encoder to a retriever, without training.

        Args:
            speech: folder, Hub id or model: Whisper, Moonshine, Parakeet-CTC, wav2vec2-CTC, HuBERT-CTC.
            text: folder, Hub id or model of any encoder that takes `inputs_embeds`; a sentence-transformers folder
                brings its own pooling and length.
            speech_tokenizer: of the recogniser; needed if `speech` is a model.
            text_tokenizer: fast tokenizer of the text encoder; needed if `text` is a model.
            language: two-letter code of the speech, for a multilingual Whisper.
            **config_kwargs: fields of `CLSRConfig` that win over what the parts say.

        Returns:
            The model in eval mode; make its processor with `CLSRProcessor.from_pretrained_parts`.

        Raises:
            ValueError: a model object comes without its tokenizer, or the recogniser is of another kind.
        """
        for name, part, tokenizer in (("speech", speech, speech_tokenizer), ("text", text, text_tokenizer)):
            if isinstance(part, PreTrainedModel) and tokenizer is None:
                raise ValueError(
                    f"{name} is a {type(part).__name__} but {name}_tokenizer is None; pass the tokenizer, too"
                )
        speech_model = load_recognizer(speech)
        text_model = (
            text
            if isinstance(text, PreTrainedModel)
            else AutoModel.from_pretrained(text, dtype=torch.float32)
        )
        speech_tokenizer = speech_tokenizer or AutoTokenizer.from_pretrained(speech)
        text_tokenizer = text_tokenizer or AutoTokenizer.from_pretrained(text)
        fields = recognizer_settings(speech_model, speech_tokenizer, language)
        fields |= text_settings(text, text_model.config, text_tokenizer)
        config = CLSRConfig(
            speech_config=speech_model.config, text_config=text_model.config, **(fields | config_kwargs)
        )
        model = cls(config)
        copy_weights(speech_model, model.speech_model)
        copy_weights(text_model, model.text_model)
        token_bytes = recognizer_token_bytes(speech_tokenizer, speech_model.config.vocab_size)
        model.adaptor.set_strings(token_bytes, text_tokenizer.backend_tokenizer.to_str())
        return model.eval()


CLSRModel.register_for_auto_class("AutoModel")

__all__ = ["CLSRAudioOutput", "CLSRModel", "CLSROutput", "CLSRPreTrainedModel"]
