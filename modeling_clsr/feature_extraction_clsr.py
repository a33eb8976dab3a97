"""CLSRFeatureExtractor: waveforms in, the recogniser's own features and their mask out.

Enters: mono float waveforms at `sampling_rate`. Leaves: `input_features`, (B, M, T) log-mel for Whisper, (B, T, M)
for Parakeet and SAN-M, (B, S) for recognisers that read the waveform, and `feature_attention_mask`, (B, T) or (B, S).
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from .kaldi_clsr import kaldi_fbank, stack_frames

FEATURE_TYPES = ("whisper", "parakeet", "waveform", "kaldi")
MIN_WAVEFORM_S = 0.1  # receptive field of the deepest convolutional front end, rounded up


class CLSRFeatureExtractor(SequenceFeatureExtractor):
    """Turn waveforms into the features of a recogniser, at their true length.

    Args:
        feature_type: "whisper" (log-mel, `tail_silence_s` of silence behind the clip), "parakeet" (pre-emphasis,
            natural log-mel, normalised per clip and band), "kaldi" (Kaldi filterbank, neighbouring frames stacked at a
            low frame rate, for SAN-M) or "waveform" (wav2vec2, HuBERT, WavLM, Moonshine).
        feature_size: mel bands (1 for "waveform").
        sampling_rate: the only rate accepted, in Hz.
        n_fft: length of the Fourier transform, in samples.
        win_length: length of the window, in samples.
        hop_length: samples between two frames.
        preemphasis: coefficient of the first-order high-pass ("parakeet").
        tail_silence_s: silence put behind each clip, in seconds ("whisper"). Whisper was trained on windows that end
            in silence; without it the decoder does not stop (`benchmarks/recognition.py --tail 0 1`).
        max_audio_s: longest clip accepted, in seconds.
        window_s: the recogniser's full window, which `padding="max_length"` fills, in seconds.
        num_stacked: filterbank frames in one row ("kaldi"; m of the low frame rate).
        frame_stride: filterbank frames between two rows ("kaldi"; n).
        do_normalize: bring each waveform to zero mean and unit variance ("waveform").
    """

    model_input_names = ("input_features", "feature_attention_mask")

    def __init__(
        self,
        feature_type: str = "whisper",
        feature_size: int = 80,
        sampling_rate: int = 16000,
        n_fft: int = 400,
        win_length: int = 400,
        hop_length: int = 160,
        preemphasis: float = 0.97,
        tail_silence_s: float = 1.0,
        max_audio_s: float = 29.0,
        window_s: float = 30.0,
        num_stacked: int = 7,
        frame_stride: int = 6,
        do_normalize: bool = False,
        padding_value: float = 0.0,
        **kwargs,
    ):
        if feature_type not in FEATURE_TYPES:
            raise ValueError(
                f"feature_type is {feature_type!r} but must be one of {', '.join(FEATURE_TYPES)}"
            )
        super().__init__(feature_size, sampling_rate, padding_value, **kwargs)
        self.feature_type = feature_type
        self.n_fft = n_fft
        self.win_length = win_length
        self.hop_length = hop_length
        self.preemphasis = preemphasis
        self.tail_silence_s = tail_silence_s
        self.max_audio_s = max_audio_s
        self.window_s = window_s
        self.num_stacked = num_stacked
        self.frame_stride = frame_stride
        self.do_normalize = do_normalize
        # `mel_filters` is left out of the JSON by the base class, so it is made here each time.
        self.mel_filters = self._mel_filters() if feature_type in ("whisper", "parakeet") else torch.zeros(0)

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence,
        sampling_rate: int | None = None,
        padding: bool | str = "longest",
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Extract features of one waveform or a list of them.

        Args:
            raw_speech: (S,) mono waveform in [-1, 1], or a list of them (of unequal lengths, too).
            sampling_rate: of `raw_speech`, in Hz; must be given, so that a wrong rate is noticed.
            padding: "longest" (or True): to the longest clip of the batch; "max_length": to the recogniser's full
                window ("whisper" only).
            return_tensors: "pt" or "np".

        Returns:
            `input_features` and `feature_attention_mask` (1 on the clip and the silence behind it).

        Raises:
            ValueError: the rate is missing or another one; a clip is empty, holds NaN or infinity, has several
                channels or is longer than `max_audio_s`.
        """
        if sampling_rate is None:
            raise ValueError(
                f"sampling_rate is missing but the model expects {self.sampling_rate} Hz; "
                f"pass sampling_rate={self.sampling_rate} if the audio has that rate, resample it otherwise"
            )
        if sampling_rate != self.sampling_rate:
            raise ValueError(
                f"audio is sampled at {sampling_rate} Hz but the model expects {self.sampling_rate} Hz; "
                "resample it with modeling_clsr.data.audio.load_audio or soxr.resample"
            )
        if padding not in (True, "longest", "max_length"):
            raise ValueError(f"padding is {padding!r} but must be 'longest' or 'max_length'")
        if padding == "max_length" and self.feature_type != "whisper":
            raise ValueError(
                f"padding is 'max_length' but {self.feature_type!r} features have no full window"
            )
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors is {return_tensors!r} but must be 'pt' or 'np'")

        clips = self._waveforms(raw_speech)
        if self.feature_type == "waveform":
            features = [self._raw(clip) for clip in clips]
        elif self.feature_type == "whisper":
            full = round(self.window_s * self.sampling_rate) if padding == "max_length" else None
            features = [self._whisper_log_mel(clip, full) for clip in clips]
        elif self.feature_type == "parakeet":
            features = [self._parakeet_log_mel(clip) for clip in clips]
        else:
            features = [self._kaldi_rows(clip) for clip in clips]

        lengths = torch.tensor([len(f) for f in features])
        batch = torch.nn.utils.rnn.pad_sequence(features, batch_first=True, padding_value=self.padding_value)
        mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long()  # (B, T)
        if self.feature_type == "whisper":
            batch = batch.transpose(1, 2).contiguous()  # (B, T, M) -> (B, M, T), Whisper's order
        data = {"input_features": batch, "feature_attention_mask": mask}
        return BatchFeature(data, tensor_type=return_tensors)

    def _waveforms(self, raw_speech) -> list[torch.Tensor]:
        """Check the input and return a list of float32 tensors (S,)."""
        if isinstance(raw_speech, np.ndarray | torch.Tensor):
            clips = [raw_speech] if raw_speech.ndim == 1 else list(raw_speech)
        elif (
            isinstance(raw_speech, Sequence)
            and len(raw_speech) > 0
            and isinstance(raw_speech[0], int | float)
        ):
            clips = [raw_speech]
        else:
            clips = list(raw_speech)
        if not clips:
            raise ValueError(
                "audio is an empty list but at least 1 clip is needed; pass one waveform or more"
            )
        return [self._waveform(clip, row) for row, clip in enumerate(clips)]

    def _waveform(self, clip, row: int) -> torch.Tensor:
        if isinstance(clip, np.ndarray) and clip.dtype.kind in "iu":
            raise ValueError(
                f"clip {row} has dtype {clip.dtype} but the model expects floats in [-1, 1]; "
                f"divide it by {np.iinfo(clip.dtype).max + 1}"
            )
        wave = torch.as_tensor(clip, dtype=torch.float32)
        if wave.ndim != 1:
            raise ValueError(
                f"clip {row} has shape {tuple(wave.shape)} but the model expects mono, (samples,); "
                "average the channels"
            )
        if len(wave) == 0:
            raise ValueError(f"clip {row} has 0 samples but at least 1 is needed; drop it")
        bad = int((~torch.isfinite(wave)).sum())
        if bad:
            raise ValueError(
                f"clip {row} has {bad} NaN or infinite samples of {len(wave)}; repair or drop it"
            )
        seconds = len(wave) / self.sampling_rate
        if seconds > self.max_audio_s:
            raise ValueError(
                f"clip {row} is {seconds:.2f} s but one pass takes at most {self.max_audio_s:g} s; "
                "cut it with modeling_clsr.data.passages.cut_passages"
            )
        return wave

    def _raw(self, wave: torch.Tensor) -> torch.Tensor:
        """Return the waveform itself, normalised if the recogniser was trained so. Shape (S,)."""
        if self.do_normalize:
            wave = (wave - wave.mean()) / torch.sqrt(wave.var(unbiased=False) + 1e-7)
        missing = round(MIN_WAVEFORM_S * self.sampling_rate) - len(wave)
        return torch.nn.functional.pad(wave, (0, missing)) if missing > 0 else wave

    def _whisper_log_mel(self, wave: torch.Tensor, full: int | None) -> torch.Tensor:
        """Compute Whisper's log-mel of the clip with silence behind it. Shape (T, M).

        Source: Whisper (Radford et al. 2022, arXiv 2212.04356), section 2.2.
        """
        length = full or len(wave) + round(self.tail_silence_s * self.sampling_rate)
        length = -(-length // (2 * self.hop_length)) * 2 * self.hop_length  # whole encoder frames
        wave = torch.nn.functional.pad(wave, (0, length - len(wave)))
        power = self._power(wave, torch.hann_window(self.win_length), "reflect")[
            :, :-1
        ]  # (n_fft // 2 + 1, T)
        mel = torch.clamp(self.mel_filters @ power, min=1e-10).log10()
        mel = torch.maximum(mel, mel.max() - 8.0)
        return ((mel + 4.0) / 4.0).T

    def _parakeet_log_mel(self, wave: torch.Tensor) -> torch.Tensor:
        """Compute NeMo's log-mel, normalised over the clip band by band. Shape (T, M)."""
        wave = torch.cat([wave[:1], wave[1:] - self.preemphasis * wave[:-1]])
        window = torch.hann_window(self.win_length, periodic=False)
        power = self._power(wave, window, "constant")
        mel = torch.log(self.mel_filters @ power + 2.0**-24).T  # (T, M)
        mel = mel[: max(len(wave) // self.hop_length, 1)]
        spread = mel.std(dim=0) if len(mel) > 1 else torch.ones(mel.shape[1])
        return (mel - mel.mean(dim=0)) / (spread + 1e-5)

    def _kaldi_rows(self, wave: torch.Tensor) -> torch.Tensor:
        """Compute Kaldi's filterbank and stack it, Paraformer's front end without CMVN. Shape (T, m M)."""
        frames = kaldi_fbank(wave, self.sampling_rate, self.feature_size)[None]  # (1, T10, M)
        lengths = torch.tensor([frames.shape[1]])
        return stack_frames(frames, lengths, self.num_stacked, self.frame_stride)[0][0]

    def _power(self, wave: torch.Tensor, window: torch.Tensor, pad_mode: str) -> torch.Tensor:
        spectrum = torch.stft(
            wave, self.n_fft, self.hop_length, self.win_length, window, pad_mode=pad_mode, return_complex=True
        )
        return spectrum.abs() ** 2  # (n_fft // 2 + 1, T)

    def _mel_filters(self) -> torch.Tensor:
        filters = mel_filter_bank(
            num_frequency_bins=self.n_fft // 2 + 1,
            num_mel_filters=self.feature_size,
            min_frequency=0.0,
            max_frequency=self.sampling_rate / 2,
            sampling_rate=self.sampling_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        return torch.from_numpy(np.ascontiguousarray(filters.T, dtype=np.float32))  # (M, n_fft // 2 + 1)


CLSRFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")

__all__ = ["CLSRFeatureExtractor"]
