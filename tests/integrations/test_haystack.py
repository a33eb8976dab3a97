"""The real Haystack package gets the hits of the Python API."""

import pytest

pytest.importorskip("haystack", reason="the extra haystack is not installed")

from haystack import Pipeline
from haystack.components.builders import PromptBuilder

from modeling_clsr.integrations.haystack import CLSRRetriever


def test_documents_are_the_hits_of_the_index(index, clips):
    question = list(clips)[4]
    found = CLSRRetriever(index.uri, top_k=3, index=index).run(question)["documents"]
    hits = index.search(question, k=3)
    assert [document.content for document in found] == [hit.transcript for hit in hits]
    assert [document.score for document in found] == [hit.score for hit in hits]
    assert found[0].meta["moment"]["start_s"] == hits[0].moment.start_s
    assert len(CLSRRetriever(index.uri, index=index).run(question, top_k=1)["documents"]) == 1


def test_component_works_in_a_pipeline_and_is_written_and_read(index, clips):
    question = list(clips)[7]
    pipeline = Pipeline()
    pipeline.add_component("retriever", CLSRRetriever(index.uri, top_k=1, index=index))
    template = "{% for document in documents %}{{ document.content }}{% endfor %}"
    pipeline.add_component("prompt", PromptBuilder(template=template, required_variables=["documents"]))
    pipeline.connect("retriever.documents", "prompt.documents")
    answer = pipeline.run({"retriever": {"query": question}})["prompt"]["prompt"]
    assert answer == index.search(question, k=1)[0].transcript
    again = CLSRRetriever.from_dict(
        CLSRRetriever(index.uri, top_k=2, search_kwargs={"mode": "text"}).to_dict()
    )
    assert (again.uri, again.top_k, again.search_kwargs) == (index.uri, 2, {"mode": "text"})
