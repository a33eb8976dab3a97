"""The paper's recogniser: speech encoder, predictor, parallel decoder and output layer over the text vocabulary.

Enters: features (B, T, M) and, in training, transcripts (B, U). Leaves: `ParallelOutput` with scores (B, U, V) and the
frames of every token. V counts the text encoder's tokens that `vocabulary_ids` lists (all if empty).
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, DynamicCache, EncoderDecoderCache
from transformers.utils import ModelOutput

from .ctc_predictor_clsr import IGNORED_ID, CTCPredictor, ctc_loss
from .ctc_units_clsr import NUM_UNITS, tokens_of_units, units_of_tokens
from .decoding_clsr import TOKENS_PER_SECOND
from .kaldi_clsr import normalize_frames
from .predictor_clsr import CIFPredictor, PredictorOutput, quantity_loss
from .recognizer_clsr import CrossMaskedWhisperDecoder, SpeechStates, TrueLengthWhisperEncoder, encode_frames
from .sampler_clsr import GlancingSampler, minimum_error_loss, recognition_loss
from .sanm_clsr import SANMDecoder, SANMEncoder
from .strings_clsr import TokenStrings


@dataclass
class ParallelOutput(ModelOutput):
    """What the parallel recogniser found.

    Attributes:
        logits: (B, U, V) scores of each token.
        token_mask: (B, U), True on real tokens.
        token_states: (B, U, H) decoder states.
        token_spans: (B, U, 2) start and end in encoder frames.
        token_counts: (B,) predicted length, None for the CTC predictor.
        recognition_loss: cross-entropy (and MWER, if weighted) on the transcripts, None without them.
        predictor_loss: error of the token count (CIF) or CTC loss, None without transcripts.
    """

    logits: Tensor | None = None
    token_mask: Tensor | None = None
    token_states: Tensor | None = None
    token_spans: Tensor | None = None
    token_counts: Tensor | None = None
    recognition_loss: Tensor | None = None
    predictor_loss: Tensor | None = None


class ParallelRecognizer(nn.Module):
    """Speech to tokens of the text encoder's vocabulary, all at once (arXiv 2511.09282; Paraformer, arXiv 2206.08317).

    Args:
        config: CLSRConfig with `decoder_type` "sanm" or "whisper".
        strings: of the text encoder's tokens, for a CTC predictor over characters.
    """

    def __init__(self, config: Any, strings: TokenStrings | None = None):
        super().__init__()
        self.config = config
        self.strings = strings
        speech, decoder = config.speech_config, config.decoder_config
        self.encoder = build_speech_encoder(speech)
        if speech.model_type == "clsr_sanm":
            # Mean and deviation of the stacked frames (CMVN); a converter or the training script fills them.
            self.cmvn_shift: Tensor
            self.cmvn_scale: Tensor
            self.register_buffer("cmvn_shift", torch.zeros(speech.input_size))
            self.register_buffer("cmvn_scale", torch.ones(speech.input_size))
        encoder_size, decoder_size = speech.hidden_size, decoder.hidden_size
        num_tokens = len(config.vocabulary_ids) or config.text_config.vocab_size
        self.predictor: CIFPredictor | CTCPredictor
        if config.predictor_type == "cif":
            self.predictor = CIFPredictor(encoder_size, tail_threshold=config.tail_threshold)
        else:
            num_units = NUM_UNITS if config.ctc_units == "characters" else num_tokens
            self.predictor = CTCPredictor(
                encoder_size, num_units + 1, blank_id=num_units
            )  # the blank comes last
        same = encoder_size == decoder_size
        self.bridge: nn.Module
        self.memory_bridge: nn.Module = nn.Identity()
        if config.decoder_type == "sanm":
            self.bridge = nn.Identity() if same else nn.Linear(encoder_size, decoder_size)
            self.decoder: Any = SANMDecoder(decoder)
        else:
            # Token rows are what it reads, and states of the encoder are far larger.
            self.bridge = nn.Sequential(nn.LayerNorm(encoder_size), nn.Linear(encoder_size, decoder_size))
            # Its token rows are also its output layer; two more rows end and start every transcript.
            self.end_row, self.start_row = num_tokens, num_tokens + 1
            decoder.vocab_size, decoder.pad_token_id = num_tokens + 2, None
            decoder.bos_token_id = decoder.eos_token_id = None  # of another vocabulary
            self.decoder = CrossMaskedWhisperDecoder(decoder)
            if not same:
                self.memory_bridge = nn.Linear(encoder_size, decoder_size)
        self.sampler = GlancingSampler(config.sampler_ratio)
        if config.tie_output:
            self.output_projection = nn.Linear(decoder_size, config.text_config.hidden_size)
            self.output_bias = nn.Parameter(torch.zeros(num_tokens))
        elif config.decoder_type == "sanm":
            self.output_layer = nn.Linear(decoder_size, num_tokens)

    def encode(self, input_features: Tensor, mask: Tensor | None) -> SpeechStates:
        """Run the speech encoder; see `encode_frames`."""
        if self.config.speech_config.model_type == "clsr_sanm":
            input_features = normalize_frames(input_features, self.cmvn_shift, self.cmvn_scale)
        return encode_frames(self.encoder, input_features, mask)

    def forward(self, speech: SpeechStates, table: Tensor, labels: Tensor | None = None) -> ParallelOutput:
        """Find and score the tokens.

        Args:
            speech: from `encode`.
            table: (V, E) word embeddings of the text encoder for the output rows, for a tied output.
            labels: (B, U) output rows of the true tokens, -100 on padding; they fix the number of tokens.
        """
        truth = labels
        passes = self.config.draft_passes if self.config.decoder_type == "whisper" else 1
        if passes == 0 and labels is None:
            labels = self.decode_greedily(speech)
        found = self._predict(speech, labels)
        if labels is None and self.config.decoder_type == "whisper":
            # Its table of positions is longer than what the text encoder takes, which says what it cuts off.
            most = self.config.decoder_config.max_target_positions - 1
            for name in ("token_states", "token_mask", "token_spans"):
                found[name] = found[name][:, :most]
        token_mask = cast(Tensor, found.token_mask) if labels is None else labels >= 0
        ends = None
        if passes == 0:
            hidden, logits, ends = self._correct(cast(Tensor, labels).clamp(min=0), 1, token_mask, speech)
        else:
            states = self.bridge(cast(Tensor, found.token_states).to(self._dtype()))  # (B, U, H)
            if truth is not None and self.training:
                with torch.no_grad():
                    first = self._score(self._decode(states, token_mask, speech), table).argmax(dim=-1)
                states = self.sampler(states, first, truth, self._output_rows(table))
            hidden = self._decode(states, token_mask, speech)
            logits = self._score(hidden, table)  # (B, U, V)
            if passes > 1 and truth is not None and self.training:
                ends = self._correct(truth.clamp(min=0), 1, token_mask, speech)[2]
            elif passes > 1:
                hidden, logits, _ = self._correct(logits.argmax(dim=-1), passes - 1, token_mask, speech)
        losses = {} if truth is None else self._losses(found, logits, truth, speech, ends)
        return ParallelOutput(
            logits=logits,
            token_mask=token_mask,
            token_states=hidden,
            token_spans=found.token_spans,
            token_counts=found.token_counts,
            **losses,
        )

    @torch.no_grad()
    def decode_greedily(self, speech: SpeechStates) -> Tensor:
        """Write each clip token by token with the Whisper decoder and a key-value cache.

        Returns:
            (B, U) output rows, -100 behind the end.
        """
        cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
        tokens = torch.full((len(speech.states), 1), self.start_row, device=speech.states.device)
        done = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        written: list[Tensor] = []
        memory = self.memory_bridge(speech.states)
        seconds = speech.states.shape[1] / self.config.frames_per_second
        most = min(int(seconds * TOKENS_PER_SECOND) + 8, self.config.decoder_config.max_target_positions - 1)
        for _ in range(most):
            output = self.decoder(tokens, memory, speech.mask, cache=cache, use_cache=True)
            scores = output.last_hidden_state[:, -1] @ self.decoder.embed_tokens.weight[: self.start_row].T
            tokens = scores.argmax(dim=-1, keepdim=True)  # (B, 1)
            done |= tokens[:, 0] == self.end_row
            if bool(done.all()):
                break
            written.append(tokens[:, 0].masked_fill(done, IGNORED_ID))
        if not written:
            return tokens[:, :0]
        return torch.stack(written, dim=1)

    def _predict(self, speech: SpeechStates, labels: Tensor | None) -> PredictorOutput:
        if isinstance(self.predictor, CIFPredictor):
            counts = None if labels is None else (labels >= 0).sum(dim=-1)
            return self.predictor(speech.states, speech.mask, counts)
        if self.config.ctc_units == "tokens":
            return self.predictor(speech.states, speech.mask, labels)
        strings = cast(TokenStrings, self.strings)
        if labels is not None:
            units, counts = units_of_tokens(self._tokens(labels), strings)
        else:
            path = self.predictor(speech.states, speech.mask).draft_ids  # (B, N)
            units, counts = path, tokens_of_units(path, strings)[1]
        return self.predictor(speech.states, speech.mask, units, counts)

    def _tokens(self, labels: Tensor) -> Tensor:
        """Turn output rows into tokens of the text encoder, negative on padding."""
        if not self.config.vocabulary_ids:
            return labels
        known = torch.tensor(list(self.config.vocabulary_ids), device=labels.device)
        return torch.where(labels >= 0, known[labels.clamp(min=0)], labels)

    def _decode(self, states: Tensor, token_mask: Tensor, speech: SpeechStates) -> Tensor:
        memory = self.memory_bridge(speech.states)
        if self.config.decoder_type == "sanm":
            return self.decoder(states, token_mask, memory, speech.mask).last_hidden_state
        found = self.decoder(None, memory, speech.mask, token_states=states, token_mask=token_mask)
        return found.last_hidden_state.masked_fill(~token_mask.unsqueeze(-1), 0.0)

    def _correct(
        self, draft: Tensor, num_passes: int, token_mask: Tensor, speech: SpeechStates
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the Whisper decoder, causal, in parallel over a draft, then over its own answer, and so on.

        Returns:
            States (B, U, H) and scores (B, U, V) of the tokens; scores (B, U + 1, V + 1) with the end, for the loss.
        """
        memory = self.memory_bridge(speech.states)
        hidden = scores = memory
        for _ in range(max(num_passes, 1)):
            output = self.decoder(F.pad(draft, (1, 0), value=self.start_row), memory, speech.mask)
            hidden = output.last_hidden_state  # (B, U + 1, H)
            scores = hidden @ self.decoder.embed_tokens.weight[: self.start_row].T  # (B, U + 1, V + 1)
            draft = scores[:, :-1, : self.end_row].argmax(dim=-1)
        hidden = hidden[:, :-1].masked_fill(~token_mask.unsqueeze(-1), 0.0)
        return hidden, scores[:, :-1, : self.end_row], scores

    def _score(self, hidden: Tensor, table: Tensor) -> Tensor:
        """Map decoder states to scores, (B, U, V)."""
        if self.config.tie_output:
            return self.output_projection(hidden) @ table.T.to(hidden.dtype) + self.output_bias
        if self.config.decoder_type == "whisper":
            return hidden @ self._output_rows(table).T
        return self.output_layer(hidden)

    def _output_rows(self, table: Tensor) -> Tensor:
        """Return the rows that the sampler shows, (V, H): those that the output layer scores tokens with."""
        if self.config.tie_output:
            return table.to(self.output_projection.weight.dtype) @ self.output_projection.weight
        if self.config.decoder_type == "whisper":
            return self.decoder.embed_tokens.weight[: self.end_row]
        return self.output_layer.weight

    def _losses(
        self,
        found: PredictorOutput,
        logits: Tensor,
        labels: Tensor,
        speech: SpeechStates,
        ends: Tensor | None,
    ) -> dict[str, Tensor]:
        """Return the losses; `ends` are scores of a Whisper decoder that reads tokens and learns where to end."""
        smoothing = self.config.label_smoothing
        losses = []
        if ends is None or self.config.draft_passes > 0:
            losses.append(recognition_loss(logits, labels, smoothing))
        if ends is not None:
            lengths = (labels >= 0).sum(dim=-1, keepdim=True)
            with_end = F.pad(labels, (0, 1), value=IGNORED_ID).scatter(1, lengths, self.end_row)
            losses.append(recognition_loss(ends, with_end, smoothing))
        recognition = torch.stack(losses).mean()
        if self.config.minimum_error_weight:
            recognition = recognition + self.config.minimum_error_weight * minimum_error_loss(logits, labels)
        if isinstance(self.predictor, CIFPredictor):
            predictor = quantity_loss(cast(Tensor, found.token_counts), (labels >= 0).sum(dim=-1))
        else:
            units = labels
            if self.config.ctc_units == "characters":
                units = units_of_tokens(self._tokens(labels), cast(TokenStrings, self.strings))[0]
            predictor = ctc_loss(cast(Tensor, found.ctc_logits), speech.mask, units, self.predictor.blank_id)
        return {"recognition_loss": recognition, "predictor_loss": predictor}

    def _dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype


def build_speech_encoder(speech_config) -> nn.Module:
    """Make the speech encoder of a part config, with random weights: SAN-M or any Hugging Face encoder."""
    if speech_config.model_type == "clsr_sanm":
        return SANMEncoder(speech_config)
    if speech_config.model_type == "whisper":
        return TrueLengthWhisperEncoder(speech_config)
    model = AutoModel.from_config(speech_config)
    if speech_config.model_type == "moonshine":
        return model.encoder
    return model
