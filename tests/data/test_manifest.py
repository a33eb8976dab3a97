"""Rows: read, checked, written."""

import io
import json
import logging

import numpy as np
import pytest
import soundfile

from modeling_clsr.data.manifest import (
    Row,
    distinct_clips,
    read_manifest,
    rows_of_dataset,
    stream_manifest,
    write_manifest,
)


def manifest(folder, *records, name="rows.jsonl"):
    soundfile.write(folder / "a.wav", np.zeros(8000, dtype=np.float32), 16000)
    file = folder / name
    file.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return file


GOOD = {"id": "g", "audio": "a.wav", "transcript": "yes", "question": "really?"}
ALL = ("audio", "question", "transcript")


def test_rows_come_with_absolute_paths_and_durations(tmp_path):
    (row,) = read_manifest(manifest(tmp_path, GOOD), needs=ALL)
    assert row.audio == str(tmp_path / "a.wav")
    assert row.duration == 0.5
    assert list(stream_manifest(tmp_path / "rows.jsonl", needs=ALL)) == [row]


def test_own_column_names_are_mapped(tmp_path):
    record = {"id": "x", "path": "a.wav", "text": "yes", "dur": 0.5}
    file = manifest(tmp_path, record)
    (row,) = read_manifest(file, {"audio": "path", "transcript": "text", "duration": "dur"})
    assert (row.transcript, row.duration) == ("yes", 0.5)
    with pytest.raises(ValueError, match=r"row 1 of .* has no column 'words' but id, path, text, dur"):
        read_manifest(file, {"transcript": "words"})


def test_written_rows_are_read_again(tmp_path):
    rows = [Row("1", str(tmp_path / "a.wav"), "yes", question="really?", context_id="c", duration=0.5)]
    manifest(tmp_path)
    assert read_manifest(write_manifest(tmp_path / "out.jsonl", rows)) == rows
    assert '"audio": "a.wav"' in (tmp_path / "out.jsonl").read_text()


def test_spoken_question_serves_as_a_question(tmp_path):
    record = {"id": "s", "audio": "a.wav", "question_audio": "a.wav"}
    (row,) = read_manifest(manifest(tmp_path, record), needs=("audio", "question"))
    assert row.question_audio == str(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (
            {"id": "b", "audio": "a.wav"},
            ValueError,
            r"row 2 \(b\) of .*rows.jsonl has no question; add the column",
        ),
        (GOOD | {"id": "b", "transcript": "  "}, ValueError, r"row 2 \(b\) of .* has an empty transcript"),
        (
            GOOD | {"id": "b", "audio": "gone.wav"},
            FileNotFoundError,
            r"row 2 \(b\) .*gone.wav, which is not there",
        ),
        (
            GOOD | {"id": "b", "audio": "rows.jsonl"},
            ValueError,
            r"row 2 \(b\) .*rows.jsonl, which cannot be read",
        ),
        (
            GOOD | {"id": "b", "audio": "long.wav"},
            ValueError,
            r"row 2 \(b\) .* is 2.00 s but the model takes at most 1 s",
        ),
        (GOOD, ValueError, "row 2 of .* has the id 'g' of row 1; make ids unique"),
        ("[1, 2", ValueError, "row 2 of .* is no JSON object"),
    ],
)
def test_bad_row_is_named_with_what_to_do(record, error, message, tmp_path, caplog):
    file = manifest(tmp_path, GOOD, record)
    soundfile.write(tmp_path / "long.wav", np.zeros(32000, dtype=np.float32), 16000)
    with pytest.raises(error, match=message):
        read_manifest(file, needs=ALL, max_audio_s=1.0)
    with caplog.at_level(logging.WARNING):
        rows = read_manifest(file, needs=ALL, max_audio_s=1.0, skip_bad_rows=True)
    assert [row.id for row in rows] == ["g"]
    assert "1 rows of" in caplog.text and "row 2" in caplog.text


def test_manifest_without_a_usable_row_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has 1 rows and 0 usable ones"):
        read_manifest(manifest(tmp_path, {"id": "x", "audio": "gone.wav"}), skip_bad_rows=True)
    with pytest.raises(FileNotFoundError, match=r"nowhere.jsonl is not there"):
        read_manifest(tmp_path / "nowhere.jsonl")


def test_speech_lists_of_the_data_folder_are_read(speech_data):
    rows = read_manifest(speech_data / "speech" / "reread.jsonl", {"duration": "dur"}, audio_root=speech_data)
    assert len(rows) == 141 and all(row.duration for row in rows)


def test_a_clip_that_is_asked_about_twice_is_one_clip_under_its_first_name(tmp_path):
    file = manifest(tmp_path, GOOD, GOOD | {"id": "g2", "question": "sure?"})
    soundfile.write(tmp_path / "b.wav", np.zeros(800, dtype=np.float32), 16000)
    file.write_text(file.read_text() + json.dumps(GOOD | {"id": "h", "audio": "b.wav"}) + "\n")
    assert [row.id for row in distinct_clips(read_manifest(file))] == ["g", "h"]


def as_bytes(samples):
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV")
    return {"bytes": file.getvalue(), "path": "clip.wav"}


@pytest.mark.parametrize("form", [as_bytes, lambda samples: {"array": samples, "sampling_rate": 16000}])
def test_clips_in_memory_become_files_named_by_their_content(form, tmp_path):
    loud, soft = (np.full(1600, level, dtype=np.float32) for level in (0.5, 0.25))
    names = ("a-1", "a_1", "a 1")  # alike once they are file names
    records = [
        {"id": name, "audio": form(samples)} for name, samples in zip(names, (loud, soft, loud), strict=True)
    ]
    rows = rows_of_dataset(records, tmp_path)
    assert [soundfile.read(row.audio)[0][0] for row in rows] == [0.5, 0.25, 0.5]
    assert [row.id for row in distinct_clips(rows)] == ["a-1", "a_1"]
    # Another data set with the same ids, in the same folder.
    (other,) = rows_of_dataset([{"id": "a-1", "audio": form(soft)}], tmp_path)
    assert soundfile.read(other.audio)[0][0] == 0.25
    assert len(list(tmp_path.iterdir())) == 2
