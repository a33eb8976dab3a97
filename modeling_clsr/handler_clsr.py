"""The handler of a Hugging Face inference endpoint; it lies as `handler.py` at the top of every checkpoint.

Takes audio (bytes, or base64 in JSON), texts, or a question with clips; answers in JSON.
"""

import base64
import binascii
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor


class EndpointHandler:
    """Load once, answer requests.

    Args:
        path: of the repository on the endpoint.
    """

    def __init__(self, path: str = ""):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True).eval().to(self.device)
        self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)

    @torch.no_grad()
    def __call__(self, data: dict[str, Any]) -> Any:
        """Answer one request.

        Args:
            data: "inputs": audio bytes, base64 of audio, a text, a list of texts or of base64 clips, or
                {"question": …, "clips": [base64, …]}; "parameters": {"candidate_labels": "a, b"} ranks these texts
                for a clip (the audio classification widget), {"top_k": n} limits a ranking.

        Returns:
            For a clip {"text", "words", "embedding"}; for a text {"embedding"}; lists for lists; for a question a
            list of {"clip", "score", "text", "words"}; for labels a list of {"label", "score"}.

        Raises:
            ValueError: "inputs" is missing or of another kind.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        if inputs is None:
            raise ValueError(
                f"the request has {', '.join(data) or 'nothing'} but needs inputs; see the model card"
            )
        if isinstance(inputs, dict) and "question" in inputs:
            return self._rank(inputs["question"], inputs.get("clips") or [], parameters.get("top_k"))
        if "candidate_labels" in parameters:
            labels = parameters["candidate_labels"]
            return self._label(inputs, labels.split(",") if isinstance(labels, str) else labels)
        if isinstance(inputs, list):
            return [self._one(entry) for entry in inputs]
        return self._one(inputs)

    def _one(self, entry: Any) -> dict[str, Any]:
        audio = _audio_bytes(entry)
        if audio is not None:
            heard = self._hear(audio)
            return _written(heard.transcripts[0]) | {"embedding": heard.pooler_output[0].tolist()}
        if isinstance(entry, str):
            return {"embedding": self._embed(entry)[0].tolist()}
        raise ValueError(
            f"an input is of type {type(entry).__name__} but must be text, audio bytes or their base64"
        )

    def _rank(self, question: str, clips: list[Any], top_k: int | None) -> list[dict[str, Any]]:
        vector = self._embed(question)[0]
        ranked = []
        for number, clip in enumerate(clips):
            audio = _audio_bytes(clip)
            if audio is None:
                raise ValueError(f"clip {number} is no audio; send base64 of a wav, flac, ogg or mp3 file")
            heard = self._hear(audio)
            score = float(vector @ heard.pooler_output[0])
            ranked.append({"clip": number, "score": score} | _written(heard.transcripts[0]))
        return sorted(ranked, key=lambda entry: -entry["score"])[:top_k]

    def _label(self, inputs: Any, labels: list[str]) -> list[dict[str, Any]]:
        audio = _audio_bytes(inputs)
        if audio is None:
            raise ValueError("candidate_labels are given but inputs is no audio; send audio bytes")
        texts = [label.strip() for label in labels]
        logits = self.model.logit_scale.exp() * self._embed(texts) @ self._hear(audio).pooler_output[0]
        scores = logits.softmax(dim=0).tolist()
        found = [{"label": label, "score": score} for label, score in zip(texts, scores, strict=True)]
        return sorted(found, key=lambda entry: -entry["score"])

    def _hear(self, audio: bytes) -> Any:
        wave = self.processor.read_audio(audio)
        batch = self.processor(audio=wave, sampling_rate=self.processor.feature_extractor.sampling_rate)
        return self.model.get_audio_features(**batch.to(self.device))

    def _embed(self, text: str | list[str]) -> torch.Tensor:
        return self.model.get_text_features(
            **self.processor(text=text, truncation=True).to(self.device)
        ).pooler_output


def _audio_bytes(entry: Any) -> bytes | None:
    """Return the bytes of a clip; None for a text."""
    if isinstance(entry, bytes | bytearray):
        return bytes(entry)
    if isinstance(entry, str) and len(entry) > 200 and not any(c.isspace() for c in entry.strip()):
        try:
            return base64.b64decode(entry.strip(), validate=True)
        except binascii.Error:
            return None
    return None


def _written(transcript: Any) -> dict[str, Any]:
    return {"text": transcript.text, "words": [vars(word) for word in transcript.words]}
