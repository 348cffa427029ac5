from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny_model import write_tiny_checkpoint

from model.retriever import Retriever


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Retriever:
    return Retriever.load(str(tiny_folder))


@pytest.fixture
def png() -> Callable[..., bytes]:
    def make(
        colour: object = "red",
        size: tuple[int, int] = (40, 30),
        mode: str = "RGB",
        kind: str = "PNG",
        **options: object,
    ) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, size, colour).save(buffer, kind, **options)
        return buffer.getvalue()

    return make
