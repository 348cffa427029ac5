"""Checkpoints: the bundled ones, and the readers of files that others published."""
