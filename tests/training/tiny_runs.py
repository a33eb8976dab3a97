"""Tiny training runs: sentences of tones, one tone a word, and models that learn them in seconds."""

import json
import random
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import WhisperConfig

from modeling_clsr import CLSRModel, CLSRProcessor, SANMConfig
from modeling_clsr.data.collator import Collator
from modeling_clsr.data.manifest import Row, read_manifest
from modeling_clsr.training.arguments import CLSRTrainingArguments
from modeling_clsr.training.rows import SpeechRows
from modeling_clsr.training.stages import STAGES, prepare_stage
from modeling_clsr.training.trainer import CLSRTrainer
from tests.tiny_parts import SIZES, WHISPER_SIZES, tiny_bert, tiny_parts

WORDS = ("the", "and", "sea", "bee", "road", "lamp")  # each one token of the tiny text encoder
RATE = 16000


def say(sentence: str) -> np.ndarray:
    """One tone of 120 ms for each word."""
    time = np.arange(int(0.12 * RATE)) / RATE
    tones = [0.3 * np.sin(2 * np.pi * (300 + 400 * WORDS.index(word)) * time) for word in sentence.split()]
    gap = np.zeros(int(0.03 * RATE))
    return np.concatenate([piece for tone in tones for piece in (tone, gap)]).astype(np.float32)


def tone_rows(folder: Path, count: int, seed: int = 0, shared_context: bool = False) -> list[Row]:
    """Write `count` different sentences as clips with a manifest; the question is the sentence."""
    draw = random.Random(seed)
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        sentences[" ".join(draw.choices(WORDS, k=draw.randint(3, 6)))] = None
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, sentence in enumerate(sentences):
        soundfile.write(folder / f"{number}.wav", say(sentence), RATE)
        context = f"c{number // 2}" if shared_context else f"c{number}"
        row = {"id": f"r{number}", "audio": f"{number}.wav", "transcript": sentence, "question": sentence}
        lines.append(json.dumps(row | {"context_id": context}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return read_manifest(folder / "rows.jsonl", needs=("audio", "question", "transcript"))


def sanm_model(folder: Path, decoder="sanm", predictor="cif", adaptor="vq", seed=0, **fields) -> CLSRModel:
    """A SAN-M recogniser over the tiny text encoder's words."""
    torch.manual_seed(seed)
    text, tokenizer = tiny_bert()
    sanm = SIZES | {"dropout": 0.0, "attention_dropout": 0.0}
    ids = sorted(tokenizer.convert_tokens_to_ids(list(WORDS)))
    return CLSRModel.from_pretrained_parts(
        SANMConfig(input_size=560, **sanm),
        text,
        text_tokenizer=tokenizer,
        decoder_type=decoder,
        decoder_config=SANMConfig(encoder_hidden_size=32, **sanm)
        if decoder == "sanm"
        else WhisperConfig(**WHISPER_SIZES),
        predictor_type=predictor,
        adaptor_type=adaptor,
        vocabulary_ids=ids,
        **({"adaptor_temperature": 0.1, "label_smoothing": 0.0} | fields),
    )


def sanm_processor() -> CLSRProcessor:
    text, tokenizer = tiny_bert()
    return CLSRProcessor.from_pretrained_parts(
        SANMConfig(input_size=560, **SIZES), text, tokenizer, parallel=True
    )


def collator(processor, stage: str, training: bool = True, tokenizer=None, **fields) -> Collator:
    needs = STAGES[stage].needs
    taught = training and "transcript" in needs and STAGES[stage].uses_clips
    return Collator(
        processor,
        transcript_tokenizer=(tokenizer or processor.tokenizer) if taught else None,
        questions="question" in needs,
        passages="transcript" if stage == "text" else None,
        **fields,
    )


def arguments(folder: Path, stage: str, **fields) -> CLSRTrainingArguments:
    return CLSRTrainingArguments(
        output_dir=str(folder),
        stage=stage,
        use_cpu=True,
        disable_tqdm=True,
        **(
            {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_steps": 3, "save_strategy": "no"}
            | fields
        ),
    )


def trainer(
    folder: Path, model, processor, rows, stage: str, pool=None, tokenizer=None, **fields
) -> CLSRTrainer:
    """A trainer over `rows`, ready to run."""
    args = arguments(folder, stage, **fields)
    heard = STAGES[stage].uses_clips
    return CLSRTrainer(
        model,
        args,
        frozen=prepare_stage(model, stage),
        data_collator=collator(processor, stage, tokenizer=tokenizer),
        eval_collator=collator(processor, stage, training=False),
        train_dataset=SpeechRows(rows, audio=heard),
        eval_dataset=SpeechRows(pool, audio=heard) if pool else None,
        processing_class=processor,
    )


def whisper_parts(folder: Path):
    """Model, processor and the recogniser's tokenizer."""
    parts = tiny_parts("whisper", folder)
    return parts.model(), parts.processor(), parts.speech_tokenizer
