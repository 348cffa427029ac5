"""Benchmarks and metrics of retrieval: files, embedded corpora, recall."""
