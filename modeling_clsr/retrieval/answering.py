"""Large audio language models: a question and pieces of recordings in, an answer in words out.

Any `audio-text-to-text` model through transformers, or any server that speaks OpenAI's chat protocol with audio.
"""

import base64
import io
import json
import os
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import soundfile
import soxr

from ..data.audio import SAMPLING_RATE

INSTRUCTION = "Answer the question from the recording, in as few words as possible.\nQuestion: {question}"
MAX_NEW_TOKENS = 64
TIMEOUT_S = 300.0
KEY_VARIABLE = "CLSR_LALM_API_KEY"


class AnswerModel(Protocol):
    """One model."""

    name: str

    def answer(self, question: str, clips: Sequence[np.ndarray]) -> str:
        """Answer a question.

        Args:
            question: in words.
            clips: waveforms (S,) float32 at 16 kHz, in the order to be heard.
        """


def open_answer_model(model: str, served_name: str | None = None) -> AnswerModel:
    """Open a model.

    Args:
        model: URL of an OpenAI-compatible server ("http://host:8000/v1"; the environment's `CLSR_LALM_API_KEY` is its
            key, if it needs one), or folder or Hub id for transformers.
        served_name: of the model on the server; the first that the server lists if None.

    Raises:
        ValueError: the model takes no audio, or the server lists none.
        ConnectionError: the server cannot be reached.
    """
    if model.startswith(("http://", "https://")):
        return ServedModel(model, served_name, os.environ.get(KEY_VARIABLE))
    return TransformersModel(model)


class TransformersModel:
    """An audio language model of transformers with its chat template, such as Qwen2-Audio.

    Args:
        name: folder or Hub id.
        device: "cuda" if there is one, else "cpu".
        max_new_tokens: longest answer.
    """

    def __init__(self, name: str | Path, device: str | None = None, max_new_tokens: int = MAX_NEW_TOKENS):
        import torch
        from transformers import AutoModelForMultimodalLM, AutoProcessor

        self.name, self.max_new_tokens = str(name), max_new_tokens
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._processor: Any = AutoProcessor.from_pretrained(name)
        if not hasattr(self._processor, "feature_extractor"):
            raise ValueError(
                f"{name} has a {type(self._processor).__name__} but a processor with a feature extractor for audio "
                "is needed; name an audio language model"
            )
        self._model: Any = AutoModelForMultimodalLM.from_pretrained(name, dtype="auto").to(self.device).eval()

    def answer(self, question: str, clips: Sequence[np.ndarray]) -> str:
        """Answer by greedy decoding. Arguments as `AnswerModel.answer`."""
        import torch

        rate = self._processor.feature_extractor.sampling_rate
        heard = [_at_rate(clip, rate) for clip in clips]
        content: list[dict[str, Any]] = [{"type": "audio", "audio": clip} for clip in heard]
        content.append({"type": "text", "text": INSTRUCTION.format(question=question)})
        prompt = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = self._processor(
            text=[prompt], audio=heard or None, sampling_rate=rate, return_tensors="pt", padding=True
        ).to(self.device, self._model.dtype)
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        written = tokens[:, inputs["input_ids"].shape[1] :]
        return self._processor.batch_decode(written, skip_special_tokens=True)[0].strip()


class ServedModel:
    """A model behind OpenAI's chat protocol (vLLM, llama.cpp, a provider), audio as 16-bit WAV.

    Args:
        url: up to and with the version, "http://host:8000/v1".
        model: name on the server; the first that it lists if None.
        api_key: sent as a bearer token.
        timeout_s: of one answer.
    """

    def __init__(
        self, url: str, model: str | None = None, api_key: str | None = None, timeout_s: float = TIMEOUT_S
    ):
        self.url, self.timeout_s = url.rstrip("/"), timeout_s
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        if model is None:
            listed = self._ask("/models", lambda answer: [str(entry["id"]) for entry in answer["data"]])
            if not listed:
                raise ValueError(f"{url} lists 0 models but one is needed; name it")
            model = listed[0]
        self.name = model

    def answer(self, question: str, clips: Sequence[np.ndarray]) -> str:
        """Answer by the server. Arguments as `AnswerModel.answer`.

        Raises:
            ConnectionError: the server cannot be reached, or refuses; the message says what it said.
        """
        content: list[dict[str, Any]] = [
            {"type": "input_audio", "input_audio": {"data": _wav_base64(clip), "format": "wav"}}
            for clip in clips
        ]
        content.append({"type": "text", "text": INSTRUCTION.format(question=question)})
        request = {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": MAX_NEW_TOKENS,
        }
        return self._ask("/chat/completions", _content, request)

    def _ask(self, path: str, read: Callable[[Any], Any], body: Any = None) -> Any:
        """Post a body, or get without one, and return what `read` finds in the JSON of the answer."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(self.url + path, data, self._headers), timeout=self.timeout_s) as response:
                return read(json.load(response))
        except HTTPError as error:
            said = error.read().decode(errors="replace")[:200]
            raise ConnectionError(
                f"{self.url} answered {error.code} to {path}: {said}; check model name and key ({KEY_VARIABLE})"
            ) from error
        except (OSError, HTTPException, json.JSONDecodeError) as error:
            raise ConnectionError(
                f"{self.url} did not answer {path} as expected ({error}); start the server or check the address"
            ) from error
        except (LookupError, TypeError) as error:
            raise ConnectionError(
                f"{self.url} answered {path} otherwise than OpenAI's protocol says ({error!r}); check the address"
            ) from error


def _content(answer: Any) -> str:
    """Return what was said; no content (null) is an answer without words."""
    content = answer["choices"][0]["message"]["content"]
    if not isinstance(content, str | None):
        raise TypeError(f"content is a {type(content).__name__}")
    return (content or "").strip()


def _at_rate(clip: np.ndarray, rate: int) -> np.ndarray:
    return clip if rate == SAMPLING_RATE else np.asarray(soxr.resample(clip, SAMPLING_RATE, rate))


def _wav_base64(clip: np.ndarray) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(clip, -1.0, 1.0), SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return base64.b64encode(buffer.getvalue()).decode()
