"""Which shards of a collection have no copy that can be used, and the nodes that have to come back for them.

A server says only that so many of its operations failed. Asked after a failure alone: it takes a call to each address.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from qdrant_client import models as q

from indexer.errors import CollectionUnavailable
from indexer.store.server.addresses import Addresses
from indexer.store.server.errors import translating_errors
from model.errors import DependencyUnavailable, RetrievalError

_USABLE = {q.ReplicaState.ACTIVE, q.ReplicaState.ACTIVEREAD}


class Copies:
    """The copies of the shards of one cluster's collections."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses

    async def explain(self, error: DependencyUnavailable, name: str, engine_name: str) -> DependencyUnavailable:
        """Return the error of a failed call, or one that names the shards of the collection that are waited for."""
        waiting = await self._waiting(engine_name)
        if not waiting:
            return error
        return CollectionUnavailable(f"collection {name} waits for {waiting}: bring it back. {error.detail}")

    async def _waiting(self, engine_name: str) -> str:
        try:
            with translating_errors("collection_cluster_info"):
                shards = await self._addresses.collection_cluster_info(engine_name)
            states = await self._addresses.ask_all("cluster_status")
        except RetrievalError:
            return ""
        clusters = [state for state in states if isinstance(state, q.ClusterStatusOneOf1)]
        uris = {int(peer): info.uri.rstrip("/") for cluster in clusters for peer, info in cluster.peers.items()}
        unreachable = {uri.rstrip("/") for cluster in clusters for uri in cluster.message_send_failures}
        return "; ".join(_absent(shards, uris, unreachable))


def _absent(shards: q.CollectionClusterInfo, uris: dict[int, str], unreachable: set[str]) -> Iterator[str]:
    """Yield what is to be said of each shard without a copy that can be used."""
    copies: dict[int, list[tuple[str, q.ReplicaState]]] = defaultdict(list)
    for local in shards.local_shards:
        copies[local.shard_id].append((uris.get(shards.peer_id, ""), local.state))
    for remote in shards.remote_shards:
        copies[remote.shard_id].append((uris.get(remote.peer_id, f"peer {remote.peer_id}"), remote.state))
    for shard, present in sorted(copies.items()):
        if any(state in _USABLE and uri not in unreachable for uri, state in present):
            continue
        nodes = " or ".join(
            f"{uri} ({'unreachable' if uri in unreachable else state.value.lower()})" for uri, state in present
        )
        yield f"shard {shard} on the node {nodes}"
