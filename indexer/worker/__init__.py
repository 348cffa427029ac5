"""The background loops: claim batches, embed and index them, reindex, import, sweep."""
