"""The api role: search, collections, documents and jobs over HTTP. No torch."""
