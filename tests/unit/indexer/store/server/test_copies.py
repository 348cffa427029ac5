from typing import Any

import pytest
from qdrant_client import models as q

from indexer.errors import CollectionUnavailable
from indexer.store.server.copies import Copies
from model.errors import DependencyUnavailable

NODES = {1: "http://a:6335", 2: "http://b:6335", 3: "http://c:6335"}
ACTIVE, DEAD, INITIALIZING = q.ReplicaState.ACTIVE, q.ReplicaState.DEAD, q.ReplicaState.INITIALIZING
FAILED = DependencyUnavailable("Qdrant failed in upsert: 1 out of 3 shards failed")


class Cluster:
    """The first node answers. `unreachable` are the nodes that its leader cannot reach."""

    def __init__(
        self, copies: dict[int, dict[int, q.ReplicaState]], unreachable: set[int], answers: bool = True
    ) -> None:
        self.copies, self.unreachable, self.answers = copies, unreachable, answers

    async def collection_cluster_info(self, name: str) -> q.CollectionClusterInfo:
        assert name == "ret2~~c"
        if not self.answers:
            raise OSError("refused")
        local, remote = [], []
        for shard, present in self.copies.items():
            for peer, state in present.items():
                if peer == 1:
                    local.append(q.LocalShardInfo(shard_id=shard, points_count=0, state=state))
                else:
                    remote.append(q.RemoteShardInfo(shard_id=shard, peer_id=peer, state=state))
        shards = {"local_shards": local, "remote_shards": remote, "shard_transfers": []}
        return q.CollectionClusterInfo(peer_id=1, shard_count=len(self.copies), **shards)

    async def ask_all(self, name: str) -> list[Any]:
        """One of the addresses is of no cluster's leader, which knows of no failures."""
        assert name == "cluster_status"
        failures = {f"{NODES[peer]}/": q.MessageSendErrors(count=1) for peer in self.unreachable}
        return [self._status({}), self._status(failures)]

    @staticmethod
    def _status(failures: dict[str, q.MessageSendErrors]) -> q.ClusterStatusOneOf1:
        return q.ClusterStatusOneOf1(
            status="enabled",
            peer_id=1,
            peers={str(peer): q.PeerInfo(uri=f"{uri}/") for peer, uri in NODES.items()},
            raft_info=q.RaftInfo(term=1, commit=1, pending_operations=0, is_voter=True),
            consensus_thread_status=q.ConsensusThreadStatusOneOf1(consensus_thread_status="stopped"),
            message_send_failures=failures,
        )


@pytest.mark.parametrize(
    ("copies", "unreachable", "waits"),
    [
        ({0: {1: ACTIVE}, 1: {2: ACTIVE}}, {2}, "shard 1 on the node http://b:6335 (unreachable)"),
        ({0: {1: ACTIVE}, 1: {2: INITIALIZING}}, set(), "shard 1 on the node http://b:6335 (initializing)"),
        (
            {0: {2: DEAD, 3: ACTIVE}, 1: {1: ACTIVE, 3: ACTIVE}},
            {3},
            "shard 0 on the node http://b:6335 (dead) or http://c:6335 (unreachable)",
        ),
    ],
)
async def test_the_shards_without_a_copy_are_named(
    copies: dict[int, dict[int, q.ReplicaState]], unreachable: set[int], waits: str
) -> None:
    error = await Copies(Cluster(copies, unreachable)).explain(FAILED, "c", "ret2~~c")  # type: ignore[arg-type]
    assert isinstance(error, CollectionUnavailable)
    assert error.detail == f"collection c waits for {waits}: bring it back. {FAILED.detail}"


@pytest.mark.parametrize("answers", [True, False])
async def test_an_error_without_a_lost_shard_stays_as_it_is(answers: bool) -> None:
    cluster = Cluster({0: {1: ACTIVE, 2: DEAD}}, {2}, answers)
    assert await Copies(cluster).explain(FAILED, "c", "ret2~~c") is FAILED  # type: ignore[arg-type]
