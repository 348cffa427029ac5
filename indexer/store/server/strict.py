"""The limits of a Qdrant collection's strict mode that calls keep to by themselves.

Others are answered as the server answers them: they are about what a caller asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

from qdrant_client import models as q

NO_LIMIT = 2**31


@dataclass(frozen=True, slots=True)
class StrictLimits:
    upsert_points: int = NO_LIMIT
    ef: int = NO_LIMIT
    timeout_s: int = NO_LIMIT

    @classmethod
    def of(cls, config: q.StrictModeConfigOutput | None) -> StrictLimits:
        if config is None or not config.enabled:
            return cls()
        return cls(
            config.upsert_max_batchsize or NO_LIMIT,
            # A search asks for one more.
            (config.search_max_hnsw_ef or NO_LIMIT) - 1,
            config.max_timeout or NO_LIMIT,
        )
