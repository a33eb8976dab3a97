"""The checkpoint folder: complete, equal after loading, and loadable where the package is not installed."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_clsr import CLSRModel, CLSRProcessor

from .clean_process import run_clean
from .tiny_parts import noise_clips, tiny_parts

FOREIGN = """
import sys, torch
sys.modules["modeling_clsr"] = None          # the package is not installed
for name in ("lancedb", "silero_vad", "soundfile", "soxr", "av", "sentence_transformers"):
    sys.modules[name] = None
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, AutoTokenizer
folder, copy = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "clsr"
assert AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True).sampling_rate == 16000
assert AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("a bee")["input_ids"]
case = torch.load(folder + "/case.pt", weights_only=False)
batch = processor(text=case["text"], audio=case["audio"], sampling_rate=16000)
with torch.no_grad():
    output = model(**batch)
assert torch.equal(output.audio_embeds, case["audio_embeds"]), (output.audio_embeds - case["audio_embeds"]).abs().max()
assert torch.equal(output.text_embeds, case["text_embeds"])
assert [t.text for t in output.transcripts] == case["transcripts"]
model.save_pretrained(copy)
processor.save_pretrained(copy)
print("equal")
"""


@pytest.fixture(params=["whisper", "wav2vec2", "parakeet"])
def saved(request, tmp_path):
    parts = tiny_parts(request.param, tmp_path)
    model, processor = parts.model(), parts.processor()
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


def test_folder_loads_where_the_package_is_not_installed(saved, tmp_path):
    folder, model, processor = saved
    case = {"text": ["a bee", "the sea"], "audio": noise_clips(0.8, 1.3)}
    with torch.no_grad():
        output = model(**processor(**case, sampling_rate=16000))
    case |= {
        "audio_embeds": output.audio_embeds,
        "text_embeds": output.text_embeds,
        "transcripts": [transcript.text for transcript in output.transcripts],
    }
    torch.save(case, folder / "case.pt")
    copy = tmp_path / "copy"
    done = run_clean(FOREIGN, folder, copy, cwd=tmp_path, modules=tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "equal"
    assert {file.name for file in copy.iterdir()} == {file.name for file in folder.iterdir()} - {"case.pt"}
    assert load_file(copy / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()


def test_every_weight_and_buffer_is_the_same_after_loading(saved):
    folder, model, _ = saved
    again, report = CLSRModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    after = dict(again.named_parameters()) | dict(again.named_buffers())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and not after[name].is_meta for name in before)
    assert not any(
        isinstance(value, torch.Tensor) for module in again.modules() for value in vars(module).values()
    )
    assert all(weight.ndim > 0 for weight in again.parameters())


def test_processor_gives_the_same_after_loading(saved):
    folder, _, processor = saved
    again = CLSRProcessor.from_pretrained(folder)
    audio = noise_clips(0.7)
    first = processor(text="a bee", audio=audio, sampling_rate=16000)
    second = again(text="a bee", audio=audio, sampling_rate=16000)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_missing_weight_leaves_the_others_alone(saved):
    folder, model, _ = saved
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if name.startswith("text_model") and name.endswith("bias"))
    kept = {name: weight for name, weight in weights.items() if name != gone}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    again = dict(CLSRModel.from_pretrained(folder).named_parameters())
    for name, weight in model.named_parameters():
        assert name == gone or torch.equal(again[name], weight), name


def test_logit_scale_stays_in_float32(saved):
    folder, _, _ = saved
    model = CLSRModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert model.logit_scale.dtype == torch.float32
    assert model.text_model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_training_mode_is_off_after_from_pretrained_parts(tmp_path):
    assert not tiny_parts("whisper", tmp_path).model().training


@pytest.mark.slow
def test_trainers_checkpoint_loads_where_the_package_is_not_installed(tmp_path):
    from tests.training.tiny_runs import tone_rows, trainer, whisper_parts

    model, processor, tokenizer = whisper_parts(tmp_path)
    rows = tone_rows(tmp_path / "tones", 4)
    made = trainer(
        tmp_path / "out",
        model,
        processor,
        rows,
        "joint",
        tokenizer=tokenizer,
        max_steps=1,
        save_strategy="steps",
        save_steps=1,
    )
    made.train()
    code = """
import sys
sys.modules["modeling_clsr"] = None
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(model.get_text_features(**processor(text="a bee")).pooler_output.shape[1])
"""
    done = run_clean(code, tmp_path / "out" / "checkpoint-1", cwd=tmp_path, modules=tmp_path / "modules")
    assert done.stdout.strip() == "32", done.stderr


@pytest.mark.slow
def test_working_inside_a_checkpoint_folder_fails_clearly_or_works_whole(tiny_checkpoint, tmp_path):
    """There `import modeling_clsr` finds the flat file, which is no package; loading by `.` works all the same."""
    done = run_clean("import modeling_clsr", cwd=tiny_checkpoint, modules=tmp_path / "modules")
    assert done.returncode != 0
    assert "attempted relative import with no known parent package" in done.stderr
    code = """
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(".", trust_remote_code=True)
processor = AutoProcessor.from_pretrained(".", trust_remote_code=True)
print(model.get_text_features(**processor(text="a bee")).pooler_output.shape[1])
"""
    done = run_clean(code, cwd=tiny_checkpoint, modules=tmp_path / "modules")
    assert done.stdout.strip() == "32", done.stderr
