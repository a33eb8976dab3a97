"""The tables of README, docs and model cards, from the stamped results and nothing else.

python benchmarks/tables.py            # print them
python benchmarks/tables.py --write    # put them into their files
"""

import argparse
import json
from functools import partial
from pathlib import Path

from modeling_clsr.evaluation.build_systems import UNTUNED
from modeling_clsr.evaluation.report import render_results
from modeling_clsr.evaluation.significance import shown_difference
from modeling_clsr.hub.changes import REPORT_FILE, render_changes
from modeling_clsr.retrieval.search import LETTER_WEIGHT

ROOT = Path(__file__).parents[1]
MINI_EN = "clsr-mini-en"
SCALES = (1_000, 100_000, 10_000_000)  # hours of audio
CORE_HOUR_PRICE = 0.04  # dollars: an assumption, about what clouds ask
OPUS_KBITS = 32
FIRST_TEXT = "text_side_squad"  # the text encoder without questions in other words
# Trainings that differ from it, or from the one that they were measured beside, in one thing.
MORE_TEXT = {
    "text_side_squad_400": "400 steps in place of 160",
    "text_side_asked": "questions in other words learnt, too",
    "text_side_160": "then every sentence and line heard",
    "text_side": "then every sentence and line heard, 320 steps in place of 160 (released)",
}
EVALUATIONS = ("evaluation", "moments", "robustness")  # results.json of `eval_clsr.py`
RULES = {"dense": "cosine", "search": "as `clsr search`"}  # by which passages are ranked
GAIN_RULES = {"dense": RULES["dense"], "hybrid": "cosine and 0.01 × BM25", "search": RULES["search"]}
SYSTEMS = {
    "clsr": "CLSR, float32",
    "clsr-bfloat16": "CLSR, bfloat16",
    "cascade": "faster-whisper base int8, one by one, + MiniLM",
    "cascade-batched": "faster-whisper base int8, its own batching, + MiniLM",
    "cascade-batched-two": "faster-whisper base int8, its own batching, two workers, + MiniLM",
}


def figures_table() -> str:
    """Return the Markdown table."""
    recognition, nonspeech, indexing = (read(name) for name in ("recognition", "nonspeech", "indexing"))
    heard = recognition["figures"]
    same = heard.pop("equal_token_for_token")
    lines = ["| what | figure (95 % interval) | command |", "|---|---|---|"]
    lines += [
        line(
            f"word errors, {same['of']} re-read clips: {name}",
            f"{percent(row, 'wer')}, {row['times_real_time']:.1f} × real time",
            "recognition.py",
        )
        for name, row in heard.items()
    ]
    lines.append(
        line(
            "padded clips whose tokens equal stock Whisper's",
            f"{same['clips']} of {same['of']}",
            "recognition.py",
        )
    )
    lines += [
        line(
            f"words heard in {nonspeech['stamp']['minutes']:g} min of {name}, model alone / as indexed",
            f"{row['words_model_alone']} / {row['words_as_indexed']}",
            "nonspeech.py",
        )
        for name, row in nonspeech["figures"].items()
        if "words_as_indexed" in row
    ]
    for row in indexing["figures"]["systems"]:
        figure = f"{row['times_real_time']:.1f} × real time, {row['peak_memory_gb']:.2f} GB"
        figure += f", R@1 {share(row, 'recall_at_1')}"
        if "recall_at_1_with_moment" in row:
            figure += f", as `clsr search` ranks {share(row, 'recall_at_1_with_moment')}"
        lines.append(line(f"indexing: {SYSTEMS[row['system']]}", figure, "indexing.py"))
    for pair, (middle, least, most) in indexing["figures"]["times_as_fast"].items():
        own, rival = (SYSTEMS[name] for name in pair.split(" / "))
        rounds = f"{least:.2f} to {most:.2f} in {indexing['stamp']['rounds']} rounds"
        lines.append(
            line(f"indexing: {own}, beside {rival}", f"{middle:.2f} times as fast ({rounds})", "indexing.py")
        )
    parameters = sum(recognition["stamp"]["parameters"].values()) / 1e6
    machine = f"{indexing['stamp']['processor']}, {indexing['stamp']['threads']} threads"
    lines += [
        "",
        f"Default checkpoint: {parameters:.1f} million parameters. Indexing: {indexing['stamp']['data']}, in one run,",
        f"on {machine}; what bfloat16 gains depends on the processor",
        "([docs/faster.md](docs/faster.md)). The stamps in `benchmarks/results` name commit, versions and data.",
    ]
    return "\n".join(lines)


def learning_table() -> str:
    """Return the Markdown table of `benchmarks/learning.py`."""
    result = read("learning")
    figures = result["figures"]
    lines = [
        "| arm | R@1, training pool | R@1, held out (95 % interval) | word errors, held out | seeds |",
        "|---|---|---|---|---|",
    ]
    true = figures["true_text"]
    lines.append(f"| true transcripts (upper bound) | {true['train']:.3f} | {true['held_out']:.3f} | 0 | |")
    for arm, row in figures["arms"].items():
        low, high = row["held_out_interval"]
        errors = [error for error in row["held_out_wer"] if error is not None]
        lines.append(
            f"| `{arm}` | {', '.join(f'{value:.3f}' for value in row['train_recall_at_1'])} "
            f"| {row['held_out_mean']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {', '.join(f'{100 * error:.1f} %' for error in errors) or 'no words'} | {len(row['seeds'])} |"
        )
    lines.append("")
    for pair, row in figures["paired"].items():
        lines.append(f"- {pair}: {shown_difference(row)}, paired over the held-out questions.")
    lines += ["", f"{result['stamp']['data']}; one question each."]
    return "\n".join(lines)


COLLECTIONS = {
    "other_clips": "other clips",
    "new_questions": "learnt clips, new questions",
    "other_articles": "clips on other articles",
    "noise": "other clips, in noise",
    "quiet": "clips in quiet",
    "held_out": "other sentences",
    "real-mix": "real-mix",
    "mini": "spoken-squad-mini",
}


# Trials with and without the retrieval gradient, by their results' names.
TRIALS = {
    "from_questions": "tiny model, no transcripts in noise",
    "untranscribed": "no transcripts",
    "untranscribed_bank": "no transcripts, memory bank",
    "nar": "parallel recogniser",
}


def untranscribed_table(trial: str) -> str:
    """Return the Markdown table of a trial of the retrieval gradient, which `benchmarks/bridge.py` measured."""
    result = read(trial)
    lines = [
        "| searched | ranked by | true words | before | `control` | `joint` | joint - control |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["figures"]["rows"]:
        arms = row["arms"]
        errors = {arm: f"{100 * found['wer']:.1f} %" for arm, found in arms.items()}
        searched = searched_of(row)
        lines.append(
            f"| {searched}: word errors | | 0 | {errors['checkpoint']} | {errors['control']} | {errors['joint']} "
            f"| {shown_difference(row['paired']['joint - control, wer'])} |"
        )
        for scoring, rule in RULES.items():
            recall = {
                arm: f"{100 * found[f'recall_at_1_{scoring}']['mean']:.1f} %" for arm, found in arms.items()
            }
            true = 100 * row["recall_at_1_of_true_words"][scoring]
            lines.append(
                f"| {searched}: R@1 | {rule} | {true:.1f} % | {recall['checkpoint']} | {recall['control']} "
                f"| {recall['joint']} | {shown_difference(row['paired'][f'joint - control, {scoring}'])} |"
            )
    seeds = max(found["seeds"] for row in result["figures"]["rows"] for found in row["arms"].values())
    counts = {row["set"]: row["questions"] for row in result["figures"]["rows"]}
    lines += [
        "",
        f"Means of {seeds} seeds. Questions: "
        + "; ".join(f"{COLLECTIONS[name]} {count:,}" for name, count in counts.items())
        + ".",
    ]
    return "\n".join(lines)


def searched_of(row: dict) -> str:
    """Name the row of a set and a condition of `bridge.py` for people."""
    name = COLLECTIONS[row["set"]]
    return name if row["condition"] == "clean" else f"{name}, weights {row['condition']}"


def training_table() -> str:
    """Return the Markdown table of `benchmarks/training.py`."""
    result = read("training")
    lines = [
        "| setting | seconds of audio a second | waiting for data | first run with its cache |",
        "|---|---|---|---|",
    ]
    for row in result["figures"]["settings"]:
        first = "" if row["first_run_with_cache_s"] is None else f"{row['first_run_with_cache_s']:.0f} s"
        speed = f"{row['audio_seconds_per_second']:.1f}"
        lines.append(f"| {row['setting']} | {speed} | {100 * row['data_wait']:.1f} % | {first} |")
    stamp = result["stamp"]
    lines += ["", f"Default checkpoint on {stamp['processor']}, {stamp['threads']} threads; {stamp['data']}."]
    return "\n".join(lines)


def doubt_table(folder: str = ".") -> str:
    """Return the Markdown table of `evaluation.doubt`, of the checkpoint whose results are in a folder."""
    figures = read(f"{folder}/doubt")["figures"]
    lines = [
        "| set | questions | expected calibration error | answered, of the answerable | of the near | of the far "
        "| first hit right, of the answered |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in figures.items():
        low, high = row["expected_calibration_error_interval"]
        lines.append(
            f"| {name} | {row['questions']} | {row['expected_calibration_error']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {percent(row, 'answered_of_answerable')} | {percent(row, 'answered_of_near')} "
            f"| {percent(row, 'answered_of_far')} | {percent(row, 'first_hit_right_of_answered')} |"
        )
    threshold = next(iter(figures.values()))["threshold"]
    lines += [
        "",
        f"At the default threshold of {threshold:.2f}. None of these questions or voices was fitted.",
    ]
    for name, row in figures.items():
        allowed = [entry for entry in row["curve"] if entry["answered_of_unanswerable"] <= 0.1]
        best = max(allowed, key=lambda entry: entry["answered_of_answerable"])
        lines.append(
            f"If 10 % of the unanswerable may get an answer, {100 * best['answered_of_answerable']:.0f} % of the "
            f"answerable do on {name} (threshold {best['threshold']:.2f})."
        )
        top = row["bins"][-1]
        lines.append(
            f"The likeliest tenth of the hits on {name}: {100 * top['predicted']:.0f} % predicted, "
            f"{100 * top['observed']:.0f} % observed."
        )
    return "\n".join(lines)


def times_table() -> str:
    """Return the Markdown table of `benchmarks/times.py`."""
    row = read("times")["figures"]
    return "\n".join(
        [
            "| what | figure (95 % interval) |",
            "|---|---|",
            f"| words heard right, whose times are judged | {row['words_heard_right']} of {row['words_said']} |",
            f"| their starts within 0.3 s | {percent(row, 'starts_within_0.3_s')} |",
            f"| their ends within 0.3 s | {100 * row['ends_within_0.3_s']:.1f} % |",
            f"| error of a start: median, p90, p95 | {row['start_error_p50_s']:.2f}, {row['start_error_p90_s']:.2f}, "
            f"{row['start_error_p95_s']:.2f} s |",
            f"| first hits over the clip whose words they say | {percent(row, 'moments_over_their_clip')} of "
            f"{row['moments_judged']} |",
        ]
    )


def long_file_table() -> str:
    """Return the Markdown table of `benchmarks/long_file.py`."""
    result = read("long_file")
    rows = result["figures"]["lengths"]
    lines = [
        "| | " + " | ".join(f"{row['hours']:.1f} h" for row in rows) + " |",
        "|---|" + "---|" * len(rows),
    ]
    for title, cell in (
        ("peak memory", lambda row: f"{row['peak_memory_gb']:.2f} GB"),
        ("hours of audio an hour", lambda row: f"{row['times_real_time']:.1f}"),
        ("index, of an hour of audio", lambda row: f"{row['bytes_per_hour'] / 1e6:.1f} MB"),
        *(
            (
                f"time: {part}",
                lambda row, part=part: f"{100 * row['parts'].get(part, 0.0) / row['seconds']:.1f} %",
            )
            for part in rows[-1]["parts"]
        ),
    ):
        lines.append(f"| {title} | " + " | ".join(map(cell, rows)) + " |")
    stamp = result["stamp"]
    return "\n".join([*lines, "", f"On {stamp['processor']}, {rows[-1]['threads']} threads, one process."])


def growth_table() -> str:
    """Return the Markdown table of `benchmarks/search.py`."""
    result = read("search")
    lines = [
        "| passages | recall@10 | nearest rows: p50, p95 | rows by words: p50, p95 | whole search: p50, p95 "
        "| on disk | per hour of audio | indices made in | read in | memory, searching | memory, making indices |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['passages']:,} | {row['recall_at_10']:.3f} | "
        + " | ".join(
            f"{row[f'{name}_ms_p50']:.1f}, {row[f'{name}_ms_p95']:.1f} ms"
            for name in ("nearest", "worded", "search")
        )
        + f" | {row['bytes'] / 1e9:.2f} GB | {row['bytes_per_hour'] / 1e6:.2f} MB | "
        + f"{row['indexing_s']:.0f} s | {row['prewarming_s']:.1f} s | {row['search_memory_gb']:.2f} GB "
        + f"| {row['indexing_memory_gb']:.2f} GB |"
        for row in result["figures"]["sizes"]
    ]
    stamp = result["stamp"]
    return "\n".join([*lines, "", f"{stamp['questions']} questions, on {stamp['processor']}, in process."])


def scaling_table() -> str:
    """Return what so many hours cost, by the measured figures of `benchmarks/long_file.py`."""
    row = read("long_file")["figures"]["lengths"][-1]
    core_hours = row["threads"] / row["times_real_time"]  # of an hour of audio
    passages = row["passages"] / row["hours"]
    writing = row["parts"]["write the table"] / row["hours"]
    lines = [
        "| | " + " | ".join(f"{hours:,} h" for hours in SCALES) + " |",
        "|---|" + "---|" * len(SCALES),
    ]
    for title, cell in (
        ("passages", lambda hours: shown_count(hours * passages)),
        ("core-hours of indexing", lambda hours: shown_count(hours * core_hours)),
        ("on 64 cores", lambda hours: f"{hours * core_hours / 64 / 24:,.1f} days"),
        (f"at ${CORE_HOUR_PRICE} a core-hour", lambda hours: f"${hours * core_hours * CORE_HOUR_PRICE:,.0f}"),
        ("index on disk", lambda hours: f"{hours * row['bytes_per_hour'] / 1e9:,.0f} GB"),
        (f"audio as Opus, {OPUS_KBITS} kbit/s", lambda hours: f"{hours * OPUS_KBITS * 450 / 1e6:,.0f} GB"),
        ("one writer is busy for", lambda hours: f"{hours * writing / 3600:,.1f} h"),
    ):
        lines.append(f"| {title} | " + " | ".join(map(cell, SCALES)) + " |")
    cost = core_hours * CORE_HOUR_PRICE
    lines += [
        "",
        f"An hour of audio: {60 * core_hours:.1f} core-minutes (${cost:.4f}), {passages:.0f} passages, "
        f"{row['bytes_per_hour'] / 1e6:.1f} MB, {writing:.2f} s of writing.",
    ]
    return "\n".join(lines)


def shown_count(number: float) -> str:
    """Write a large number in two digits.

    >>> shown_count(234567.0)
    '230,000'
    """
    return f"{float(f'{number:.2g}'):,.0f}"


def serving_table() -> str:
    """Return the Markdown tables of `benchmarks/serving.py`."""
    result = read("serving")
    stamp, figures = result["stamp"], result["figures"]
    load, memory, refusals = (figures[name] for name in ("load", "memory", "refusals"))
    kinds = load["kinds"]
    lines = ["| request | a second | p50 | p95 |", "|---|---|---|---|"]
    lines += [
        f"| {kind} | {row['per_second']:.2f} | {row['p50_ms'] / 1000:.2f} s | {row['p95_ms'] / 1000:.2f} s |"
        for kind, row in kinds.items()
    ]
    answered = sum(row["statuses"].get("200", 0) for row in kinds.values())
    other = sum(row["other_than_alone"] for row in kinds.values())
    lines += [
        "",
        f"{stamp['clients']} clients without a pause for {load['seconds']:.0f} s on {stamp['processor']}, "
        f"{stamp['processors']} processors, which the clients share: {load['requests']} requests, "
        f"{load['per_second']:.1f} a second; {answered} served, {load['without_answer']} without an answer; the server "
        f"counted {load['answers_by_the_servers_count']} answers. {other} answers differed from what the same request "
        "got alone.",
        "",
        f"Resident memory: {memory['start_mb']:.0f} MB after warming up, {memory['end_mb']:.0f} MB at the end, "
        f"{memory['slope_mb_per_minute']:+.1f} MB a minute; peak {memory['peak_mb']:.0f} MB, with the refusals "
        f"{memory['peak_of_the_run_mb']:.0f} MB.",
        "",
        "![Memory of the server, and how long answers took](serving.png)",
        "",
        "| what was sent | taken | answer | after | server lives |",
        "|---|---|---|---|---|",
    ]
    for row in refusals:
        counts = row.get("statuses") or {str(row["status"]): 1}
        answer = ", ".join(
            f"{status}" if count == 1 else f"{count} × {status}" for status, count in counts.items()
        )
        message = f": {row['message']}" if row["message"] else ""
        taken = f"{row['sent_bytes'] / 1e3:,.0f} kB" if "sent_bytes" in row else ""
        alive = "yes" if row["healthy_after"] else "no"
        lines.append(f"| {row['case']} | {taken} | {answer}{message} | {row['seconds']:.1f} s | {alive} |")
    return "\n".join(lines)


def forms_table() -> str:
    """Return the Markdown table of `benchmarks/forms.py`."""
    result = read("forms")
    figures, stamp = result["figures"], result["stamp"]
    lines = [
        "| form | × real time | of float32's speed | questions a second | word errors | R@1 | against float32 "
        "| same transcripts | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in figures["forms"].items():
        gain = same = against = ""
        if "gain" in row:
            gain, same = share(row, "gain"), f"{row['same_transcripts']} of {figures['clips']}"
            paired = row["recall_at_1_difference"]
            against = shown_difference(paired)
        low, high = row["times_real_time_interval"]
        lines.append(
            f"| `{name}` | {row['times_real_time']:.1f} ({low:.1f} to {high:.1f}) | {gain} "
            f"| {row['texts_per_second']:.0f} | {percent(row, 'wer')} | {share(row, 'recall_at_1')} | {against} "
            f"| {same} | {row['peak_memory_gb']:.2f} GB |"
        )
    lines += [
        "",
        f"{stamp['data']}, batches of {stamp['batch_size']}, in one run on {stamp['processor']}, "
        f"{stamp['threads']} threads.",
    ]
    return "\n".join(lines)


def card_results(folder: str = ".") -> str:
    """Return the results of a checkpoint, from every report of `eval_clsr.py` that is stored in its folder."""
    names = [f"{folder}/{name}" for name in EVALUATIONS]
    return render_results(*(read(name) for name in names if path_of(name).is_file())) or "Not measured yet."


def gains_table() -> str:
    """Return how clsr-mini-en stands beside the cascades of its parts, before and after training."""
    rivals = {"the cascade of the untouched parts": UNTUNED, "the cascade with its text encoder": ""}
    lines = [
        f"| set | ranked by | clsr-mini-en, R@1 | {' | '.join(f'{name} | difference' for name in rivals)} |",
        "|---|---|---|" + "---|---|" * len(rivals),
    ]
    pools = dict(read(f"{MINI_EN}/evaluation")["figures"])
    for name, conditions in read(f"{MINI_EN}/robustness")["figures"].items():
        pools |= {
            f"{name}, {condition}": found for condition, found in conditions.items() if condition != "clean"
        }
    for name, found in pools.items():
        for scoring, rule in GAIN_RULES.items():
            end = "" if scoring == "dense" else f"-{scoring}"
            cells = [name, rule, percent(found["systems"][f"clsr{end}"], "recall_at_1")]
            for base in rivals.values():
                other = f"cascade{end}{base}"
                test = found["paired"][f"clsr{end} - {other}"]["recall_at_1"]
                recall = found["systems"][other]["recall_at_1"]
                cells += [f"{100 * recall:.1f} %", shown_difference(test)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def levers_table() -> str:
    """Return what each lever of clsr-mini-en gave; those without stored results are left out."""
    lines = ["| lever | figure | command |", "|---|---|---|"]
    heard = read("recognition")["figures"]
    short, again = (heard[f"CLSR, true length + 1 s{end}"] for end in ("", ", suspicious again"))
    lines.append(
        line(
            "early stops and loops: suspicious clips are heard again, padded",
            f"word errors {percent(short, 'wer')}, then {percent(again, 'wer')}; {short['times_real_time']:.1f} and "
            f"{again['times_real_time']:.1f} × real time",
            "recognition.py",
        )
    )
    if path_of("selfdistil").is_file():
        lines += [
            line(
                f"self-distillation of the speech encoder; {way.removeprefix('distilled, ')}",
                f"word errors {percent(row, 'wer')}, {shown_difference(row['against_first'])}",
                "recognition.py",
            )
            for way, row in read("selfdistil")["figures"].items()
            if "against_first" in row
        ]
    evaluated = read(f"{MINI_EN}/evaluation")["figures"]
    for name, found in evaluated.items():
        systems = found["systems"]
        tuned = [systems[f"cascade{base}"] for base in (UNTUNED, "")]
        lines += [
            f"| trained text encoder, the cascade's words, {name} | R@1 {percent(tuned[0], 'recall_at_1')}, then "
            f"{percent(tuned[1], 'recall_at_1')} | `eval_clsr.py` |",
            f"| hybrid score, {name} | R@1 {percent(systems['clsr'], 'recall_at_1')}, then "
            f"{percent(systems['clsr-search'], 'recall_at_1')} | `eval_clsr.py` |",
        ]
    for run, what in MORE_TEXT.items():
        figures = read(f"{MINI_EN}/{run}")["figures"]
        first = figures.get("beside") or read(f"{MINI_EN}/{FIRST_TEXT}")["figures"]["after"]["1.0"]
        tests = figures.get("after - beside", {}).get("1.0", {})
        lines.append(
            f"| text encoder, {what}, held-out passages | "
            + "; ".join(
                f"{pool}: R@1 {100 * recall:.1f}, then {100 * figures['after']['1.0'][pool]:.1f}"
                + (f" ({shown_difference(tests[pool])})" if pool in tests else "")
                for pool, recall in first.items()
            )
            + " | `recipes/mini_en/text_side.py` |"
        )
    if path_of(f"{MINI_EN}/uncertain").is_file():
        lines += uncertain_lines(read(f"{MINI_EN}/uncertain")["figures"])
    tiny = read("learning")["figures"]["paired"]["joint - control"]
    lines.append(
        line(
            "retrieval gradient, against the same steps without, tiny model",
            f"R@1 {shown_difference(tiny)}",
            "learning.py",
        )
    )
    lines += [
        line(
            f"retrieval gradient, against the same steps without, {trial}; {searched_of(row)}",
            f"R@1 {shown_difference(row['paired']['joint - control, dense'])}",
            result["stamp"]["command"].split()[0],
        )
        for name, trial in TRIALS.items()
        if path_of(name).is_file()
        for result in (read(name),)
        for row in result["figures"]["rows"]
    ]
    if path_of("nar").is_file():
        for row in read("nar")["figures"]["rows"]:
            name, found = searched_of(row), row["arms"]["joint"]["recall_at_1_dense"]
            if name in evaluated:
                recall = shown_share(found["mean"], found["interval"])
                here = percent(evaluated[name]["systems"]["clsr"], "recall_at_1")
                what = f"parallel recogniser (word pieces, CIF) in place of Whisper's, {name}"
                lines.append(line(what, f"R@1 {recall}; here {here}", "bridge.py"))
    lines += [
        line(
            f"speed: `{name}` in place of float32",
            f"{row['gain']:.2f} times as fast; R@1 {shown_difference(row['recall_at_1_difference'])}",
            "forms.py",
        )
        for name, row in read("forms")["figures"]["forms"].items()
        if "gain" in row
    ]
    return "\n".join(lines)


def letters_table() -> str:
    """Return the Markdown table of `benchmarks/letters.py`."""
    result = read("letters")["figures"]
    weights = [row["weight"] for row in next(iter(result.values()))["weights"]]
    columns = [f"{weight:g}" for weight in weights] + [f"{LETTER_WEIGHT:g} against none"]
    lines = [
        f"| speech | words heard wrong | questions | {' | '.join(columns)} |",
        "|---|---|---|" + "---|" * (len(weights) + 1),
    ]
    for name, found in result.items():
        rows = {row["weight"]: row for row in found["weights"]}
        recall = [f"{100 * row['recall_at_1']:.1f} %" for row in rows.values()]
        lines.append(
            f"| {name} | {100 * found['wer']:.0f} % | {found['questions']:,} over {found['passages']} passages "
            f"| {' | '.join(recall)} "
            f"| {shown_difference(rows[LETTER_WEIGHT]['against_none'])} |"
        )
    return "\n".join(lines)


def uncertain_lines(sets: dict) -> list[str]:
    """Return a line for each kind of treating uncertain positions, with all its bounds."""
    kinds: dict[str, list[str]] = {}
    for way in next(iter(sets.values()))["ways"]:
        if way != "best":
            kinds.setdefault(way.rsplit(" ", 1)[0], []).append(way)
    lines = []
    for kind, ways in kinds.items():
        figures = []
        for name, found in sets.items():
            tests = [found["ways"][way]["against_best"] for way in ways]
            gains = ", ".join(f"{100 * test['difference']:+.1f}" for test in tests)
            least = min(test["p_value"] for test in tests)
            figures.append(f"{name}: R@1 {gains} points, least p = {least:.3f}")
        bounds = ", ".join(way.rsplit(" ", 1)[1] for way in ways)
        lines.append(line(f"uncertain positions: {kind} {bounds}", "; ".join(figures), "uncertain.py"))
    return lines


def text_side_table() -> str:
    """Return the Markdown table of `recipes/mini_en/text_side.py`."""
    result = read(f"{MINI_EN}/text_side")
    figures, settings = result["figures"], result["stamp"]["settings"]
    pools = list(figures["before"])
    lines = [f"| share of the tuned weights | {' | '.join(pools)} |", "|---|" + "---|" * len(pools)]
    for share, found in ({"0": figures["before"]} | figures["after"]).items():
        lines.append(f"| {share} | {' | '.join(f'{100 * found[pool]:.1f}' for pool in pools)} |")
    texts = result["stamp"]["texts"]
    lines += [
        "",
        f"{settings['steps']} steps at {settings['learning_rate']:g}; {texts['train']:,} sentences of articles, "
        f"{texts['asked']:,} lines with questions in other words, {texts['medical']:,} medical answers, "
        f"{texts['plain']:,} plain sentences.",
    ]
    return "\n".join(lines)


SPOKEN = {"squad": "sentences of SQuAD's articles", "asked": "lines with questions in other words"}


def speech_table() -> str:
    """Return the Markdown table of `recipes/mini_en/hours.py`."""
    lines = [
        "| spoken | clips | hours | heard in noise | held out | clips of each voice |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in read(f"{MINI_EN}/speech")["figures"].items():
        voices = ", ".join(f"{voice} {clips:,}" for voice, clips in row["clips_of_voices"].items())
        noisy, kept = row["hours_in_noise"], row["hours_held_out"]
        lines.append(
            f"| {SPOKEN[name]} | {row['clips']:,} | {row['hours']:.1f} | {noisy:.1f} h | {kept:.1f} h | {voices} |"
        )
    return "\n".join(lines)


def changes_table() -> str:
    """Return the Markdown table of what training changed in clsr-mini-en."""
    report = json.loads((ROOT / "checkpoints" / MINI_EN / REPORT_FILE).read_text(encoding="utf-8"))
    return render_changes(report)


def line(what: str, figure: str, script: str) -> str:
    return f"| {what} | {figure} | `benchmarks/{script}` |"


def percent(row: dict, name: str) -> str:
    return shown_share(row[name], row[f"{name}_interval"])


def shown_share(value: float, interval: list[float]) -> str:
    low, high = interval
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def share(row: dict, name: str) -> str:
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.2f} ({low:.2f} to {high:.2f})"


def read(name: str) -> dict:
    return json.loads(path_of(name).read_text(encoding="utf-8"))


def path_of(name: str) -> Path:
    return ROOT / "benchmarks" / "results" / f"{name}.json"


PLACES = (
    ("README.md", "figures", figures_table),
    ("README.md", "gains", gains_table),
    ("docs/training.md", "learning", learning_table),
    *(("docs/training.md", name, partial(untranscribed_table, name)) for name in TRIALS),
    ("docs/training.md", "speed", training_table),
    ("docs/search.md", "doubt", doubt_table),
    ("docs/search.md", "letters", letters_table),
    ("docs/search.md", "times", times_table),
    ("docs/scaling.md", "long file", long_file_table),
    ("docs/scaling.md", "growth", growth_table),
    ("docs/scaling.md", "scaling", scaling_table),
    ("docs/server.md", "serving", serving_table),
    ("docs/faster.md", "forms", forms_table),
    ("docs/evaluation.md", "results", card_results),
    ("model_cards/clsr-base-en.md", "results", card_results),
    (f"checkpoints/{MINI_EN}/README.md", "speech", speech_table),
    (f"checkpoints/{MINI_EN}/README.md", "text side", text_side_table),
    (f"checkpoints/{MINI_EN}/README.md", "levers", levers_table),
    (f"checkpoints/{MINI_EN}/README.md", "results", partial(card_results, MINI_EN)),
    (f"checkpoints/{MINI_EN}/README.md", "doubt", partial(doubt_table, MINI_EN)),
    (f"checkpoints/{MINI_EN}/README.md", "changes", changes_table),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the tables into their files")
    write = parser.parse_args().write
    for file, name, table in PLACES:
        begin, end = f"<!-- {name}: benchmarks/tables.py --write -->", f"<!-- end of {name} -->"
        text = (ROOT / file).read_text(encoding="utf-8")
        try:
            rendered = table()
        except FileNotFoundError:  # of its results
            rendered = "Not measured yet."
        if not write:
            print(rendered, end="\n\n")
            continue
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        (ROOT / file).write_text(f"{before}{begin}\n{rendered}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
