"""Search: encode the query, rank, fuse, page, explain. Knows nothing of HTTP."""
