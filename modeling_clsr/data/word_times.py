"""True word times of synthesised speech: a text and its timed phonemes in, timed words out.

A synthesiser decides how long each phoneme lasts, so the times of its words are known exactly, where those of a
recording can only be estimated.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TimedSound:
    """One phoneme, or a mark that is no sound: a space, a comma.

    Attributes:
        symbol: of the International Phonetic Alphabet.
        start: in seconds.
        end: in seconds.
    """

    symbol: str
    start: float
    end: float


@dataclass(frozen=True)
class TimedWord:
    """One word as the text writes it, with its punctuation.

    Attributes:
        text: no space in it.
        start: in seconds.
        end: in seconds, without the pause behind it.
    """

    text: str
    start: float
    end: float


def time_words(
    text: str, sounds: Sequence[TimedSound], phonemes_of: Callable[[str], Sequence[str]]
) -> list[TimedWord]:
    """Find the times of a text's words among the sounds that it was spoken with.

    Spoken in a sentence a word may sound otherwise than alone ("of the" runs together, a year is read as two numbers),
    so the sounds of the sentence are compared with those of the words, one behind the other.

    Args:
        text: what was said.
        sounds: of the whole text, in order.
        phonemes_of: the phonemes of one word spoken alone.

    Returns:
        A word for each that the text has; one of which no sound is found lies between its neighbours.
    """
    words = text.split()
    alone = [(symbol, place) for place, word in enumerate(words) for symbol in _letters(phonemes_of(word))]
    heard = [sound for sound in sounds if _letters([sound.symbol])]
    spans: list[list[TimedSound]] = [[] for _ in words]
    matcher = difflib.SequenceMatcher(
        a=[symbol for symbol, _ in alone], b=[sound.symbol for sound in heard], autojunk=False
    )
    for tag, first, after, second, until in matcher.get_opcodes():
        for step in range(until - second):
            if tag == "insert":  # goes with the sound before it
                own = max(first - 1, 0)
            else:  # equal, or as many other sounds, or fewer or more of them
                own = first + step * (after - first) // (until - second)
            if alone:
                spans[alone[own][1]].append(heard[second + step])
    timed, last = [], 0.0
    for place, word in enumerate(words):
        if spans[place]:
            start, end = spans[place][0].start, spans[place][-1].end
        else:
            start = last
            end = next((span[0].start for span in spans[place:] if span), sounds[-1].end if sounds else last)
        timed.append(TimedWord(word, round(start, 3), round(end, 3)))
        last = end
    return timed


def find_answer(words: Sequence[TimedWord], answer: str) -> tuple[float, float] | None:
    """Return start and end, in seconds, of the first place where an answer is said; None where it is not.

    >>> words = [TimedWord("In", 0.0, 0.2), TimedWord("Santa", 0.2, 0.5), TimedWord("Clara,", 0.5, 1.0)]
    >>> find_answer(words, "Santa Clara")
    (0.2, 1.0)
    """
    wanted = [_plain(part) for part in answer.split()]
    said = [_plain(word.text) for word in words]
    for start in range(len(said) - len(wanted) + 1):
        if wanted and said[start : start + len(wanted)] == wanted:
            return words[start].start, words[start + len(wanted) - 1].end
    return None


def _letters(symbols: Sequence[str]) -> list[str]:
    """Drop stress, length, spaces and punctuation."""
    return [symbol for symbol in symbols if symbol.isalpha() and symbol not in "ˈˌː"]


def _plain(word: str) -> str:
    return "".join(letter for letter in word.lower() if letter.isalnum())
