"""Answering models: a tiny Qwen2-Audio, and a real server on loopback."""

import numpy as np
import pytest

from modeling_clsr.retrieval.answering import ServedModel, TransformersModel, open_answer_model
from tests.tiny_lalm import running_chat_server, tiny_qwen2_audio
from tests.tiny_parts import noise_clips


@pytest.fixture(scope="module")
def lalm(tmp_path_factory):
    return TransformersModel(
        tiny_qwen2_audio(tmp_path_factory.mktemp("lalm")), device="cpu", max_new_tokens=8
    )


def test_answer_depends_on_question_and_clips_and_is_the_same_again(lalm):
    quiet, loud = np.zeros(16000, np.float32), noise_clips(0.5)[0]
    answer = lalm.answer("who?", [loud])
    assert answer and lalm.answer("who?", [loud]) == answer
    assert len({answer, lalm.answer("who?", [quiet]), lalm.answer("where is it?", [loud])}) == 3
    assert lalm.answer("who?", [loud, quiet]) != answer  # several clips, and none at all
    assert isinstance(lalm.answer("who?", []), str)


def test_model_without_audio_is_refused(tmp_path):
    from tests.tiny_parts import tiny_bert

    model, tokenizer = tiny_bert()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="feature extractor for audio is needed"):
        open_answer_model(str(tmp_path))


def test_server_hears_the_clips_in_order_and_its_words_come_back():
    clips = noise_clips(0.1, 0.2)
    with running_chat_server(lambda text, heard: f" {len(heard)} clips. ") as server:
        model = open_answer_model(server.url)
        assert model.name == "tiny-lalm" and model.answer("who spoke?", clips) == "2 clips."
        assert "who spoke?" in server.questions[0]
        for sent, heard in zip(clips, server.clips[0], strict=True):
            np.testing.assert_allclose(heard, np.clip(sent, -1, 1), atol=2 / 32768)
        ServedModel(server.url, api_key="secret").answer("again?", [])
        assert server.keys == [None, "Bearer secret"]


def test_key_of_the_environment_is_sent(monkeypatch):
    monkeypatch.setenv("CLSR_LALM_API_KEY", "secret")
    with running_chat_server(lambda text, heard: "yes") as server:
        assert open_answer_model(server.url).answer("who?", []) == "yes"
        assert server.keys == ["Bearer secret"]


def test_answer_without_words_is_empty_and_one_of_another_shape_is_named():
    with running_chat_server(lambda text, heard: None) as server:
        assert open_answer_model(server.url).answer("who?", []) == ""
    with running_chat_server(lambda text, heard: ["no text"]) as server:
        model = open_answer_model(server.url)
        with pytest.raises(
            ConnectionError, match="answered /chat/completions otherwise than OpenAI's protocol"
        ):
            model.answer("who?", [])


def test_server_that_refuses_or_is_not_there_is_named():
    with running_chat_server(lambda text, heard: "") as server:
        with pytest.raises(ConnectionError, match=r"answered 404 to /chat/completions: .*no model other"):
            ServedModel(server.url, "other").answer("who?", [])
        with pytest.raises(ConnectionError, match="answered 404 to /models"):
            ServedModel(f"{server.url}/nothing")
        gone = server.url
    with pytest.raises(ConnectionError, match=r"did not answer /models as expected \(.*; start the server"):
        open_answer_model(gone)
