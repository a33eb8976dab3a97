"""CLSRModel: a recording to transcript, word times and vector in one pass; a question to a vector of the same space.

Axes: B batch, S samples, T mel frames, M mel bands, F encoder frames, N recogniser tokens, L text tokens,
V vocabulary, H speech width, E text width, D output width (= E).

features (B, M, T) -> speech encoder (B, F, H) -> decoder (B, N, V) -> adaptor (B, L, E) -> text encoder -> pool (B, D)
The recogniser is a pretrained one with the adaptor "retokenize", or the paper's parallel one with the adaptor "vq".
"""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, cached_file, can_return_tuple

from .adaptor_clsr import RetokenizeAdaptor
from .configuration_clsr import CLSRConfig
from .ctc_predictor_clsr import IGNORED_ID
from .decoding_clsr import Decoded
from .parallel_clsr import ParallelOutput, ParallelRecognizer
from .parts_clsr import (
    copy_weights,
    load_recognizer,
    parallel_settings,
    recognizer_settings,
    start_parallel_weights,
    text_settings,
)
from .recognizer_clsr import SpeechStates, build_recognizer, decode_tokens, encode_speech
from .strings_clsr import STRINGS_FILE, TokenStrings, token_bytes_of
from .transcript_clsr import Transcript, clip_seconds, read_words, recognise
from .vq_clsr import VQAdaptor

MAX_LOGIT_SCALE = math.log(100.0)  # as in CLIP
HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


@dataclass
class CLSRAudioOutput(BaseModelOutputWithPooling):
    """What `get_audio_features` returns.

    Attributes:
        last_hidden_state: (B, L, E) states of the text encoder over the transcript.
        pooler_output: (B, D) unit vectors.
        transcripts: B transcripts with words and times.
        recognition: scores and losses of the parallel recogniser, None for a pretrained one.
    """

    transcripts: list[Transcript] | None = None
    recognition: ParallelOutput | None = None


@dataclass
class CLSROutput(ModelOutput):
    """What `CLSRModel.forward` returns.

    Attributes:
        loss: what to minimise, if `return_loss`: the contrastive loss, with transcripts the weighted sum of all three.
        logits_per_audio: (B_audio, B_text) scaled cosines.
        logits_per_text: (B_text, B_audio).
        text_embeds: (B_text, D) unit vectors of the questions, written or spoken.
        audio_embeds: (B_audio, D) unit vectors.
        logit_scale: (1,) the factor of the cosines.
        transcripts: of the clips.
        contrastive_loss: symmetric InfoNCE.
        recognition_loss: cross-entropy of the transcripts.
        predictor_loss: error of the predicted length, or CTC loss.
        token_logits: (B_audio, U, V) scores of the parallel recogniser.
        predicted_lengths: (B_audio,) token counts of the CIF predictor.
    """

    loss: Tensor | None = None
    logits_per_audio: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_embeds: Tensor | None = None
    audio_embeds: Tensor | None = None
    logit_scale: Tensor | None = None
    transcripts: list[Transcript] | None = None
    contrastive_loss: Tensor | None = None
    recognition_loss: Tensor | None = None
    predictor_loss: Tensor | None = None
    token_logits: Tensor | None = None
    predicted_lengths: Tensor | None = None


class CLSRPreTrainedModel(PreTrainedModel):
    """Weights, names and abilities as the library wants them."""

    config: CLSRConfig
    base_model_prefix = "clsr"
    main_input_name = "input_features"
    input_modalities = ["audio", "text"]  # noqa: RUF012 - the library's own form
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ["logit_scale", "cmvn_shift", "cmvn_scale"]  # noqa: RUF012 - the library's own form
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
        self.strings = TokenStrings(config.max_text_tokens)
        self.speech_model: PreTrainedModel | ParallelRecognizer
        self.adaptor: RetokenizeAdaptor | VQAdaptor
        if config.decoder_type == "recognizer":
            self.speech_model = build_recognizer(config.speech_config, config.recognizer_type)
            self.adaptor = RetokenizeAdaptor(config.adaptor_temperature, self.strings)
        else:
            self.speech_model = ParallelRecognizer(config)
            decoder: Any = config.decoder_config
            rows = {token: row for row, token in enumerate(config.vocabulary_ids)}
            suppressed = config.suppress_token_ids
            self.adaptor = VQAdaptor(
                config.adaptor_type,
                config.adaptor_temperature,
                config.adaptor_num_best,
                # A token without a row cannot be written anyway.
                banned_ids=tuple(rows[token] for token in suppressed if token in rows)
                if rows
                else tuple(suppressed),
                hidden_size=decoder.hidden_size,
                embed_size=config.embed_dim,
            )
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
        self,
        input_features: Tensor,
        feature_attention_mask: Tensor | None = None,
        transcript_ids: Tensor | None = None,
        transcript_mask: Tensor | None = None,
    ) -> CLSRAudioOutput:
        """Transcribe and embed clips in one pass.

        With gradients on, the value is the same and the gradient flows back to the recogniser.

        Args:
            input_features: from `CLSRFeatureExtractor`.
            feature_attention_mask: 1 on the clip; None for no padding.
            transcript_ids: (B, U) true transcripts in the text encoder's tokens, without special ones, for the
                losses of the parallel recogniser.
            transcript_mask: (B, U), 1 on real tokens.

        Returns:
            `pooler_output`: (B, D) float32 unit vectors, those of the text encoder for the transcripts;
            `transcripts`: with word times.

        Raises:
            ValueError: transcripts for a pretrained recogniser, or with a token that the decoder cannot write.
        """
        if isinstance(self.speech_model, ParallelRecognizer):
            return self._parallel_features(
                input_features, feature_attention_mask, transcript_ids, transcript_mask
            )
        if transcript_ids is not None:
            raise ValueError(
                "transcript_ids are given but decoder_type is 'recognizer', whose own tokens are others; "
                "leave them out"
            )
        trained = torch.is_grad_enabled() and any(
            weight.requires_grad for weight in self.speech_model.parameters()
        )
        speech = encode_speech(self.speech_model, input_features, feature_attention_mask)
        decoded, transcripts = recognise(
            self.speech_model,
            speech,
            input_features,
            feature_attention_mask,
            self.strings,
            self.config,
            second_look=not trained,  # no gradient could follow there
        )
        input_ids, mask, offsets = self.strings.tokenize([transcript.text for transcript in transcripts])
        input_ids, mask = input_ids.to(self.device), mask.to(self.device)
        if trained:
            logits = self._token_logits(speech, decoded)  # (B, N, V)
            spans = [self.strings.text(result.token_ids)[1] for result in decoded]
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
        if isinstance(self.speech_model, ParallelRecognizer):
            return self.get_audio_features(input_features, feature_attention_mask).transcripts or []
        speech = encode_speech(self.speech_model, input_features, feature_attention_mask)
        return recognise(
            self.speech_model, speech, input_features, feature_attention_mask, self.strings, self.config
        )[1]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
        question_features: Tensor | None = None,
        question_attention_mask: Tensor | None = None,
        transcript_ids: Tensor | None = None,
        transcript_mask: Tensor | None = None,
        return_loss: bool = False,
        **kwargs,
    ) -> CLSROutput:
        """Score every clip against every question.

        Args:
            input_ids: (B_text, L) written questions.
            attention_mask: (B_text, L).
            token_type_ids: (B_text, L).
            input_features: B_audio clips, see `get_audio_features`.
            feature_attention_mask: their mask.
            question_features: B_text spoken questions, in place of `input_ids`.
            question_attention_mask: their mask.
            transcript_ids: of the clips, see `get_audio_features`.
            transcript_mask: their mask.
            return_loss: also return the loss; question i belongs to clip i, the others are negatives.
            **kwargs: `return_dict` is handled by the library; anything else is refused.

        Raises:
            ValueError: questions or clips are missing; `return_loss` with unequal numbers or fewer than two pairs.
        """
        for name in ("output_attentions", "output_hidden_states"):
            kwargs.pop(name, None)
        if kwargs:
            raise ValueError(f"forward got {', '.join(kwargs)}, which it does not take; see its docstring")
        questions = input_ids if question_features is None else question_features
        if questions is None or input_features is None:
            missing = "input_ids" if questions is None else "input_features"
            raise ValueError(
                f"{missing} is None but forward compares questions with clips; "
                "use get_text_features or get_audio_features for one side"
            )
        if return_loss and (len(questions) != len(input_features) or len(questions) < 2):
            raise ValueError(
                f"the contrastive loss got {len(questions)} texts and {len(input_features)} clips but needs pairs, "
                "at least 2; pass one question for each clip"
            )
        if question_features is not None:
            text: BaseModelOutputWithPooling = self.get_audio_features(
                question_features, question_attention_mask
            )
        else:
            text = self.get_text_features(cast(Tensor, input_ids), attention_mask, token_type_ids)
        audio = self.get_audio_features(
            input_features, feature_attention_mask, transcript_ids, transcript_mask
        )
        text_embeds, audio_embeds = cast(Tensor, text.pooler_output), cast(Tensor, audio.pooler_output)
        scale = self.logit_scale.float().clamp(max=MAX_LOGIT_SCALE).exp()
        logits_per_text = scale * text_embeds @ audio_embeds.T  # (B_text, B_audio)
        found = audio.recognition or ParallelOutput()
        losses = self._losses(logits_per_text, found) if return_loss else {}
        return CLSROutput(
            logits_per_audio=logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            audio_embeds=audio_embeds,
            logit_scale=scale,
            transcripts=audio.transcripts,
            token_logits=found.logits,
            predicted_lengths=found.token_counts,
            **losses,
        )

    def _losses(self, logits_per_text: Tensor, found: ParallelOutput) -> dict[str, Tensor | None]:
        """Return the contrastive loss and, where transcripts were given, the paper's weighted sum."""
        target = torch.arange(len(logits_per_text), device=logits_per_text.device)
        contrastive = (
            F.cross_entropy(logits_per_text, target) + F.cross_entropy(logits_per_text.T, target)
        ) / 2
        loss = contrastive
        if found.recognition_loss is not None and found.predictor_loss is not None:
            loss = (
                self.config.contrastive_weight * contrastive
                + self.config.recognition_weight * found.recognition_loss
                + self.config.quantity_weight * found.predictor_loss
            )
        return {
            "loss": loss,
            "contrastive_loss": contrastive,
            "recognition_loss": found.recognition_loss,
            "predictor_loss": found.predictor_loss,
        }

    def _embed_text(self, attention_mask: Tensor, **inputs) -> BaseModelOutputWithPooling:
        """Run the text encoder and pool its states to unit vectors in float32."""
        states = self.text_model(attention_mask=attention_mask, **inputs).last_hidden_state  # (B, L, E)
        if self.config.pooling == "cls":
            pooled = states[:, 0].float()
        else:
            weights = attention_mask.unsqueeze(-1).float()
            pooled = (states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=F.normalize(pooled, dim=-1))

    def _parallel_features(
        self,
        input_features: Tensor,
        mask: Tensor | None,
        transcript_ids: Tensor | None,
        transcript_mask: Tensor | None,
    ) -> CLSRAudioOutput:
        """Run the paper's road: parallel recogniser, quantiser, text encoder over [CLS] tokens [SEP]."""
        recognizer = cast(ParallelRecognizer, self.speech_model)
        table = self._table()
        speech = recognizer.encode(input_features, mask)
        labels = None if transcript_ids is None else self._labels(transcript_ids, transcript_mask)
        found = recognizer(speech, table, labels)
        token_mask, logits = cast(Tensor, found.token_mask), cast(Tensor, found.logits)
        embeds, rows = self.adaptor(logits, table, token_mask, found.token_states)  # (B, U, E), (B, U)
        inputs, attention_mask = self._frame(embeds, token_mask)
        output = self._embed_text(attention_mask, inputs_embeds=inputs)
        transcripts = self._read_rows(rows, found, speech)
        return CLSRAudioOutput(
            output.last_hidden_state, output.pooler_output, transcripts=transcripts, recognition=found
        )

    def _table(self) -> Tensor:
        """Return the text encoder's word embeddings of the output rows, (V, E)."""
        weight = self.text_model.get_input_embeddings().weight
        if not self.config.vocabulary_ids:
            return weight
        return weight[torch.tensor(list(self.config.vocabulary_ids), device=weight.device)]

    def _labels(self, transcript_ids: Tensor, transcript_mask: Tensor | None) -> Tensor:
        """Turn transcripts in the text encoder's tokens into output rows, `IGNORED_ID` on padding."""
        real = torch.ones_like(transcript_ids).bool() if transcript_mask is None else transcript_mask.bool()
        if self.config.vocabulary_ids:
            rows = transcript_ids.new_full((self.text_model.config.vocab_size,), -1)
            known = torch.tensor(list(self.config.vocabulary_ids), device=rows.device)
            rows[known] = torch.arange(len(known), device=rows.device)
            labels = rows[transcript_ids]
        else:
            labels = transcript_ids
        lost = real & (labels < 0)
        if bool(lost.any()):
            row = int(lost.any(dim=1).nonzero()[0])
            raise ValueError(
                f"transcript {row} holds token {int(transcript_ids[lost][0])} but vocabulary_ids lists only "
                f"{len(self.config.vocabulary_ids)} tokens without it; list it or leave the transcript out"
            )
        return labels.masked_fill(~real, IGNORED_ID)

    def _frame(self, embeds: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Put the text encoder's special tokens before and behind each transcript: (B, L, E) and mask (B, L)."""
        before, behind = self.strings.frame()
        room = self.config.max_text_tokens - len(before) - len(behind)
        if embeds.shape[1] > room:
            warnings.warn(
                f"a transcript has {embeds.shape[1]} tokens but the text encoder takes {room}; "
                "its vector leaves out the rest, cut the clip shorter",
                stacklevel=2,
            )
            embeds, token_mask = embeds[:, :room], token_mask[:, :room]
        embedding = self.text_model.get_input_embeddings()
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
    def _read_rows(self, rows: Tensor, found: ParallelOutput, speech: SpeechStates) -> list[Transcript]:
        """Read the words of the parallel recogniser."""
        vocabulary = self.config.vocabulary_ids
        log_probs = cast(Tensor, found.logits).float().log_softmax(dim=-1)
        best = log_probs.gather(-1, rows.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (B, U)
        transcripts = []
        for clip, seconds in enumerate(clip_seconds(speech, self.config)):
            real = rows[clip] >= 0
            written = rows[clip][real].tolist()
            decoded = Decoded(
                [vocabulary[row] for row in written] if vocabulary else written,
                best[clip][real].tolist(),
                [(start, end) for start, end in cast(Tensor, found.token_spans)[clip][real].tolist()],
            )
            transcripts.append(read_words(decoded, seconds, self.strings, self.config))
        return transcripts

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
                model.strings.load(file)
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Write weights, config, code and the strings of the adaptor. See `PreTrainedModel`."""
        super().save_pretrained(save_directory, *args, **kwargs)
        self.strings.save(save_directory)

    @classmethod
    def from_pretrained_parts(
        cls,
        speech: Any,
        text: str | Path | PreTrainedModel,
        speech_tokenizer=None,
        text_tokenizer=None,
        language: str = "en",
        **config_kwargs,
    ) -> "CLSRModel":
        """Join a recogniser and a text encoder to a retriever, without training.

        With `decoder_type` "sanm" or "whisper" only the recogniser's encoder (and for "whisper" its decoder layers,
        with token rows started from Whisper's rows of the same strings) is pretrained; the rest must be trained.

        Args:
            speech: folder, Hub id or model: Whisper, Moonshine, Parakeet-CTC, wav2vec2-CTC, HuBERT-CTC; for a
                parallel recogniser also the config of any speech encoder, which starts from random weights.
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
        parallel = config_kwargs.get("decoder_type", "recognizer") != "recognizer"
        if isinstance(text, PreTrainedModel) and text_tokenizer is None:
            raise ValueError(
                f"text is a {type(text).__name__} but text_tokenizer is None; pass the tokenizer, too"
            )
        if isinstance(speech, PreTrainedModel) and speech_tokenizer is None and not parallel:
            raise ValueError(
                f"speech is a {type(speech).__name__} but speech_tokenizer is None; pass the tokenizer, too"
            )
        text_model = (
            text
            if isinstance(text, PreTrainedModel)
            else AutoModel.from_pretrained(text, dtype=torch.float32)
        )
        text_tokenizer = text_tokenizer or AutoTokenizer.from_pretrained(text)
        fields = text_settings(text, text_model.config, text_tokenizer)
        if parallel:
            fields |= parallel_settings(speech, text_tokenizer)
            config = CLSRConfig(text_config=text_model.config, **(fields | config_kwargs))
            model = cls(config)
            start_parallel_weights(model.speech_model, speech, speech_tokenizer, text_tokenizer, config)
            token_bytes = token_bytes_of(text_tokenizer, text_model.config.vocab_size)
        else:
            speech_model = load_recognizer(speech)
            speech_tokenizer = speech_tokenizer or AutoTokenizer.from_pretrained(speech)
            fields |= recognizer_settings(speech_model, speech_tokenizer, language)
            config = CLSRConfig(
                speech_config=speech_model.config, text_config=text_model.config, **(fields | config_kwargs)
            )
            model = cls(config)
            copy_weights(speech_model, model.speech_model)
            token_bytes = token_bytes_of(speech_tokenizer, speech_model.config.vocab_size)
        copy_weights(text_model, model.text_model)
        model.strings.fill(token_bytes, text_tokenizer.backend_tokenizer.to_str())
        return model.eval()


CLSRModel.register_for_auto_class("AutoModel")

__all__ = ["CLSRAudioOutput", "CLSRModel", "CLSROutput", "CLSRPreTrainedModel"]
