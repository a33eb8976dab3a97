"""Tiny parts with random weights: a recogniser of each family and a text encoder, each with a real tokenizer."""

import json
import string
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GenerationConfig,
    HubertConfig,
    HubertForCTC,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    ParakeetCTCConfig,
    ParakeetForCTC,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from modeling_clsr import CLSRModel, CLSRProcessor

FAMILIES = ("whisper", "moonshine", "wav2vec2", "hubert", "parakeet")
CTC_FAMILIES = ("wav2vec2", "hubert", "parakeet")
LETTERS = string.ascii_lowercase

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WAVE_SIZES = SIZES | {
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
PARAKEET_SIZES = SIZES | {"num_mel_bins": 80, "subsampling_conv_channels": 16}
WHISPER_SIZES = {"d_model": 32} | {
    f"{half}_{name}": size
    for half in ("encoder", "decoder")
    for name, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))
}
MOONSHINE_SIZES = {"hidden_size": 32, "intermediate_size": 64} | {
    f"{half}_{name}": size
    for half in ("encoder", "decoder")
    for name, size in (("num_hidden_layers", 2), ("num_attention_heads", 4), ("num_key_value_heads", 4))
}


@dataclass
class Parts:
    """Two models with their tokenizers."""

    speech: PreTrainedModel
    speech_tokenizer: object
    text: PreTrainedModel
    text_tokenizer: PreTrainedTokenizerFast

    def model(self, **config) -> CLSRModel:
        # Random weights are never sure of their words.
        fields = {"logprob_floor": -100.0} | config
        return CLSRModel.from_pretrained_parts(
            self.speech, self.text, self.speech_tokenizer, self.text_tokenizer, **fields
        )

    def processor(self) -> CLSRProcessor:
        return CLSRProcessor.from_pretrained_parts(self.speech, self.text, self.text_tokenizer)


def tiny_parts(family: str, folder: Path, seed: int = 0) -> Parts:
    """Make the parts of one family; `folder` takes the vocabulary file of a CTC tokenizer."""
    torch.manual_seed(seed)
    speech, tokenizer = {
        "whisper": tiny_whisper,
        "moonshine": tiny_moonshine,
        "wav2vec2": lambda: tiny_wave_ctc(Wav2Vec2Config, Wav2Vec2ForCTC, folder),
        "hubert": lambda: tiny_wave_ctc(HubertConfig, HubertForCTC, folder),
        "parakeet": tiny_parakeet,
    }[family]()
    text, text_tokenizer = tiny_bert()
    return Parts(speech.eval(), tokenizer, text.eval(), text_tokenizer)


def tiny_whisper():
    tokenizer = byte_level_tokenizer(
        ["<|startoftranscript|>", "<|nospeech|>", "<|notimestamps|>", "<|endoftext|>"]
    )
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        **WHISPER_SIZES,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        init_std=0.3,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(alignment_heads=[[1, 0], [1, 2]], suppress_tokens=None)
    return model, tokenizer


def tiny_moonshine():
    tokenizer = metaspace_tokenizer(["<unk>", "<s>", "</s>"])
    config = MoonshineConfig(
        vocab_size=len(tokenizer),
        **MOONSHINE_SIZES,
        decoder_start_token_id=1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        initializer_range=0.3,
    )
    return MoonshineForConditionalGeneration(config), tokenizer


def tiny_wave_ctc(config_class, model_class, folder: Path):
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS.upper(), "'"]
    file = folder / f"{model_class.__name__}_vocab.json"
    file.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    tokenizer = Wav2Vec2CTCTokenizer(
        str(file), unk_token="<unk>", pad_token="<pad>", word_delimiter_token="|"
    )
    config = config_class(
        vocab_size=len(tokens),
        **WAVE_SIZES,
        pad_token_id=0,
        initializer_range=0.5,
    )
    return model_class(config), tokenizer


def tiny_parakeet():
    tokenizer = metaspace_tokenizer(["<unk>"])
    vocab_size = len(tokenizer) + 1  # the blank is the last row
    config = ParakeetCTCConfig(
        vocab_size=vocab_size,
        pad_token_id=vocab_size - 1,
        encoder_config={
            **PARAKEET_SIZES,
            "initializer_range": 0.5,
        },
    )
    return ParakeetForCTC(config), tokenizer


def tiny_bert(words: tuple[str, ...] = ("the", "and", "sea", "bee", "road", "lamp")):
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *string.printable[:94],
        *("##" + c for c in LETTERS),
        *words,
    ]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        **SIZES,
        initializer_range=0.3,
    )
    return BertModel(config), tokenizer


def byte_level_tokenizer(specials: list[str]) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = ["Ġ" + c for c in LETTERS]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *pairs])}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", c) for c in LETTERS]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    return tokenizer


def metaspace_tokenizer(specials: list[str]) -> PreTrainedTokenizerFast:
    tokens = [*specials, *LETTERS, *("▁" + c for c in LETTERS), "▁the", "ing"]
    backend = Tokenizer(models.Unigram([(token, -1.0) for token in tokens], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    return tokenizer


def noise_clips(*seconds: float, seed: int = 0) -> list:
    """Make clips of white noise in bursts, float32 at 16 kHz."""
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for length in seconds:
        wave = 0.1 * torch.randn(int(length * 16000), generator=generator)
        swell = torch.sin(torch.arange(len(wave)) / 16000 * 9).abs()
        clips.append((wave * swell).numpy())
    return clips
