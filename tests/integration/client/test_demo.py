"""The demo's collection, from a few documents of atlas and a fake model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fake_runtime import FakeRuntime
from rich.console import Console
from threaded_server import serving

from model.evaluation.atlas import Atlas
from service.cli.demo import COLLECTION, FIELDS, fill
from service.client.client import Client
from service.settings import Settings
from service.wiring import build


def test_a_collection_of_an_earlier_demo_gets_the_fields_declared(tmp_path: Path) -> None:
    atlas = Atlas.read()
    few = replace(atlas, documents=atlas.documents[:5])
    with serving(lambda: build(Settings(data_dir=tmp_path), FakeRuntime())) as url, Client(url) as client:
        client.create_collection(COLLECTION)
        for documents in (0, 5):
            assert client.collection(COLLECTION).documents == documents
            fill(client, few, Console(quiet=True))
            assert client.collection(COLLECTION).indexes == FIELDS
