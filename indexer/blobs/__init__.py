"""The images of documents: content-addressed files behind any fsspec URL, and their thumbnails."""
