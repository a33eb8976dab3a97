"""The adaptor `retokenize`: recogniser tokens in, text-encoder embeddings out, for two different vocabularies.

Forward, the transcript is cut again by the text encoder's tokenizer, so that the vector is exactly the text encoder's.
Backward, each text token hands its gradient to the recogniser's scores of the tokens that cover the same characters.
"""

import codecs
import json
import warnings
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

STRINGS_FILE = "retokenizer.json"
TOP_TOKENS = 32  # recogniser tokens in the mixture that carries the gradient


class RetokenizeAdaptor(nn.Module):
    """Bridge from a recogniser's vocabulary to a text encoder's.

    It has no weights. Its strings (the bytes of every recogniser token, the text encoder's tokenizer) are kept in
    `retokenizer.json` beside the weights.

    Args:
        temperature: of the softmax over recogniser tokens in the backward pass (gamma of the paper).
        max_text_tokens: longest text-encoder input, special tokens included.
    """

    def __init__(self, temperature: float, max_text_tokens: int):
        super().__init__()
        self.temperature = temperature
        self.max_text_tokens = max_text_tokens
        self.token_bytes: list[bytes] = []
        self._tokenizer: Tokenizer | None = None
        # (V, E) embeddings of the recogniser's token strings, made at the first backward pass.
        self.table: Tensor | None
        self.register_buffer("table", None, persistent=False)

    def set_strings(self, token_bytes: list[bytes], tokenizer_json: str) -> None:
        """Give the adaptor its strings.

        Args:
            token_bytes: UTF-8 bytes of each recogniser token, b"" for special ones.
            tokenizer_json: the text encoder's fast tokenizer (`tokenizer.json`).
        """
        self.token_bytes = list(token_bytes)
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_text_tokens)
        self.table = None

    def save_strings(self, folder: str | Path) -> None:
        """Write `retokenizer.json` into a checkpoint folder."""
        if self._tokenizer is None:
            return
        # latin-1 keeps each byte as one character, whatever part of a UTF-8 sequence it is.
        content = {
            "recognizer_tokens": [token.decode("latin-1") for token in self.token_bytes],
            "text_tokenizer": json.loads(self._tokenizer.to_str()),
        }
        (Path(folder) / STRINGS_FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    def load_strings(self, file: str | Path) -> None:
        """Read `retokenizer.json`."""
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        tokens = [token.encode("latin-1") for token in content["recognizer_tokens"]]
        self.set_strings(tokens, json.dumps(content["text_tokenizer"]))

    @property
    def tokenizer(self) -> Tokenizer:
        """The text encoder's tokenizer."""
        if self._tokenizer is None:
            raise ValueError(
                f"the adaptor has no token strings: {STRINGS_FILE} was not beside the weights; build the model with "
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

    def forward(
        self,
        input_ids: Tensor,
        offsets: list[list[tuple[int, int]]],
        logits: Tensor,
        spans: list[list[tuple[int, int]]],
        embedding: nn.Embedding,
    ) -> Tensor:
        """Embed the text tokens straight through.

        Args:
            input_ids: (B, L) text tokens, from `tokenize`.
            offsets: their characters, from `tokenize`.
            logits: (B, N, V) recogniser scores of the transcript's tokens, with gradient.
            spans: their characters, from `text`.
            embedding: input embeddings of the text encoder, (V', E).

        Returns:
            (B, L, E): exactly `embedding(input_ids)`; the gradient is that of the covering tokens' expected embedding.

        Source: the straight-through estimator of the paper (section 3.3), carried across two vocabularies: issue 8.
        """
        if self.table is None:
            self.table = self._string_embeddings(embedding)
        hard = embedding(input_ids)  # (B, L, E)
        scores, tokens = (logits.float() / self.temperature).topk(min(TOP_TOKENS, logits.shape[-1]), dim=-1)
        mixture = scores.softmax(dim=-1).unsqueeze(-2) @ self.table[tokens]  # (B, N, 1, K) @ (B, N, K, E)
        cover = self._cover(offsets, spans, hard.shape[1], logits.shape[1]).to(mixture)  # (B, L, N)
        soft = (cover @ mixture.squeeze(-2)).to(hard.dtype)  # (B, L, E)
        return hard + (soft - soft.detach())

    @staticmethod
    def _cover(offsets, spans, num_text: int, num_tokens: int) -> Tensor:
        """Share of each text token's characters that each recogniser token covers. (B, L, N), rows sum to 1 or 0."""
        cover = torch.zeros(len(offsets), num_text, num_tokens)
        for row, (text_spans, token_spans) in enumerate(zip(offsets, spans, strict=True)):
            if not token_spans:
                continue
            text_edges = torch.tensor(text_spans, dtype=torch.float32)  # (L, 2)
            token_edges = torch.tensor(token_spans, dtype=torch.float32)  # (N, 2)
            starts = torch.maximum(text_edges[:, None, 0], token_edges[None, :, 0])
            ends = torch.minimum(text_edges[:, None, 1], token_edges[None, :, 1])
            cover[row, : len(text_edges), : len(token_edges)] = (ends - starts).clamp(min=0)
        return cover / cover.sum(dim=-1, keepdim=True).clamp(min=1e-9)

    @torch.no_grad()
    def _string_embeddings(self, embedding: nn.Embedding) -> Tensor:
        """Embed every recogniser token's string: mean of its text tokens' rows, at the rows' usual length.

        Serves the backward pass only, where an approximation is allowed.
        """
        weight = embedding.weight.detach().float()
        vocabulary = self.tokenizer.get_vocab()
        word_pieces = any(token.startswith("##") for token in vocabulary)
        strings = [token.decode("utf-8", errors="ignore") for token in self.token_bytes]
        encodings = self.tokenizer.encode_batch(
            [string.strip() for string in strings], add_special_tokens=False
        )
        rows, pieces = [], []
        for row, (string, encoding) in enumerate(zip(strings, encodings, strict=True)):
            ids = list(encoding.ids)
            if word_pieces and ids and string[0].isalnum():  # no space before it: the inside of a word
                ids[0] = vocabulary.get("##" + encoding.tokens[0], ids[0])
            rows.extend([row] * len(ids))
            pieces.extend(ids)
        index = torch.tensor(rows, dtype=torch.long, device=weight.device)
        table = weight.new_zeros(len(strings), weight.shape[1])
        table.index_add_(0, index, weight[torch.tensor(pieces, dtype=torch.long, device=weight.device)])
        table = nn.functional.normalize(table, dim=-1)
        return table * weight.norm(dim=-1).mean()

    def _pad_id(self) -> int:
        for name in ("[PAD]", "<pad>"):
            token = self.tokenizer.token_to_id(name)
            if token is not None:
                return token
        return 0


def recognizer_token_bytes(tokenizer, vocab_size: int) -> list[bytes]:
    """Return the UTF-8 bytes that each token of a Hugging Face tokenizer writes, b"" for special tokens.

    Covers byte-level BPE (Whisper), SentencePiece with byte fallback (Moonshine, Parakeet) and CTC characters
    (wav2vec2, HuBERT: the word delimiter becomes a space; a vocabulary in capitals is written in lower case).

    Args:
        tokenizer: of the recogniser.
        vocab_size: rows of its output layer; tokens beyond the tokenizer write nothing.

    Raises:
        ValueError: the tokenizer is of another kind.
    """
    vocabulary = tokenizer.get_vocab()
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    special = set(tokenizer.all_special_ids)
    special |= {index for index, added in tokenizer.added_tokens_decoder.items() if added.special}
    special.discard(vocabulary.get(delimiter))  # wav2vec2's tokenizer counts its space among the special tokens
    tokens = [""] * vocab_size
    for token, index in vocabulary.items():
        if index < vocab_size and index not in special:
            tokens[index] = token
    if delimiter is not None:
        capitals = not any(token.islower() for token in tokens)
        return [
            (" " if token == delimiter else token.lower() if capitals else token).encode() for token in tokens
        ]
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
        f"{type(tokenizer).__name__} is neither byte-level BPE nor SentencePiece nor CTC characters; "
        "pass speech_tokenizer= of one of these kinds"
    )


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
