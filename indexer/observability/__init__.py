"""Metrics and traces of the index; the service decides where they go."""
