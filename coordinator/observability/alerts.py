"""Alerts to a webhook: anomalies as JSON, without delaying the work.

Anomalies go into a bounded queue and are sent in batches, one POST at a time:

{"alerts": [{"kind": "STUCK", "message": "...", "at": "...", "coordinator": "...", ...}]}

A POST that fails (no response, or a status other than 2xx) is repeated a few times,
with growing pauses. Then its alerts are given up, which a metric counts and the log
output records. Delivery is at least once, so a receiver may see an alert twice.
"""

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import structlog

from coordinator.engine.observer import Anomaly
from coordinator.security.https import NoRedirects

logger = structlog.get_logger(__name__)


_OPENER = urllib.request.build_opener(NoRedirects)

QUEUE_MAX = 1_000
BATCH_MAX = 100
ATTEMPTS_MAX = 5
PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 30.0
TIMEOUT_S = 10.0


class WebhookAlerts:
    """Post anomalies to `url`. `on_outcome` gets ("delivered", "failed" or "dropped", the count)."""

    def __init__(
        self,
        url: str,
        *,
        coordinator: str,
        on_outcome: Callable[[str, int], None],
        pause_first_s: float = PAUSE_FIRST_S,
    ) -> None:
        self._url = url
        self._coordinator = coordinator
        self._on_outcome = on_outcome
        self._pause_first_s = pause_first_s
        self._queue: deque[dict[str, object]] = deque()
        self._wake = asyncio.Event()

    def put(self, kind: Anomaly, facts: Mapping[str, object]) -> None:
        """Queue an alert, or drop it if the queue is full. Return at once."""
        if len(self._queue) >= QUEUE_MAX:
            self._on_outcome("dropped", 1)
            return
        at = datetime.now(UTC).isoformat()
        who = {"kind": kind.name, "message": kind.value, "at": at, "coordinator": self._coordinator}
        self._queue.append({**who, **facts})
        self._wake.set()

    async def run(self) -> None:
        """Post alerts until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(BATCH_MAX, len(self._queue)))]
                await self._deliver(batch)

    async def _deliver(self, batch: list[dict[str, object]]) -> None:
        body = json.dumps({"alerts": batch}).encode()
        pause_s = self._pause_first_s
        for attempt in range(1, ATTEMPTS_MAX + 1):
            error = await asyncio.to_thread(self._post, body)
            if not error:
                self._on_outcome("delivered", len(batch))
                return
            if attempt < ATTEMPTS_MAX:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
        logger.error("alerts could not be delivered", count=len(batch), error=error)
        self._on_outcome("failed", len(batch))

    def _post(self, body: bytes) -> str:
        """Return the error, without the URL, which may contain a token; empty if there is none."""
        headers = {"Content-Type": "application/json", "User-Agent": "tccd"}
        request = urllib.request.Request(self._url, body, headers)  # noqa: S310 - settings allow http(s) only
        try:
            with _OPENER.open(request, timeout=TIMEOUT_S):
                return ""
        except urllib.error.HTTPError as error:
            with error:
                return f"status {error.code}"
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
