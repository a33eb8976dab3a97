"""A small data folder in the shape of the shared one: three passages and one meeting, with their questions."""

import gzip
import json
from pathlib import Path

BUILT = (("bridge", 1891, "Smith"), ("church", 1702, "Brown"), ("school", 1955, "Jones"))
AFTER = "It has stood on the green hill above the little town ever since then, and nobody has changed it."


def small_data(folder: Path) -> Path:
    (folder / "qa").mkdir(parents=True)
    (folder / "SHA256SUMS").write_text("")
    passages, asked = [], []
    for number, (name, year, man) in enumerate(BUILT):
        first = f"The {name} was built in the year {year} by a man called {man}."
        passages.append(
            {"passage_id": f"p{number}", "title": f"a{number}", "sentences_clean": [first, AFTER]}
        )
        for question, answer in (("Who built it?", man.lower()), ("When?", "nineteen oh nought")):
            row = {"id": f"q{number}{question}", "title": f"a{number}", "passage_id": f"p{number}"}
            row |= {"question": question, "answers": [{"text": answer, "start": 0}]}
            asked.append(row | {"answer_sentence_clean": first})
    # "..." is a turn that no voice can speak
    turns = [{"speaker": "AB"[n % 2], "text": f"This is turn number {n} of the meeting."} for n in range(6)]
    meeting = {"id": "m1", "domain": "Product", "transcript": [*turns, {"speaker": "A", "text": "..."}]}
    meeting["queries"] = [{"query": "What was said in the middle?", "answer": "turns ", "spans": [[2, 3]]}]
    crowd = [
        {"speaker": f"s{n}", "text": f"I am speaker number {n} of this very big meeting."} for n in range(9)
    ]
    crowded = {"id": "m0", "domain": "Committee", "transcript": crowd, "queries": meeting["queries"]}
    _write(folder / "qa/spoken_squad_passages.jsonl.gz", passages)
    _write(folder / "qa/spoken_squad_test.jsonl", asked)
    _write(folder / "qa/qmsum.jsonl.gz", [crowded, meeting])
    return folder


def _write(path: Path, records: list[dict]) -> None:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
