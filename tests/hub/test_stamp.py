"""The stamp: what it names, and that a result is written whole."""

import json
import sys

from modeling_clsr.hub.stamp import make_stamp, write_stamped


def test_result_carries_figures_inputs_and_origin(tmp_path):
    write_stamped(
        tmp_path / "results" / "speed.json", {"times_real_time": 3.5}, make_stamp(), checkpoint="f00d"
    )
    content = json.loads((tmp_path / "results" / "speed.json").read_text(encoding="utf-8"))
    assert content["figures"] == {"times_real_time": 3.5}
    assert content["stamp"]["checkpoint"] == "f00d"
    assert {"command", "time", "commit", "packages", "processor", "threads"} <= set(content["stamp"])
    assert content["stamp"]["packages"]["torch"]
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["speed.json"]


def test_stamp_names_files_and_no_folder_of_a_machine(tmp_path, monkeypatch):
    words = ["benchmarks/speed.py", "--set", "sets/real-mix", "--json", str(tmp_path / "speed.json")]
    monkeypatch.setattr(sys, "argv", words)
    assert make_stamp()["command"] == "speed.py --set sets/real-mix --json speed.json"
