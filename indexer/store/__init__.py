"""Where vectors live: the two seams `Store` and `Points`, and the Qdrant engines behind them in the modules beside."""
