"""A tiny Qwen2-Audio with random weights, and a server that speaks OpenAI's chat protocol."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")


def tiny_qwen2_audio(folder: Path) -> Path:
    """Write the model with its processor; a window is 2 s."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )
    audio = Qwen2AudioEncoderConfig(
        num_mel_bins=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        d_model=16,
        max_source_positions=100,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    config = Qwen2AudioConfig(
        audio_config=audio, text_config=text, audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    )
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@dataclass
class ChatServer:
    """What was asked, and where."""

    url: str = ""
    questions: list[str] = field(default_factory=list)
    clips: list[list[np.ndarray]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def running_chat_server(answer) -> Iterator[ChatServer]:
    """Serve on a free port of 127.0.0.1; `answer` gets question and clips."""
    server = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path == "/v1/models"
            self._send(200 if known else 404, {"data": [{"id": "tiny-lalm"}]} if known else {"error": "?"})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions" or body["model"] != "tiny-lalm":
                self._send(404, {"error": f"no model {body['model']}"})
                return
            server.keys.append(self.headers.get("Authorization"))
            parts = body["messages"][0]["content"]
            clips = []
            for part in parts:
                if part["type"] == "input_audio":
                    assert part["input_audio"]["format"] == "wav"
                    file = io.BytesIO(base64.b64decode(part["input_audio"]["data"]))
                    samples, rate = soundfile.read(file, dtype="float32")
                    assert rate == 16000
                    clips.append(samples)
            (text,) = [part["text"] for part in parts if part["type"] == "text"]
            server.questions.append(text)
            server.clips.append(clips)
            self._send(200, {"choices": [{"message": {"content": answer(text, clips)}}]})

        def _send(self, code, content):
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
