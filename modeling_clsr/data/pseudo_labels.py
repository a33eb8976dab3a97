"""Pseudo-labels: any speech gets transcripts from a recogniser that hears better, and only those it is sure of.

    python -m modeling_clsr.data.pseudo_labels rows.jsonl --model FOLDER --out labelled.jsonl

Enters: a manifest and a Whisper in the CTranslate2 layout, or any recogniser of transformers. Leaves: a manifest with
transcripts. Clips that were heard are not heard again.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jiwer
from tqdm import tqdm

from ..transcript_clsr import compression_ratio
from .audio import SAMPLING_RATE, load_audio
from .json_lines import keep_line, read_kept_lines
from .manifest import Row, read_manifest, write_manifest

BEAM = 5


@dataclass(frozen=True)
class Heard:
    """What a recogniser says of one clip.

    Attributes:
        text: the transcript.
        mean_log_prob: of its tokens; None where the recogniser does not say.
        no_speech_probability: likewise.
    """

    text: str
    mean_log_prob: float | None = None
    no_speech_probability: float | None = None


@dataclass(frozen=True)
class Confidence:
    """What a transcript must reach to be taught.

    Attributes:
        min_mean_log_prob: of the tokens.
        max_no_speech: probability.
        max_compression: how far zlib shrinks it; loops shrink most.
        min_characters_per_second: fewer were skipped.
        max_characters_per_second: more were invented.
        max_disagreement: word error rate against the row's own transcript, where it has one; None ignores it.
    """

    min_mean_log_prob: float = -0.5
    max_no_speech: float = 0.5
    max_compression: float = 2.2
    min_characters_per_second: float = 5.0
    max_characters_per_second: float = 28.0
    max_disagreement: float | None = None

    def doubt(self, heard: Heard, row: Row) -> str | None:
        """Name what speaks against a transcript, with its value; None if nothing does."""
        rate = len(heard.text) / max(row.duration or 0.0, 0.1)
        if heard.mean_log_prob is not None and heard.mean_log_prob < self.min_mean_log_prob:
            return f"mean log probability {heard.mean_log_prob:.2f} < {self.min_mean_log_prob:g}"
        if heard.no_speech_probability is not None and heard.no_speech_probability > self.max_no_speech:
            return f"no-speech probability {heard.no_speech_probability:.2f} > {self.max_no_speech:g}"
        if compression_ratio(heard.text) > self.max_compression:
            return f"compression ratio {compression_ratio(heard.text):.1f} > {self.max_compression:g}"
        if not self.min_characters_per_second <= rate <= self.max_characters_per_second:
            return (
                f"{rate:.1f} characters a second, outside {self.min_characters_per_second:g} to "
                f"{self.max_characters_per_second:g}"
            )
        if self.max_disagreement is not None and row.transcript:
            error = jiwer.wer(_plain(row.transcript), _plain(heard.text) or "-")
            if error > self.max_disagreement:
                return f"{100 * error:.0f} % of the words differ > {100 * self.max_disagreement:g} %"
        return None


Recogniser = Callable[[str], Heard]  # path of a clip


def faster_whisper_recogniser(folder: str | Path, beam: int = BEAM, language: str = "en") -> Recogniser:
    """Return a recogniser from a Whisper in the CTranslate2 layout, padded to its window, with beam search."""
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise ImportError("pseudo-labels by faster-whisper need it; install the extra eval") from error
    model = WhisperModel(str(folder), device="auto", compute_type="default")

    def hear(path: str) -> Heard:
        segments = list(
            model.transcribe(
                load_audio(path),
                language=language,
                beam_size=beam,
                condition_on_previous_text=False,
                temperature=0.0,
            )[0]
        )
        if not segments:
            return Heard("", no_speech_probability=1.0)
        return Heard(
            " ".join(segment.text.strip() for segment in segments),
            sum(segment.avg_logprob for segment in segments) / len(segments),
            max(segment.no_speech_prob for segment in segments),
        )

    return hear


def transformers_recogniser(name: str | Path) -> Recogniser:
    """Return a recogniser from any speech-recognition model of transformers, by folder or Hub id."""
    from transformers import pipeline

    recogniser: Any = pipeline("automatic-speech-recognition", model=str(name))

    def hear(path: str) -> Heard:
        return Heard(recogniser({"raw": load_audio(path), "sampling_rate": SAMPLING_RATE})["text"].strip())

    return hear


def label(
    rows: Sequence[Row], recogniser: Recogniser, out: str | Path, confidence: Confidence, model: str = ""
) -> tuple[list[Row], dict[str, str]]:
    """Hear every clip once and keep the transcripts that can be trusted.

    Args:
        rows: with durations.
        recogniser: see above.
        out: manifest to write; `out.heard` beside it keeps everything that was heard, for a run that goes on and for
            other thresholds.
        confidence: thresholds.
        model: names the recogniser; what another one heard is not taken for its own.

    Returns:
        The rows with transcripts, and id -> reason of those left out.
    """
    out = Path(out)
    store = out.with_name(out.name + ".heard")
    own = [entry for entry in read_kept_lines(store) if entry.pop("model", None) == model]
    known = {entry.pop("id"): Heard(**entry) for entry in own}
    for row in tqdm(rows, unit="clip", desc="label", initial=0):
        if row.id not in known:
            known[row.id] = recogniser(row.audio)
            keep_line(store, {"id": row.id, "model": model} | asdict(known[row.id]))
    kept, refused = [], {}
    for row in rows:
        doubt = confidence.doubt(known[row.id], row)
        if doubt is None:
            kept.append(replace(row, transcript=known[row.id].text))
        else:
            refused[row.id] = doubt
    write_manifest(out, kept)
    return kept, refused


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() or c in " '" else " " for c in text.lower()).split())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_clsr.data.pseudo_labels",
        description="Transcribe the clips of a manifest; keep what the recogniser is sure of.",
    )
    parser.add_argument("manifest")
    parser.add_argument("--out", required=True, help="manifest to write")
    parser.add_argument(
        "--model", required=True, help="folder of a CTranslate2 Whisper, or a model of transformers"
    )
    parser.add_argument("--columns", help="other column names, as 'duration=dur'")
    parser.add_argument("--audio_root", help="folder of relative audio paths, if another one")
    parser.add_argument("--min_mean_log_prob", type=float, default=Confidence.min_mean_log_prob)
    parser.add_argument("--max_disagreement", type=float, help="with the transcripts that rows have, as 0.5")
    args = parser.parse_args(argv)
    try:
        columns = dict(pair.split("=", 1) for pair in (args.columns or "").split(",") if pair)
        rows = read_manifest(args.manifest, columns, args.audio_root)
        is_ct2 = (Path(args.model) / "model.bin").is_file()
        recogniser = faster_whisper_recogniser(args.model) if is_ct2 else transformers_recogniser(args.model)
        confidence = Confidence(
            min_mean_log_prob=args.min_mean_log_prob, max_disagreement=args.max_disagreement
        )
        kept, refused = label(rows, recogniser, args.out, confidence, args.model)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"pseudo_labels: {error}")
    for name, reason in list(refused.items())[:10]:
        sys.stderr.write(f"  {name}: {reason}\n")
    sys.stderr.write(f"{args.out}: {len(kept)} of {len(rows)} clips labelled\n")


if __name__ == "__main__":
    main()
