"""The composition root: one worker, from its connections to its drain."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from msgspec import structs

from coordinator.api.access import Access
from coordinator.api.operator.server import AdminServer
from coordinator.api.server import Server, ServerLimits
from coordinator.config.configuration import ConfigurationError, Source
from coordinator.config.settings import RELOADED, Settings, TracingSettings
from coordinator.core.errors import Draining, LogError, LogUnavailable
from coordinator.engine.auditor import Auditor
from coordinator.engine.clock import LogClock, LoopLoad, wanted_s
from coordinator.engine.dispatcher import ParticipantPolicy
from coordinator.engine.engine import Engine
from coordinator.engine.observer import NULL_SPANS, Anomaly
from coordinator.engine.reconciler import Reconciler
from coordinator.jobs.audit import StateAuditHead
from coordinator.jobs.erase import ErasePayloads
from coordinator.jobs.heartbeat import Heartbeat
from coordinator.jobs.job import Job
from coordinator.jobs.memory import ReturnMemory
from coordinator.jobs.outcome_participant import OutcomeParticipant
from coordinator.jobs.outcome_webhook import OutcomeWebhook
from coordinator.jobs.publish_outcomes import PublishOutcomes
from coordinator.jobs.reconcile import Reconciling
from coordinator.jobs.report import Reporting
from coordinator.jobs.scheduler import jobs, schedule
from coordinator.log.migration import CellPlace
from coordinator.log.requirements import LogUrlError
from coordinator.observability.metrics import LogGauges, StreamLoads
from coordinator.observability.monitoring import Monitoring
from coordinator.participant_client.channel import ParticipantAddress
from coordinator.participant_client.client import ParticipantClient
from coordinator.ports.outcomes import OutcomeTarget
from coordinator.process.log_cells import OpenLog, cell_places
from coordinator.process.operating_system import (
    background_threads,
    limit_memory_arenas,
    raise_open_files_limit,
    return_free_memory,
)
from coordinator.security.authentication import Authenticator, Policy
from coordinator.security.key_sets import KeySource
from coordinator.security.rates import Rates
from coordinator.security.shares import Shares
from tcc._internal.garbage import relax_garbage_collection
from tcc._internal.tls import Tls
from tcc._internal.uuid7 import uuid7

if TYPE_CHECKING:
    from coordinator.observability.tracing import Tracing

logger = structlog.get_logger(__name__)

# A supervisor sends it to one of its workers after it refused a changed configuration.
RELOAD_REFUSED = signal.SIGUSR1

# Files besides those of connections to the two servers: the log, participants, metrics, libraries.
_FILES_RESERVED = 256
_CONNECTIONS_MIN = 16

_POLL_S = 0.02
# How often a starting coordinator checks whether its log is available.
_LOG_POLL_S = 0.2
# How long completed calls may take to send their responses.
STOP_GRACE_S = 1.0


class Worker:
    """One coordinator process with all its components."""

    def __init__(self, settings: Settings, url: str, *, share_port: bool, slot: int = 0) -> None:
        self._settings = settings
        self.owner = uuid7()
        self._url = url
        self._opened = OpenLog(
            cell_places(settings.log, url),
            owner=self.owner,
            name=f"{socket.gethostname()}:{os.getpid()}",
            connections=settings.log.connections,
            on_quarantine=self._report_quarantine,
        )
        self.log = self._opened.log
        self.clock = LogClock()
        self.monitoring = Monitoring(
            settings, monotonic=self.clock.monotonic, coordinator=self.log.name, slot=slot
        )
        self._channels = ParticipantClient(
            _addresses(settings),
            result_bytes_max=settings.limits.payload_bytes_max,
            on_stream_broken=self.monitoring.metrics.stream_broken,
            on_bug=self._fail,
        )
        self._tracing = _tracing(settings.tracing, self.owner)
        self.engine = self._new_engine()
        self._tls = _listeners_tls(settings)
        policy = settings.policy()
        shares = Shares(time.monotonic, LoopLoad(computed=wanted_s).is_saturated)
        self._access = (
            None if policy is None else Access(_authenticator(policy), Rates(time.monotonic, shares))
        )
        self.engine.limit_tenants(settings.tenant_limits())
        self._server = self._new_server(share_port=share_port)
        self._operator_log = self._opened.operator_log
        reconciler = Reconciler(
            self.engine, self._operator_log, self._channels, settings.reconcile_settings()
        )
        self.auditors = self._new_auditors()
        self._admin_server = self._new_admin_server(reconciler, share_port=share_port)
        # Known once it serves.
        self.admin_port = 0
        self._log_gauges = LogGauges(self._operator_log.backlog, self.clock.monotonic)
        self._reconciling = Reconciling(
            self.engine,
            self._operator_log,
            reconciler,
            clock=self.clock,
            observer=self.monitoring.metrics,
            owner=self.owner,
        )
        self.monitoring.watch(
            self.engine,
            self.clock,
            self._log_gauges,
            lambda: self._reconciling.scans,
            lambda: StreamLoads(self._channels.stream_loads(), self._server.stream_load()),
        )
        self._serving = False
        self._stop = asyncio.Event()
        self._bug: Exception | None = None
        self._health: set[asyncio.Task[Any]] = set()
        self._key_refresh: asyncio.Task[None] | None = None
        self._cells_moving: asyncio.Task[None] | None = None

    def _new_engine(self) -> Engine:
        return Engine(
            log=self.log,
            participants=self._tracing.traced(self._channels, self.clock)
            if self._tracing
            else self._channels,
            policies=_policies(self._settings),
            clock=self.clock,
            limits=self._settings.engine_limits(),
            observer=self.monitoring.metrics,
            is_saturated=LoopLoad().is_saturated,
            spans=self._tracing or NULL_SPANS,
            on_availability=self._report_health,
            on_bug=self.report_bug,
        )

    def _new_server(self, *, share_port: bool) -> Server:
        return Server(
            self.engine,
            self._settings.request_limits(),
            log=self.log,
            clock=self.clock,
            share_port=share_port,
            server_limits=within_open_files(
                self._settings.server_limits(), self._settings.admin.connections_max
            ),
            coordinator_id=self.owner,
            new_trace=self._tracing.new_trace if self._tracing else None,
            access=self._access,
            tls=self._tls["listen"],
            reflect=self._settings.reflection,
        )

    def _new_auditors(self) -> list[Auditor]:
        return [
            Auditor(
                cell,
                self._settings.audit.signer(),
                clock=self.clock,
                observer=self.monitoring.metrics,
                cell=cell.cell,
            )
            for cell in self._opened.operator_cells
        ]

    def _new_admin_server(self, reconciler: Reconciler, *, share_port: bool) -> AdminServer:
        return AdminServer(
            self.engine,
            self._operator_log,
            reconciler,
            self.auditors,
            transactions=self.log,
            clock=self.clock,
            spans=self._tracing or NULL_SPANS,
            owner=self.owner,
            share_port=share_port,
            limits=self._settings.admin_limits(),
            payload_bytes_max=self._settings.limits.payload_bytes_max,
            access=self._access,
            tls=self._tls["admin"],
            reflect=self._settings.reflection,
        )

    def stop(self) -> None:
        """Request the drain."""
        self._stop.set()

    def reload(self, settings: Settings, started_with: Settings) -> None:
        """Apply the participants of `settings`, and who may do what; other changes wait for a restart.

        `started_with` is the configuration as read at the start. This worker's own settings may
        contain ports that were chosen for it.

        Raises:
            OSError: a TLS file cannot be read. Nothing has changed.
        """
        addresses = _addresses(settings)
        moved = frozenset(
            name for name, address in addresses.items() if self._channels.address_changed(name, address)
        )
        self.engine.configure(_policies(settings), moved=moved)
        self._channels.update_addresses(addresses)
        ours, theirs = self._settings.participants, settings.participants
        moving_cells = self._move_cells(settings)
        logger.info(
            "configuration reloaded",
            added=sorted(theirs.keys() - ours.keys()),
            removed=sorted(ours.keys() - theirs.keys()),
            changed=sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]),
            moved=sorted(moved),
            moving_cells=moving_cells,
            clients=_changed_names(self._settings.clients, settings.clients),
            operators=_changed_names(self._settings.operators, settings.operators),
            needs_restart=_needs_restart(started_with, settings, self._restart_required(settings)),
        )
        self._settings = self._settings.reloaded(settings)
        self.monitoring.metrics.certificate_files = self._settings.certificate_files()
        self._reload_access()

    def _move_cells(self, settings: Settings) -> list[int]:
        """Begin to follow cells to the servers where the configuration has them now. Return which."""
        if self._cells_moving is not None:
            self._cells_moving.cancel()
        if not self._settings.can_move_cells(settings):
            return []
        places = cell_places(settings.log, self._url)
        moving = self._opened.moving_to(places)
        self._cells_moving = asyncio.create_task(self._follow_cells(places)) if moving else None
        if self._cells_moving is not None:
            self._cells_moving.add_done_callback(self._cells_followed)
        return moving

    async def _follow_cells(self, places: Sequence[CellPlace]) -> None:
        while True:
            try:
                moved = await self._opened.move(places)
                break
            except LogUnavailable as error:
                logger.warning("cells of the log are not followed yet", error=error.explained)
            except LogUrlError as error:
                logger.error("cells of the log are not followed", error=str(error))  # noqa: TRY400 - no bug of ours
                self.monitoring.metrics.anomaly(Anomaly.RELOAD_REFUSED)
                return
            await asyncio.sleep(_LOG_POLL_S)
        self.engine.writer.regroup()
        logger.info("cells of the log are followed to other servers", cells=moved)
        await self._opened.close_unused()

    def _cells_followed(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self.report_bug(error)

    def _restart_required(self, settings: Settings) -> set[str]:
        """Return the listeners whose TLS files are others than those in use."""
        return {name for name, tls in _listeners_tls(settings).items() if self._tls[name] != tls}

    async def run(self, on_ready: Callable[[int, str], None]) -> None:
        """Serve until `stop`, then drain. `on_ready` gets the port and the owner's id.

        Raises:
            Exception: a bug; the process should exit and be restarted.
        """
        monitoring = asyncio.create_task(self.monitoring.run(self._not_ready))
        try:
            await self._run(on_ready)
        finally:
            monitoring.cancel()
            await asyncio.gather(monitoring, return_exceptions=True)

    async def _run(self, on_ready: Callable[[int, str], None]) -> None:
        await self._first_heartbeat()
        engine_task = asyncio.create_task(self.engine.run())
        engine_task.add_done_callback(self._engine_ended)
        scheduler = schedule(
            self.engine,
            jobs(
                self.engine,
                self._settings.recovery_settings(),
                log=self.log,
                clock=self.clock,
                observer=self.monitoring.metrics,
                spans=self._tracing or NULL_SPANS,
            ),
            on_bug=self.report_bug,
            more=self._more_jobs(),
            later=self._later_jobs(),
        )
        if self._access is not None:
            await self._access.authenticator.refresh()
            self._keep_keys()
        if self._settings.insecure:
            logger.warning("insecure = true: every caller that reaches a listener may do everything")
        port = await self._server.start(self._settings.listen.address)
        await self._server.set_serving(serving=True)
        self.admin_port = await self._admin_server.start(self._settings.admin_address())
        logger.info("listening for operators", port=self.admin_port)
        self._serving = True
        on_ready(port, self.owner)
        await self._stop.wait()
        drained_by = self.clock.monotonic() + self._settings.drain_s
        await self._drain(drained_by)
        if self._key_refresh is not None:
            self._key_refresh.cancel()
        if self._cells_moving is not None:
            self._cells_moving.cancel()
        scheduler.shutdown(wait=False)
        engine_task.cancel()
        await asyncio.gather(engine_task, return_exceptions=True)
        await self._leave()
        await self._admin_server.stop(STOP_GRACE_S)
        await self._channels.close()
        await self._opened.close()
        if self._tracing is not None:
            await self._tracing.close(max(STOP_GRACE_S, drained_by - self.clock.monotonic()))
        if self._bug is not None:
            raise self._bug

    def _reload_access(self) -> None:
        """Replace who may do what, as a whole. The keys that are known stay."""
        policy = self._settings.policy()
        if self._access is None or policy is None:
            return
        self._access.authenticator = _authenticator(policy, self._access.authenticator.sources.values())
        self.engine.limit_tenants(self._settings.tenant_limits())
        self._keep_keys()

    def _keep_keys(self) -> None:
        """Keep the keys of tokens' issuers fresh."""
        if self._key_refresh is not None:
            self._key_refresh.cancel()
        if self._access is not None:
            self._key_refresh = asyncio.create_task(self._access.authenticator.run())

    def _more_jobs(self) -> list[Job]:
        # Without a metrics port, the gauges have no reader.
        every_s = self._settings.audit.head_every_s
        return [
            self._reporting(),
            *(
                StateAuditHead(auditor, every_s=every_s, cell=cell)
                for cell, auditor in enumerate(self.auditors)
            ),
            *self._erasing(),
            *self._publishing(),
            *([self._log_gauges] if self._settings.metrics_address() else []),
        ]

    def _later_jobs(self) -> list[Job]:
        returning = ReturnMemory(return_free_memory, lambda: len(self.engine.live))
        return [returning, *([self._reconciling] if self._settings.reconcile.every_s else [])]

    def _erasing(self) -> list[Job]:
        retention_s = self._settings.log.payload_retention_s
        if retention_s is None:
            return []
        settings = self._settings.recovery_settings()
        return [
            ErasePayloads(settings, log=cell, retention_s=retention_s, cell=number)
            for number, cell in enumerate(self.log.cells)
        ]

    def _publishing(self) -> list[Job]:
        return [
            PublishOutcomes(
                self._settings.outcome_settings(),
                target,
                log=cell,
                is_draining=lambda: self.engine.draining,
                clock=self.clock,
                observer=self.monitoring.metrics,
                cell=number,
            )
            for target in self._outcome_targets()
            for number, cell in enumerate(self.log.cells)
        ]

    def _is_paused(self, participant: str) -> bool:
        dispatcher = self.engine.dispatchers.get(participant)
        return dispatcher is not None and dispatcher.paused

    def _outcome_targets(self) -> list[OutcomeTarget]:
        events = self._settings.events
        targets: list[OutcomeTarget] = []
        if events.url is not None:
            targets.append(
                OutcomeWebhook(
                    events.url.get_secret_value(),
                    source=events.source,
                    is_batched=events.batch_max > 1,
                    token_file=events.token_file,
                    ca_file=events.ca_file,
                )
            )
        if events.participant:
            targets.append(
                OutcomeParticipant(
                    events.participant,
                    topic=events.topic,
                    participants=self._channels,
                    is_paused=lambda: self._is_paused(events.participant),
                    clock=self.clock,
                )
            )
        return targets

    def _reporting(self) -> Reporting:
        return Reporting(
            self.engine,
            self._operator_log,
            clock=self.clock,
            targets=lambda: {name: one.target for name, one in self._settings.participants.items()},
            every_s=self._settings.admin.report_every_s,
            on_drain=self.stop,
        )

    def _not_ready(self) -> str:
        """Return why this worker accepts no new transactions; empty if it does."""
        if not self._serving:
            return "tcc: starting"
        if self.engine.draining:
            return "tcc: draining"
        return "" if self.engine.writer.available else "tcc: the log is unavailable"

    async def _first_heartbeat(self) -> None:
        """Wait for the log. Until it responds there is no clock and nothing to serve."""
        heartbeats = [
            Heartbeat(
                self.engine,
                self._settings.recovery_settings(),
                log=cell,
                clock=self.clock,
                observer=self.monitoring.metrics,
                cell=number,
            )
            for number, cell in enumerate(self.log.cells)
        ]
        while not self._stop.is_set():
            await asyncio.gather(*(self._beat(heartbeat) for heartbeat in heartbeats))
            if self.clock.is_set:
                return
            await asyncio.sleep(_LOG_POLL_S)

    async def _beat(self, heartbeat: Heartbeat) -> None:
        try:
            await heartbeat.run_once()
        except LogError as error:
            logger.warning("waiting for the log", error=error.explained)
            if len(self.log.cells) > 1:
                heartbeat.failed(error)

    async def _drain(self, deadline: float) -> None:
        """Finish what is in flight, until the deadline; accept nothing new."""
        await self._server.set_serving(serving=False)
        self.engine.start_draining()
        self._server.start_draining()
        # Only a drain polls. Maintaining an event for it is not worth the cost.
        while self.engine.busy and self.clock.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        self.engine.fail_waiters(Draining("this coordinator is shutting down", retry_after_s=0.05))
        await self._server.stop(STOP_GRACE_S)

    async def _leave(self) -> None:
        """Release unfinished transactions now, so that others need not wait for the lease to expire."""
        try:
            released = await self.log.transaction_release()
            await self.log.coordinator_leave()
        except LogError as error:
            logger.warning(
                "could not release transactions; they are adopted after the lease expires",
                error=error.explained,
            )
        else:
            logger.info("coordinator left", released=released)

    def _engine_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error if isinstance(error, Exception) else RuntimeError(str(error)))

    def report_bug(self, error: Exception) -> None:
        """Notify operators of a bug that did not end the process."""
        self.monitoring.metrics.anomaly(Anomaly.BUG, error=f"{type(error).__name__}: {error}")

    def _report_quarantine(self, gid: str, why: str) -> None:
        logger.error("a transaction is quarantined: its row cannot be used", gid=gid, reason=why)
        self.monitoring.metrics.anomaly(Anomaly.QUARANTINED, gid=gid, reason=why)

    def _fail(self, error: Exception) -> None:
        self._bug = self._bug or error
        self._stop.set()

    def _report_health(self, available: bool) -> None:  # noqa: FBT001 - a callback
        task = asyncio.ensure_future(self._server.set_serving(serving=available and not self.engine.draining))
        self._health.add(task)
        task.add_done_callback(self._health.discard)


def _tracing(settings: TracingSettings, owner: str) -> "Tracing | None":
    if settings.endpoint is None:
        return None
    from coordinator.observability.tracing import Tracing  # noqa: PLC0415 - memory and start-up time that only traces need

    return Tracing(
        endpoint=settings.endpoint,
        ratio=settings.ratio,
        service_name=settings.service_name,
        coordinator=owner,
    )


def _authenticator(policy: Policy, sources: Iterable[KeySource] = ()) -> Authenticator:
    return Authenticator(policy, now=time.time, monotonic=time.monotonic, sources=sources)


def _addresses(settings: Settings) -> dict[str, ParticipantAddress]:
    return {name: participant.address() for name, participant in settings.participants.items()}


def _policies(settings: Settings) -> dict[str, ParticipantPolicy]:
    return {name: participant.policy() for name, participant in settings.participants.items()}


def _listeners_tls(settings: Settings) -> dict[str, Tls | None]:
    listeners = {"listen": settings.listen.tls, "admin": settings.admin.tls}
    return {name: tls.files() if tls else None for name, tls in listeners.items()}


def within_open_files(limits: ServerLimits, others: int) -> ServerLimits:
    """Return the limits with no more connections than this process may open files, besides `others`.

    When it has no files left, it can neither accept an initiator nor reach the log or a participant.
    """
    files = raise_open_files_limit()
    room = max(_CONNECTIONS_MIN, files - others - _FILES_RESERVED)
    if limits.connections_max <= room:
        return limits
    logger.warning(
        "fewer connections than configured: raise the limit of open files", open_files=files, most=room
    )
    return structs.replace(limits, connections_max=room)


def _changed_names(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Return the names of what was added, removed or changed."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _needs_restart(before: Settings, after: Settings, restart_required: set[str]) -> list[str]:
    """Return the tables whose change requires a restart. Cells are followed without one."""
    if before.can_move_cells(after):
        before = before.model_copy(
            update={"log": before.log.model_copy(update={"servers": after.log.servers})}
        )
    return [
        name
        for name in Settings.model_fields
        if (name not in RELOADED or (name == "auth" and (before.auth is None) != (after.auth is None)))
        and (name in restart_required or getattr(before, name) != getattr(after, name))
    ]


def reloaded(source: Source) -> Settings | None:
    """Return the present configuration. If it is invalid, or locks out all callers, log why; return None."""
    try:
        settings = source.read_again().settings
        policy = settings.policy()
        if policy is None or policy.admits_any_caller(time.time()):
            return settings
        logger.error("configuration not reloaded", issue="all tokens have expired: no caller could call")
    except ConfigurationError as error:
        for issue in error.issues:
            logger.error("configuration not reloaded", issue=str(issue))  # noqa: TRY400 - no bug of ours
    return None


async def run_worker(
    settings: Settings,
    url: str,
    *,
    source: Source,
    started_with: Settings,
    share_port: bool,
    slot: int = 0,
    on_ready: Callable[[int, str], None],
) -> None:
    """Run one worker until SIGTERM or SIGINT.

    SIGHUP makes it read `source` again, whose content at the start was `started_with`. On
    RELOAD_REFUSED it counts, and alerts of, a configuration that its supervisor refused.
    """
    limit_memory_arenas()
    with background_threads():  # gRPC starts its threads with the first server or channel
        worker = Worker(settings, url, share_port=share_port, slot=slot)
    relax_garbage_collection()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    loop.add_signal_handler(signal.SIGHUP, _reload, worker, source, started_with)
    loop.add_signal_handler(RELOAD_REFUSED, worker.monitoring.metrics.anomaly, Anomaly.RELOAD_REFUSED)
    await worker.run(on_ready)


def _reload(worker: Worker, source: Source, started_with: Settings) -> None:
    settings = reloaded(source)
    if settings is None:
        worker.monitoring.metrics.anomaly(Anomaly.RELOAD_REFUSED)
        return
    try:
        worker.reload(settings, started_with)
    except OSError as error:
        logger.error("configuration not reloaded", issue=str(error))  # noqa: TRY400 - no bug of ours
        worker.monitoring.metrics.anomaly(Anomaly.RELOAD_REFUSED)


async def end_lease(places: Sequence[CellPlace], owner: str) -> None:
    """Mark this coordinator as dead in the log, so that others adopt its work at once."""
    opened = OpenLog(places, owner=owner, name="", connections=2, on_quarantine=lambda _gid, _why: None)
    try:
        await opened.log.coordinator_leave()
    except LogError as error:
        logger.warning(
            "could not end the lease of a dead worker; it expires on its own", error=error.explained
        )
    finally:
        await opened.close()
