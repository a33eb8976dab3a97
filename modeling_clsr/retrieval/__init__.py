"""An index of recordings: what was said, where, and the vector that finds it."""

from .asking import Answer, ask
from .encoder import Encoder
from .index import SpeechIndex
from .indexing import AddReport
from .moments import Moment
from .schema import IndexMismatchError
from .search import Hit

__all__ = ["AddReport", "Answer", "Encoder", "Hit", "IndexMismatchError", "Moment", "SpeechIndex", "ask"]
