"""The server under load, and under attack: `clsr serve` over examples/library with the default checkpoint, on loopback.

    python benchmarks/serving.py --json benchmarks/results/serving.json --plot docs/serving.png

Clients ask without a pause, each over its own connection: searches, embeddings of texts and of clips, transcriptions.
Every answer is compared with the one that the same request got alone; how many answers there were is also asked of the
server. Then, in the same run, what should be refused: an upload of 2 GB, broken files, a slow client, too many clients
at once. The server's resident memory is read every second, from /proc: this needs Linux.
"""

import argparse
import base64
import http.client
import io
import json
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

LIBRARY = Path(__file__).parents[1] / "examples" / "library"
RATE = 16000
MIX = {"search": 4, "embedding of 8 texts": 4, "embedding of 10 s": 1, "transcription of 30 s": 1}
TEXTS, CLIP_S, RECORDING_S = 8, 10, 30  # as the names in MIX say
PER_KIND = 8  # different requests
NO_ANSWER_S = 660.0  # after which a request counts as hung; the server gives up after 600 s
SAME = 1e-3  # largest difference of a number of two vectors that count as one
HUGE = 2 << 30
PIECE = 1 << 16
PARALLEL = 200
FORM_HEAD = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="talk.flac"\r\n\r\n'
MB = 1 << 20


@dataclass(frozen=True)
class Call:
    """A request, and what its answer must hold."""

    kind: str
    path: str
    body: bytes
    content_type: str = "application/json"
    expected: Any = None


@dataclass(frozen=True)
class Answer:
    """What became of a request: its status, or 0 for none, with the error as its message."""

    kind: str
    begun: float
    seconds: float
    status: int
    message: str = ""
    same: bool = True


class Server:
    """`clsr serve` in a process of its own."""

    def __init__(self, index: Path, log: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "modeling_clsr.cli", "serve", "--index", str(index)]
        with log.open("wb") as file:
            self.process = subprocess.Popen([*command, "--port", str(self.port)], stderr=file)
        self.memory: list[tuple[float, float]] = []  # time, MB

    def wait(self) -> None:
        while not self.is_healthy():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}; its log says why")
            time.sleep(0.5)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        pages = Path(f"/proc/{self.process.pid}/statm")
        while self.process.poll() is None:
            resident = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            if resident:  # none when it has just ended
                self.memory.append((time.monotonic(), resident / MB))
            time.sleep(1.0)

    def is_healthy(self) -> bool:
        try:
            return get(self.port, "/health")[0] == 200
        except OSError:
            return False

    def answered(self) -> int:
        """Answers to posts by the server's own count."""
        lines = get(self.port, "/metrics")[1].decode().splitlines()
        return sum(int(line.rsplit(" ", 1)[1]) for line in lines if 'requests_total{path="/v1' in line)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@contextmanager
def running_server(index: Path | None) -> Iterator[Server]:
    """Index the library, unless it is in `index`, and serve it; the log is shown if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        index, log = index or Path(folder) / "library.index", Path(folder) / "log"
        command = [sys.executable, "-m", "modeling_clsr.cli", "index", str(LIBRARY), "--index", str(index)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        server = Server(index, log)
        try:
            server.wait()
            yield server
        except BaseException:
            sys.stderr.write(log.read_text(encoding="utf-8"))
            raise
        finally:
            server.stop()


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=NO_ANSWER_S)
    connection.request("GET", path)
    response = connection.getresponse()
    status, body = response.status, response.read()
    connection.close()
    return status, body


def make_calls() -> list[Call]:
    """Make the requests that are drawn from."""
    from modeling_clsr.data.audio import load_audio

    questions = [row["question"] for row in json.loads((LIBRARY / "questions.json").read_text("utf-8"))]
    recordings = [load_audio(file, RATE) for file in sorted(LIBRARY.glob("*.opus"))]
    draw = random.Random(0)
    calls = []
    for question in questions[:PER_KIND]:
        search, texts, clip, transcription = MIX
        calls.append(json_call(search, "/v1/search", {"query": question}))
        calls.append(json_call(texts, "/v1/embeddings", {"input": draw.sample(questions, TEXTS)}))
        data = base64.b64encode(cut(draw.choice(recordings), CLIP_S, draw)).decode()
        part = {"type": "input_audio", "input_audio": {"data": data}}
        calls.append(json_call(clip, "/v1/embeddings", {"input": [part]}))
        upload = form(cut(draw.choice(recordings), RECORDING_S, draw))
        calls.append(Call(transcription, "/v1/audio/transcriptions", *upload))
    return calls


def json_call(kind: str, path: str, content: dict) -> Call:
    return Call(kind, path, json.dumps(content).encode())


def cut(waveform: np.ndarray, seconds: int, draw: random.Random) -> bytes:
    """Cut a piece out of a recording, as FLAC."""
    start = draw.randrange(len(waveform) - seconds * RATE)
    file = io.BytesIO()
    soundfile.write(file, waveform[start : start + seconds * RATE], RATE, format="FLAC")
    return file.getvalue()


def form(content: bytes) -> tuple[bytes, str]:
    """Write a form with a file: body and content type."""
    return FORM_HEAD + content + b"\r\n--cut--\r\n", "multipart/form-data; boundary=cut"


def essence(content: dict) -> Any:
    """Return what must not change in an answer: vectors, hits or words."""
    if "data" in content:
        return np.array([entry["embedding"] for entry in content["data"]])
    return content.get("text") or [(hit["path"], hit["start_s"]) for hit in content["hits"]]


def is_same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return found.shape == expected.shape and bool(np.abs(found - expected).max() < SAME)
    return found == expected


def ask(connection: http.client.HTTPConnection, call: Call) -> Answer:
    begun = time.monotonic()
    try:
        connection.request("POST", call.path, call.body, {"Content-Type": call.content_type})
        response = connection.getresponse()
        content = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        return Answer(call.kind, begun, time.monotonic() - begun, 0, f"{type(error).__name__}: {error}")
    seconds = time.monotonic() - begun
    if response.status != 200:
        return Answer(call.kind, begun, seconds, response.status, content["error"]["message"])
    same = call.expected is None or is_same(essence(content), call.expected)
    return Answer(call.kind, begun, seconds, 200, same=same)


def with_expected(port: int, calls: list[Call]) -> list[Call]:
    """Ask each once, alone, and note the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=NO_ANSWER_S)
    known = []
    for call in calls:
        connection.request("POST", call.path, call.body, {"Content-Type": call.content_type})
        content = json.loads(connection.getresponse().read())
        known.append(Call(call.kind, call.path, call.body, call.content_type, essence(content)))
    return known


def draw_call(calls: list[Call], draw: random.Random) -> Call:
    (kind,) = draw.choices(list(MIX), list(MIX.values()))
    return draw.choice([call for call in calls if call.kind == kind])


def load(port: int, calls: list[Call], clients: int, seconds: float) -> list[Answer]:
    """Let the clients ask until the time is over, and wait for their last answers."""
    until = time.monotonic() + seconds

    def one(number: int) -> list[Answer]:
        draw, answers = random.Random(number), []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=NO_ANSWER_S)
        while time.monotonic() < until:
            answers.append(ask(connection, draw_call(calls, draw)))
        connection.close()
        return answers

    with ThreadPoolExecutor(clients) as pool:
        return [answer for answers in pool.map(one, range(clients)) for answer in answers]


def load_figures(answers: list[Answer], counted: int) -> dict[str, Any]:
    """Return speed by kind, and what was lost or mixed up."""
    seconds = max(a.begun + a.seconds for a in answers) - min(a.begun for a in answers)
    kinds = {}
    for kind in MIX:
        own = [answer for answer in answers if answer.kind == kind]
        times = [1000 * answer.seconds for answer in own if answer.status == 200]
        kinds[kind] = {
            "requests": len(own),
            "per_second": len(own) / seconds,
            **{f"p{q}_ms": float(np.percentile(times, q)) if times else None for q in (50, 95)},
            "statuses": statuses(own),
            "other_than_alone": sum(not answer.same for answer in own),
        }
    return {
        "seconds": seconds,
        "requests": len(answers),
        "per_second": len(answers) / seconds,
        "without_answer": sum(answer.status == 0 for answer in answers),
        "answers_by_the_servers_count": counted,
        "kinds": kinds,
    }


def statuses(answers: list[Answer]) -> dict[str, int]:
    return {str(status): count for status, count in sorted(Counter(a.status for a in answers).items())}


def memory_figures(memory: list[tuple[float, float]], begun: float, ended: float) -> dict[str, float]:
    """Return the server's resident memory under load, its slope by least squares, and its peak in the whole run."""
    times, sizes = np.array([sample for sample in memory if begun <= sample[0] <= ended]).T
    return {
        "start_mb": sizes[0],
        "end_mb": sizes[-1],
        "slope_mb_per_minute": 60 * np.polyfit(times, sizes, 1)[0],
        "peak_mb": sizes.max(),
        "peak_of_the_run_mb": max(size for _, size in memory),
    }


def attacks(server: Server, calls: list[Call]) -> list[dict[str, Any]]:
    """Send what should be refused; after each the server must still answer."""
    port = server.port
    good = next(call for call in calls if call.path.endswith("transcriptions"))
    flac = good.body[good.body.index(b"fLaC") :]

    def broken(content: bytes) -> dict[str, Any]:
        body, content_type = form(content)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=NO_ANSWER_S)
        answer = ask(connection, Call("broken", good.path, body, content_type))
        connection.close()
        return {"sent_bytes": len(body), "status": answer.status, "message": answer.message}

    def parallel() -> dict[str, Any]:
        draw = random.Random(0)
        chosen = [draw_call(calls, draw) for _ in range(PARALLEL)]
        together = threading.Barrier(PARALLEL)

        def one(call: Call) -> Answer:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=NO_ANSWER_S)
            together.wait()
            answer = ask(connection, call)
            connection.close()
            return answer

        with ThreadPoolExecutor(PARALLEL) as pool:
            answers = list(pool.map(one, chosen))
        return {
            "statuses": statuses(answers),
            "other_than_alone": sum(not answer.same for answer in answers),
            "message": next((answer.message for answer in answers if answer.message), ""),
        }

    known_length = f"Content-Length: {HUGE}"
    found = []
    for name, attack in (
        ("2 GB, its length stated", lambda: upload(port, known_length, zeros())),
        ("2 GB, its length not stated", lambda: upload(port, "Transfer-Encoding: chunked", chunked(zeros()))),
        ("a file that is no audio", lambda: broken(b"no audio " * 1000)),
        ("a FLAC file of which the second half is missing", lambda: broken(flac[: len(flac) // 2])),
        ("a byte each second", lambda: upload(port, "Content-Length: 100000", trickle())),
        (f"{PARALLEL} clients at once", parallel),
    ):
        begun = time.monotonic()
        row = {"case": name} | attack()
        row |= {"seconds": time.monotonic() - begun, "healthy_after": server.is_healthy()}
        found.append(row)
        print(json.dumps(row), flush=True)
    return found


def upload(port: int, length: str, pieces: Iterable[bytes]) -> dict[str, Any]:
    """Send a body piece by piece until there is an answer, as curl does."""
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\n{length}\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=NO_ANSWER_S) as connection:
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=cut\r\n\r\n".encode())
        try:
            for piece in pieces:
                if select.select([connection], [], [], 0)[0]:
                    break
                connection.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):  # closed; the answer has come before
            pass
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            message = json.loads(response.read())["error"]["message"]
        except (OSError, http.client.HTTPException) as error:
            return {"sent_bytes": sent, "status": 0, "message": f"{type(error).__name__}: {error}"}
    return {"sent_bytes": sent, "status": response.status, "message": message}


def zeros() -> Iterator[bytes]:
    """Read a form with a sparse file of 2 GB."""
    yield FORM_HEAD
    with tempfile.TemporaryFile() as file:
        file.truncate(HUGE)
        while piece := file.read(PIECE):
            yield piece


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


def trickle() -> Iterator[bytes]:
    yield FORM_HEAD
    for _ in range(round(NO_ANSWER_S)):
        yield b"-"
        time.sleep(1.0)


def draw_run(
    file: str, memory: list[tuple[float, float]], marks: dict[str, float], answers: list[Answer]
) -> None:
    """Plot the memory of the run, and how long the answers under load took."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    first = memory[0][0]
    left.plot([at - first for at, _ in memory], [size for _, size in memory])
    left.axvspan(marks["begun"] - first, marks["ended"] - first, alpha=0.15, label="load")
    left.axvspan(marks["ended"] - first, memory[-1][0] - first, alpha=0.15, color="tab:red", label="refusals")
    left.set_ylim(bottom=0)
    left.set_xlabel("s")
    left.set_ylabel("resident memory of the server, MB")
    left.legend(loc="lower right")
    for kind in MIX:
        times = sorted(answer.seconds for answer in answers if answer.kind == kind and answer.status == 200)
        right.plot(times, np.arange(1, len(times) + 1) / max(len(times), 1), label=kind)
    right.set_xscale("log")
    right.set_xlabel("s until the answer")
    right.set_ylabel("share of answers")
    right.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="of load that is measured (120)")
    parser.add_argument(
        "--warm-up", type=float, default=30.0, metavar="S", help="seconds of load before (30)"
    )
    parser.add_argument("--clients", type=int, default=16, help="that ask at once (16)")
    parser.add_argument("--index", type=Path, metavar="DIR", help="of the library; made anew if left out")
    parser.add_argument("--json", help="write the stamped result")
    parser.add_argument("--plot", help="write a PNG of memory and latencies")
    args = parser.parse_args()
    from modeling_clsr.hub.stamp import make_stamp, write_stamped

    stamp = make_stamp()
    calls = make_calls()
    with running_server(args.index) as server:
        calls = with_expected(server.port, calls)
        load(server.port, calls, args.clients, args.warm_up)
        before, begun = server.answered(), time.monotonic()
        answers = load(server.port, calls, args.clients, args.seconds)
        ended = time.monotonic()
        figures = {"load": load_figures(answers, server.answered() - before)}
        print(json.dumps(figures["load"]), flush=True)
        refused = attacks(server, calls)
        figures["memory"] = memory_figures(server.memory, begun, ended)
        print(json.dumps(figures["memory"]), flush=True)
        figures["refusals"] = refused
    if args.json:
        threads = os.environ.get("OMP_NUM_THREADS")
        write_stamped(
            args.json,
            figures,
            stamp,
            data="examples/library",
            clients=args.clients,
            threads_of_server=threads,
        )
    if args.plot:
        draw_run(args.plot, server.memory, {"begun": begun, "ended": ended}, answers)


if __name__ == "__main__":
    main()
