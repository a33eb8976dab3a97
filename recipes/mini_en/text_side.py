r"""Post-training of the text encoder on recognised text: a list of passages for every question, ranked by a teacher.

    python recipes/mini_en/text_side.py --squad …/squad_train_pairs.jsonl.gz --heard heard/base \
        --asked recipes/mini_en/asked.jsonl.gz --medquad …/medquad.jsonl.gz --plain …/factbook_sentences.txt.gz \
        --out out/text

Sentences of one stretch of text are joined to passages, so that all passages of a step are about like things. The
student reads what a recogniser wrote; the teacher, the encoder before training, reads the true words and ranks as
`clsr search` does: passage, best sentence, BM25. So the student learns to see through recognition errors, and to heed
rare words as BM25 does.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from average import mix_weights
from hear import DTYPES, chosen_dtype
from held_out import FIRST, LAST
from labels import read_versions
from torch import Tensor
from tqdm import tqdm

from modeling_clsr import CLSRModel, CLSRProcessor
from modeling_clsr.data.json_lines import read_json_lines
from modeling_clsr.data.synthesis import read_texts
from modeling_clsr.evaluation.benchmark_set import FUNCTION_WORDS
from modeling_clsr.evaluation.significance import paired_test
from modeling_clsr.hub.release import checkpoint_folder
from modeling_clsr.hub.stamp import make_stamp, write_stamped
from modeling_clsr.training.curve import CURVE_FILE, draw_curve

PASSAGE_WORDS = (12, 60)
WORD_WEIGHT, MOMENT_SHARE = 0.2, 0.5  # as retrieval/search.py, which needs LanceDB
ENCODE_BATCH = 32  # short, so that texts of unlike length are not padded
CURVE_STEPS = 5
SAVE_STEPS = 25  # a multiple of the curve's
PATHS = ("out", "device")
STATE_FILE = "training.pt"  # goes on where a run was stopped


@dataclass(frozen=True)
class Sentence:
    """A sentence: its true words, what was heard of it, and the questions that it answers."""

    true: str
    heard: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Passage:
    """Neighbouring sentences: as they were heard, and as they are."""

    heard: str
    sentences: tuple[str, ...]
    questions: tuple[str, ...]

    @property
    def true(self) -> str:
        """The true words."""
        return " ".join(self.sentences)


class Texts:
    """A text encoder with its tokenizer: lists of texts to unit vectors; `dtype` is that of its products."""

    def __init__(self, model: CLSRModel, processor: CLSRProcessor, dtype: torch.dtype = torch.float32):
        self.model, self.processor, self.dtype = model, processor, dtype

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embed N texts, (N, D), in pieces of like length."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        vectors = []
        for start in range(0, len(texts), ENCODE_BATCH):
            part = [texts[index] for index in order[start : start + ENCODE_BATCH]]
            tokens = self.processor(text=part, truncation=True).to(self.model.device)
            lower = self.dtype != torch.float32
            with torch.autocast(self.model.device.type, self.dtype, enabled=lower):
                vectors.append(self.model.get_text_features(**tokens).pooler_output.float())
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(vectors)[back.to(self.model.device)]


class Words:
    """BM25 (k1 1.5, b 0.75) with the rarity of words in a whole corpus, over pools of any passages."""

    def __init__(self, corpus: Sequence[str]):
        counts: dict[str, int] = {}
        for text in corpus:
            for word in set(self.of(text)):
                counts[word] = counts.get(word, 0) + 1
        self.rarity = {
            word: float(np.log(1 + (len(corpus) - n + 0.5) / (n + 0.5))) for word, n in counts.items()
        }

    @staticmethod
    def of(text: str) -> list[str]:
        """Return the content words."""
        plain = "".join(letter if letter.isalnum() else " " for letter in text.lower())
        return [word for word in plain.split() if word not in FUNCTION_WORDS]

    def shares(self, questions: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """Return each passage's BM25 as a share of the question's best one, (Q, N)."""
        split = [self.of(passage) for passage in passages]
        mean = max(sum(map(len, split)) / max(len(split), 1), 1.0)
        holders: dict[str, list[tuple[int, float]]] = {}
        for place, words in enumerate(split):
            for word in set(words):
                count = words.count(word)
                norm = count + 1.5 * (0.25 + 0.75 * len(words) / mean)
                holders.setdefault(word, []).append((place, 2.5 * count / norm))
        scores = np.zeros((len(questions), len(passages)), np.float32)
        for row, question in enumerate(questions):
            for word in self.of(question):
                for place, weight in holders.get(word, ()):
                    scores[row, place] += weight * self.rarity.get(word, 8.0)
        return scores / np.maximum(scores.max(axis=1, keepdims=True), 1e-6)


def read_sentences(path: str, text: str, heard: dict[str, tuple[str, ...]]) -> list[Sentence]:
    """Read the sentences of a file in order, with the questions on each and what was heard of those spoken."""
    return [
        Sentence(entry.text, heard.get(entry.id, ()), entry.questions)
        for entry in read_texts(path, text, "question")
    ]


def join(sentences: Sequence[Sentence], chance: random.Random, version: int | None = None) -> list[Passage]:
    """Join neighbours to passages of random length; each sentence as any of its versions, or the one."""
    passages, open_ones, room = [], [], chance.randint(*PASSAGE_WORDS)

    def close() -> None:
        texts = []
        for sentence in open_ones:
            choices = sentence.heard or (sentence.true,)
            texts.append(chance.choice(choices) if version is None else choices[version])
        questions = tuple(question for sentence in open_ones for question in sentence.questions)
        passages.append(Passage(" ".join(texts), tuple(sentence.true for sentence in open_ones), questions))

    for sentence in sentences:
        open_ones.append(sentence)
        if sum(len(entry.true.split()) for entry in open_ones) >= room:
            close()
            open_ones, room = [], chance.randint(*PASSAGE_WORDS)
    if open_ones:
        close()
    return passages


def medical_passages(path: str, chance: random.Random) -> list[Passage]:
    """Read questions and the beginnings of their answers, which nobody spoke."""
    passages = []
    for row in read_json_lines(Path(path)):
        words = row["context"].split()[: chance.randint(20, 70)]
        text = " ".join(words)
        parts = tuple(part.strip() + "." for part in text.split(". ") if part.strip())
        passages.append(Passage(text, parts or (text,), (row["question"],)))
    return passages


@torch.no_grad()
def teach(teacher: Texts, words: Words, questions: list[str], passages: list[Passage]) -> Tensor:
    """Score passages as `clsr search` would on the true words, (Q, N)."""
    asked = teacher(questions)
    whole = asked @ teacher([passage.true for passage in passages]).T  # (Q, N)
    parts = [part for passage in passages for part in passage.sentences]
    owner = torch.tensor([n for n, passage in enumerate(passages) for _ in passage.sentences])
    owner = owner.to(asked.device).expand(len(questions), -1)
    each = asked @ teacher(parts).T  # (Q, sentences)
    best = torch.full_like(whole, -1.0).scatter_reduce(1, owner, each, "amax")
    counted = torch.from_numpy(words.shares(questions, [passage.true for passage in passages])).to(whole)
    return (1 - MOMENT_SHARE) * whole + MOMENT_SHARE * best + WORD_WEIGHT * counted


@dataclass(frozen=True)
class Found:
    """Whether each question of a pool finds its passage first, and the numbers of those passages, (Q,) both."""

    hits: np.ndarray
    passages: np.ndarray


@torch.no_grad()
def measure(texts: Texts, pools: dict[str, list[Passage]]) -> dict[str, Found]:
    """Rank each pool by cosine with its recognised words."""
    found = {}
    for name, passages in pools.items():
        if not passages:
            continue
        questions = [question for passage in passages for question in passage.questions]
        right = np.array([n for n, passage in enumerate(passages) for _ in passage.questions])
        scores = texts(questions) @ texts([passage.heard for passage in passages]).T
        found[name] = Found((scores.argmax(dim=1).cpu().numpy() == right).astype(float), right)
    return found


def recall(found: dict[str, Found]) -> dict[str, float]:
    """Return R@1 of each pool."""
    return {name: float(pool.hits.mean()) for name, pool in found.items()}


def gain(found: dict[str, Found], other: dict[str, Found]) -> dict[str, dict]:
    """Test each pool's R@1 against another's, question by question."""
    return {
        name: vars(paired_test(pool.hits, other[name].hits, pool.passages)) for name, pool in found.items()
    }


def listwise_loss(
    student: Texts, passages: list[Passage], taught: Tensor, questions: list[str], right: Tensor, args
) -> Tensor:
    """Return the cross-entropy of the student's ranking against teacher and truth, mixed."""
    scores = args.scale * student(questions) @ student([passage.heard for passage in passages]).T
    target = args.teacher_share * (taught / args.teacher_temperature).softmax(dim=1)
    target = target.scatter_add(1, right[:, None], torch.full_like(target[:, :1], 1 - args.teacher_share))
    return -(target * scores.float().log_softmax(dim=1)).sum(dim=1).mean()


def train(student: Texts, teacher: Texts, data: dict, args) -> list[dict[str, float]]:
    """Train in place, from the last state that --out holds; return the curve."""
    chance = random.Random()
    model = student.model
    learned = []
    for name, weight in model.text_model.named_parameters():
        if "embeddings" not in name:
            weight.requires_grad_(True)
            learned.append(weight)
    optimizer = torch.optim.AdamW(learned, lr=args.learning_rate, weight_decay=0.01)
    warmup = max(args.steps // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / warmup, (args.steps - n) / max(args.steps - warmup, 1))
    )
    curve: list[dict[str, float]] = []
    recent: list[float] = []
    file, start = Path(args.out) / STATE_FILE, 0
    if file.is_file():
        state = torch.load(file, map_location=model.device, weights_only=True)
        start, curve = state["steps"], state["curve"]
        model.text_model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    for step in tqdm(range(start, args.steps), unit="step", desc="text", initial=start, total=args.steps):
        chance.seed(f"{args.seed} {step}")  # a run that goes on draws what the first would have
        first = chance.randrange(max(len(data["train"]) - args.stretch, 1))
        pools = [join(data["train"][first : first + args.stretch], chance)]
        if data["asked"]:
            first = chance.randrange(max(len(data["asked"]) - args.asked_stretch, 1))
            pools.append(join(data["asked"][first : first + args.asked_stretch], chance))
        if data["medical"]:
            pools.append(chance.sample(data["medical"], min(args.medical, len(data["medical"]))))
        losses = []
        for passages in pools:
            questions = [question for passage in passages for question in passage.questions]
            owners = [n for n, passage in enumerate(passages) for _ in passage.questions]
            keep = sorted(chance.sample(range(len(questions)), min(args.questions, len(questions))))
            questions = [questions[index] for index in keep]
            right = torch.tensor([owners[index] for index in keep], device=model.device)
            taught = teach(teacher, data["words"], questions, passages)
            losses.append(listwise_loss(student, passages, taught, questions, right, args))
        if plain := chance.sample(data["plain"], min(args.plain_batch, len(data["plain"]))):
            with torch.no_grad():
                own = teacher(plain)
            losses.append(args.anchor_weight * (1 - (student(plain) * own).sum(dim=1)).mean())
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(float(loss.detach()))
        if (step + 1) % CURVE_STEPS == 0 or step == args.steps - 1:
            # A mean, because texts differ from step to step.
            curve.append({"step": step + 1, "loss": sum(recent) / len(recent)})
            recent.clear()
        if (step + 1) % SAVE_STEPS == 0 or step == args.steps - 1:
            state = {"steps": step + 1, "curve": curve, "model": model.text_model.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            torch.save(state, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--squad", required=True, help="sentences of articles with questions")
    parser.add_argument(
        "--heard", required=True, help="folder of hear.py; of what is not in it the true words are read"
    )
    parser.add_argument("--asked", help="lines with questions in other words, see README.md")
    parser.add_argument("--medquad", help="questions and answers that nobody spoke")
    parser.add_argument("--plain", help="texts whose vectors shall stay as they are, with commas")
    parser.add_argument("--out", required=True, help="folder of the text encoder and dev.json")
    parser.add_argument("--beside", help="checkpoint that is measured on the same held-out passages, too")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--stretch", type=int, default=220, help="sentences of a step: about one article")
    parser.add_argument("--questions", type=int, default=400, help="of a step")
    parser.add_argument("--asked_stretch", type=int, default=100, help="lines of a step from --asked")
    parser.add_argument("--medical", type=int, default=128, help="pairs of a step from medquad")
    parser.add_argument("--plain_batch", type=int, default=96)
    parser.add_argument("--learning_rate", type=float, default=2e-5)
    parser.add_argument("--scale", type=float, default=20.0)
    parser.add_argument("--teacher_share", type=float, default=0.5)
    parser.add_argument("--teacher_temperature", type=float, default=0.05)
    parser.add_argument("--anchor_weight", type=float, default=1.0)
    parser.add_argument("--held_out_from", type=int, default=0, help="first sentence that is not learnt")
    parser.add_argument("--held_out", type=int, default=FIRST, help="how many are not")
    parser.add_argument("--asked_held_out", type=int, default=LAST, help="of the last lines of --asked")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="of products while learning; auto: as hear.py"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    stamp = make_stamp()
    torch.manual_seed(args.seed)
    folder = checkpoint_folder(args.checkpoint)
    processor = CLSRProcessor.from_pretrained(folder)
    dtype = chosen_dtype(args.dtype, args.device)
    student, teacher = (
        Texts(CLSRModel.from_pretrained(folder, dtype=torch.float32).eval().to(args.device), processor, dtype)
        for _ in range(2)
    )
    exact = Texts(student.model, processor)
    for texts in (student, teacher):
        texts.model.requires_grad_(False)
        if dtype != torch.float32:  # on a CPU the gradient of the joined attention is slow below float32
            texts.model.text_model.set_attn_implementation("eager")
    heard = read_versions(Path(args.heard))
    sentences = read_sentences(args.squad, "sentence", heard)
    asked = read_sentences(args.asked, "text", heard) if args.asked else []
    held_out = slice(args.held_out_from, args.held_out_from + args.held_out)
    chance = random.Random(0)
    medical = medical_passages(args.medquad, chance) if args.medquad else []
    chance.shuffle(medical)
    plain = [
        utterance.text for path in (args.plain or "").split(",") if path for utterance in read_texts(path)
    ]
    data = {
        "train": sentences[: held_out.start] + sentences[held_out.stop :],
        "asked": asked[: len(asked) - args.asked_held_out],
        "medical": medical[500:],
        "plain": plain,
        "words": Words([entry.true for entry in (*sentences, *asked, *medical)]),
    }
    pools = {
        "squad, clean": join(sentences[held_out], random.Random(0), 0),
        "squad, noisy": join(sentences[held_out], random.Random(0), -1),
    }
    if asked:
        pools["asked"] = join(asked[-args.asked_held_out :], random.Random(0))
    if medical:
        pools["medquad"] = medical[:500]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    before = measure(exact, pools)
    beside = None
    if args.beside:
        other = CLSRModel.from_pretrained(checkpoint_folder(args.beside), dtype=torch.float32)
        beside = measure(Texts(other.eval().to(args.device), processor), pools)
    weights = {
        name: weight.detach().clone() for name, weight in student.model.text_model.state_dict().items()
    }
    curve = train(student, teacher, data, args)
    tuned = {name: weight.detach().clone() for name, weight in student.model.text_model.state_dict().items()}
    mixed, gains, lead = {}, {}, {}
    for share in (0.25, 0.5, 0.75, 1.0):
        student.model.text_model.load_state_dict(mix_weights(weights, tuned, share))
        after = measure(exact, pools)
        mixed[str(share)] = recall(after)
        gains[str(share)] = gain(after, before)
        if beside is not None:
            lead[str(share)] = gain(after, beside)
    student.model.text_model.save_pretrained(out)
    draw_curve(curve, out / CURVE_FILE)
    sizes = {name: len(content) for name, content in data.items() if name != "words"}
    settings = {name: value for name, value in vars(args).items() if name not in PATHS}
    settings["dtype"] = str(dtype).removeprefix("torch.")
    figures = {"before": recall(before), "after": mixed, "after - before": gains, "curve": curve}
    if beside is not None:
        figures |= {"beside": recall(beside), "after - beside": lead}
    figures["seconds"] = time.perf_counter() - start
    write_stamped(out / "dev.json", figures, stamp, settings=settings, texts=sizes)
    print(json.dumps({"before": recall(before), "after": mixed, "loss": [curve[0], curve[-1]]}))


if __name__ == "__main__":
    main()
