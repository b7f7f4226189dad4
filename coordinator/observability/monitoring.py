"""The monitoring of one worker: metrics and health on their own port, alerts to a webhook."""

import asyncio
from collections.abc import Callable, Mapping

from coordinator.config.settings import Settings
from coordinator.engine.clock import LogClock
from coordinator.engine.engine import Engine
from coordinator.jobs.reconcile import ScanResult
from coordinator.observability.alerts import WebhookAlerts
from coordinator.observability.metrics import CONTENT_TYPE, Gauges, LogGauges, Metrics, StreamLoads
from coordinator.observability.metrics_server import MetricsServer


class Monitoring:
    """Pass `metrics` to the engine as its observer, then `watch` the engine, then `run`.

    `slot`: the number of this worker of `tccd serve`, from 0.
    """

    def __init__(
        self, settings: Settings, *, monotonic: Callable[[], float], coordinator: str, slot: int
    ) -> None:
        self.metrics = Metrics(monotonic)
        self.metrics.insecure = settings.insecure
        self.metrics.certificate_files = settings.certificate_files()
        self._address = settings.metrics.bind_address(slot) if settings.metrics_address() else None
        url = settings.alerts.webhook_url
        self._alerts: WebhookAlerts | None = None
        if url is not None:
            self._alerts = WebhookAlerts(
                url.get_secret_value(), coordinator=coordinator, on_outcome=self.metrics.alerted
            )
            self.metrics.alert = self._alerts.put

    def watch(
        self,
        engine: Engine,
        clock: LogClock,
        log: LogGauges | None,
        scans: Callable[[], Mapping[str, ScanResult]] = dict,
        streams: Callable[[], StreamLoads] = StreamLoads,
    ) -> None:
        """Export the state of this engine, of the whole log, of the barrier rows (`scans`) and of streams."""
        self.metrics.registry.register(Gauges(engine, clock, self.metrics, log, scans, streams=streams))

    async def run(self, not_ready: Callable[[], str]) -> None:
        """Serve and alert until cancelled. `not_ready` returns why this worker is not ready; empty: it is."""
        async with asyncio.TaskGroup() as tasks:
            if self._alerts is not None:
                tasks.create_task(self._alerts.run())
            if self._address is not None:
                server = MetricsServer(text=self.metrics.text, content_type=CONTENT_TYPE, not_ready=not_ready)
                tasks.create_task(server.run(*self._address))
