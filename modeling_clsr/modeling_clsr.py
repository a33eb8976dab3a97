"""CLSRModel: a recording to transcript, word times and vector in one pass; a question to a vector of the same space.

Axes: B batch, S samples, T mel frames, M mel bands, F encoder frames, N recogniser tokens, L text tokens,
V vocabulary, H speech width, E text width, D output width (= E).

features (B, M, T) -> speech encoder (B, F, H) -> decoder (B, N, V) -> adaptor (B, L, E) -> text encoder -> pool (B, D)
The recogniser is a pretrained one with the adaptor "retokenize", or the paper's parallel one with the adaptor "vq".
"""

import math
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
from .contrastive_clsr import contrastive_loss, temperature_scale
from .decoding_clsr import Decoded
from .export_clsr import CUSTOM_PIPELINES, write_companions
from .parallel_clsr import ParallelOutput, ParallelRecognizer
from .parts_clsr import (
    copy_weights,
    load_recognizer,
    parallel_settings,
    recognizer_settings,
    start_parallel_weights,
    text_settings,
)
from .recognizer_clsr import SpeechStates, add_ctc_scores, build_recognizer, encode_speech
from .rows_clsr import frame_text, read_rows, row_embeddings, rows_of_tokens
from .strings_clsr import STRINGS_FILE, TokenStrings, token_bytes_of
from .teacher_forcing_clsr import score_tokens, teach_recognizer
from .transcript_clsr import Transcript, recognise
from .vq_clsr import VQAdaptor

HUB_KEYWORDS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


@dataclass
class CLSRAudioOutput(BaseModelOutputWithPooling):
    """What `get_audio_features` returns.

    Attributes:
        last_hidden_state: (B, L, E) states of the text encoder over the transcript.
        pooler_output: (B, D) unit vectors.
        transcripts: B transcripts with words and times.
        recognition: scores and losses of the recogniser; of a pretrained one only with transcripts.
        speech: the encoder's states.
    """

    transcripts: list[Transcript] | None = None
    recognition: ParallelOutput | None = None
    speech: SpeechStates | None = None


@dataclass
class CLSROutput(ModelOutput):
    """What `CLSRModel.forward` returns.

    Attributes:
        loss: what to minimise, if `return_loss`: the contrastive loss, with transcripts the weighted sum of all.
        logits_per_audio: (B_audio, B_text) scaled cosines.
        logits_per_text: (B_text, B_audio).
        text_embeds: (B_text, D) unit vectors of the questions, written or spoken.
        audio_embeds: (B_audio, D) unit vectors.
        passage_embeds: (B_passage, D) unit vectors of written passages.
        logit_scale: (1,) the factor of the cosines.
        transcripts: of the clips.
        contrastive_loss: symmetric InfoNCE.
        recognition_loss: cross-entropy of the transcripts.
        predictor_loss: error of the predicted length, or CTC loss.
        token_logits: (B_audio, U, V) scores of the parallel recogniser, or of a pretrained one beside true transcripts.
        predicted_lengths: (B_audio,) token counts of the CIF predictor.
        speech_states: (B_audio, F, H) states of the speech encoder.
        speech_mask: (B_audio, F), True on frames of the clip.
    """

    loss: Tensor | None = None
    logits_per_audio: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_embeds: Tensor | None = None
    audio_embeds: Tensor | None = None
    passage_embeds: Tensor | None = None
    logit_scale: Tensor | None = None
    transcripts: list[Transcript] | None = None
    contrastive_loss: Tensor | None = None
    recognition_loss: Tensor | None = None
    predictor_loss: Tensor | None = None
    token_logits: Tensor | None = None
    predicted_lengths: Tensor | None = None
    speech_states: Tensor | None = None
    speech_mask: Tensor | None = None


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
            self.speech_model = ParallelRecognizer(config, self.strings)
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
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
        transcript_ids: Tensor | None = None,
        transcript_mask: Tensor | None = None,
        speech_states: Tensor | None = None,
        speech_mask: Tensor | None = None,
        embed: bool = True,
    ) -> CLSRAudioOutput:
        """Transcribe and embed clips in one pass.

        With gradients on, the value is the same and the gradient flows back to the recogniser.

        Args:
            input_features: from `CLSRFeatureExtractor`.
            feature_attention_mask: 1 on the clip; None for no padding.
            transcript_ids: (B, U) true transcripts without special tokens, for the losses of the recogniser: in the
                text encoder's tokens for a parallel recogniser, in its own for a pretrained one, which then writes by
                teacher forcing: each token is its best one behind the true tokens so far.
            transcript_mask: (B, U), 1 on real tokens.
            speech_states: (B, F, H) states of a frozen speech encoder, in place of `input_features`.
            speech_mask: (B, F) their mask; None for no padding.
            embed: False leaves out the text encoder, where only the recogniser is trained.

        Returns:
            `pooler_output`: (B, D) float32 unit vectors, those of the text encoder for the transcripts;
            `transcripts`: with word times (but for teacher forcing).

        Raises:
            ValueError: features and states are both given, or none; a transcript has a token that the recogniser
                cannot write.
        """
        if (input_features is None) == (speech_states is None):
            given = "neither" if input_features is None else "both"
            raise ValueError(f"input_features and speech_states: {given} given but one is needed; pass one")
        parallel = isinstance(self.speech_model, ParallelRecognizer)
        if speech_states is not None:
            mask = torch.ones(speech_states.shape[:2]) if speech_mask is None else speech_mask
            dtype = next(self.speech_model.parameters()).dtype
            speech = SpeechStates(speech_states.to(dtype), mask.bool().to(speech_states.device))
            speech = speech if parallel else add_ctc_scores(self.speech_model, speech)
        elif isinstance(self.speech_model, ParallelRecognizer):
            speech = self.speech_model.encode(cast(Tensor, input_features), feature_attention_mask)
        else:
            speech = encode_speech(self.speech_model, cast(Tensor, input_features), feature_attention_mask)
        if parallel:
            output = self._parallel_features(speech, transcript_ids, transcript_mask, embed)
        elif transcript_ids is not None:
            output = self._taught_features(speech, transcript_ids, transcript_mask, embed)
        else:
            output = self._recognised_features(speech, input_features, feature_attention_mask, embed)
        output.speech = speech
        return output

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
        speech_states: Tensor | None = None,
        speech_mask: Tensor | None = None,
        passage_ids: Tensor | None = None,
        passage_mask: Tensor | None = None,
        transcript_ids: Tensor | None = None,
        transcript_mask: Tensor | None = None,
        return_loss: bool = False,
        return_embeds: bool = True,
        **kwargs,
    ) -> CLSROutput:
        """Embed what is given and score every clip against every question.

        Args:
            input_ids: (B_text, L) written questions.
            attention_mask: (B_text, L).
            token_type_ids: (B_text, L).
            input_features: B_audio clips, see `get_audio_features`.
            feature_attention_mask: their mask.
            question_features: B_text spoken questions, in place of `input_ids`.
            question_attention_mask: their mask.
            speech_states: B_audio clips as states of the speech encoder, in place of `input_features`.
            speech_mask: their mask.
            passage_ids: (B_passage, L) written passages, for training.
            passage_mask: (B_passage, L).
            transcript_ids: of the clips, see `get_audio_features`.
            transcript_mask: their mask.
            return_loss: also return the loss; question i belongs to clip i, the others are negatives. Without
                questions it is the loss of the recogniser alone.
            return_embeds: False leaves out the clips' vectors, where only the recogniser is trained.
            **kwargs: `return_dict` is handled by the library; anything else is refused.

        Raises:
            ValueError: nothing is given; `return_loss` with unequal numbers, fewer than two pairs or nothing to
                compare with.
        """
        for name in ("output_attentions", "output_hidden_states"):
            kwargs.pop(name, None)
        if kwargs:
            raise ValueError(f"forward got {', '.join(kwargs)}, which it does not take; see its docstring")
        questions = input_ids if question_features is None else question_features
        clips = input_features if speech_states is None else speech_states
        if questions is None and clips is None and passage_ids is None:
            raise ValueError("input_ids, input_features and passage_ids are None but one of them is needed")
        if return_loss:
            self._check_pairs(questions, clips, transcript_ids)
        scale = temperature_scale(self.logit_scale)
        output = CLSROutput(logit_scale=scale)
        if question_features is not None:
            spoken = self.get_audio_features(question_features, question_attention_mask)
            output.text_embeds = spoken.pooler_output
        elif input_ids is not None:
            output.text_embeds = self.get_text_features(
                input_ids, attention_mask, token_type_ids
            ).pooler_output
        if passage_ids is not None:
            output.passage_embeds = self.get_text_features(passage_ids, passage_mask).pooler_output
        if clips is not None:
            audio = self.get_audio_features(
                input_features,
                feature_attention_mask,
                transcript_ids,
                transcript_mask,
                speech_states,
                speech_mask,
                embed=return_embeds,
            )
            found, speech = audio.recognition or ParallelOutput(), cast(SpeechStates, audio.speech)
            output.audio_embeds, output.transcripts = audio.pooler_output, audio.transcripts
            output.recognition_loss, output.predictor_loss = found.recognition_loss, found.predictor_loss
            output.token_logits, output.predicted_lengths = found.logits, found.token_counts
            output.speech_states, output.speech_mask = speech.states, speech.mask
        if output.text_embeds is not None and output.audio_embeds is not None:
            output.logits_per_text = scale * output.text_embeds @ output.audio_embeds.T
            output.logits_per_audio = output.logits_per_text.T
        if return_loss:
            output.loss = self._loss(output)
        return output

    def _check_pairs(
        self, questions: Tensor | None, clips: Tensor | None, transcript_ids: Tensor | None
    ) -> None:
        """Refuse a loss that nothing could be compared for."""
        if clips is None or (questions is None and transcript_ids is None):
            missing = "input_features" if clips is None else "input_ids"
            raise ValueError(
                f"{missing} is None but the loss compares questions with clips, or clips with transcripts; pass both"
            )
        if questions is not None and (len(questions) != len(clips) or len(questions) < 2):
            raise ValueError(
                f"the contrastive loss got {len(questions)} texts and {len(clips)} clips but needs pairs, "
                "at least 2; pass one question for each clip"
            )

    def _loss(self, output: CLSROutput) -> Tensor:
        """Return the contrastive loss alone, or with transcripts the paper's weighted sum."""
        if output.text_embeds is not None and output.audio_embeds is not None:
            output.contrastive_loss = contrastive_loss(
                output.text_embeds, output.audio_embeds, cast(Tensor, output.logit_scale)
            )
        if output.recognition_loss is None:
            return cast(Tensor, output.contrastive_loss)
        weighted = (
            (self.config.contrastive_weight, output.contrastive_loss),
            (self.config.recognition_weight, output.recognition_loss),
            (self.config.quantity_weight, output.predictor_loss),
        )
        return torch.stack([weight * loss for weight, loss in weighted if loss is not None]).sum()

    def _embed_text(self, attention_mask: Tensor, **inputs) -> BaseModelOutputWithPooling:
        """Run the text encoder and pool its states to unit vectors in float32."""
        states = self.text_model(attention_mask=attention_mask, **inputs).last_hidden_state  # (B, L, E)
        if self.config.pooling == "cls":
            pooled = states[:, 0].float()
        else:
            weights = attention_mask.unsqueeze(-1).float()
            pooled = (states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=F.normalize(pooled, dim=-1))

    def _recognised_features(
        self, speech: SpeechStates, input_features: Tensor | None, mask: Tensor | None, embed: bool
    ) -> CLSRAudioOutput:
        """Let a pretrained recogniser write, and embed what it wrote."""
        trained = torch.is_grad_enabled() and any(
            weight.requires_grad for weight in self.speech_model.parameters()
        )
        decoded, transcripts = recognise(
            self.speech_model,
            speech,
            input_features,
            mask,
            self.strings,
            self.config,
            second_look=not trained,  # no gradient could follow there
        )
        if not embed:
            return CLSRAudioOutput(transcripts=transcripts)
        logits = score_tokens(self.speech_model, speech, decoded, self.config) if trained else None
        output = self._embed_transcripts([transcript.text for transcript in transcripts], decoded, logits)
        return CLSRAudioOutput(output.last_hidden_state, output.pooler_output, transcripts=transcripts)

    def _taught_features(
        self, speech: SpeechStates, transcript_ids: Tensor, transcript_mask: Tensor | None, embed: bool
    ) -> CLSRAudioOutput:
        """Run a pretrained recogniser beside the true transcripts, and embed its draft."""
        decoded, logits, loss = teach_recognizer(
            self.speech_model, speech, transcript_ids, transcript_mask, self.config
        )
        output = CLSRAudioOutput(recognition=ParallelOutput(logits=logits, recognition_loss=loss))
        if embed:
            texts = [self.strings.text(result.token_ids)[0] for result in decoded]
            embedded = self._embed_transcripts(texts, decoded, logits)
            output.last_hidden_state, output.pooler_output = (
                embedded.last_hidden_state,
                embedded.pooler_output,
            )
            output.transcripts = [
                Transcript(text, result.token_ids, [], math.exp(result.mean_log_prob))
                for text, result in zip(texts, decoded, strict=True)
            ]
        return output

    def _embed_transcripts(
        self, texts: list[str], decoded: list[Decoded], logits: Tensor | None
    ) -> BaseModelOutputWithPooling:
        """Embed what the recogniser wrote; with scores of its tokens (B, N, V), straight through."""
        input_ids, mask, offsets = self.strings.tokenize(texts)
        input_ids, mask = input_ids.to(self.device), mask.to(self.device)
        if logits is None:
            return self._embed_text(mask, input_ids=input_ids)
        spans = [self.strings.text(result.token_ids)[1] for result in decoded]
        embeds = self.adaptor(input_ids, offsets, logits, spans, self.text_model.get_input_embeddings())
        return self._embed_text(mask, inputs_embeds=embeds)

    def _parallel_features(
        self, speech: SpeechStates, transcript_ids: Tensor | None, transcript_mask: Tensor | None, embed: bool
    ) -> CLSRAudioOutput:
        """Run the paper's road: parallel recogniser, quantiser, text encoder over [CLS] tokens [SEP]."""
        embedding = self.text_model.get_input_embeddings()
        table = row_embeddings(embedding.weight, self.config)  # (V, E)
        labels = (
            None if transcript_ids is None else rows_of_tokens(transcript_ids, transcript_mask, self.config)
        )
        found = self.speech_model(speech, table, labels)
        token_mask, logits = cast(Tensor, found.token_mask), cast(Tensor, found.logits)
        if embed:
            embeds, rows = self.adaptor(logits, table, token_mask, found.token_states)  # (B, U, E), (B, U)
            inputs, mask = frame_text(
                embeds, token_mask, embedding, self.strings, self.config.max_text_tokens
            )
            output = self._embed_text(mask, inputs_embeds=inputs)
        else:
            rows, output = (
                cast(VQAdaptor, self.adaptor).choose(logits, token_mask),
                BaseModelOutputWithPooling(),
            )
        # Beside true transcripts nobody reads them, and reading takes its time.
        transcripts = read_rows(rows, found, speech, self.strings, self.config) if labels is None else None
        return CLSRAudioOutput(
            output.last_hidden_state, output.pooler_output, transcripts=transcripts, recognition=found
        )

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
        """Write weights, config, code, the strings of the adaptor and what other libraries need.

        See `PreTrainedModel`.
        """
        self.config.custom_pipelines = CUSTOM_PIPELINES
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            self.strings.save(save_directory)
            write_companions(save_directory)

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
