"""Silero's voice activity detector, computed in blocks.

Enters: float32 mono blocks at 16 kHz. Leaves: one probability of speech for each frame of 32 ms. The weights
are those of the package silero-vad; run frame by frame, as it does, they take eleven times as long.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

SAMPLING_RATE = 16000  # Hz, the only rate of these weights
FRAME_SAMPLES = 512
FRAME_S = FRAME_SAMPLES / SAMPLING_RATE
CONTEXT_SAMPLES = 64  # of the frame before, put in front of each frame
STRIDES = (1, 2, 2, 1)  # of the four convolutions
HIDDEN_SIZE = 128


class SpeechDetector:
    """Tell where somebody speaks. Holds weights only, so that several recordings can be read in turn."""

    def __init__(self):
        threads = torch.get_num_threads()
        try:
            from silero_vad import load_silero_vad
        except ImportError as error:
            raise ImportError(
                "finding pauses needs silero-vad, which is not installed; "
                'install the "search" extra of this package'
            ) from error
        finally:
            torch.set_num_threads(threads)  # importing silero_vad sets it to 1 for the whole process
        state = load_silero_vad()._model.state_dict()
        self.fourier = state["stft.forward_basis_buffer"]
        names = [f"encoder.{layer}.reparam_conv" for layer in range(len(STRIDES))]
        self.convolutions = [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]
        self.lstm = torch.nn.LSTM(HIDDEN_SIZE, HIDDEN_SIZE, batch_first=True).requires_grad_(False)
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        self.lstm.load_state_dict({f"{name}_l0": state[f"decoder.rnn.{name}"] for name in names})
        self.output = (state["decoder.decoder.2.weight"], state["decoder.decoder.2.bias"])

    def stream(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Follow a recording.

        Args:
            blocks: (S,) float32 at 16 kHz, of any lengths.

        Yields:
            Each block and the probabilities of the frames that it completes, (F,); at the end an empty block
            and the last frame, filled up with zeros. The cut into blocks does not change the probabilities.
        """
        context = torch.zeros(CONTEXT_SAMPLES)
        rest = torch.zeros(0)
        memory = None
        for block in blocks:
            samples = torch.cat([rest, torch.from_numpy(block)])
            whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
            probabilities, context, memory = self._frames(samples[:whole], context, memory)
            rest = samples[whole:]
            yield block, probabilities
        if len(rest):
            rest = F.pad(rest, (0, FRAME_SAMPLES - len(rest)))
        yield np.zeros(0, dtype=np.float32), self._frames(rest, context, memory)[0]

    @torch.no_grad()
    def _frames(self, samples: torch.Tensor, context: torch.Tensor, memory):
        """Return the probabilities of whole frames, and what the next need: context and LSTM memory."""
        if not len(samples):
            return np.zeros(0, dtype=np.float32), context, memory
        joined = torch.cat([context, samples])
        frames = joined.unfold(0, CONTEXT_SAMPLES + FRAME_SAMPLES, FRAME_SAMPLES).unsqueeze(1)  # (F, 1, 576)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the LSTM's steps are so small that a second thread makes them slower
        try:
            spectrum = F.conv1d(F.pad(frames, (0, 64), mode="reflect"), self.fourier, stride=128)
            real, imaginary = spectrum.chunk(2, dim=1)
            x = (real**2 + imaginary**2).sqrt()  # (F, 129, 4)
            for (weight, bias), stride in zip(self.convolutions, STRIDES, strict=True):
                x = F.conv1d(x, weight, bias, stride=stride, padding=1).relu()
            x, memory = self.lstm(x.squeeze(-1).unsqueeze(0), memory)  # (F, 128, 1) -> (1, F, 128)
            scores = F.conv1d(x.relu().transpose(1, 2), *self.output)  # (1, 1, F)
        finally:
            torch.set_num_threads(threads)
        return scores.sigmoid().flatten().numpy(), joined[-CONTEXT_SAMPLES:], memory
