"""One training run from its arguments: rows, model, caches, trainer, checkpoint, stamp.

Enters: the three argument groups. Leaves: `output_dir` with the trained checkpoint, its stamp and its curve.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import set_seed

from ..data.augmentation import Augmentation, load_noises, mask_features
from ..data.collator import Collator
from ..data.manifest import Row, read_manifest, rows_of_dataset, stream_manifest, undecoded
from ..hub.stamp import make_stamp
from .arguments import CLSRTrainingArguments, DataArguments, ModelArguments
from .build import Built, build_model, fill_statistics
from .features import Shards, Texts, fill, fingerprint, keep_states, transcripts
from .memory import MemoryBank, make_bank
from .rows import SpeechRows, StreamedRows
from .stages import STAGES, prepare_stage
from .teacher import padded_targets
from .trainer import CLSRTrainer, last_complete_checkpoint

logger = logging.getLogger(__name__)
STAMP_FILE = "stamp.json"
TEXT_BATCH = 64
STREAM_SAMPLE = 1000  # rows of a stream that vocabulary and statistics are taken from
STREAM_PART = 256  # rows of a stream that are looked through at once


def run(model_args: ModelArguments, data_args: DataArguments, args: CLSRTrainingArguments) -> CLSRTrainer:
    """Train one stage and save the result; a run that was cut off goes on from its last whole checkpoint.

    Raises:
        ValueError, FileNotFoundError: see the arguments, the manifest's reader and the stages.
    """
    set_seed(args.seed)
    output_dir = str(args.output_dir)
    stamp = make_stamp()
    if data_args.streaming:
        _check_stream(data_args, args)
        rows = list(itertools.islice(open_stream(data_args, args), STREAM_SAMPLE))
    else:
        rows = load_rows(data_args.train_manifest, data_args, args)
    pool = load_rows(data_args.eval_manifest, data_args, args) if data_args.eval_manifest else None
    built = build_model(model_args, rows, args.seed)
    rows = usable_rows(rows, built, args, data_args)
    if pool is not None and STAGES[args.stage].uses_clips:
        pool = drop_long_rows(pool, float(built.model.config.max_audio_s), data_args.skip_bad_rows)
    fill_statistics(built, rows, args.seed)
    cast(torch.nn.Module, built.model).to(args.device)  # the caches are made there, too
    caches = fill_caches(built, [*rows, *(pool or [])], data_args, args)
    bank = fill_bank(built, rows) if args.memory_bank else None
    frozen = prepare_stage(built.model, args.stage, args.trainable)
    trainer = CLSRTrainer(
        built.model,
        args,
        frozen=frozen,
        new_parameters=built.new_parameters,
        data_collator=make_collator(built, args, data_args, training=True),
        eval_collator=make_collator(built, args, data_args, training=False),
        bank=bank,
        train_dataset=make_dataset(rows, built, args, data_args, caches, training=True),
        eval_dataset=None
        if pool is None
        else make_dataset(pool, built, args, data_args, caches, training=False),
        processing_class=built.processor,
    )
    describe(trainer, rows)
    last = last_complete_checkpoint(output_dir)
    if last is not None:
        logger.warning("going on from %s", last)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.save_model()
    if trainer.is_world_process_zero():
        recipe = {
            **dataclasses.asdict(model_args),
            **dataclasses.asdict(data_args),
            **args.to_sanitized_dict(),
        }
        write_stamp(output_dir, stamp, recipe, rows, trainer)
    return trainer


def load_rows(manifests: str | None, data_args: DataArguments, args: CLSRTrainingArguments) -> list[Row]:
    """Read manifests (or a data set, for training), with the columns that the stage needs."""
    if manifests is None and data_args.dataset is not None:
        return _load_dataset(data_args, args)[: data_args.max_train_rows]
    if manifests is None:
        raise ValueError(
            "train_manifest and dataset are missing but rows are needed to train; see docs/data.md"
        )
    rows: list[Row] = []
    for path in manifests.split(","):
        rows += read_manifest(
            path,
            columns=_columns(data_args),
            audio_root=data_args.audio_root,
            needs=STAGES[args.stage].needs,
            skip_bad_rows=data_args.skip_bad_rows,
        )
    return rows[: data_args.max_train_rows]


def _load_dataset(data_args: DataArguments, args: CLSRTrainingArguments) -> list[Row]:
    try:
        from datasets import load_dataset, load_from_disk
    except ImportError as error:
        raise ImportError('dataset needs the package datasets; install the extra "train"') from error
    name = str(data_args.dataset)
    if (Path(name) / "state.json").is_file():
        dataset = load_from_disk(name)
    else:
        dataset = load_dataset(name, data_args.dataset_config, split=data_args.dataset_split)
    folder = Path(data_args.cache_dir or Path(str(args.output_dir)) / "cache") / "clips"
    return rows_of_dataset(
        undecoded(dataset), folder, _columns(data_args), STAGES[args.stage].needs, data_args.skip_bad_rows
    )


def usable_rows(
    rows: list[Row], built: Built, args: CLSRTrainingArguments, data_args: DataArguments
) -> list[Row]:
    """Refuse the rows that the stage cannot train on, or leave them out and list them.

    Raises:
        ValueError: see `drop_long_rows` and `drop_unspelt_rows`.
    """
    stage, skip = STAGES[args.stage], data_args.skip_bad_rows
    if not stage.uses_clips:
        return rows
    rows = drop_long_rows(rows, float(built.model.config.max_audio_s), skip)
    return drop_unspelt_rows(rows, built, skip) if "transcript" in stage.needs else rows


def usable_stream(built: Built, args: CLSRTrainingArguments, data_args: DataArguments) -> Iterator[Row]:
    """Yield the rows of the stream that the stage can train on. Raises as `usable_rows`, when it comes to a bad one."""
    stream = open_stream(data_args, args)
    while part := list(itertools.islice(stream, STREAM_PART)):
        yield from usable_rows(part, built, args, data_args)


def drop_long_rows(rows: list[Row], longest: float, skip: bool) -> list[Row]:
    """Refuse clips that one pass does not take, or leave them out and list them.

    Raises:
        ValueError: a clip is too long and `skip` is off.
    """
    long = {
        place: f"is {row.duration:.2f} s" for place, row in enumerate(rows) if (row.duration or 0.0) > longest
    }
    remedy = "cut it with data.passages.cut_passages"
    return _without(rows, long, f"one pass takes at most {longest:g} s", remedy, skip)


def drop_unspelt_rows(rows: list[Row], built: Built, skip: bool) -> list[Row]:
    """Refuse transcripts that a parallel recogniser's vocabulary does not spell, or leave them out and list them.

    Raises:
        ValueError: there is one and `skip` is off.
    """
    known = set(built.model.config.vocabulary_ids or ())
    if not known or not rows:
        return rows
    tokenizer = built.transcript_tokenizer
    texts = [row.transcript or "" for row in rows]
    spelt = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    unspelt = {
        place: f"needs the token {tokenizer.convert_ids_to_tokens(min(lost))!r}"
        for place, tokens in enumerate(spelt)
        if (lost := set(tokens) - known)
    }
    why = f"it is not among the {len(known)} of vocabulary_ids"
    return _without(rows, unspelt, why, "correct the transcript", skip)


def _without(rows: list[Row], bad: dict[int, str], why: str, remedy: str, skip: bool) -> list[Row]:
    """Return the rows whose places are not in `bad`, which says what is wrong with each; refuse them unless `skip`."""
    if not bad:
        return rows
    named = [f"{rows[place].id} {what}" for place, what in bad.items()]
    if not skip:
        raise ValueError(
            f"row {named[0]} but {why} ({len(bad)} such rows); {remedy} or pass --skip_bad_rows true"
        )
    logger.warning("%d rows were skipped, as %s: %s", len(bad), why, ", ".join(named[:10]))
    return [row for place, row in enumerate(rows) if place not in bad]


def open_stream(data_args: DataArguments, args: CLSRTrainingArguments) -> Iterator[Row]:
    """Yield the rows of the training manifests as they stand there."""
    for path in (data_args.train_manifest or "").split(","):
        yield from stream_manifest(path, _columns(data_args), data_args.audio_root, STAGES[args.stage].needs)


def fill_caches(
    built: Built, rows: Sequence[Row], data_args: DataArguments, args: CLSRTrainingArguments
) -> dict[str, Any]:
    """Make what the run reads in place of audio: `Item` field -> mapping from row id."""
    model, processor = built.model.eval(), built.processor
    folder = Path(data_args.cache_dir or Path(str(args.output_dir)) / "cache")
    rate = processor.feature_extractor.sampling_rate
    if args.stage == "selfdistil":
        place = fill(
            folder,
            rows,
            padded_targets(model, processor),
            fingerprint(model, processor, "speech_model"),
            rate,
            "teacher",
            args.device.type,
        )
        return {"teacher": Shards(place, rows)}
    caches: dict[str, Any] = {"teacher_vectors": teacher_vectors(built, rows)} if args.score_weight else {}
    if data_args.cache == "none":
        return caches
    if data_args.cache == "states":
        _check_frozen(built, args, "encoder")
        return caches | {"states": keep_states(model, processor, rows, folder)}
    _check_frozen(built, args, "decoder")
    mark = fingerprint(model, processor, "speech_model")
    texts = fill(folder, rows, transcripts(model, processor), mark, rate, "transcripts", args.device.type)
    return caches | {"recognised": Texts(Shards(texts, rows))}


@torch.no_grad()
def teacher_vectors(built: Built, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """Return the text encoder's vectors of each row's question and transcript, (2, D), before it is trained.

    Raises:
        ValueError: a row has no written question or no transcript.
    """
    vectors: dict[str, torch.Tensor] = {}
    for start in range(0, len(rows), TEXT_BATCH):
        part = rows[start : start + TEXT_BATCH]
        for row in part:
            if not row.question or not row.transcript:
                missing = "transcript" if row.question else "written question"
                raise ValueError(
                    f"row {row.id} has no {missing} but score_weight and memory_bank need both; "
                    "fill it or drop the row"
                )
        sides = []
        for texts in ([str(row.question) for row in part], [str(row.transcript) for row in part]):
            tokens = built.processor(text=texts, truncation=True).to(built.model.device)
            sides.append(cast(torch.Tensor, built.model.get_text_features(**tokens).pooler_output))
        pairs = torch.stack(sides, dim=1).cpu()  # (B, 2, D)
        vectors |= {row.id: pair for row, pair in zip(part, pairs, strict=True)}
    return vectors


def fill_bank(built: Built, rows: Sequence[Row]) -> MemoryBank:
    """Return the vectors of all rows' texts as candidates. Raises as `teacher_vectors`."""
    built.model.eval()
    vectors = teacher_vectors(built, rows)
    return make_bank(rows, [vectors[row.id] for row in rows])


def make_dataset(
    rows: Sequence[Row],
    built: Built,
    args: CLSRTrainingArguments,
    data_args: DataArguments,
    caches: dict[str, Any],
    training: bool,
) -> SpeechRows | StreamedRows:
    """Return the rows as the stage hears them; only training is augmented."""
    heard = STAGES[args.stage].uses_clips and not {"states", "recognised"} & set(caches)
    settings: dict[str, Any] = dict(
        sampling_rate=built.processor.feature_extractor.sampling_rate,
        augment=_augmentation(data_args, built) if training and heard else None,
        seed=args.seed,
        audio=heard,
        caches=caches,
        max_audio_s=built.model.config.max_audio_s,
    )
    if training and data_args.streaming:
        return StreamedRows(lambda: usable_stream(built, args, data_args), **settings)
    return SpeechRows(rows, **settings)


def _augmentation(data_args: DataArguments, built: Built) -> Augmentation | None:
    """Return what changes the training clips; None if nothing does."""
    chances = {
        name: getattr(data_args, name)
        for name in ("noise_probability", "room_probability", "speed_probability", "codec_probability")
    }
    if not any(chances.values()):
        return None
    noises: Sequence[Any] = ()
    rooms: Sequence[Any] = ()
    if data_args.noise_dir:
        noises, rooms = load_noises(data_args.noise_dir, built.processor.feature_extractor.sampling_rate)
    for name, recordings in (("noise_probability", noises), ("room_probability", rooms)):
        if chances[name] and not recordings:
            raise ValueError(
                f"{name} is {chances[name]:g} but noise_dir is {data_args.noise_dir}; name the folder"
            )
    return Augmentation(noises, rooms, **chances, snr_db=(data_args.min_snr_db, data_args.max_snr_db))


def make_collator(
    built: Built, args: CLSRTrainingArguments, data_args: DataArguments, training: bool
) -> Collator:
    """Return the collator of the stage; in the fixed pool no transcript enters the model."""
    stage = STAGES[args.stage]
    taught = training and "transcript" in stage.needs and stage.uses_clips
    passages: str | None
    if args.stage == "text":
        passages = "transcript"
    elif data_args.cache == "transcripts":
        passages = "recognised"
    else:
        passages = "transcript" if training and args.embedding_weight else None
    return Collator(
        built.processor,
        transcript_tokenizer=built.transcript_tokenizer if taught else None,
        leading_space=built.leading_space,
        questions="question" in stage.needs,
        passages=passages,
        mask_features=mask_features if training and data_args.spec_augment else None,
        seed=args.seed,
    )


def describe(trainer: CLSRTrainer, rows: Sequence[Row]) -> None:
    """Say what is about to run."""
    args, model = trainer.args, trainer.model
    sizes: dict[bool, int] = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    per_step = args.per_device_train_batch_size * args.world_size
    seconds = sum(row.duration or 0.0 for row in rows)
    lines = [
        f"stage {args.stage}: {len(rows)} rows, {seconds / 3600:.1f} h",
        f"{sizes[True]:,} parameters train, {sizes[False]:,} are frozen",
        f"global batch {per_step * args.gradient_accumulation_steps} "
        f"({args.world_size} processes × {args.per_device_train_batch_size} × "
        f"{args.gradient_accumulation_steps} accumulated)",
    ]
    if args.is_contrastive:
        beside = len(rows) if trainer.bank is not None else 0
        negatives = f"{per_step - 1} negatives for each question (accumulation adds none)"
        lines.append(f"{negatives}, and those of {beside} rows in the memory bank" if beside else negatives)
    if trainer.is_world_process_zero():
        for line in lines:
            logger.warning(line)


def write_stamp(folder: str, stamp: dict, recipe: dict, rows: Sequence[Row], trainer: CLSRTrainer) -> None:
    """Write what the weights depended on beside them."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(dataclasses.asdict(row), sort_keys=True, default=str).encode())
    device = trainer.args.device
    content = stamp | {
        "recipe": {name: value for name, value in recipe.items() if value is not None},
        "rows": len(rows),
        "rows_sha256": digest.hexdigest(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "world_size": trainer.args.world_size,
        "steps": trainer.state.global_step,
        "best_checkpoint": trainer.state.best_model_checkpoint
        and Path(trainer.state.best_model_checkpoint).name,
        "best_metric": trainer.state.best_metric,
    }
    file = Path(folder) / STAMP_FILE
    file.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def _columns(data_args: DataArguments) -> dict[str, str] | None:
    return dict(pair.split("=", 1) for pair in (data_args.columns or "").split(",") if pair) or None


def _check_stream(data_args: DataArguments, args: CLSRTrainingArguments) -> None:
    if args.max_steps <= 0:
        raise ValueError(
            f"streaming has no end but max_steps is {args.max_steps}; say how many steps to train"
        )
    if args.memory_bank:
        raise ValueError(
            "streaming reads rows as they come but memory_bank needs all; use a manifest without it"
        )
    if data_args.cache != "none" or args.stage == "selfdistil":
        raise ValueError(
            f"streaming reads each row once but cache is {data_args.cache!r} and stage {args.stage!r}; "
            "use a manifest without streaming for caches"
        )


def _check_frozen(built: Built, args: CLSRTrainingArguments, part: str) -> None:
    if part in STAGES[args.stage].trains and not args.trainable:
        raise ValueError(
            f"cache keeps what a frozen {part} makes but the stage {args.stage!r} trains it; "
            "leave cache out or narrow trainable"
        )
