"""CLSRProcessor: questions and recordings in, one batch of model inputs out.

Enters: strings and waveforms. Leaves: `input_ids`, `attention_mask`, `input_features`, `feature_attention_mask`.
"""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoTokenizer, BatchFeature, PreTrainedModel, ProcessorMixin

from .feature_extraction_clsr import CLSRFeatureExtractor
from .parts_clsr import feature_settings, text_settings
from .waveform_clsr import is_audio, read_waveform


class CLSRProcessor(ProcessorMixin):
    """A feature extractor for speech and a tokenizer for text, as one.

    Args:
        feature_extractor: CLSRFeatureExtractor.
        tokenizer: of the text encoder.
    """

    def __init__(self, feature_extractor=None, tokenizer=None, **kwargs):
        super().__init__(feature_extractor, tokenizer, **kwargs)

    def __call__(
        self,
        text: str | list[str] | None = None,
        audio=None,
        sampling_rate: int | None = None,
        padding: bool | str = True,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Prepare text, audio or both.

        Args:
            text: one question or several.
            audio: one mono waveform or several, see `CLSRFeatureExtractor`.
            sampling_rate: of the audio, in Hz; must be given with audio.
            padding: True or "longest"; "max_length" also pads the audio to the recogniser's full window.
            truncation: cut texts longer than `max_length` instead of refusing them.
            max_length: of the text, in tokens; the text encoder's longest input if None.
            return_tensors: "pt" or "np".

        Returns:
            Inputs of `CLSRModel.forward`, `get_text_features` (text only) or `get_audio_features` (audio only).

        Raises:
            ValueError: neither text nor audio; a text is empty or too long; see `CLSRFeatureExtractor` for audio.
        """
        if text is None and audio is None:
            raise ValueError(
                "text is None and audio is None but one of them is needed; pass a question or a waveform"
            )
        data = {}
        if text is not None:
            data.update(self._tokens(text, truncation, max_length, return_tensors))
        if audio is not None:
            window = "max_length" if padding == "max_length" else "longest"
            data.update(
                self.feature_extractor(
                    audio, sampling_rate=sampling_rate, padding=window, return_tensors=return_tensors
                )
            )
        return BatchFeature(data)

    def read_audio(self, source: Any) -> np.ndarray:
        """Read one clip (file name, bytes, array with its rate) at the model's rate; see `read_waveform`."""
        return read_waveform(source, self.feature_extractor.sampling_rate)

    @staticmethod
    def is_audio(source: Any) -> bool:
        """Say whether an input is a clip rather than a text."""
        return is_audio(source)

    def _tokens(self, text: str | list[str], truncation: bool, max_length: int | None, return_tensors: str):
        texts = [text] if isinstance(text, str) else list(text)
        for row, entry in enumerate(texts):
            if not isinstance(entry, str) or not entry.strip():
                raise ValueError(f"text {row} is {entry!r} but a question is needed; pass at least one word")
        limit = max_length or self.tokenizer.model_max_length
        cut = {"truncation": True, "max_length": limit} if truncation else {}
        # Not silent about a long text, which the tokenizer alone would only warn of.
        batch = self.tokenizer(texts, padding=True, return_tensors=return_tensors, verbose=False, **cut)
        lengths = batch["attention_mask"].sum(axis=-1).tolist()
        longest = max(lengths)
        if longest > limit:
            raise ValueError(
                f"text {lengths.index(longest)} has {longest} tokens but the text encoder takes {limit}; "
                "shorten it or pass truncation=True"
            )
        return batch

    @property
    def model_input_names(self) -> list[str]:
        """Names of all inputs the processor can make."""
        return [*self.tokenizer.model_input_names, *self.feature_extractor.model_input_names]

    @classmethod
    def from_pretrained_parts(
        cls, speech: Any, text: str | Path | PreTrainedModel, text_tokenizer=None, parallel: bool = False
    ) -> "CLSRProcessor":
        """Make the processor that belongs to `CLSRModel.from_pretrained_parts`.

        Args:
            speech: folder, Hub id, model or config of the recogniser.
            text: folder, Hub id or model of the text encoder.
            text_tokenizer: its tokenizer; needed if `text` is a model.
            parallel: for a model with `decoder_type` "sanm" or "whisper".
        """
        if isinstance(text, PreTrainedModel) and text_tokenizer is None:
            raise ValueError(
                f"text is a {type(text).__name__} but text_tokenizer is None; pass the tokenizer, too"
            )
        tokenizer = text_tokenizer or AutoTokenizer.from_pretrained(text)
        config = text.config if isinstance(text, PreTrainedModel) else AutoConfig.from_pretrained(text)
        tokenizer.model_max_length = text_settings(text, config, tokenizer)["max_text_tokens"]
        return cls(CLSRFeatureExtractor(**feature_settings(speech, parallel)), tokenizer)


CLSRProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["CLSRProcessor"]
