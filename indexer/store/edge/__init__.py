"""The embedded store: Qdrant Edge in a child process, one shard a collection."""
