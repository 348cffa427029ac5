"""The nouns of the index: documents, collections, jobs and points, as frozen dataclasses."""
