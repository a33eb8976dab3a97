"""The strings of a checkpoint: what each recogniser token writes, and how the text encoder cuts a transcript.

Enters: Hugging Face tokenizers, or `retokenizer.json`. Leaves: text with the characters of each token; text tokens.
"""

import codecs
import json
import warnings
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

STRINGS_FILE = "retokenizer.json"


class TokenStrings:
    """Strings that the model needs beside its weights; kept in `retokenizer.json` in the checkpoint folder.

    Args:
        max_text_tokens: longest text-encoder input, special tokens included.
    """

    def __init__(self, max_text_tokens: int):
        self.max_text_tokens = max_text_tokens
        self.token_bytes: list[bytes] = []
        self._tokenizer: Tokenizer | None = None

    def fill(self, token_bytes: list[bytes], tokenizer_json: str) -> None:
        """Set the strings.

        Args:
            token_bytes: UTF-8 bytes of each recogniser token, b"" for special ones.
            tokenizer_json: the text encoder's fast tokenizer (`tokenizer.json`).
        """
        self.token_bytes = list(token_bytes)
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_text_tokens)

    def save(self, folder: str | Path) -> None:
        """Write `retokenizer.json` into a checkpoint folder."""
        if self._tokenizer is None:
            return
        # latin-1 keeps each byte as one character, whatever part of a UTF-8 sequence it is.
        content = {
            "recognizer_tokens": [token.decode("latin-1") for token in self.token_bytes],
            "text_tokenizer": json.loads(self._tokenizer.to_str()),
        }
        (Path(folder) / STRINGS_FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    def load(self, file: str | Path) -> None:
        """Read `retokenizer.json`."""
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        tokens = [token.encode("latin-1") for token in content["recognizer_tokens"]]
        self.fill(tokens, json.dumps(content["text_tokenizer"]))

    @property
    def tokenizer(self) -> Tokenizer:
        """The text encoder's tokenizer."""
        if self._tokenizer is None:
            raise ValueError(
                f"the model has no token strings: {STRINGS_FILE} was not beside the weights; build the model with "
                "CLSRModel.from_pretrained_parts or load a folder written by save_pretrained"
            )
        return self._tokenizer

    def text(self, token_ids: list[int]) -> tuple[str, list[tuple[int, int]]]:
        """Join recogniser tokens to text.

        Args:
            token_ids: of one clip.

        Returns:
            The text without outer white space, and the characters [start, end) of each token in it. A token that holds
            only a part of a character spans that character.
        """
        if not self.token_bytes:
            _ = self.tokenizer  # raises with the remedy
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        text, spans = "", []
        for token in token_ids:
            start = len(text)
            text += decoder.decode(self.token_bytes[token])
            complete = decoder.getstate()[0] == b""
            spans.append((start, len(text) if complete else len(text) + 1))
        text += decoder.decode(b"", final=True)
        stripped = text.strip()
        offset = len(text) - len(text.lstrip())
        size = len(stripped)
        spans = [(min(max(start - offset, 0), size), min(max(end - offset, 0), size)) for start, end in spans]
        return stripped, spans

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor, list[list[tuple[int, int]]]]:
        """Cut transcripts by the text encoder's tokenizer.

        Args:
            texts: B transcripts.

        Returns:
            input_ids (B, L), attention_mask (B, L), and the characters of each token ((0, 0) for special ones).
            A transcript longer than the text encoder takes is cut, with a warning.
        """
        encodings = self.tokenizer.encode_batch(texts)
        for row, encoding in enumerate(encodings):
            if encoding.overflowing:
                special = self.tokenizer.num_special_tokens_to_add(False)
                parts = [encoding, *encoding.overflowing]
                total = special + sum(len(part.ids) - special for part in parts)
                warnings.warn(
                    f"the transcript of clip {row} has {total} tokens but the text encoder takes "
                    f"{self.max_text_tokens}; its vector leaves out the rest, cut the clip shorter",
                    stacklevel=2,
                )
        longest = max(len(encoding.ids) for encoding in encodings)
        pad = self._pad_id()
        input_ids = torch.full((len(texts), longest), pad)
        mask = torch.zeros(len(texts), longest, dtype=torch.long)
        for row, encoding in enumerate(encodings):
            input_ids[row, : len(encoding.ids)] = torch.tensor(encoding.ids)
            mask[row, : len(encoding.ids)] = 1
        return input_ids, mask, [encoding.offsets for encoding in encodings]

    def frame(self) -> tuple[list[int], list[int]]:
        """Return the special tokens that the text encoder puts before and behind a text."""
        encoding = self.tokenizer.encode("a")
        mask = encoding.special_tokens_mask
        first, last = mask.index(0), len(mask) - mask[::-1].index(0)
        return encoding.ids[:first], encoding.ids[last:]

    def _pad_id(self) -> int:
        for name in ("[PAD]", "<pad>"):
            token = self.tokenizer.token_to_id(name)
            if token is not None:
                return token
        return 0


def token_bytes_of(tokenizer, vocab_size: int) -> list[bytes]:
    """Return the UTF-8 bytes that each token of a Hugging Face tokenizer writes, b"" for special tokens.

    Covers byte-level BPE (Whisper), SentencePiece with byte fallback (Moonshine, Parakeet), WordPiece (BERT) and CTC
    characters (wav2vec2, HuBERT: the word delimiter becomes a space, a vocabulary in capitals lower case).

    Args:
        tokenizer: of the recogniser, or of the text encoder where both share its vocabulary.
        vocab_size: rows of its output layer; tokens beyond the tokenizer write nothing.

    Raises:
        ValueError: the tokenizer is of another kind.
    """
    vocabulary = tokenizer.get_vocab()
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    special = set(tokenizer.all_special_ids)
    special |= {index for index, added in tokenizer.added_tokens_decoder.items() if added.special}
    special.discard(
        vocabulary.get(delimiter)
    )  # wav2vec2's tokenizer counts its space among the special tokens
    tokens = [""] * vocab_size
    for token, index in vocabulary.items():
        if index < vocab_size and index not in special:
            tokens[index] = token
    if delimiter is not None:
        capitals = not any(token.islower() for token in tokens)
        return [
            (" " if token == delimiter else token.lower() if capitals else token).encode() for token in tokens
        ]
    if any(token.startswith("##") for token in tokens):
        return [_word_piece_bytes(token) for token in tokens]
    if any("Ġ" in token for token in tokens):
        alphabet = {character: byte for byte, character in _byte_alphabet().items()}
        # Added tokens such as Whisper's <|0.00|> are not written in the alphabet and say nothing.
        return [
            b"" if token.startswith("<|") else bytes(alphabet[c] for c in token if c in alphabet)
            for token in tokens
        ]
    if any("▁" in token for token in tokens):
        return [_sentencepiece_bytes(token) for token in tokens]
    raise ValueError(
        f"{type(tokenizer).__name__} is neither byte-level BPE nor SentencePiece nor WordPiece nor CTC characters; "
        "pass a tokenizer of one of these kinds"
    )


def _word_piece_bytes(token: str) -> bytes:
    return token[2:].encode() if token.startswith("##") else f" {token}".encode() if token else b""


def _sentencepiece_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def _byte_alphabet() -> dict[int, str]:
    """The printable characters by which byte-level BPE writes each byte (GPT-2)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    alphabet = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in alphabet)
    alphabet.update({byte: chr(256 + number) for number, byte in enumerate(others)})
    return alphabet
