"""JSON lines that grow: what a killed run was writing is cut off, the rest stays."""

from modeling_clsr.data.json_lines import keep_line, read_json_lines, read_kept_lines


def test_kept_lines_survive_a_killed_run(tmp_path):
    file = tmp_path / "new folder" / "heard.jsonl"
    assert read_kept_lines(file) == []
    lines = [{"id": "a", "text": "naïve\u2028\x85 words"}, {"id": "b", "text": ""}]
    for line in lines:
        keep_line(file, line)
    with file.open("ab") as half:
        half.write('{"id": "c", "text": "na\u00ef'.encode()[:-1])
    assert read_kept_lines(file) == lines
    keep_line(file, {"id": "c"})
    assert list(read_json_lines(file)) == read_kept_lines(file) == [*lines, {"id": "c"}]


def test_broken_line_further_up_is_left_out(tmp_path):
    file = tmp_path / "heard.jsonl"
    file.write_bytes(b'{"id": "a"}\n{"id": "b", "te{"id": "c"}\n{"id": "n\xc3\n{"id": "d"}\n')
    assert read_kept_lines(file) == [{"id": "a"}, {"id": "d"}]
