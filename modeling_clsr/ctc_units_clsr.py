"""Characters under word pieces: the units of a CTC predictor that is finer than the tokens it finds.

A unit is a byte of UTF-8, a character for English, so that no alphabet is needed. Enters: tokens, or a CTC path.
Leaves: unit ids (B, N) and how many of them make each token (B, U). CTC needs a frame for every unit: take encoders
with 20 ms frames.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .ctc_predictor_clsr import IGNORED_ID
from .strings_clsr import TokenStrings

NUM_UNITS = 256


def units_of_tokens(token_ids: Tensor, strings: TokenStrings) -> tuple[Tensor, Tensor]:
    """Spell tokens.

    Args:
        token_ids: (B, U) tokens of the text encoder, negative on padding.
        strings: with the bytes of each token.

    Returns:
        unit_ids (B, N), `IGNORED_ID` on padding, and units_per_token (B, U), 0 on padding. A token without bytes (a
        special one) is spelt by a space.
    """
    spelt = [
        [strings.token_bytes[token] or b" " for token in row if token >= 0] for row in token_ids.tolist()
    ]
    units = [torch.tensor(list(b"".join(row)), dtype=torch.long) for row in spelt]
    counts = [torch.tensor([len(token) for token in row], dtype=torch.long) for row in spelt]
    device = token_ids.device
    padded = pad_sequence(counts, batch_first=True).to(device)
    wide = torch.nn.functional.pad(padded, (0, token_ids.shape[1] - padded.shape[1]))
    return pad_sequence(units, batch_first=True, padding_value=IGNORED_ID).to(device), wide


def tokens_of_units(unit_ids: Tensor, strings: TokenStrings) -> tuple[Tensor, Tensor]:
    """Read a CTC path as text and cut it by the text encoder's tokenizer.

    Args:
        unit_ids: (B, N), negative on padding.
        strings: with the tokenizer.

    Returns:
        token_ids (B, U), `IGNORED_ID` on padding, and units_per_token (B, U): the units of each token and of the spaces
        before it; those behind the last token belong to it. A clip without a readable token has none.
    """
    tokens, counts = [], []
    for row in unit_ids.tolist():
        path = bytes(unit for unit in row if unit >= 0)
        text = path.decode("utf-8", errors="replace")
        # How many bytes of the path lie before each character; what cannot be read is one byte each.
        edges = [0]
        for character in text:
            edges.append(edges[-1] + (len(character.encode()) if character != "\ufffd" else 1))
        encoding = strings.tokenizer.encode(text, add_special_tokens=False)
        ends = [min(edges[end], len(path)) for _, end in encoding.offsets]
        if ends:
            ends[-1] = len(path)
        lengths = torch.tensor(ends, dtype=torch.long).diff(prepend=torch.zeros(1, dtype=torch.long))
        own = lengths > 0  # a token that shares its characters with the one before gets no frames of its own
        tokens.append(torch.tensor(encoding.ids, dtype=torch.long)[own])
        counts.append(lengths[own])
    device = unit_ids.device
    return (
        pad_sequence(tokens, batch_first=True, padding_value=IGNORED_ID).to(device),
        pad_sequence(counts, batch_first=True).to(device),
    )
