"""The systems that `eval_clsr.py` compares, by name.

Enters: names and where their models are. Leaves: `System`s, each model loaded once.
"""

import tempfile
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..hub.parts import write_whisper_ct2
from ..retrieval.encoder import Encoder
from .audio_encoders import clap, sentence_transformers_system
from .recognisers import (
    Recogniser,
    faster_whisper,
    faster_whisper_batched,
    load_faster_whisper,
    transformers_recogniser,
)
from .scoring import KnownTexts, sentence_encoder
from .systems import CascadeSystem, CLSRSystem, System, TextSystem

SYSTEMS = (
    "text",
    "text-search",
    "bm25-true",
    "cascade",
    "cascade-batched",
    "cascade-hybrid",
    "cascade-moments",
    "cascade-search",
    "cascade-rrf",
    "bm25",
    "clap",
    "st",
    "dual",
    "speechdpr",
    "clsr",
    "clsr-hybrid",
    "clsr-moments",
    "clsr-search",
    "clsr-rrf",
)
NEED_A_MODEL = ("st", "dual", "speechdpr")  # each has an argument of its name
UNTUNED = "@base"  # ends the names of controls with the text encoder of --base
SYSTEMS_OF_BASE = tuple(
    f"{name}{UNTUNED}" for name in SYSTEMS if name.partition("-")[0] in ("text", "cascade")
)


def build_systems(args: Any, cache_dir: Path) -> list[System]:
    """Make the systems of `args.systems`, in that order; see `eval_clsr.py` for the other fields.

    Raises:
        ValueError: a name is unknown, or a system has no model.
    """
    names = (
        args.systems.split(",")
        if args.systems
        else [name for name in SYSTEMS if name not in NEED_A_MODEL or getattr(args, name)]
        + list(SYSTEMS_OF_BASE if args.base else ())
    )
    for name in names:
        if name not in SYSTEMS + SYSTEMS_OF_BASE:
            raise ValueError(f"the system {name!r} is none of {', '.join(SYSTEMS)}; choose among these")
        if name in SYSTEMS_OF_BASE and not args.base:
            raise ValueError(f"the system {name!r} is asked for but --base is None; name its checkpoint")
        if name in NEED_A_MODEL and not getattr(args, name):
            raise ValueError(f"the system {name!r} is asked for but --{name} is None; name its model")
    parts = Parts(args)
    systems = [_build(name, parts, cache_dir) for name in names]
    for entry in args.also or []:
        name, _, checkpoint = entry.partition("=")
        if not checkpoint:
            raise ValueError(f"--also is {entry!r} but must be NAME=CHECKPOINT; write it so")
        systems.append(CLSRSystem(Encoder.from_pretrained(checkpoint), cache_dir=cache_dir, name=name))
    return systems


def compared_alike(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of a CLSR and a cascade that rank by the same rule.

    >>> compared_alike(["cascade", "cascade-search", "cascade-search@base", "clsr", "clsr-search"])
    [('clsr', 'cascade'), ('clsr-search', 'cascade-search'), ('clsr-search', 'cascade-search@base')]
    """
    return [
        (name, other)
        for name in names
        if name.partition("-")[0] == "clsr"
        for other in (name.replace("clsr", "cascade", 1) + end for end in ("", UNTUNED))
        if other in names
    ]


def _build(name: str, parts: "Parts", cache_dir: Path) -> System:
    kind = name.removesuffix(UNTUNED)
    encode = parts.encode_texts if kind == name else parts.encode_texts_of_base
    family, _, last = kind.partition("-")
    scoring = {"": "dense", "true": "bm25", "batched": "dense"}.get(last, last)
    if family == "text" or name == "bm25-true":
        return TextSystem(encode, scoring, name)
    if family in ("cascade", "bm25"):
        batched = last == "batched"
        hear, key = parts.recogniser(batched), parts.recogniser_key(batched)
        scoring = "bm25" if family == "bm25" else scoring
        return CascadeSystem(hear, key, encode, scoring, cache_dir, name)
    if name == "clap":
        return clap(*parts.clap, cache_dir, name)
    if name == "st":
        return sentence_transformers_system(parts.args.st, cache_dir, name)
    if name in ("dual", "speechdpr"):
        encoder = Encoder.from_pretrained(getattr(parts.args, name))
        return CLSRSystem(encoder, cache_dir=cache_dir, name=name, recognises=False)
    return CLSRSystem(parts.clsr, scoring, cache_dir, name, encode=parts.texts_of_clsr)


def encode_heard(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Embed texts, (N, D); where nothing was heard the vector is 0 and its cosines, too."""
    heard = [place for place, text in enumerate(texts) if text.strip()]
    vectors = np.zeros((len(texts), encoder.embed_dim), dtype=np.float32)
    if heard:
        vectors[heard] = encoder.encode_texts([texts[place] for place in heard], truncation=True)
    return vectors


class Parts:
    """Models that several systems share."""

    def __init__(self, args: Any):
        self.args = args

    @cached_property
    def encode_texts(self) -> KnownTexts:
        """The text retriever of the controls: the one inside the checkpoint under test, or `--text_encoder`."""
        if self.args.text_encoder:
            return KnownTexts(sentence_encoder(self.args.text_encoder))
        return self.texts_of_clsr

    @cached_property
    def encode_texts_of_base(self) -> KnownTexts:
        """The text retriever inside `--base`: of the parts before training."""
        return KnownTexts(partial(encode_heard, Encoder.from_pretrained(self.args.base)))

    @cached_property
    def texts_of_clsr(self) -> KnownTexts:
        """The text retriever inside the checkpoint under test."""
        return KnownTexts(partial(encode_heard, self.clsr))

    @cached_property
    def clsr(self) -> Encoder:
        """The checkpoint under test."""
        return Encoder.from_pretrained(self.args.checkpoint)

    def recogniser(self, batched: bool = False) -> Recogniser:
        """Return Whisper through faster-whisper, or the recogniser of transformers that `--recogniser` names.

        Raises:
            ValueError: it has no batching of its own.
        """
        if not self._is_faster_whisper:
            if batched:
                raise ValueError(
                    f"the system 'cascade-batched' is faster-whisper's but --recogniser is {self.args.recogniser}; "
                    "use 'cascade'"
                )
            return self._transformers_recogniser
        return (faster_whisper_batched if batched else faster_whisper)(self.whisper)

    def recogniser_key(self, batched: bool = False) -> str:
        """Name recogniser and settings."""
        name = self.args.recogniser or "whisper-base"
        if not self._is_faster_whisper:
            return f"transformers/{name}"
        return f"faster-whisper/{name}/int8/greedy{'/batched' if batched else ''}"

    @property
    def _is_faster_whisper(self) -> bool:
        return not self.args.recogniser or (Path(self.args.recogniser) / "model.bin").is_file()

    @cached_property
    def whisper(self) -> Any:
        """The model of faster-whisper."""
        if self.args.recogniser:
            return load_faster_whisper(self.args.recogniser)
        with tempfile.TemporaryDirectory() as folder:  # the weights stay in memory
            return load_faster_whisper(write_whisper_ct2(folder))

    @cached_property
    def _transformers_recogniser(self) -> Recogniser:
        return transformers_recogniser(self.args.recogniser)

    @cached_property
    def clap(self) -> tuple[Any, Any]:
        """Random weights: no checkpoint of CLAP comes with the packages, and what is left is the floor."""
        import torch
        from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

        torch.manual_seed(0)
        config: Any = ClapConfig()
        model = ClapModel(config).eval()
        extractor = ClapFeatureExtractor(truncation="rand_trunc")  # as the checkpoints without fusion
        return model, _ClapInputs(extractor, self.clsr.processor.tokenizer, config.text_config.vocab_size)


class _ClapInputs:
    """Feature extractor and tokenizer of an untrained CLAP: any tokenizer does whose ids fit."""

    def __init__(self, feature_extractor: Any, tokenizer: Any, vocab_size: int):
        self.feature_extractor = feature_extractor
        assert len(tokenizer) <= vocab_size
        self.backend = tokenizer

    def tokenizer(self, texts: list[str], **settings: Any) -> Any:
        batch = self.backend(texts, **settings)
        return {name: batch[name] for name in ("input_ids", "attention_mask")}
