"""CLSR in sentence-transformers: `SentenceTransformer(folder, trust_remote_code=True)` encodes texts and clips.

Texts and audio become vectors of one space, equal to those of `CLSRModel`.
"""

from typing import Any

import torch
from transformers import AutoModel, AutoProcessor

try:
    from sentence_transformers.base.modules import InputModule
except ImportError:
    InputModule = object  # type: ignore[assignment, misc]


class CLSRModule(InputModule):
    """The only module of the pipeline: inputs to `sentence_embedding`.

    Args:
        model: CLSRModel.
        processor: CLSRProcessor.
    """

    config_keys: list[str] = []  # noqa: RUF012 - the library's own form
    config_file_name = "sentence_clsr_config.json"
    save_in_root = True

    def __init__(self, model: Any, processor: Any):
        super().__init__()
        self.model = model
        self.processor = processor

    @property
    def modalities(self) -> list[str]:
        """What can be encoded."""
        return ["text", "audio"]

    @property
    def max_seq_length(self) -> int:
        """Longest text, in tokens."""
        return self.processor.tokenizer.model_max_length

    def preprocess(
        self, inputs: list[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Turn a list of texts, or a list of clips, into model inputs.

        Args:
            inputs: strings; or clips as `read_waveform` takes them, file names with the suffix of audio included.
            prompt: put before texts.
            **kwargs: of the library, without effect.

        Raises:
            ValueError: texts and clips are mixed.
            FileNotFoundError: a file name of audio names nothing.
        """
        entries = [_unwrap(entry) for entry in inputs]
        heard = [self.processor.is_audio(entry) for entry in entries]
        if any(heard) and not all(heard):
            raise ValueError(
                f"the batch holds {sum(heard)} clips and {len(heard) - sum(heard)} texts; encode each kind by itself"
            )
        if all(heard) and entries:
            rate = self.processor.feature_extractor.sampling_rate
            waveforms = [self.processor.read_audio(entry) for entry in entries]
            return dict(self.processor(audio=waveforms, sampling_rate=rate))
        texts = [f"{prompt or ''}{entry}" for entry in entries]
        # As sentence-transformers does everywhere: a long text is cut.
        return dict(self.processor(text=texts, truncation=True))

    def forward(self, features: dict[str, torch.Tensor], **kwargs: Any) -> dict[str, torch.Tensor]:
        """Add `sentence_embedding`, (B, D) unit vectors."""
        if "input_features" in features:
            output = self.model.get_audio_features(
                features["input_features"], features.get("feature_attention_mask")
            )
        else:
            output = self.model.get_text_features(
                features["input_ids"], features.get("attention_mask"), features.get("token_type_ids")
            )
        features["sentence_embedding"] = output.pooler_output
        return features

    def get_embedding_dimension(self) -> int:
        """Return D."""
        return self.model.config.hidden_size

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint folder."""
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)
        self.save_config(output_path)

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "CLSRModule":
        """Load from a checkpoint folder or Hub repository."""
        hub = {
            "token": token,
            "cache_dir": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
            "trust_remote_code": trust_remote_code,
        }
        model = AutoModel.from_pretrained(model_name_or_path, **(hub | (model_kwargs or {})))
        processor = AutoProcessor.from_pretrained(model_name_or_path, **(hub | (processor_kwargs or {})))
        return cls(model.eval(), processor)


def _unwrap(entry: Any) -> Any:
    """The library wraps inputs as {"audio": …} or {"text": …}."""
    if isinstance(entry, dict) and len(entry) == 1:
        for name in ("audio", "text"):
            if name in entry:
                return entry[name]
    return entry
