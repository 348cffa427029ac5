"""The storage of vectors: the interfaces `Store` and `Points`, and the Qdrant engines behind them."""
