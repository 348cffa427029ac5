"""Documents into an index and back: ledger, blobs, sources, stores, and the worker that joins them. No torch, no HTTP
server."""
