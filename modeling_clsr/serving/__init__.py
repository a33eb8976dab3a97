"""A server that speaks OpenAI's API for embeddings and transcriptions, and searches an index."""
