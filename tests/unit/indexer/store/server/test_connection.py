"""How the client of a Qdrant server is set up."""

import os
from pathlib import Path

import pytest

from indexer.store.server.connection import _key_reader, connect, reach
from indexer.store.server.settings import ServerStoreSettings
from model.errors import DependencyUnavailable


def test_a_key_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first\n")
    key = _key_reader(file)
    assert key() == "first"
    file.write_text("second\n")
    os.utime(file, ns=(1, 1))
    assert key() == "second"
    file.unlink()
    with pytest.raises(DependencyUnavailable, match=f"the key of the Qdrant server cannot be read from {file}"):
        key()


async def test_each_address_has_clients_with_the_time_outs_of_their_calls() -> None:
    settings = ServerStoreSettings(
        "http://a:6333, http://b:6333", timeout_s=3, write_timeout_s=40, definition_timeout_s=70
    )
    cluster = reach(settings)
    assert list(cluster.versions) == ["http://a:6333", "http://b:6333"]
    for address in cluster._addresses:
        clients = [address.client_for(method) for method in ("query_records", "write_points", "create_collection")]
        assert [client._client._timeout for client in clients] == [3, 40, 70]
        assert {client._client._host for client in clients} == {address.url[7]}
    await cluster.close()


def test_a_path_is_refused_where_grpc_would_ignore_it() -> None:
    with pytest.raises(ValueError, match="http://proxy/qdrant has a path, which gRPC cannot use"):
        ServerStoreSettings("http://proxy/qdrant")
    ServerStoreSettings("http://proxy/qdrant", prefer_grpc=False)


def test_a_key_is_given_in_one_way(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both set: keep one"):
        ServerStoreSettings("http://a:6333", api_key="key", api_key_file=tmp_path / "key")


async def test_no_answer_is_compressed_by_rest() -> None:
    """A server sends a compressed one in pieces, and waits 40 ms between them."""
    client = connect(ServerStoreSettings("http://a:6333", prefer_grpc=False))
    assert client.http.client._async_client.headers["accept-encoding"] == "identity"
    await client.close()
