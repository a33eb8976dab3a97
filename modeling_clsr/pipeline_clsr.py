"""The pipeline `speech-retrieval`: a question and clips in, the clips in order of their answers out.

pipe = pipeline("speech-retrieval", model=folder, trust_remote_code=True)
pipe("Who keeps the bees?", ["a.wav", "b.wav"], top_k=1)
"""

from typing import Any

import torch
from transformers import Pipeline


class SpeechRetrievalPipeline(Pipeline):
    """Rank clips by how well they answer a question; see `__call__`."""

    _load_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_image_processor = False
    default_input_names = None

    def __call__(self, question: Any, clips: Any = None, **kwargs: Any) -> Any:
        """Rank clips.

        Args:
            question: text; or a dictionary with "question" and "clips".
            clips: file names, bytes, waveforms at the model's rate or dictionaries, see `read_waveform`.
            **kwargs: `top_k`, how many are returned (all if left out).

        Returns:
            A list, best first: "clip" (its place in `clips`), "score" (cosine), "text", and "words", each with
            "text", "start" and "end" in seconds and "probability".

        Raises:
            ValueError: the question is empty, or there are no clips.
        """
        if isinstance(question, dict):
            question, clips = question.get("question"), question.get("clips")
        return super().__call__({"question": question, "clips": clips}, **kwargs)

    def _sanitize_parameters(self, top_k: int | None = None, **kwargs: Any):
        if kwargs:
            raise ValueError(f"the pipeline got {', '.join(kwargs)}, which it does not take; it takes top_k")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k} but must be 1 or more")
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, input_: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Turn question and clips into model inputs."""
        clips, question = input_["clips"], input_["question"]
        if not isinstance(clips, list | tuple) or not clips:
            raise ValueError(f"clips are {clips!r} but a list of at least one clip is needed")
        processor: Any = self.processor
        waveforms = [processor.read_audio(clip) for clip in clips]
        rate = processor.feature_extractor.sampling_rate
        # Clip by clip: hundreds of clips in one batch would not fit.
        return {
            "question": processor(text=question),
            "clips": [processor(audio=wave, sampling_rate=rate) for wave in waveforms],
        }

    def _forward(self, input_tensors: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        model: Any = self.model
        question = model.get_text_features(**self._placed(input_tensors["question"])).pooler_output  # (1, D)
        heard = [model.get_audio_features(**self._placed(clip)) for clip in input_tensors["clips"]]
        scores = [float(question[0] @ clip.pooler_output[0]) for clip in heard]
        return {"scores": scores, "transcripts": [clip.transcripts[0] for clip in heard]}

    def postprocess(self, model_outputs: dict[str, Any], top_k: int | None = None) -> list[dict[str, Any]]:
        """Order the clips."""
        scores, transcripts = model_outputs["scores"], model_outputs["transcripts"]
        order = sorted(range(len(scores)), key=lambda clip: -scores[clip])
        return [
            {
                "clip": clip,
                "score": scores[clip],
                "text": transcripts[clip].text,
                "words": [vars(word) for word in transcripts[clip].words],
            }
            for clip in order[:top_k]
        ]

    def _placed(self, batch: Any) -> dict[str, torch.Tensor]:
        return {name: value.to(self.model.device) for name, value in batch.items()}
