"""A checkpoint as the index uses it: waveforms to transcripts and vectors, texts to vectors.

Enters: a checkpoint folder or Hub id. Leaves: numpy vectors, and the fingerprint by which an index knows its
model.
"""

import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import torch

from ..data.sampler import length_batches
from ..hub.release import checkpoint_folder
from ..modeling_clsr import CLSRModel
from ..processing_clsr import CLSRProcessor
from ..transcript_clsr import Transcript
from .doubt import Doubt

TEXT_BATCH = 32
NUM_PROBES = 64  # places of each weight file that enter the fingerprint
PROBE_BYTES = 1 << 16
VOLATILE_FIELDS = ("_name_or_path", "transformers_version", "auto_map", "architectures")


class Encoder:
    """Model and processor of one checkpoint.

    Args:
        model: CLSRModel.
        processor: of the same checkpoint.
        name: folder or Hub id, from which a later search loads the model again.
        fingerprint: of the weights, see `checkpoint_fingerprint`.
        doubt: its calibration, if it has one.
    """

    def __init__(
        self,
        model: CLSRModel,
        processor: CLSRProcessor,
        name: str,
        fingerprint: str,
        doubt: Doubt | None = None,
    ):
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.fingerprint = fingerprint
        self.doubt = doubt
        self.embed_dim: int = model.config.embed_dim
        self.sampling_rate: int = model.config.sampling_rate
        self.max_audio_s: float = model.config.max_audio_s
        self._tokenizing = threading.Lock()  # a tokenizer is set to cut or not, for all threads

    @property
    def device(self) -> str:
        """Kind of device that it computes on, as "cpu"."""
        return self.model.device.type

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | None = None, form: str | None = None
    ) -> "Encoder":
        """Load a checkpoint.

        Args:
            name: see `checkpoint_folder`.
            device: "cuda" if there is one and no form is named, else "cpu".
            form: a faster one for the CPU, see `faster.FORMS`; float32 if None.

        Raises:
            FileNotFoundError: neither a folder nor a repository of this name; it lacks the form.
            ValueError: the form does not exist, fits neither the model nor the device, or is of other weights.
        """
        place = checkpoint_folder(name)
        folder = place if isinstance(place, Path) else _download(place)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} is no checkpoint: it holds no config.json; name one made by `clsr build`"
            )
        device = device or ("cuda" if torch.cuda.is_available() and form is None else "cpu")
        if form is not None and device != "cpu":
            raise ValueError(f"form is {form} but device is {device}; forms are for the cpu, leave one out")
        model = CLSRModel.from_pretrained(folder).to(device).eval()
        processor = CLSRProcessor.from_pretrained(folder)
        if form is not None:
            from .faster import use_form  # which knows this module

            use_form(model, processor, folder, form)
        return cls(model, processor, str(place), checkpoint_fingerprint(folder), Doubt.load(folder))

    @torch.inference_mode()
    def encode_passages(self, waveforms: list[np.ndarray]) -> list[tuple[Transcript, np.ndarray]]:
        """Transcribe and embed one batch.

        Args:
            waveforms: (S,) float32 at `sampling_rate`, each at most `max_audio_s` long.

        Returns:
            For each its transcript, words timed from its start, and its unit vector (D,), float32.
        """
        batch = self.processor(audio=waveforms, sampling_rate=self.sampling_rate).to(self.model.device)
        output = self.model.get_audio_features(**batch)
        return list(zip(output.transcripts, output.pooler_output.float().cpu().numpy(), strict=True))

    @torch.inference_mode()
    def encode_texts(self, texts: list[str], truncation: bool = False) -> np.ndarray:
        """Embed texts.

        Args:
            texts: N questions or sentences.
            truncation: cut texts that are too long instead of refusing them.

        Returns:
            (N, D) float32 unit vectors.
        """
        vectors = np.zeros((len(texts), self.embed_dim), dtype=np.float32)
        # Like lengths together: a batch costs what its longest text costs.
        for places in length_batches([len(text) for text in texts], TEXT_BATCH):
            with self._tokenizing:
                batch = self.processor(text=[texts[place] for place in places], truncation=truncation)
            output = self.model.get_text_features(**batch.to(self.model.device))
            vectors[places] = output.pooler_output.float().cpu().numpy()
        return vectors


def checkpoint_fingerprint(folder: Path) -> str:
    """Hash what decides a checkpoint's vectors: its config, and 64 samples of each weight file.

    Training moves all weights, so samples (4 MiB at most) tell two checkpoints apart, in milliseconds.
    """
    digest = hashlib.blake2b(digest_size=16)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    digest.update(json.dumps(_without_volatile(config), sort_keys=True).encode())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as weights:
            for probe in range(NUM_PROBES):
                weights.seek(max(size - PROBE_BYTES, 0) * probe // (NUM_PROBES - 1))
                digest.update(weights.read(PROBE_BYTES))
    return digest.hexdigest()


def _without_volatile(config):
    """Drop what saving again may change."""
    if not isinstance(config, dict):
        return config
    return {key: _without_volatile(value) for key, value in config.items() if key not in VOLATILE_FIELDS}


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{name} is neither a checkpoint folder nor a repository that can be reached; "
            "check the spelling, or make a checkpoint with `clsr build`"
        ) from error
