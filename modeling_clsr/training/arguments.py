"""What a training run is told: a flat YAML recipe or flags, checked against three dataclasses.

Enters: command-line arguments. Leaves: `ModelArguments`, `DataArguments`, `CLSRTrainingArguments`.
"""

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

STAGES = ("asr", "text", "joint", "post", "dual", "selfdistil")
CACHES = ("none", "states", "transcripts")


@dataclass
class ModelArguments:
    """The model to start from; fields of `CLSRConfig` left out keep what the checkpoint or the parts say."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "checkpoint to go on from: folder, Hub id, clsr-mini-en, or 'default' for clsr-base-en"
        },
    )
    speech: str | None = field(
        default=None,
        metadata={
            "help": "recogniser to join: folder, Hub id, or 'sanm' for a new SAN-M encoder (then decoder_type)"
        },
    )
    text: str | None = field(default=None, metadata={"help": "text encoder to join: folder or Hub id"})
    recognizer_tokenizer: str | None = field(
        default=None,
        metadata={"help": "tokenizer of a pretrained recogniser; found by itself for known parts"},
    )
    vocabulary: str = field(
        default="all",
        metadata={
            "help": "'train' lets a parallel decoder write only the tokens of the training transcripts"
        },
    )
    encoder_layers: int = field(default=50, metadata={"help": "of a new SAN-M encoder"})
    decoder_layers: int = field(default=16, metadata={"help": "of a new SAN-M decoder"})
    width: int = field(default=512, metadata={"help": "of new SAN-M layers"})
    heads: int = field(default=4, metadata={"help": "of new SAN-M layers"})
    feedforward: int = field(default=2048, metadata={"help": "width inside new SAN-M layers"})
    dropout: float = field(default=0.1, metadata={"help": "of new SAN-M layers"})
    tokens_per_s: float | None = field(
        default=None,
        metadata={"help": "pace that a new CIF predictor starts at; a token in two frames if left out"},
    )
    decoder_type: str | None = field(default=None, metadata={"help": "recognizer, sanm or whisper"})
    predictor_type: str | None = field(default=None, metadata={"help": "cif or ctc"})
    adaptor_type: str | None = field(
        default=None, metadata={"help": "retokenize, vq, softmax, expected, projection"}
    )
    adaptor_temperature: float | None = field(
        default=None, metadata={"help": "gamma of the straight-through softmax"}
    )
    adaptor_num_best: int | None = None
    tie_output: bool | None = None
    tail_threshold: float | None = field(
        default=None,
        metadata={"help": "mass for a rest of the CIF predictor; 0.6 for clips that end with speech"},
    )
    draft_passes: int | None = None
    sampler_ratio: float | None = field(default=None, metadata={"help": "lambda of the glancing sampler"})
    label_smoothing: float | None = None
    contrastive_weight: float | None = None
    recognition_weight: float | None = None
    quantity_weight: float | None = None
    minimum_error_weight: float | None = field(default=None, metadata={"help": "of MWER; 0 leaves it out"})
    logit_scale_init_value: float | None = field(
        default=None, metadata={"help": "inverse temperature at the start"}
    )

    def config_fields(self) -> dict[str, Any]:
        """Return the fields of `CLSRConfig` that were given."""
        names = [entry.name for entry in dataclasses.fields(self)]
        chosen = names[names.index("decoder_type") :]
        return {name: value for name in chosen if (value := getattr(self, name)) is not None}


@dataclass
class DataArguments:
    """The rows to learn from and what is done to their audio."""

    train_manifest: str | None = field(
        default=None, metadata={"help": "JSONL of rows (docs/data.md); several with commas"}
    )
    dataset: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder of a Hugging Face data set, in place of train_manifest"},
    )
    dataset_config: str | None = None
    dataset_split: str = "train"
    eval_manifest: str | None = field(
        default=None, metadata={"help": "the fixed pool for R@k and WER while training"}
    )
    audio_root: str | None = field(
        default=None, metadata={"help": "folder of relative audio paths, if another one"}
    )
    columns: str | None = field(
        default=None, metadata={"help": "other column names, as 'transcript=text,duration=dur'"}
    )
    skip_bad_rows: bool = field(
        default=False, metadata={"help": "leave out unusable rows, count and list them"}
    )
    max_train_rows: int | None = field(default=None, metadata={"help": "of the manifest, for a trial"})
    streaming: bool = field(default=False, metadata={"help": "read rows as they come; needs max_steps"})
    cache: str = field(
        default="none",
        metadata={
            "help": "'states' of a frozen speech encoder or 'transcripts' of a frozen recogniser, made once"
        },
    )
    cache_dir: str | None = field(default=None, metadata={"help": "where; output_dir/cache if left out"})
    noise_dir: str | None = field(default=None, metadata={"help": "folder of noise*.flac and rir*.flac"})
    noise_probability: float = 0.0
    room_probability: float = 0.0
    speed_probability: float = 0.0
    codec_probability: float = 0.0
    min_snr_db: float = 5.0
    max_snr_db: float = 25.0
    spec_augment: bool = field(default=False, metadata={"help": "mask bands and stretches of the log-mel"})


@dataclass
class CLSRTrainingArguments(TrainingArguments):
    """`TrainingArguments` and what they lack: the stage, its losses and large batches in small pieces."""

    stage: str = field(default="joint", metadata={"help": f"one of {', '.join(STAGES)}"})
    trainable: str | None = field(
        default=None,
        metadata={"help": "regular expression of parameter names; narrows what the stage trains"},
    )
    mini_batch_size: int | None = field(
        default=None,
        metadata={"help": "GradCache: rows encoded at a time; the batch stays the set of negatives"},
    )
    memory_bank: bool = field(
        default=False,
        metadata={"help": "compare with the texts of all rows, not the batch's alone; frozen text encoder"},
    )
    new_learning_rate: float | None = field(
        default=None, metadata={"help": "of parts that start from random weights; learning_rate if left out"}
    )
    embedding_weight: float = field(
        default=0.0, metadata={"help": "distils the vector of the true transcript into the clip's"}
    )
    score_weight: float = field(
        default=0.0, metadata={"help": "distils a text retriever's scores of true transcripts (SpeechDPR)"}
    )
    teacher_temperature: float = field(default=0.05, metadata={"help": "of those scores"})
    states_weight: float = field(default=1.0, metadata={"help": "selfdistil: error of the encoder's states"})
    distribution_weight: float = field(
        default=1.0, metadata={"help": "selfdistil: KL of the decoder's distributions"}
    )

    # Defaults that every stage needs, and names the Trainer would get wrong.
    remove_unused_columns: bool = False
    dataloader_drop_last: bool = True  # the last batch would be filled up with early rows: false negatives
    ddp_find_unused_parameters: bool | None = False
    label_names: list[str] | None = field(default_factory=list)
    train_sampling_strategy: str = "group_by_length"

    def __post_init__(self):
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "eval_recall_at_1" if self.is_contrastive else "eval_wer"
            self.greater_is_better = self.is_contrastive
        super().__post_init__()
        if self.stage not in STAGES:
            raise ValueError(f"stage is {self.stage!r} but must be one of {', '.join(STAGES)}")
        if self.mini_batch_size is not None and self.per_device_train_batch_size % self.mini_batch_size:
            raise ValueError(
                f"mini_batch_size is {self.mini_batch_size} but per_device_train_batch_size is "
                f"{self.per_device_train_batch_size}; the second must be a multiple of the first"
            )
        if self.memory_bank and self.stage != "joint":
            raise ValueError(
                f"memory_bank keeps what a frozen text encoder makes of questions but stage is {self.stage!r}; "
                "use it with the stage joint"
            )
        if self.is_contrastive and self.per_device_train_batch_size < 2:
            raise ValueError(
                f"stage {self.stage!r} compares clips within a batch but per_device_train_batch_size is "
                f"{self.per_device_train_batch_size}; use 2 or more (64 and more are usual)"
            )

    @property
    def is_contrastive(self) -> bool:
        """Whether the stage compares questions with clips or passages."""
        return self.stage not in ("asr", "selfdistil")


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, CLSRTrainingArguments]:
    """Read `--config recipe.yaml` and flags; a flag wins over the recipe.

    Args:
        argv: command-line arguments without the script's name.

    Raises:
        FileNotFoundError: there is no such recipe.
        ValueError: a key or flag is unknown, or a value is out of range.
    """
    parser: Any = HfArgumentParser(
        (ModelArguments, DataArguments, CLSRTrainingArguments),  # type: ignore[arg-type]  # the library's own form
        description="Train a contrastive language-speech retriever. See docs/training.md.",
    )
    parser.add_argument("--config", help="flat YAML recipe; flags win over it")
    given = [word for word in argv if word == "--config" or word.startswith("--config=")]
    if given:
        parser.set_defaults(**_read_recipe(_recipe_path(argv), parser))
    *parsed, _rest, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise ValueError(_unknown(unknown[0].lstrip("-").split("=")[0], "the command line", _names(parser)))
    return tuple(parsed)  # type: ignore[return-value]


def _recipe_path(argv: list[str]) -> Path:
    for position, word in enumerate(argv):
        if word.startswith("--config="):
            return Path(word.removeprefix("--config="))
        if word == "--config" and position + 1 < len(argv):
            return Path(argv[position + 1])
    raise ValueError("--config has no value but needs the path of a recipe, for instance recipes/asr.yaml")


def _read_recipe(path: Path, parser: Any) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"--config names {path}, which is not there; see recipes/ for examples")
    recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(recipe, dict):
        raise ValueError(
            f"{path} holds a {type(recipe).__name__} but a recipe is a flat list of 'key: value'"
        )
    known = _names(parser)
    for key, value in recipe.items():
        if key not in known:
            raise ValueError(_unknown(key, str(path), known))
        if isinstance(value, dict) and key not in (
            "fsdp_config",
            "accelerator_config",
            "lr_scheduler_kwargs",
        ):
            raise ValueError(
                f"{path}: {key} holds a {type(value).__name__} but recipes are flat; write one value"
            )
    # YAML reads 5e-5 as a string; argparse converts the strings among its defaults.
    return {
        key: str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        for key, value in recipe.items()
    }


def _names(parser: Any) -> list[str]:
    return [action.dest for action in parser._actions]


def _unknown(key: str, where: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "train_clsr.py --help lists all"
    return f"{where} has {key}, which is no argument; {hint}"
