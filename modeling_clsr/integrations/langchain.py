"""A LangChain retriever over an index of recordings."""

from typing import Any

from ..retrieval import SpeechIndex
from .metadata import hit_metadata

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
except ImportError as error:
    raise ImportError(
        'the LangChain retriever needs langchain-core, which is not installed; install the extra "langchain"'
    ) from error


class CLSRRetriever(BaseRetriever):
    """Finds passages of recordings as LangChain documents.

    Attributes:
        index: `SpeechIndex` to search.
        k: number of documents.
        search_kwargs: further arguments of `SpeechIndex.search`: mode, file, after, before.
    """

    index: Any
    k: int = 5
    search_kwargs: dict[str, Any] = {}  # noqa: RUF012 - a field of pydantic

    @classmethod
    def open(cls, uri: str, **fields: Any) -> "CLSRRetriever":
        """Make a retriever over the index at `uri`."""
        return cls(index=SpeechIndex.open(uri), **fields)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        hits = self.index.search(query, k=self.k, **self.search_kwargs)
        return [Document(page_content=hit.transcript, metadata=hit_metadata(hit)) for hit in hits]
