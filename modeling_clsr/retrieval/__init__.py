"""An index of recordings: what was said, where, and the vector that finds it."""

from .encoder import Encoder
from .index import SpeechIndex
from .indexing import AddReport
from .schema import IndexMismatchError
from .search import Hit, Moment

__all__ = ["AddReport", "Encoder", "Hit", "IndexMismatchError", "Moment", "SpeechIndex"]
