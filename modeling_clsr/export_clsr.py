"""What a checkpoint folder holds beside weights, config and tokenizer: other libraries' files, endpoint, requirements.

`CLSRModel.save_pretrained` calls `write_companions`, so that no save (push_to_hub, Trainer, pipelines) leaves them out.
"""

import json
import shutil
from pathlib import Path

TASK = "speech-retrieval"
CUSTOM_PIPELINES = {
    TASK: {
        "impl": "pipeline_clsr.SpeechRetrievalPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
        "default": {},
    }
}
COPIES = {
    "pipeline_clsr.py": "pipeline_clsr.py",
    "sentence_clsr.py": "sentence_clsr.py",
    "handler_clsr.py": "handler.py",
}
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_clsr.CLSRModule"}]
SENTENCE_CONFIG = {
    "prompts": {"query": "", "document": ""},
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
}
REQUIREMENTS = ("torch>=2.6", "transformers>=5.20,<6", "soundfile>=0.13", "soxr>=0.5")


def write_companions(folder: str | Path) -> None:
    """Write them.

    Args:
        folder: of a checkpoint.
    """
    folder, here = Path(folder), Path(__file__).parent
    for source, target in COPIES.items():
        if (here / source).resolve() != (folder / target).resolve():
            shutil.copyfile(here / source, folder / target)
    # The copy under its own name lets a model that was loaded from this folder write it again.
    if here.resolve() != folder.resolve():
        shutil.copyfile(here / "handler_clsr.py", folder / "handler_clsr.py")
    for name, content in (
        ("modules.json", MODULES),
        ("config_sentence_transformers.json", SENTENCE_CONFIG),
        ("sentence_clsr_config.json", {}),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n", encoding="utf-8")


def _named_for_the_loader() -> None:
    """Never called: the dynamic loader copies the files that relative imports name, wherever they stand."""
    from .handler_clsr import EndpointHandler  # noqa: F401
    from .pipeline_clsr import SpeechRetrievalPipeline  # noqa: F401
    from .sentence_clsr import CLSRModule  # noqa: F401
