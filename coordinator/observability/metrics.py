"""All metrics, and what each means.

The engine and the jobs update counters and histograms once a batch, as their observer.
Gauges are read from the engine when Prometheus scrapes. Gauges of the whole log
(`LogGauges`) are read by a job, every few seconds.

Each worker process has its own metrics on its own port. Sum them in Prometheus. The gauges
of the log have the same value at every worker: use `max` for them.
"""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coordinator.core.model import (
    DECISIONS,
    BranchCall,
    BranchKind,
    CallResult,
    Operation,
    OutcomeCode,
    Transaction,
    TransactionState,
)
from coordinator.core.reconciliation import FindingKind
from coordinator.engine.clock import LogClock
from coordinator.engine.dispatcher import ParticipantDispatcher
from coordinator.engine.engine import Engine
from coordinator.engine.observer import Anomaly, Observer
from coordinator.jobs.reconcile import ScanResult
from coordinator.log.backlog import COUNT_MAX
from coordinator.observability.certificates import validity
from coordinator.observability.series import Count, Counter, Histogram
from coordinator.ports.operator_log import Backlog
from coordinator.ports.participants import CallResults, StreamLoad

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SPANS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_PHASES = {operation: operation.name.lower() for operation in Operation}
_CODES = {code: code.name.lower() for code in OutcomeCode}
_KINDS = {kind: kind.name.lower() for kind in BranchKind}
_DECIDED = {state: decision.name.lower() for state, decision in DECISIONS.items()}
_ENDED = {state: state.name.lower() for state in TransactionState if state.ended}
# Each batch is compared with them, and the members of an enumeration are slow to look up.
_SUCCEEDED, _TCC, _TRYING = OutcomeCode.SUCCEEDED, BranchKind.TCC, TransactionState.TRYING
_LIVE_STATES = (TransactionState.TRYING, TransactionState.CONFIRMING, TransactionState.CANCELLING)


class Spec(NamedTuple):
    """A metric."""

    name: str
    explanation: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    # Values of the only label that are exported as 0 from the start. Prometheus sees no increase
    # in a series that appears with the value 1.
    initial: tuple[str, ...] = ()


COUNTERS = (
    Spec("tcc_transactions_begun", "Transactions that became durable here."),
    Spec("tcc_transactions_decided", "Durable decisions, by decision.", ("decision",)),
    Spec("tcc_transactions_ended", "Transactions that ended, by final state.", ("state",)),
    Spec("tcc_transactions_parked", "Transactions given back to the log until their next attempt is due."),
    Spec(
        "tcc_transactions_resumed",
        "Transactions resumed: retried (they were due) or adopted (their coordinator died).",
        ("how",),
        initial=("retried", "adopted"),
    ),
    Spec(
        "tcc_transactions_became_stuck",
        "Transactions whose phase two failed more often than attempts_before_stuck.",
        ("participant",),
    ),
    Spec("tcc_transactions_purged", "Ended transactions deleted after their retention."),
    Spec("tcc_log_write_failures", "Writes that got no answer; they are repeated."),
    Spec(
        "tcc_calls",
        "Answered branch calls; outcome: succeeded, rejected, failed, or unreachable "
        "(no connection, or no answer in time).",
        ("participant", "phase", "kind", "outcome"),
    ),
    Spec("tcc_call_retries", "Calls that had failed before.", ("participant",)),
    Spec(
        "tcc_calls_not_sent",
        "Calls that were not sent because the participant's breaker is open.",
        ("participant",),
    ),
    Spec(
        "tcc_participant_streams_broken",
        "Streams of branch calls that ended although neither side had asked for it, or before each call "
        "had its result. Such calls are repeated.",
        ("participant",),
    ),
    Spec(
        "tcc_anomalies",
        "Conditions that operators are alerted of, by kind.",
        ("kind",),
        initial=tuple(kind.name for kind in Anomaly),
    ),
    Spec(
        "tcc_webhook_alerts",
        "Alerts for the webhook: delivered, failed (after all attempts), dropped (its queue was full).",
        ("outcome",),
        initial=("delivered", "failed", "dropped"),
    ),
    Spec(
        "tcc_events_published",
        "Outcomes of transactions that a target of [events] has accepted: webhook or participant.",
        ("target",),
        initial=("webhook", "participant"),
    ),
    Spec(
        "tcc_events_failed",
        "Attempts to publish outcomes to a target that did not succeed; they are repeated.",
        ("target",),
        initial=("webhook", "participant"),
    ),
)
HISTOGRAMS = (
    Spec(
        "tcc_transaction_phase_seconds",
        "How long a phase of a transaction took, durable writes included: try until the decision, "
        "confirm or cancel until the end. One transaction of each batch is sampled.",
        ("phase",),
        _SPANS_S,
    ),
    Spec(
        "tcc_log_write_seconds",
        "How long one durable write of a batch took: begin or change.",
        ("write",),
        _SPANS_S,
    ),
    Spec("tcc_log_batch_size", "Transactions in one durable write.", ("write",), _SIZES),
    Spec(
        "tcc_call_seconds",
        "From sending a batch of calls to an answer, once for each message of answers.",
        ("participant", "phase"),
        _SPANS_S,
    ),
    Spec("tcc_call_batch_size", "Branch calls in one batch.", ("participant",), _SIZES),
)
# Most counts are capped, for each participant separately, so that they stay cheap.
_CAPPED = f"at most {COUNT_MAX:,} are counted, for each participant separately"
GAUGES = (
    Spec("tcc_live_transactions", "Transactions in this worker's memory."),
    Spec("tcc_live_transactions_max", "limits.live_max; new work is refused below it."),
    Spec("tcc_log_queue_length", "Writes that wait for the log."),
    Spec("tcc_watched_transactions", "Transactions of other coordinators that requests wait for here."),
    Spec("tcc_log_available", "1 while the log answers."),
    Spec("tcc_draining", "1 while this worker accepts no new transactions."),
    Spec("tcc_insecure", "1 if insecure = true lets strangers do everything."),
    Spec(
        "tcc_certificate_expires_seconds",
        "Seconds until the first certificate of a file expires; NaN: it cannot be read.",
        ("file",),
    ),
    Spec(
        "tcc_certificate_lifetime_seconds",
        "How long that certificate is valid in total; NaN: it cannot be read.",
        ("file",),
    ),
    Spec("tcc_lease_lag_seconds", "Time since the lease was last renewed."),
    Spec("tcc_purge_lag_seconds", "Time since a purge left nothing to delete, or since the start."),
    Spec(
        "tcc_events_lag_seconds",
        "How far back the outcomes of transactions are published to a target of [events], in the order of "
        "their creation. Exported by the coordinators that publish them.",
        ("target",),
    ),
    Spec("tcc_participant_queue_length", "Calls that are queued or in flight.", ("participant",)),
    Spec("tcc_participant_live_branches", "Branches of live transactions.", ("participant",)),
    Spec(
        "tcc_participant_streams",
        "Open streams of branch calls: one to each replica, for seconds two. 0: calls go as RPCs.",
        ("participant",),
    ),
    Spec("tcc_participant_stream_calls", "Branch calls in flight on these streams.", ("participant",)),
    Spec("tcc_client_streams", "Open streams of initiators with the SDK."),
    Spec("tcc_client_stream_transactions", "Transactions in flight on these streams."),
    Spec("tcc_breaker_state", "0: closed, 1: half-open, 2: open.", ("participant",)),
    Spec(
        "tcc_unfinished_transactions",
        f"Transactions that have not ended, in the whole log ({_CAPPED}).",
        ("state",),
    ),
    Spec(
        "tcc_waiting_transactions",
        f"Of these: parked, by the participant that they wait for ({_CAPPED}).",
        ("participant",),
    ),
    Spec("tcc_parked_transactions", f"Of these: waiting for their next attempt ({_CAPPED})."),
    Spec("tcc_stuck_transactions", f"Of these: stuck ({_CAPPED})."),
    Spec("tcc_held_transactions", f"Of these: held by an operator ({_CAPPED})."),
    Spec("tcc_oldest_unfinished_seconds", "Age of the oldest of these."),
    Spec("tcc_log_gauges_age_seconds", "Time since the log was queried for these."),
    Spec(
        "tcc_reconcile_findings",
        "Barrier rows of a participant that do not agree with the log, by kind: orphan, leak, mixed. "
        "Exported by the one coordinator that compares.",
        ("participant", "kind"),
    ),
    Spec("tcc_reconcile_age_seconds", "Time since all of its barrier rows were compared.", ("participant",)),
)
_GAUGES = {spec.name: spec for spec in GAUGES}


def _counter(spec: Spec, registry: CollectorRegistry) -> Counter:
    counter = Counter(spec.name, spec.explanation, spec.labels)
    registry.register(counter)
    for value in spec.initial:
        counter.labels(value)
    return counter


def _histogram(spec: Spec, registry: CollectorRegistry) -> Histogram:
    histogram = Histogram(spec.name, spec.explanation, spec.labels, spec.buckets)
    registry.register(histogram)
    return histogram


class Metrics(Observer):
    """The counters and histograms of one worker. Prometheus reads `text`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # Monotonic moments; None: not yet. `purged_at`: of the last purge that left nothing, or of the start.
        self.heartbeat_at: float | None = None
        self.purged_at: float | None = None
        # By target and cell: up to which time of creation outcomes were read.
        self.outcomes_reached: dict[tuple[str, int], float] = {}
        self.insecure = False
        self.certificate_files: Sequence[Path] = ()
        # Receives each anomaly.
        self.alert: Callable[[Anomaly, Mapping[str, object]], None] = lambda *_: None
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        # By name, as are the histograms.
        self.counters = {spec.name: _counter(spec, self.registry) for spec in COUNTERS}
        self.histograms = {spec.name: _histogram(spec, self.registry) for spec in HISTOGRAMS}
        # By name and labels. To look one up in the registry costs more than to count.
        self._counter = cache(lambda name, *labels: self.counters[name].labels(*labels))
        self._histogram = cache(lambda name, *labels: self.histograms[name].labels(*labels))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def written(self, write: str, count: int, span_s: float) -> None:
        self._histogram("tcc_log_write_seconds", write).observe(span_s)
        self._histogram("tcc_log_batch_size", write).observe(count)
        if write == "begin":
            self._counter("tcc_transactions_begun").inc(count)

    def write_failed(self) -> None:
        self._counter("tcc_log_write_failures").inc()

    def changed(self, batch: Sequence[Transaction]) -> None:
        # The states that were saved. The present ones may be later.
        states = [tx.saving_state for tx in batch if tx.saving_state is not tx.saved_state]
        # The decision is at once the end if no branch needs a call for it.
        at_once = [tx.saving_state for tx in batch if tx.saved_state is _TRYING and tx.state.ended]
        if parked := len(batch) - [tx.next_attempt_at for tx in batch].count(0.0):
            self._counter("tcc_transactions_parked").inc(parked)
        for state, decision in _DECIDED.items():
            if count := (at_once if state.ended else states).count(state):
                self._counter("tcc_transactions_decided", decision).inc(count)
        for ended, name in _ENDED.items():
            if count := states.count(ended):
                self._counter("tcc_transactions_ended", name).inc(count)

    def phase_ended(self, phase: str, span_s: float) -> None:
        self._histogram("tcc_transaction_phase_seconds", phase).observe(span_s)

    def sent(self, participant: str, calls: Sequence[BranchCall]) -> None:
        self._histogram("tcc_call_batch_size", participant).observe(len(calls))
        if retries := len(calls) - [call.attempt for call in calls].count(0):
            self._counter("tcc_call_retries", participant).inc(retries)

    def answered(self, participant: str, answers: CallResults, span_s: float) -> None:
        if len(answers) == 1:  # as it is for a lone transaction: without lists
            ((call, answer),) = answers
            self._histogram("tcc_call_seconds", participant, _PHASES[call.operation]).observe(span_s)
            self._call_counter(participant, call, answer).inc()
            return
        operations = [call.operation for call, _ in answers]
        all_succeeded = [answer.code for _, answer in answers].count(_SUCCEEDED) == len(answers)
        all_tcc = [call.spec.kind for call, _ in answers].count(_TCC) == len(answers)
        for operation, phase in _PHASES.items():
            count = operations.count(operation)
            if not count:
                continue
            self._histogram("tcc_call_seconds", participant, phase).observe(span_s)
            if all_succeeded and all_tcc:
                self._counter("tcc_calls", participant, phase, "tcc", "succeeded").inc(count)
                continue
            for call, answer in answers:
                if call.operation is operation:
                    self._call_counter(participant, call, answer).inc()

    def _call_counter(self, participant: str, call: BranchCall, answer: CallResult) -> Count:
        phase, kind = _PHASES[call.operation], _KINDS[call.spec.kind]
        return self._counter("tcc_calls", participant, phase, kind, _outcome(answer))

    def not_sent(self, participant: str, count: int) -> None:
        self._counter("tcc_calls_not_sent", participant).inc(count)

    def stream_broken(self, participant: str) -> None:
        """Count a stream of branch calls that broke."""
        self._counter("tcc_participant_streams_broken", participant).inc()

    def resumed(self, how: str, count: int) -> None:
        self._counter("tcc_transactions_resumed", how).inc(count)

    def heartbeat(self) -> None:
        self.heartbeat_at = self._monotonic()
        if self.purged_at is None:
            # The lag starts here, so that a purge that never succeeds is visible, too.
            self.purged_at = self.heartbeat_at

    def purged(self, count: int, *, finished: bool) -> None:
        self._counter("tcc_transactions_purged").inc(count)
        if finished:
            self.purged_at = self._monotonic()

    def outcomes_published(self, target: str, count: int) -> None:
        self._counter("tcc_events_published", target).inc(count)

    def outcomes_failed(self, target: str) -> None:
        self._counter("tcc_events_failed", target).inc()

    def outcomes_read(self, target: str, cell: int, reached: float | None) -> None:
        if reached is None:
            self.outcomes_reached.pop((target, cell), None)
        else:
            self.outcomes_reached[target, cell] = reached

    def anomaly(self, kind: Anomaly, **facts: object) -> None:
        self._counter("tcc_anomalies", kind.name).inc()
        if kind is Anomaly.STUCK:
            self._counter("tcc_transactions_became_stuck", facts["participant"]).inc()
        self.alert(kind, facts)

    def alerted(self, outcome: str, count: int) -> None:
        """Count the alerts that were sent to the webhook, by outcome."""
        self._counter("tcc_webhook_alerts", outcome).inc(count)


def _outcome(answer: CallResult) -> str:
    return "unreachable" if answer.unreachable else _CODES[answer.code]


class LogGauges:
    """The job that reads the gauges of the whole log, and the values that it read last.

    After each query it pauses for many times as long as the query took.
    """

    name = "log gauges"
    every_s = 5.0
    _PAUSE_FACTOR = 20

    def __init__(self, ask: Callable[[], Awaitable[Backlog]], monotonic: Callable[[], float]) -> None:
        self._ask = ask
        self._monotonic = monotonic
        self._ask_at = 0.0
        self.reading: Backlog | None = None
        self.read_at = 0.0

    async def run_once(self) -> int:
        """Query the log, unless it is too soon. Raises LogUnavailable."""
        began_at = self._monotonic()
        if began_at < self._ask_at:
            return 0
        self.reading = await self._ask()
        self.read_at = self._monotonic()
        self._ask_at = self.read_at + self._PAUSE_FACTOR * (self.read_at - began_at)
        return 1


class StreamLoads(NamedTuple):
    """The open streams of a worker."""

    participants: Mapping[str, StreamLoad] = {}
    clients: StreamLoad = StreamLoad(streams=0, in_flight=0)


class Gauges(Collector):
    """Reads engine, metrics and log gauges at each scrape."""

    def __init__(
        self,
        engine: Engine,
        clock: LogClock,
        metrics: Metrics,
        log: LogGauges | None,
        scans: Callable[[], Mapping[str, ScanResult]] = dict,
        *,
        streams: Callable[[], StreamLoads] = StreamLoads,
    ) -> None:
        """Collect gauges; `scans`: the latest comparison of each participant with the log."""
        self._streams = streams
        self._engine = engine
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._scans = scans

    def describe(self) -> Iterator[Metric]:
        """Return nothing: before the first heartbeat the clock has no time."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        yield from self._of_worker()
        yield from self._of_participants()
        yield from self._of_streams(self._streams())
        if self._log is not None and self._log.reading is not None:
            yield from self._of_log(self._log.reading, self._log.read_at)
        yield from self._of_reconciliation()

    def _of_worker(self) -> Iterator[Metric]:
        engine, metrics = self._engine, self._metrics
        now = self._clock.monotonic()
        yield _gauge("tcc_live_transactions", len(engine.live))
        yield _gauge("tcc_live_transactions_max", engine.limits.live_max)
        yield _gauge("tcc_log_queue_length", engine.writer.backlog)
        yield _gauge("tcc_watched_transactions", len(engine.watched))
        yield _gauge("tcc_log_available", int(engine.writer.available))
        yield _gauge("tcc_draining", int(engine.draining))
        yield _gauge("tcc_insecure", int(metrics.insecure))
        yield from self._of_certificates()
        if metrics.heartbeat_at is not None:
            yield _gauge("tcc_lease_lag_seconds", now - metrics.heartbeat_at)
        if metrics.purged_at is not None:
            yield _gauge("tcc_purge_lag_seconds", now - metrics.purged_at)
        yield from self._of_events()

    def _of_events(self) -> Iterator[Metric]:
        lag = _labelled("tcc_events_lag_seconds")
        reached = self._metrics.outcomes_reached
        for target in sorted({target for target, _ in reached}):
            earliest = min(moment for (name, _), moment in reached.items() if name == target)
            lag.add_metric([target], self._clock.now() - earliest)
        yield lag

    def _of_certificates(self) -> Iterator[Metric]:
        expires = _labelled("tcc_certificate_expires_seconds")
        lifetime = _labelled("tcc_certificate_lifetime_seconds")
        for file in self._metrics.certificate_files:
            valid = validity(file, time.time())
            expires.add_metric([str(file)], valid.left_s)
            lifetime.add_metric([str(file)], valid.lifetime_s)
        yield from (expires, lifetime)

    def _of_participants(self) -> Iterator[Metric]:
        backlog = _labelled("tcc_participant_queue_length")
        live = _labelled("tcc_participant_live_branches")
        breaker = _labelled("tcc_breaker_state")
        for name, dispatcher in self._engine.dispatchers.items():
            backlog.add_metric([name], dispatcher.backlog)
            live.add_metric([name], dispatcher.live)
            breaker.add_metric([name], _breaker_state(dispatcher, self._clock))
        yield from (backlog, live, breaker)

    def _of_streams(self, loads: StreamLoads) -> Iterator[Metric]:
        streams, calls = _labelled("tcc_participant_streams"), _labelled("tcc_participant_stream_calls")
        for name, load in loads.participants.items():
            streams.add_metric([name], load.streams)
            calls.add_metric([name], load.in_flight)
        yield from (streams, calls)
        yield _gauge("tcc_client_streams", loads.clients.streams)
        yield _gauge("tcc_client_stream_transactions", loads.clients.in_flight)

    def _of_log(self, reading: Backlog, read_at: float) -> Iterator[Metric]:
        states = _labelled("tcc_unfinished_transactions")
        for state in _LIVE_STATES:
            states.add_metric([state.name.lower()], reading.by_state.get(state, 0))
        waiting = _labelled("tcc_waiting_transactions")
        for name, count in reading.waiting_on.items():
            waiting.add_metric([name], count)
        yield from (states, waiting)
        yield _gauge("tcc_parked_transactions", reading.parked)
        yield _gauge("tcc_stuck_transactions", reading.stuck)
        yield _gauge("tcc_held_transactions", reading.held)
        yield _gauge("tcc_oldest_unfinished_seconds", _oldest_age_s(reading))
        yield _gauge("tcc_log_gauges_age_seconds", self._clock.monotonic() - read_at)

    def _of_reconciliation(self) -> Iterator[Metric]:
        findings, age = _labelled("tcc_reconcile_findings"), _labelled("tcc_reconcile_age_seconds")
        now = self._clock.monotonic()
        for participant, scan in self._scans().items():
            for kind in FindingKind:
                findings.add_metric([participant, kind.name.lower()], scan.findings.get(kind, 0))
            age.add_metric([participant], now - scan.at)
        yield from (findings, age)


def _oldest_age_s(reading: Backlog) -> float:
    return 0.0 if reading.oldest_created_at is None else max(0.0, reading.at - reading.oldest_created_at)


def _gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, _GAUGES[name].explanation, value=value)


def _labelled(name: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, _GAUGES[name].explanation, labels=_GAUGES[name].labels)


def _breaker_state(dispatcher: ParticipantDispatcher, clock: LogClock) -> int:
    if dispatcher.breaker.closed:
        return 0
    return 1 if dispatcher.breaker.probing or dispatcher.breaker.allows(clock.now()) else 2
