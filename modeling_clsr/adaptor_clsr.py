"""The adaptor `retokenize`: recogniser tokens in, text-encoder embeddings out, for two different vocabularies.

Forward, the transcript is cut again by the text encoder's tokenizer, so that the vector is exactly the text encoder's.
Backward, each text token hands its gradient to the recogniser's scores of the tokens that cover the same characters.
"""

import torch
from torch import Tensor, nn

from .strings_clsr import TokenStrings

TOP_TOKENS = 32  # recogniser tokens in the mixture that carries the gradient


class RetokenizeAdaptor(nn.Module):
    """Bridge from a recogniser's vocabulary to a text encoder's.

    It has no weights.

    Args:
        temperature: of the softmax over recogniser tokens in the backward pass (gamma of the paper).
        strings: of the checkpoint, see `TokenStrings`; read when first needed.
    """

    def __init__(self, temperature: float, strings: TokenStrings):
        super().__init__()
        self.temperature = temperature
        self.strings = strings
        # (V, E) embeddings of the recogniser's token strings, made at the first backward pass.
        self.table: Tensor | None
        self.register_buffer("table", None, persistent=False)

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
            input_ids: (B, L) text tokens, from `TokenStrings.tokenize`.
            offsets: their characters, from `TokenStrings.tokenize`.
            logits: (B, N, V) recogniser scores of the transcript's tokens, with gradient.
            spans: their characters, from `TokenStrings.text`.
            embedding: input embeddings of the text encoder, (V', E).

        Returns:
            (B, L, E): exactly `embedding(input_ids)`; the gradient is that of the covering tokens' expected embedding.

        Source: the straight-through estimator of the paper (section 3.3), carried across two vocabularies: issue 8.
        """
        if self.table is None:
            self.table = self.embed_strings(embedding)
        hard = embedding(input_ids)  # (B, L, E)
        scores, tokens = (logits.float() / self.temperature).topk(min(TOP_TOKENS, logits.shape[-1]), dim=-1)
        mixture = scores.softmax(dim=-1).unsqueeze(-2) @ self.table[tokens]  # (B, N, 1, K) @ (B, N, K, E)
        cover = self.cover(offsets, spans, hard.shape[1], logits.shape[1]).to(mixture)  # (B, L, N)
        soft = (cover @ mixture.squeeze(-2)).to(hard.dtype)  # (B, L, E)
        return hard + (soft - soft.detach())

    @staticmethod
    def cover(offsets, spans, num_text: int, num_tokens: int) -> Tensor:
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
    def embed_strings(self, embedding: nn.Embedding) -> Tensor:
        """Embed every recogniser token's string: mean of its text tokens' rows, at the rows' usual length.

        Serves the backward pass only, where an approximation is allowed.
        """
        weight = embedding.weight.detach().float()
        vocabulary = self.strings.tokenizer.get_vocab()
        word_pieces = any(token.startswith("##") for token in vocabulary)
        strings = [token.decode("utf-8", errors="ignore") for token in self.strings.token_bytes]
        encodings = self.strings.tokenizer.encode_batch(
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
