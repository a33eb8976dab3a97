"""Rows from the official releases of the paper's data sets: Spoken-SQuAD, LibriSQA, SLUE-SQA-5, DRCD and ODSQA.

    python -m modeling_clsr.data.builders spoken-squad RELEASE --split test --out rows.jsonl --one_to_one

Enters: the folder of a release, as unpacked. Leaves: a manifest. Formats: `clsr.md` 4.5; filter: 4.3.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..waveform_clsr import read_waveform
from .clips import safe_name
from .manifest import Row, write_manifest
from .voices import write_opus

Unit = tuple[int, int, int]  # article, paragraph, sentence


def spoken_squad(
    folder: str | Path, split: str = "test", noise: str = "", one_to_one: bool = False
) -> list[Row]:
    """Read Spoken-SQuAD: one row per question; the clip is the sentence that holds the answer.

    Args:
        folder: with `spoken_{split}-v1.1.json` and the audio, `dev_wav/` (test) or `train_wav/`.
        split: "train" or "test".
        noise: "WER44" or "WER54" for the noisier transcripts.
        one_to_one: keep the first question of each sentence, the paper's filter (5,351 test questions become 3,884).

    Raises:
        FileNotFoundError: the release lacks its file.
    """
    folder = Path(folder)
    name = f"spoken_{split}-v1.1{'_' + noise if noise else ''}.json"
    wavs = folder / ("train_wav" if split == "train" else "dev_wav")
    return list(
        _squad_like(_load(folder / name), ".", lambda u: str(wavs / "{}_{}_{}.wav".format(*u)), one_to_one)
    )


def drcd(folder: str | Path, split: str = "dev", one_to_one: bool = False) -> list[Row]:
    """Read DRCD with the recordings of ODSQA, `wav/<article>_<paragraph>_<sentence>.wav`; see `spoken_squad`.

    Args:
        folder: with `DRCD_training.json`, `DRCD_dev.json` or `ODSQA_textq_test-v1.1.json`.
        split: "training", "dev", or "odsqa" for the human-read test.
        one_to_one: keep the first question of each sentence (1,464 questions of ODSQA become 1,425).
    """
    folder = Path(folder)
    name = "ODSQA_textq_test-v1.1.json" if split == "odsqa" else f"DRCD_{split}.json"
    place = str(folder / "wav" / "{}_{}_{}.wav")
    return list(_squad_like(_load(folder / name), "。", lambda u: place.format(*u), one_to_one))


def librisqa(folder: str | Path, split: str = "train", audio: str | Path | None = None) -> list[Row]:
    """Read part I of LibriSQA: one question per utterance of LibriSpeech.

    Args:
        folder: with `LibriSQA-PartI/LibriSQA-PartI-{split}.json`.
        split: "train" or "test".
        audio: folder that `speech_path` is relative to; `folder` if None.
    """
    root = Path(audio or folder)
    rows = []
    for number, entry in enumerate(_load(Path(folder) / "LibriSQA-PartI" / f"LibriSQA-PartI-{split}.json")):
        path = Path(entry["speech_path"])
        rows.append(
            Row(
                f"librisqa-{split}-{number}",
                str(root / path),
                transcript=entry["text"],
                question=entry["question"],
                context_id=path.stem,
                answer=entry["answer"],
                duration=float(entry["duration"]) if entry.get("duration") else None,
            )
        )
    return rows


def slue_sqa5(entries: Iterable[dict[str, Any]], audio_folder: str | Path) -> Iterator[Row]:
    """Turn entries of SLUE-SQA-5 (`asapp/slue-phase-2`, configuration `sqa5`) into rows with spoken questions.

    Args:
        entries: of a split, with `document_audio` and `question_audio` as arrays with their rate, or undecoded.
        audio_folder: gets one clip per document and question; existing clips are kept.
    """
    folder = Path(audio_folder)
    folder.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        spans = entry["answer_spans"]
        first = {name: (spans[name] or [None])[0] for name in ("answer", "start_second", "end_second")}
        yield Row(
            entry["question_id"],
            _clip(folder, f"document-{entry['document_id']}", entry["document_audio"]),
            transcript=entry["normalized_document_text"],
            question=entry["raw_question_text"],
            question_audio=_clip(folder, f"question-{entry['question_id']}", entry["question_audio"]),
            context_id=entry["document_id"],
            answer=first["answer"],
            start=first["start_second"],
            end=first["end_second"],
            speaker=entry.get("document_speaker_id"),
        )


def one_question_per_sentence(units: Sequence[Unit]) -> list[int]:
    """Return the places of the first question of each unit: the filter that gives the paper's sizes."""
    seen: dict[Unit, int] = {}
    for place, unit in enumerate(units):
        seen.setdefault(unit, place)
    return list(seen.values())


def _squad_like(release: Any, mark: str, audio: Callable[[Unit], str], one_to_one: bool) -> Iterator[Row]:
    rows, units = [], []
    for article, entry in enumerate(release["data"]):
        for place, paragraph in enumerate(entry["paragraphs"]):
            for question in paragraph["qas"]:
                answer = question["answers"][0]
                sentence = paragraph["context"].count(mark, 0, answer["answer_start"])
                unit = (article, place, sentence)
                units.append(unit)
                rows.append(
                    Row(
                        str(question["id"]),
                        audio(unit),
                        transcript=paragraph["context"].split(mark)[sentence].strip(),
                        question=question["question"],
                        context_id="-".join(map(str, unit)),
                        answer=answer["text"],
                    )
                )
    kept = one_question_per_sentence(units) if one_to_one else range(len(rows))
    return (rows[place] for place in kept)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the folder of the unpacked release")
    return json.loads(path.read_text(encoding="utf-8"))


def _clip(folder: Path, name: str, audio: Any) -> str:
    path = folder / f"{safe_name(name)}.opus"
    if not path.exists():
        write_opus(path, read_waveform(audio, 16000))
    return str(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_clsr.data.builders", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("release", choices=("spoken-squad", "librisqa", "drcd"))
    parser.add_argument("folder", help="of the unpacked release")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", required=True, help="manifest to write")
    parser.add_argument("--noise", default="", choices=("", "WER44", "WER54"), help="of Spoken-SQuAD")
    parser.add_argument(
        "--one_to_one", action="store_true", help="one question per sentence, as in the paper"
    )
    args = parser.parse_args(argv)
    try:
        if args.release == "spoken-squad":
            rows = spoken_squad(args.folder, args.split, args.noise, args.one_to_one)
        elif args.release == "drcd":
            rows = drcd(args.folder, args.split, args.one_to_one)
        else:
            rows = librisqa(args.folder, args.split)
    except FileNotFoundError as error:
        sys.exit(f"builders: {error}")
    out = Path(args.out)
    write_manifest(out, (replace(row, audio=str(Path(row.audio).absolute())) for row in rows))
    sys.stderr.write(f"{out}: {len(rows)} rows\n")


if __name__ == "__main__":
    main()
