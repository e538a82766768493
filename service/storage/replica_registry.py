"""ReplicaRegistry: where each replica of a cluster can be scraped, for Prometheus to find them all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from redis.asyncio import Redis

from service.storage.schema import REPLICA_PREFIX

# A replica that died without a word is forgotten after this long.
EXPIRY_SECONDS = 30
ANNOUNCE_SECONDS = 10


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    replica: str
    address: str  # host:port of its own /metrics
    pid: int

    @property
    def target(self) -> Mapping[str, object]:
        """As Prometheus' `http_sd_configs` take it. Labels with __meta_ are for relabelling alone."""
        labels = {"replica": self.replica, "__meta_atelier_pid": str(self.pid)}
        return {"targets": [self.address], "labels": labels}


class ReplicaRegistry:
    """Keys that expire unless their replica writes them again."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def announce(self, replica: ReplicaAddress) -> None:
        await self._redis.set(
            REPLICA_PREFIX + replica.replica, json.dumps(asdict(replica)), ex=EXPIRY_SECONDS
        )

    async def remove(self, replica: ReplicaAddress) -> None:
        await self._redis.delete(REPLICA_PREFIX + replica.replica)

    async def addresses(self) -> list[ReplicaAddress]:
        keys = sorted([key async for key in self._redis.scan_iter(f"{REPLICA_PREFIX}*", count=1000)])
        found = await self._redis.mget(keys) if keys else []
        return [ReplicaAddress(**json.loads(record)) for record in found if record is not None]
