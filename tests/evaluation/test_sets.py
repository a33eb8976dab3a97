"""The command: one folder per set, which can be read again and says what it was built from."""

import json
import shutil
from functools import partial

import pytest
import soundfile

from modeling_clsr.data.manifest import read_manifest
from modeling_clsr.evaluation import sets
from modeling_clsr.evaluation.sets import build_set, main, read_questions
from modeling_clsr.evaluation.spoken_squad import build_spoken_squad_full

from .small_sets import small_data


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_built_set_is_a_folder_that_can_be_read_again(tmp_path, monkeypatch):
    monkeypatch.setitem(sets.SPOKEN, "spoken-squad-full", partial(build_spoken_squad_full, voice="flite/slt"))
    data = small_data(tmp_path / "data")
    out = build_set("spoken-squad-full", data, tmp_path / "out")
    assert len(read_questions(out)) == 6 and len(read_manifest(out / "passages.jsonl")) == 3
    stamp = json.loads((out / "stamp.json").read_text())
    assert (stamp["questions"], stamp["passages"], stamp["set"]) == (6, 3, "spoken-squad-full")
    (data / "SHA256SUMS").write_text("other data")
    build_set("spoken-squad-full", data, out)
    assert json.loads((out / "stamp.json").read_text())["data_sha256"] != stamp["data_sha256"]
    two = build_set("spoken-squad-full", data, tmp_path / "two", workers=2)
    for clip in (out / "clips").glob("*.opus"):
        assert soundfile.read(clip)[0].tolist() == soundfile.read(two / "clips" / clip.name)[0].tolist()


def test_missing_data_is_named(tmp_path):
    with pytest.raises(SystemExit, match="has no qa; give the data folder"):
        main(["real-mix", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
