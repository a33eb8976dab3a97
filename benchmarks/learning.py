"""What training through the bridge adds: the paper's model from random weights, its missing control, the dual encoder.

    python benchmarks/learning.py --json benchmarks/results/learning.json

Sentences of a small grammar are spoken by two voices; every combination in the held-out pool is new, no word is. A
recogniser is trained from random weights (`recognition`). Two arms go on from it with the same rows in the same order
for the same steps: `joint` with the retrieval loss, `control` without it. `dual` has no transcript in between and as
many steps as both together. Needs flite and the extra parts.
"""

import argparse
import itertools
import json
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from sentence_transformers import SentenceTransformer

from modeling_clsr import CLSRConfig, CLSRModel, CLSRProcessor
from modeling_clsr.data.collator import Collator
from modeling_clsr.data.manifest import read_manifest, write_manifest
from modeling_clsr.data.synthesis import Utterance, speak_manifest
from modeling_clsr.evaluation.metrics import word_error_rate
from modeling_clsr.evaluation.ranking import hit_chances
from modeling_clsr.evaluation.significance import mean_interval, paired_test
from modeling_clsr.hub.parts import minilm_folder
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.training.arguments import parse_arguments
from modeling_clsr.training.objective import BESIDE
from modeling_clsr.training.rows import SpeechRows
from modeling_clsr.training.run import STAMP_FILE, run

PEOPLE = (
    "the baker,my sister,an old sailor,the teacher,our neighbour,a young doctor,the king,his uncle".split(",")
)
VERBS = "sold/sell,painted/paint,lost/lose,found/find,repaired/repair,hid/hide".split(",")
COLOURS = "red,green,white,golden,broken,heavy".split(",")
THINGS = "lamp,bicycle,clock,ladder,violin,basket,mirror,anchor".split(",")
PLACES = (
    "in the harbour,near the station,behind the church,in the market,on the island,under the bridge".split(
        ","
    )
)
VOICES = ["flite/slt", "flite/rms"]
ARMS = {
    "recognition": ("recipes/sanm_tiny.yaml",),
    "joint": ("recipes/sanm_tiny_joint.yaml",),
    "control": ("recipes/sanm_tiny_joint.yaml", "--contrastive_weight", "0"),
    "dual": ("recipes/dual.yaml",),
}


def sentences(count: int, seed: int) -> list[Utterance]:
    """Draw different sentences; each answers one question, which leaves the place open."""
    combinations = list(itertools.product(PEOPLE, VERBS, COLOURS, THINGS))
    draw = random.Random(seed)
    chosen = draw.sample(combinations, count)
    return [
        Utterance(
            f"s{number}",
            f"{person} {verb.split('/')[0]} the {colour} {thing} {draw.choice(PLACES)}",
            questions=(f"Where did {person} {verb.split('/')[1]} the {colour} {thing}?",),
        )
        for number, (person, verb, colour, thing) in enumerate(chosen)
    ]


def speak_pools(folder: Path, rows: int, held_out: int) -> list[Utterance]:
    """Speak the sentences to train on and those held out, unless they are there; return both."""
    made = sentences(rows + held_out, seed=0)
    speak(made[:rows], folder, "train")
    speak(made[rows:], folder, "held_out")
    return made


def speak(part: list[Utterance], folder: Path, name: str) -> Path:
    """Speak sentences by the two voices, unless they are there; return their manifest."""
    spoken = read_manifest(speak_manifest(part, folder / name, VOICES))
    return write_manifest(folder / f"{name}.jsonl", spoken)


def train(arm: str, seed: int, folder: Path) -> Path:
    """Train one arm, unless its folder is finished; return its checkpoint."""
    recipe, *extra = ARMS[arm]
    start = folder / f"recognition-{seed}"
    model = ["--model", str(start)] if arm in ("joint", "control") else ["--text", str(minilm_folder())]
    return run_recipe(recipe, folder / "train.jsonl", folder / f"{arm}-{seed}", seed, *model, *extra)


def run_recipe(recipe: str, manifest: Path, out: Path, seed: int, *arguments: str) -> Path:
    """Run a recipe, unless its folder is finished; return the folder."""
    if not (out / STAMP_FILE).is_file():
        argv = ["--config", recipe, "--train_manifest", str(manifest), "--output_dir", str(out), *arguments]
        argv += "--use_cpu true --save_strategy no --disable_tqdm true --seed".split()
        run(*parse_arguments([*argv, str(seed)]))
    return out


def load(checkpoint: Path, recipe: str) -> tuple[CLSRModel, CLSRProcessor]:
    """Load what a recipe has trained, with the settings of its predictor."""
    settings = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
    config = CLSRConfig.from_pretrained(checkpoint, tail_threshold=settings["tail_threshold"])
    model = CLSRModel.from_pretrained(checkpoint, config=config).eval()
    return model, CLSRProcessor.from_pretrained(checkpoint)


def measure(arm: str, seed: int, folder: Path) -> dict:
    """Return an arm's hits on the training pool and on the held-out one, and its word errors."""
    model, processor = load(train(arm, seed, folder), ARMS[arm][0])
    result: dict = {"arm": arm, "seed": seed}
    for pool in ("train", "held_out"):
        rows = read_manifest(folder / f"{pool}.jsonl", needs=("audio", "question", "transcript"))
        result[pool], written = embed_and_rank(model, processor, rows)
        if arm != "dual":
            result[f"{pool}_wer"] = word_error_rate([row.transcript for row in rows], written)[0]
    return result


@torch.no_grad()
def embed_and_rank(model, processor, rows) -> tuple[list[float], list[str]]:
    """Return whether each question finds its clip first, and what was heard."""
    data, collator = SpeechRows(rows), Collator(processor)
    queries, clips, written = [], [], []
    for start in range(0, len(rows), 16):
        batch = collator([data[row] for row in range(start, min(start + 16, len(rows)))])
        output = model(**{name: value for name, value in batch.items() if name not in BESIDE})
        queries.append(output.text_embeds)
        clips.append(output.audio_embeds)
        written += [transcript.text for transcript in output.transcripts]
    scores = (torch.cat(queries) @ torch.cat(clips).T).numpy()
    return hit_chances(scores, np.eye(len(rows), dtype=bool), 1).tolist(), written


def text_recall(manifest: Path) -> float:
    """Return R@1 of the untouched text encoder on the true transcripts, the upper bound of a frozen one."""
    encoder = SentenceTransformer(str(minilm_folder()), device="cpu")
    rows = read_manifest(manifest, needs=("question", "transcript"))
    sides = [encoder.encode([getattr(row, name) for row in rows]) for name in ("question", "transcript")]
    return float(hit_chances(sides[0] @ sides[1].T, np.eye(len(rows), dtype=bool), 1).mean())


def summary(results: list[dict]) -> dict:
    """Return each arm's figures over its seeds, and `joint` against the others on the seeds that both have."""
    figures: dict = {"arms": {}, "paired": {}}
    arms = {arm: [row for row in results if row["arm"] == arm] for arm in ARMS}
    for arm, rows in arms.items():
        held_out, groups = pooled(rows)
        figures["arms"][arm] = {
            "seeds": [row["seed"] for row in rows],
            "train_recall_at_1": [float(np.mean(row["train"])) for row in rows],
            "held_out_recall_at_1": [float(np.mean(row["held_out"])) for row in rows],
            "held_out_mean": float(held_out.mean()),
            "held_out_interval": list(mean_interval(held_out, groups)),
            "held_out_wer": [row.get("held_out_wer") for row in rows],
        }
        if arm != "joint":
            seeds = {row["seed"] for row in rows}
            joint, groups = pooled([row for row in arms["joint"] if row["seed"] in seeds])
            figures["paired"][f"joint - {arm}"] = vars(paired_test(joint, held_out, groups))
    return figures


def pooled(rows: list[dict]) -> tuple[np.ndarray, list[str]]:
    """Return the hits of all seeds, and which question each belongs to."""
    held_out = np.concatenate([row["held_out"] for row in rows])
    return held_out, [f"q{number}" for row in rows for number in range(len(row["held_out"]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the stamped result")
    parser.add_argument("--rows", type=int, default=240, help="clips to train on")
    parser.add_argument("--held_out", type=int, default=200, help="clips of the held-out pool")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dual_seeds", type=int, default=1, help="of the dual encoder, which is far behind")
    parser.add_argument(
        "--work", help="folder for clips and finished runs, to go on later; temporary if left out"
    )
    args = parser.parse_args()
    stamp = make_stamp()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.work or temporary)
        speak_pools(folder, args.rows, args.held_out)
        results = []
        for seed, arm in itertools.product(range(1, args.seeds + 1), ARMS):
            if arm == "dual" and seed > args.dual_seeds:
                continue
            results.append(measure(arm, seed, folder))
            print(
                arm, seed, {key: round(float(np.mean(results[-1][key])), 3) for key in ("train", "held_out")}
            )
    figures = summary(results) | {
        "true_text": {pool: text_recall(folder / f"{pool}.jsonl") for pool in ("train", "held_out")}
    }
    print(json.dumps(figures, indent=2))
    if args.json:
        data = f"{args.rows} clips to train on, {args.held_out} held out"
        write_stamped(args.json, figures, stamp, data=data)


if __name__ == "__main__":
    main()
