"""The Hub's real client against a real HTTP server: push, load elsewhere, load offline."""

import json
import os
import subprocess
import sys

import pytest
import torch

from modeling_clsr import CLSRModel, CLSRProcessor
from tests.hub.loopback import running_hub
from tests.tiny_parts import noise_clips

pytestmark = pytest.mark.slow

PUSH = """
import sys
from modeling_clsr import CLSRModel, CLSRProcessor
from huggingface_hub import HfApi
folder = sys.argv[1]
model, processor = CLSRModel.from_pretrained(folder), CLSRProcessor.from_pretrained(folder)
model.push_to_hub("me/clsr")
processor.push_to_hub("me/clsr")
HfApi().upload_folder(repo_id="me/clsr", folder_path=folder, allow_patterns=["README.md", "example.opus"])
"""

LOAD = """
import json, sys, torch
sys.modules["modeling_clsr"] = None          # the package is not installed
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor, AutoTokenizer, pipeline
name, case_file, revision = sys.argv[1:4]
case = torch.load(case_file, weights_only=False)
hub = {"trust_remote_code": True} | json.loads(revision)
model = AutoModel.from_pretrained(name, **hub).eval()
processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
assert AutoConfig.from_pretrained(name, trust_remote_code=True).model_type == "clsr"
assert AutoFeatureExtractor.from_pretrained(name, trust_remote_code=True).sampling_rate == 16000
assert AutoTokenizer.from_pretrained(name, trust_remote_code=True)("a bee")["input_ids"]
with torch.no_grad():
    output = model(**processor(text=case["text"], audio=case["audio"], sampling_rate=16000))
assert torch.equal(output.audio_embeds, case["audio_embeds"])
assert torch.equal(output.text_embeds, case["text_embeds"])
found = pipeline("speech-retrieval", model=name, trust_remote_code=True, device="cpu")("a bee", case["audio"])
assert len(found) == 2
from sentence_transformers import SentenceTransformer
encoder = SentenceTransformer(name, trust_remote_code=True, device="cpu")
assert torch.allclose(torch.from_numpy(encoder.encode(case["text"])), case["text_embeds"], atol=1e-6)
for missing, error in (("me/nobody", "nobody"), ("me/clsr", "nothing.json")):
    from huggingface_hub import hf_hub_download
    try:
        hf_hub_download(missing, "nothing.json")
    except Exception as caught:
        print(type(caught).__name__)
"""


def run(code, *arguments, hub, home, **environment):
    settings = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_loopback",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=settings | environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_pushed_model_loads_where_the_package_is_not_installed(tiny_checkpoint, tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra eval is not installed")
    model, processor = (
        CLSRModel.from_pretrained(tiny_checkpoint),
        CLSRProcessor.from_pretrained(tiny_checkpoint),
    )
    case = {"text": ["a bee", "the sea"], "audio": noise_clips(0.8, 1.3)}
    with torch.no_grad():
        output = model(**processor(**case, sampling_rate=16000))
    torch.save(case | {name: output[name] for name in ("audio_embeds", "text_embeds")}, tmp_path / "case.pt")
    root = str(
        next(
            parent for parent in tmp_path.__class__(__file__).parents if (parent / "pyproject.toml").is_file()
        )
    )
    for name in ("pusher", "reader", "coder"):
        (tmp_path / name).mkdir()
    with running_hub() as hub:
        run(PUSH, tiny_checkpoint, hub=hub, home=tmp_path / "pusher", PYTHONPATH=root)
        stored = hub.repositories["me/clsr"][-1]
        # Git's own file aside, the repository is the exported folder, and the written card came last.
        assert {file.name for file in tiny_checkpoint.iterdir()} == set(stored.files) - {".gitattributes"}
        assert stored.files["README.md"] == (tiny_checkpoint / "README.md").read_bytes()
        assert "model.safetensors" in stored.large

        foreign = {"PYTHONPATH": ""}
        errors = run(
            LOAD, "me/clsr", tmp_path / "case.pt", "{}", hub=hub, home=tmp_path / "reader", **foreign
        )
        assert errors.split() == ["RepositoryNotFoundError", "RemoteEntryNotFoundError"]
        asked = len(hub.requests)
        offline = foreign | {"HF_HUB_OFFLINE": "1"}
        run(LOAD, "me/clsr", tmp_path / "case.pt", "{}", hub=hub, home=tmp_path / "reader", **offline)
        assert len(hub.requests) == asked

        # Another repository may hold weights alone and name the code of this one, at a fixed commit.
        config = json.loads(stored.files["config.json"])
        config["auto_map"] = {name: f"me/clsr--{entry}" for name, entry in config["auto_map"].items()}
        weights = hub.repositories.setdefault("me/weights", [type(stored)("1" * 40)])[-1]
        weights.files = dict(stored.files) | {"config.json": json.dumps(config).encode()}
        weights.files = {
            name: data for name, data in weights.files.items() if name not in ("modeling_clsr.py",)
        }
        weights.large = dict(stored.large)
        code = json.dumps({"code_revision": stored.sha})
        run(LOAD, "me/weights", tmp_path / "case.pt", code, hub=hub, home=tmp_path / "coder", **foreign)
        assert any(f"/me/clsr/resolve/{stored.sha}/modeling_clsr.py" in request for request in hub.requests)
