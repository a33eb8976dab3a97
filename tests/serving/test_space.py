"""examples/space, run as a Space runs it: a folder of its own, `python app.py`, its port and its environment."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import soundfile

gradio_client = pytest.importorskip("gradio_client", reason="the extra ui is not installed")

from modeling_clsr.data.audio import SAMPLING_RATE  # noqa: E402
from modeling_clsr.retrieval.asking import read_range  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
START_S = 300  # a shared machine may be slow; it takes some 20 s

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def space(default_checkpoint, tmp_path_factory):
    """Address of a running Space over half a minute of a talk."""
    folder = tmp_path_factory.mktemp("space")
    shutil.copytree(EXAMPLES / "space", folder, dirs_exist_ok=True)
    (folder / "library").mkdir()
    talk = read_range(EXAMPLES / "library" / "beekeeping-talk.opus", 86.0, 112.0)
    soundfile.write(folder / "library" / "talk.flac", talk, SAMPLING_RATE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "SYSTEM": "spaces",
        "SPACE_ID": "clsr/ask",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "CLSR_CHECKPOINT": str(default_checkpoint),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        wait_for(address, process, folder / "log")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    begun = time.monotonic()
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as page:
                assert '"title":"CLSR"' in page.read().decode()
                return
        except OSError:
            late = time.monotonic() - begun > START_S
            assert process.poll() is None and not late, log.read_text(encoding="utf-8")
            time.sleep(0.5)


def test_space_answers_a_question_and_gives_the_clip(space):
    client = gradio_client.Client(space, verbose=False)
    answer, hits = client.predict(
        "Why does a beekeeper blow smoke at the bees?", None, "", "", "", "hybrid", 1, api_name="/ask"
    )
    assert not answer and "talk.flac" in hits
    assert "alarm scent" in re.search(r"<mark>(.*)</mark>", hits).group(1)
    clip = re.search(r'href="(gradio_api/file=[^"]+\.wav)"', hits).group(1)
    with urllib.request.urlopen(space + clip, timeout=30) as response:
        assert response.headers["content-type"] == "audio/wav" and response.read(4) == b"RIFF"


def test_requirements_of_the_space_are_all_that_it_needs():
    """They are installed here, so pip, without a network, finds nothing missing."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "-r", "requirements.txt"],
        cwd=EXAMPLES / "space",
        check=True,
    )
