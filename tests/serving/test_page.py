"""The page of `clsr ui`, tried as a new user would: a real browser, a real index, real recordings.

CLSR_SCREENSHOTS=docs/page python -m pytest tests/serving/test_page.py   # renews the pictures in the docs
"""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import srt

gr = pytest.importorskip("gradio", reason="the extra ui is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="the extra dev is not installed")

from modeling_clsr.retrieval import Encoder, SpeechIndex  # noqa: E402
from modeling_clsr.serving.page import _Page, launch  # noqa: E402

LIBRARY = Path(__file__).parents[2] / "examples" / "library"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
]
QUESTION = "Why does a beekeeper blow smoke at the bees?"
WAIT_MS = 30_000  # for what the model does; a page alone takes less than a second

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def served(default_checkpoint, tmp_path_factory):
    """(address, index, folder of uploads): one recording is indexed, the others are not."""
    folder = tmp_path_factory.mktemp("page")
    index = SpeechIndex.create(folder / "library.index", Encoder.from_pretrained(default_checkpoint))
    index.add([LIBRARY / "beekeeping-talk.opus"])
    uploads = folder / "uploads"
    app, address, _ = launch(index, uploads, "127.0.0.1", None, prevent_thread_lock=True)
    yield address, index, uploads
    app.state_holder.delete_all_expired_state()
    gr.close_all()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, served):
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.goto(served[0])
    page.get_by_label("Question", exact=True).wait_for(timeout=WAIT_MS)
    yield page
    page.close()


def picture(page, name: str) -> None:
    """Keep a screenshot if the docs are to be renewed."""
    folder = os.environ.get("CLSR_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")


def ask(page, question: str) -> None:
    """Type a question and press Enter, as by keyboard alone."""
    page.get_by_label("Question", exact=True).fill(question)
    page.keyboard.press("Enter")
    page.locator(".hit mark").first.wait_for(timeout=WAIT_MS)


def test_question_is_answered_by_a_marked_moment_and_the_player_starts_there(page, served):
    ask(page, QUESTION)
    first = page.locator(".hit").first
    assert "alarm scent" in first.locator("mark").inner_text()
    hit = served[1].search(QUESTION, k=1)[0]
    assert re.search(r"1:3\d–1:\d\d", first.locator("h3").inner_text())
    player = first.locator("audio")
    page.wait_for_function("audio => audio.readyState >= 1", arg=player.element_handle(), timeout=WAIT_MS)
    assert player.evaluate("audio => audio.duration") == pytest.approx(hit.end_s - hit.start_s, abs=0.2)
    player.evaluate("audio => audio.play()")
    page.wait_for_function("audio => !audio.paused", arg=player.element_handle(), timeout=WAIT_MS)
    position = player.evaluate("audio => audio.currentTime")
    offset = hit.moment.start_s - hit.start_s
    assert offset - 0.5 <= position <= offset + 5
    picture(page, "ask")


def test_transcripts_of_a_hit_can_be_downloaded(page, served):
    ask(page, QUESTION)
    hit = served[1].search(QUESTION, k=1)[0]
    first = page.locator(".hit").first
    with page.expect_download() as download:
        first.get_by_text("SRT", exact=True).click()
    cues = list(srt.parse(Path(download.value.path()).read_text(encoding="utf-8")))
    assert cues[0].start.total_seconds() == pytest.approx(hit.words[0].start, abs=0.01)
    assert download.value.suggested_filename.endswith(".srt")
    with page.expect_download() as download:
        first.get_by_text("JSON", exact=True).click()
    content = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [word["text"] for word in content["words"]] == [word.text for word in hit.words]


def test_dropped_recordings_are_indexed_and_broken_ones_named(page, served, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_text("no audio")
    page.get_by_role("tab", name="Recordings").click()
    page.locator("#files input[type=file]").set_input_files([LIBRARY / "council-meeting.opus", broken])
    page.get_by_text("council-meeting").first.wait_for(timeout=WAIT_MS)
    page.locator("#add").click()
    report = page.locator("#report")
    report.get_by_text("1 added").wait_for(timeout=4 * WAIT_MS)
    assert "broken.wav" in report.inner_text()
    page.locator("#table").get_by_text("council-meeting.opus").first.wait_for(timeout=WAIT_MS)
    picture(page, "recordings")
    assert (served[2] / "council-meeting.opus").read_bytes() == (
        LIBRARY / "council-meeting.opus"
    ).read_bytes()
    page.get_by_role("tab", name="Ask").click()
    ask(page, "Which company is meant to mend the bridge?")
    assert "council-meeting" in page.locator(".hit h3").first.inner_text()


def test_filters_and_mistakes_get_a_clear_line(page):
    page.get_by_text("Speak it, or narrow the search").click()
    page.locator("#file textarea, #file input").first.fill("nothing-of-this-name*")
    page.get_by_label("Question", exact=True).fill(QUESTION)
    page.locator("#ask").click()
    answer = page.locator("#answer")
    answer.get_by_text("leaves no recording of the index").wait_for(timeout=WAIT_MS)
    page.locator("#file textarea, #file input").first.fill("")
    page.locator("#after textarea, #after input").first.fill("yesterday")
    page.locator("#ask").click()
    answer.get_by_text("the day is 'yesterday' but must be like").wait_for(timeout=WAIT_MS)
    assert page.locator(".hit mark").count() == 0


def test_spoken_question_is_heard(page, tmp_path):
    page.get_by_text("Speak it, or narrow the search").click()
    page.locator("#spoken input[type=file]").first.set_input_files(spoken_question(tmp_path))
    page.locator("#spoken audio, #spoken .waveform-container").first.wait_for(
        state="attached", timeout=WAIT_MS
    )
    page.locator("#ask").click()
    page.locator(".hit mark").first.wait_for(timeout=WAIT_MS)
    assert "smoke" in page.locator(".hit").first.inner_text().lower()


def test_page_fits_a_phone(browser, served):
    phone = browser.new_page(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    phone.goto(served[0])
    ask(phone, QUESTION)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    picture(phone, "phone")
    phone.close()


def test_hits_that_begin_in_one_second_have_clips_of_their_own(served, tmp_path):
    (hit,) = served[1].search(QUESTION, k=1)
    hits = [hit, replace(hit, end_s=hit.end_s - 2), replace(hit, start_s=hit.start_s + 0.1)]
    page = _Page(served[1], tmp_path)  # its clips go with it
    shown = page.show(hits)
    clips = re.findall(r'src="gradio_api/file=(.+?)#t=', shown)
    lengths = [soundfile.info(clip).duration for clip in clips]
    assert lengths == pytest.approx([one.end_s - one.start_s for one in hits], abs=0.01)


def spoken_question(folder: Path) -> Path:
    """Cut a spoken sentence about smoke out of the talk."""
    from modeling_clsr.data.audio import read_range

    path = folder / "question.wav"
    soundfile.write(path, read_range(LIBRARY / "beekeeping-talk.opus", 95.0, 99.5), 16000)
    return path
