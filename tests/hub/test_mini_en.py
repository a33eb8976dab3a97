"""The shipped clsr-mini-en: small, whole, and usable by others from the built folder alone."""

import json

import pytest

from modeling_clsr.hub.release import RELEASES, build_release, find_release

from ..clean_process import run_clean

NAME = "clsr-mini-en"
ALONE = """
import json, sys
sys.modules["modeling_clsr"] = None  # the package is not installed
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor, pipeline
folder, question = sys.argv[1:]
clip = folder + "/example.opus"
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
heard = model.get_audio_features(**processor(audio=[processor.read_audio(clip)], sampling_rate=16000))
asked = model.get_text_features(**processor(text=[question])).pooler_output
encoder = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
(found,) = pipeline("speech-retrieval", model=folder, trust_remote_code=True, device="cpu")(question, [clip])
print(json.dumps({
    "text": heard.transcripts[0].text,
    "cosines": [
        float(heard.pooler_output @ asked.T),
        float(encoder.similarity(encoder.encode([clip]), encoder.encode([question]))),
        found["score"],
    ],
}))
"""


def test_release_is_small_and_has_what_its_card_shows():
    files = {file.name: file.stat().st_size for file in (RELEASES / NAME).iterdir()}
    assert sum(files.values()) <= 60e6 and max(files.values()) < 16 << 20
    assert files.keys() >= {"README.md", "build.json", "changes.json", "training_curve.png"}
    recipe = json.loads((RELEASES / NAME / "build.json").read_text())
    assert recipe["name"] == NAME and len(recipe["sha256"]) == 64


@pytest.mark.slow
def test_built_folder_alone_serves_automodel_sentence_transformers_and_the_pipeline(
    default_checkpoint, tmp_path
):
    pytest.importorskip("sentence_transformers", reason="the extra eval is not installed")
    folder = build_release(find_release(NAME), tmp_path / NAME)  # which checks the weights
    question = "Who turned the meat over the fire?"
    done = run_clean(ALONE, folder, question, cwd=tmp_path, modules=tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "kitchen" in found["text"]
    first, *others = found["cosines"]
    assert others == pytest.approx([first, first], abs=1e-4)
