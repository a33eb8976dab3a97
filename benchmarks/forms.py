"""Speed, memory, word errors and recall of a checkpoint's faster forms, beside float32.

    python benchmarks/forms.py --json benchmarks/results/forms.json
    python benchmarks/forms.py --limit 16 --forms float32 int8

Each form runs in a process of its own, and one process at a time: two batches of clips, encoded beside each other as by
`clsr index`, go to all forms, one after the other, in an order that moves on, so that what else the machine does meets
all alike. The same with questions. Forms that the checkpoint lacks are added to it. 95 % intervals: bootstrap over
twos of batches, clips, and questions by passage.
"""

import argparse
import itertools
import multiprocessing
import resource
import time
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from modeling_clsr.data.audio import load_audio
from modeling_clsr.data.sampler import length_batches
from modeling_clsr.evaluation.evaluator import load_set
from modeling_clsr.evaluation.metrics import whisper_words, word_error_rate
from modeling_clsr.evaluation.ranking import query_measures, relevance_of
from modeling_clsr.evaluation.significance import mean_interval, paired_test, ratio_interval
from modeling_clsr.hub.build import default_checkpoint
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.retrieval.encoder import Encoder, checkpoint_fingerprint
from modeling_clsr.retrieval.faster import FILES, FORMS, export_form, has_form
from modeling_clsr.retrieval.lanes import LANES, in_lanes

PLAIN = "float32"
RATE = 16000
QUESTIONS_AT_ONCE = 32


def answer(pipe: Connection, checkpoint: Path, form: str) -> None:
    """Encode what comes, in the process of one form; every answer begins with its seconds."""
    encoder = Encoder.from_pretrained(checkpoint, "cpu", None if form == PLAIN else form)
    pipe.send(0.0)
    while (task := pipe.recv()) is not None:
        start = time.perf_counter()
        if isinstance(task[0], str):
            found = encoder.encode_texts(task)
        else:
            heard = itertools.chain(*in_lanes(encoder.encode_passages, task, "cpu"))
            found = [(transcript.text, vector) for transcript, vector in heard]
        pipe.send((time.perf_counter() - start, found))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def measure(pipes: dict[str, Connection], tasks: list[list]) -> tuple[dict[str, np.ndarray], dict[str, list]]:
    """Return each form's seconds for each task, and what it made of all of them, in their order."""
    seconds = {form: np.zeros(len(tasks)) for form in pipes}
    found: dict[str, list] = {form: [] for form in pipes}
    forms = list(pipes)
    for number, task in enumerate(tasks):
        turn = number % len(forms)
        for form in forms[turn:] + forms[:turn]:
            pipes[form].send(task)
            seconds[form][number], made = pipes[form].recv()
            found[form] += list(made)
    return seconds, found


def rate(amounts: np.ndarray, seconds: np.ndarray, name: str) -> dict:
    """Return a speed with its interval."""
    return {name: amounts.sum() / seconds.sum(), f"{name}_interval": ratio_interval(amounts, seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", type=Path, default=Path("sets/real-mix"), help="folder of a built set")
    parser.add_argument("--model", type=Path, help="checkpoint folder (default: the default checkpoint)")
    parser.add_argument("--forms", nargs="+", choices=(PLAIN, *FORMS), default=(PLAIN, *FORMS))
    parser.add_argument("--limit", type=int, help="use so many clips only, those asked about first")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    stamp = make_stamp()
    checkpoint = arguments.model or default_checkpoint()
    for form in arguments.forms:
        if form in FILES and not has_form(checkpoint, form):
            export_form(checkpoint, form)

    passages, questions = load_set(arguments.set)
    asked = {question.context_id for question in questions}
    passages = sorted(passages, key=lambda row: row.context_id not in asked)[: arguments.limit]
    pool = {row.context_id for row in passages}
    questions = [question for question in questions if question.context_id in pool]
    groups = [question.context_id for question in questions]
    relevant = relevance_of(np.array(groups), np.array([row.context_id for row in passages]))
    waves = [load_audio(row.audio) for row in passages]
    places = length_batches([len(wave) for wave in waves], arguments.batch_size)
    batches = [[waves[place] for place in batch] for batch in places]
    tasks = [batches[at : at + LANES] for at in range(0, len(batches), LANES)]
    audio = np.array([sum(len(wave) for batch in task for wave in batch) / RATE for task in tasks])
    texts = [question.question for question in questions]
    asking = [texts[at : at + QUESTIONS_AT_ONCE] for at in range(0, len(texts), QUESTIONS_AT_ONCE)]

    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for form in arguments.forms:
        pipes[form], other = spawn.Pipe()
        spawn.Process(target=answer, args=(other, checkpoint, form), daemon=True).start()
        pipes[form].recv()  # loaded
    measure(pipes, [tasks[-1]])  # warm up
    measure(pipes, [asking[-1]])
    seconds, heard = measure(pipes, tasks)
    text_seconds, vectors = measure(pipes, asking)

    print(
        f"{len(waves)} clips, {audio.sum() / 60:.1f} min, {len(texts)} questions, {stamp['threads']} threads"
    )
    print(f"{'form':12}{'x real time':>22}{'texts/s':>9}{'WER %':>22}{'R@1':>24}{'peak GB':>9}")
    order = [place for batch in places for place in batch]
    truths = [str(passages[place].transcript) for place in order]
    figures, hits = {}, {}
    for form, pipe in pipes.items():
        pipe.send(None)
        written = [text for text, _ in heard[form]]
        scores = np.zeros((len(questions), len(passages)))
        scores[:, order] = np.array(vectors[form]) @ np.array([vector for _, vector in heard[form]]).T
        hits[form] = query_measures(scores, relevant)["recall_at_1"]
        row = rate(audio, seconds[form], "times_real_time")
        row |= rate(np.array([len(batch) for batch in asking]), text_seconds[form], "texts_per_second")
        row["wer"], row["wer_interval"] = word_error_rate(truths, written, normalize=whisper_words)
        row |= {"recall_at_1": hits[form].mean(), "recall_at_1_interval": mean_interval(hits[form], groups)}
        row["peak_memory_gb"] = pipe.recv()
        if PLAIN in pipes and form != PLAIN:
            row |= rate(seconds[PLAIN], seconds[form], "gain")
            row |= rate(text_seconds[PLAIN], text_seconds[form], "text_gain")
            row["same_transcripts"] = sum(
                text == own for text, (own, _) in zip(written, heard[PLAIN], strict=True)
            )
            row["recall_at_1_difference"] = vars(paired_test(hits[form], hits[PLAIN], groups))
        figures[form] = row
        print(
            f"{form:12}{shown(row, 'times_real_time', 1, 1):>22}{row['texts_per_second']:9.0f}"
            f"{shown(row, 'wer', 100, 1):>22}{shown(row, 'recall_at_1', 1, 3):>24}{row['peak_memory_gb']:9.2f}"
        )
    if arguments.json:
        write_stamped(
            arguments.json,
            {"forms": figures, "clips": len(waves), "questions": len(texts)},
            stamp,
            checkpoint=checkpoint_fingerprint(checkpoint),
            data=f"{arguments.set.name}, {len(waves)} clips, {audio.sum() / 60:.1f} min, {len(texts)} questions",
            runtimes={name: version(name) for name in ("onnx", "onnxruntime", "openvino")},
            batch_size=arguments.batch_size,
        )


def shown(row: dict, name: str, scale: int, digits: int) -> str:
    value, low, high = (scale * number for number in (row[name], *row[f"{name}_interval"]))
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
