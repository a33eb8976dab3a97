"""A Haystack component that retrieves from an index of recordings."""

from typing import Any

from ..retrieval import SpeechIndex
from .metadata import hit_metadata

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise ImportError(
        'the Haystack retriever needs haystack-ai, which is not installed; install the extra "haystack"'
    ) from error


@component
class CLSRRetriever:
    """Finds passages of recordings as Haystack documents.

    Args:
        uri: of the index.
        top_k: number of documents.
        search_kwargs: further arguments of `SpeechIndex.search`: mode, file.
        index: the open index, where there is one already.
    """

    def __init__(
        self,
        uri: str,
        top_k: int = 5,
        search_kwargs: dict[str, Any] | None = None,
        index: SpeechIndex | None = None,
    ):
        self.uri, self.top_k, self.search_kwargs = uri, top_k, search_kwargs or {}
        self._index = index

    def warm_up(self) -> None:
        """Open the index."""
        if self._index is None:
            self._index = SpeechIndex.open(self.uri)

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None) -> dict[str, list[Document]]:
        """Search.

        Args:
            query: in words.
            top_k: number of documents, in place of the component's.
        """
        self.warm_up()
        assert self._index is not None
        hits = self._index.search(query, k=top_k or self.top_k, **self.search_kwargs)
        return {
            "documents": [
                Document(content=hit.transcript, score=hit.score, meta=hit_metadata(hit)) for hit in hits
            ]
        }

    def to_dict(self) -> dict[str, Any]:
        """Serialise for a pipeline's YAML; the index is opened again from its address."""
        return default_to_dict(self, uri=self.uri, top_k=self.top_k, search_kwargs=self.search_kwargs)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CLSRRetriever":
        """Read what `to_dict` wrote."""
        return default_from_dict(cls, data)
