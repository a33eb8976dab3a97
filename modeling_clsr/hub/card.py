"""The model card: metadata that the Hub reads, and a text rendered from configuration and measured figures.

Enters: a model and, if it was measured, its results as `evaluation.report` renders them. Leaves: README.md.
"""

from pathlib import Path
from typing import Any

import yaml

from ..modeling_clsr import CLSRModel

TEMPLATE = Path(__file__).with_name("template.md")
EXAMPLE = Path(__file__).with_name("example.opus")
EXAMPLE_LABELS = ("a kitchen with a fire", "a lighthouse at sea", "the chain of a bicycle")
PIPELINE_TAG = (
    "zero-shot-audio-classification"  # a task of the Hub; `speech-retrieval` is none and stands in the tags
)


def card_metadata(
    name: str, model: CLSRModel, license_id: str = "apache-2.0", language: str = "en"
) -> dict[str, Any]:
    """Return the metadata of a card, widget example included.

    Args:
        name: of the model, shown by the Hub.
        model: whose parts become `base_model`, where they came from the Hub.
        license_id: of the weights.
        language: of the speech.
    """
    configs: list[Any] = [model.config.speech_config, model.config.text_config]
    parts = [origin for config in configs if "/" in (origin := str(config._name_or_path))]
    metadata = {
        "language": language,
        "license": license_id,
        "library_name": "transformers",
        "pipeline_tag": PIPELINE_TAG,
        "tags": ["custom_code", "speech-retrieval", "sentence-transformers"],
        "model_name": name,
        "widget": [widget_example()],
    }
    return metadata | ({"base_model": parts} if parts else {})


def widget_example() -> dict[str, str]:
    """Return the entry of the inference widget; the audio lies beside the card."""
    return {
        "src": EXAMPLE.name,
        "example_title": "Which of these is it about?",
        "candidate_labels": ", ".join(EXAMPLE_LABELS),
    }


def render_card(name: str, model: CLSRModel, results: str | None = None, **metadata: Any) -> str:
    """Render README.md.

    Args:
        name: of the model.
        model: described.
        results: Markdown of `evaluation.report.render_results`.
        **metadata: see `card_metadata`.
    """
    config: Any = model.config
    sizes = {
        part: sum(weight.numel() for weight in model.get_submodule(part).parameters()) / 1e6
        for part in ("speech_model", "text_model")
    }
    body = TEMPLATE.read_text(encoding="utf-8").format(
        name=name,
        speech=config.speech_config._name_or_path or config.speech_config.model_type,
        speech_parameters=sizes["speech_model"],
        text=config.text_config._name_or_path or config.text_config.model_type,
        text_parameters=sizes["text_model"],
        decoder=config.decoder_type,
        predictor=config.predictor_type or "no predictor",
        adaptor=config.adaptor_type,
        embed_dim=config.embed_dim,
        max_audio_s=config.max_audio_s,
        sampling_rate=config.sampling_rate,
        max_text_tokens=config.max_text_tokens,
        results=results or "Not measured yet.",
    )
    front = yaml.safe_dump(card_metadata(name, model, **metadata), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{body}"
