"""The systems that `eval_clsr.py` compares, by name.

Enters: names and where their models are. Leaves: `System`s, each model loaded once.
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from ..hub.build import default_checkpoint
from ..hub.parts import minilm_folder, write_whisper_ct2
from ..retrieval.encoder import Encoder
from .systems import HYBRID_WEIGHT, CascadeSystem, CLSRSystem, System, TextSystem, clap, faster_whisper

SYSTEMS = ("text", "bm25-true", "cascade", "cascade-hybrid", "bm25", "clap", "dual", "clsr", "clsr-hybrid")


def build_systems(args: Any, cache_dir: Path) -> list[System]:
    """Make the systems of `args.systems`, in that order; see `eval_clsr.py` for the other fields.

    Raises:
        ValueError: a name is unknown, or `dual` has no checkpoint.
    """
    names = args.systems.split(",")
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise ValueError(f"the system {unknown[0]!r} is none of {', '.join(SYSTEMS)}; choose among these")
    if "dual" in names and not args.dual:
        if args.systems != ",".join(SYSTEMS):
            raise ValueError(
                "the system 'dual' is asked for but --dual is None; name the checkpoint of a dual run"
            )
        names.remove("dual")  # nobody asked for it by name
    parts = _Parts(args)
    return [_build(name, parts, cache_dir) for name in names]


def _build(name: str, parts: "_Parts", cache_dir: Path) -> System:
    hybrid = HYBRID_WEIGHT if name.endswith("-hybrid") else 0.0
    if name == "text":
        return TextSystem(parts.text_encoder, name)
    if name == "bm25-true":
        return TextSystem(None, name)
    if name in ("cascade", "cascade-hybrid", "bm25"):
        encoder = None if name == "bm25" else parts.text_encoder
        return CascadeSystem(parts.recogniser, parts.recogniser_key, encoder, hybrid, cache_dir, name)
    if name == "clap":
        return clap(*parts.clap, cache_dir, name)
    if name == "dual":
        return CLSRSystem(Encoder.from_pretrained(parts.args.dual), 0.0, cache_dir, name)
    return CLSRSystem(parts.clsr, hybrid, cache_dir, name)


class _Parts:
    """Models that several systems share."""

    def __init__(self, args: Any):
        self.args = args

    @functools.cached_property
    def text_encoder(self) -> SentenceTransformer:
        return SentenceTransformer(str(self.args.text_encoder or minilm_folder()), device="cpu")

    @functools.cached_property
    def clsr(self) -> Encoder:
        name = default_checkpoint() if self.args.checkpoint == "default" else self.args.checkpoint
        return Encoder.from_pretrained(name)

    @property
    def recogniser_key(self) -> str:
        return f"faster-whisper/{self.args.recogniser or 'whisper-base'}/int8/greedy"

    @functools.cached_property
    def recogniser(self) -> Any:
        if self.args.recogniser:
            return faster_whisper(self.args.recogniser)
        with tempfile.TemporaryDirectory() as folder:  # the weights stay in memory
            return faster_whisper(write_whisper_ct2(folder))

    @functools.cached_property
    def clap(self) -> tuple[Any, Any]:
        """Random weights: no checkpoint of CLAP comes with the packages, and what is left is the floor."""
        import torch
        from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

        torch.manual_seed(0)
        config: Any = ClapConfig()
        model = ClapModel(config).eval()
        return model, _ClapInputs(
            ClapFeatureExtractor(), self.clsr.processor.tokenizer, config.text_config.vocab_size
        )


class _ClapInputs:
    """Feature extractor and tokenizer of an untrained CLAP: any tokenizer does whose ids fit."""

    def __init__(self, feature_extractor: Any, tokenizer: Any, vocab_size: int):
        self.feature_extractor = feature_extractor
        assert len(tokenizer) <= vocab_size
        self.backend = tokenizer

    def tokenizer(self, texts: list[str], **settings: Any) -> Any:
        batch = self.backend(texts, **settings)
        return {name: batch[name] for name in ("input_ids", "attention_mask")}
