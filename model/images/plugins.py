"""Decoders that are packages of their own, made known to Pillow."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from model.images.formats import ImageFormat


@cache
def load_plugin(image_format: ImageFormat) -> None:
    """Register a format of a Pillow plugin in this process. Only child processes call it, because its native code reads
    untrusted data."""
    assert image_format.module is not None
    plugin = import_module(image_format.module)
    # pillow-jxl-plugin registers itself as it is imported.
    if (register := getattr(plugin, "register_heif_opener", None)) is not None:
        register()
