"""The real LangChain package gets the hits of the Python API."""

import pytest

pytest.importorskip("langchain_core", reason="the extra langchain is not installed")

from langchain_core.runnables import RunnableLambda

from modeling_clsr.integrations.langchain import CLSRRetriever


def test_documents_are_the_hits_of_the_index(index, clips):
    question = list(clips)[4]
    documents = CLSRRetriever(index=index, k=3).invoke(question)
    hits = index.search(question, k=3)
    assert [document.page_content for document in documents] == [hit.transcript for hit in hits]
    for document, hit in zip(documents, hits, strict=True):
        assert document.metadata["source"] == hit.source and document.metadata["start_s"] == hit.start_s
        assert document.metadata["moment"]["text"] == hit.moment.text
    only = CLSRRetriever(index=index, search_kwargs={"file": "a.wav", "mode": "dense"}).invoke(question)
    assert {document.metadata["source"].rsplit("/", 1)[1] for document in only} == {"a.wav"}


def test_retriever_stands_in_a_chain(index, clips):
    chain = CLSRRetriever(index=index, k=1) | RunnableLambda(lambda documents: documents[0].page_content)
    question = list(clips)[7]
    assert chain.invoke(question) == index.search(question, k=1)[0].transcript
