"""Counts payload bytes by run, round and site: the sizes of protobuf messages, without gRPC's and TLS's framing."""

from __future__ import annotations

from collections import defaultdict

from common.ids import RunId, SiteName
from common.logging import get_logger, log_fault
from coordinator.app.ports import RunStore, Traffic


class TrafficMeter:
    """Small messages gather in memory; each finished stream writes what is known of its site to the store."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._unwritten: defaultdict[tuple[RunId, int, SiteName], list[int]] = defaultdict(lambda: [0, 0])

    def count(self, key: tuple[RunId, int, SiteName], *, received: int = 0, sent: int = 0) -> None:
        """Add bytes that the coordinator received from, and sent to, one site for one round."""
        self._unwritten[key][0] += received
        self._unwritten[key][1] += sent

    async def write(self, key: tuple[RunId, int, SiteName]) -> None:
        """Store what was counted under ``key`` since the last time."""
        received, sent = self._unwritten.pop(key, [0, 0])
        if received or sent:
            run_id, round_number, site = key
            traffic = Traffic(round_number=round_number, site=site, upload_bytes=received, download_bytes=sent)
            try:
                await self._store.add_traffic(run_id, traffic)
            except Exception as error:  # whoever was served is not told of it; it is stored the next time
                log_fault(get_logger("coordinator"), "traffic_not_stored", error)
                self.count(key, received=received, sent=sent)
