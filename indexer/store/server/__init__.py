"""The store over a Qdrant server or cluster."""
