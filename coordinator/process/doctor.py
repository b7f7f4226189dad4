"""`tccd doctor`: looks at everything that a coordinator needs, and says what to mend.

It changes nothing and may run beside a coordinator. Each check is a function that
returns findings; a finding that is no problem needs no remedy.
"""

import http.client
import secrets
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from queue import Empty, SimpleQueue

import grpc
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from msgspec import Struct

from coordinator.api.operator.server import SERVICE as ADMIN_SERVICE
from coordinator.api.server import SERVICE
from coordinator.config.settings import ParticipantSettings, Settings
from coordinator.core.errors import LogUnavailable
from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.log.diagnosis import LogFacts, examine
from coordinator.log.migration import LogUrlError
from coordinator.participant_client.channel import open_sync_channel
from coordinator.process.supervisor import DATABASE

_TIMEOUT_S = 5.0
# PostgreSQL versions that the tests run on, as server_version_num says them.
_OLDEST_VERSION = 140_000
# Only people compare clocks; deadlines and leases go by the database's.
_CLOCK_AHEAD_MAX_S = 1.0
_ASK_ITS_LOG = "look at the participant's own log"
_WHERE_TO_LOOK = (
    "is PostgreSQL running (its own log says why not: a full disk?), does [log] url say the right "
    "host, port, database and user, and does pg_hba.conf let this machine in?"
)


class CheckStatus(Enum):
    """OK, WARNING: it works, but look at it; PROBLEM: it does not work, or is not safe."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class CheckResult(Struct, frozen=True, kw_only=True):
    """What one check came to."""

    check: str
    status: CheckStatus
    message: str
    # What to do about it; empty where nothing is to be done.
    remedy: str = ""


def _ok(check: str, message: str) -> CheckResult:
    return CheckResult(check=check, status=CheckStatus.OK, message=message)


def _warning(check: str, message: str, remedy: str) -> CheckResult:
    return CheckResult(check=check, status=CheckStatus.WARNING, message=message, remedy=remedy)


def _problem(check: str, message: str, remedy: str) -> CheckResult:
    return CheckResult(check=check, status=CheckStatus.PROBLEM, message=message, remedy=remedy)


def diagnose(settings: Settings) -> Iterator[CheckResult]:
    """All checks, one after the other; each takes a few seconds at most."""
    if settings.log.url is None:
        yield from _own_log(settings.log.data_dir)
    else:
        yield from _log(settings.log.url.get_secret_value(), _WHERE_TO_LOOK)
    yield from _ports(settings)
    if settings.tracing.endpoint is not None:
        yield _collector(settings.tracing.endpoint)
    if not settings.participants:
        yield _warning("participants", "none is configured", "add a table [participants.NAME] for each")
    for name, participant in settings.participants.items():
        yield _participant(name, participant)


def to_text(findings: Sequence[CheckResult]) -> str:
    """One line a finding, and one for what to do about it."""
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{finding.status.value:<8} {finding.check}: {finding.message}")
        if finding.remedy:
            lines.append(f"{'':<8} -> {finding.remedy}")
    return "\n".join(lines)


def to_json(findings: Sequence[CheckResult]) -> str:
    """Return a JSON array of objects with the fields of `CheckResult`."""
    return msgspec.json.encode(findings).decode()


# --- the log ------------------------------------------------------------------


def _own_log(data_dir: Path) -> Iterator[CheckResult]:
    """Check the PostgreSQL that `serve` starts; if it does not run, check only its directory."""
    server = EmbeddedPostgres(data_dir)
    try:
        is_running = server.is_running()
    except OSError as error:
        yield _problem(
            "log",
            f"no [log] url, and {error.filename} cannot be looked at: {error.strerror}",
            "run tccd doctor as the user of tccd",
        )
        return
    if not is_running:
        yield _data_dir(data_dir)
        return
    yield _ok("log", f"no [log] url: a tccd runs, with a PostgreSQL of its own in {data_dir}")
    yield from _log(
        server.url(DATABASE),
        f"{data_dir}/postgres.log says why (a full disk?); mend that, and start the tccd anew",
    )


def _data_dir(data_dir: Path) -> CheckResult:
    bind_address = next(path for path in (data_dir.absolute(), *data_dir.absolute().parents) if path.exists())
    probe = bind_address / f".tccd-doctor-{secrets.token_hex(8)}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return _problem(
            "log",
            f"no [log] url, and {bind_address} cannot be written: {error.strerror}",
            "let the user of tccd write [log] data_dir, or give a [log] url",
        )
    return _ok(
        "log",
        f"no [log] url: serve runs its own PostgreSQL in {data_dir}; none runs there now, so that there is "
        "no more to look at",
    )


def _log(url: str, where_to_look: str) -> Iterator[CheckResult]:
    try:
        facts = examine(url)
    except LogUrlError as error:
        yield _problem("log", str(error), "mend [log] url, or grant its user what is denied")
        return
    except LogUnavailable as error:
        yield _problem("log", f"the database cannot be reached: {error.message}", where_to_look)
        return
    yield _version(facts)
    yield _writable(facts)
    yield _migrations(facts)
    yield from _durability(facts)
    yield _clock(facts)


def _version(facts: LogFacts) -> CheckResult:
    version = facts.settings.get("server_version", "unknown")
    if int(facts.settings.get("server_version_num", "0")) < _OLDEST_VERSION:
        return _warning("version", f"the database is version {version}", "use PostgreSQL 14 or newer")
    return _ok("version", f"the database answers; it is version {version}")


def _writable(facts: LogFacts) -> CheckResult:
    if facts.read_only:
        return _problem(
            "writable",
            "the database is read-only: a standby, or default_transaction_read_only is on",
            "let [log] url name the primary (target_session_attrs=read-write finds it)",
        )
    return _ok("writable", "the database takes writes")


def _migrations(facts: LogFacts) -> CheckResult:
    applied = ", ".join(sorted(facts.applied)) or "none"
    if facts.applied == facts.wanted:
        return _ok("migrations", f"at {applied}, as this version wants")
    return _problem(
        "migrations",
        f"at {applied}, but this version wants {', '.join(sorted(facts.wanted))}",
        "run tccd migrate (serve does it, too); if the database is newer, run the newer tccd everywhere",
    )


def _durability(facts: LogFacts) -> Iterator[CheckResult]:
    lose = "a crash of the database's machine can lose acknowledged transactions"
    for name in ("fsync", "full_page_writes"):
        if facts.settings.get(name) == "off":
            yield _problem(
                name, f"{name} is off: {lose}", f"set {name} = on in postgresql.conf, and reload it"
            )
        else:
            yield _ok(name, f"{name} is {facts.settings.get(name, 'not a setting of this server')}")
    value = facts.settings.get("synchronous_commit", "on")
    if value in {"off", "local"}:
        yield _warning(
            "synchronous_commit",
            f"synchronous_commit is {value} by default; tccd sets it on for its own connections",
            "set synchronous_commit = on, so that nothing depends on that",
        )
    else:
        yield _ok("synchronous_commit", f"synchronous_commit is {value}")


def _clock(facts: LogFacts) -> CheckResult:
    ahead_s, error_s = facts.clock_ahead_s, facts.clock_error_s
    message = f"this machine's clock is {ahead_s:+.3f} s from the database's (give or take {error_s:.3f} s)"
    if abs(ahead_s) - error_s > _CLOCK_AHEAD_MAX_S:
        return _warning(
            "clock", message, "run NTP on both; tccd goes by the database's clock, but people read this one's"
        )
    return _ok("clock", message)


# --- ports --------------------------------------------------------------------


def _ports(settings: Settings) -> Iterator[CheckResult]:
    """Each is free, or a coordinator's already."""
    listen, admin = settings.listen, settings.admin
    yield _port("listen", listen.address, lambda at: listen.tls is None and _serves(at, SERVICE))
    yield _port(
        "admin.listen", settings.admin_address(), lambda at: admin.tls is None and _serves(at, ADMIN_SERVICE)
    )
    if settings.metrics_address():
        for slot in range(settings.workers):
            host, port = settings.metrics.bind_address(slot)
            yield _port("metrics.listen", f"{host}:{port}", _has_health_page)


def _port(check: str, address: str, is_ours: Callable[[str], bool]) -> CheckResult:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            reason = error.strerror
        else:
            return _ok(check, f"{address} is free")
    if is_ours(_reachable(host, port)):
        return _ok(check, f"{address} is in use, by a coordinator")
    return _problem(
        check,
        f"{address} cannot be had: {reason}",
        f"stop whoever has it (ss -ltnp says who), or change {check} in the configuration; where it has TLS "
        "it may be a coordinator that runs already",
    )


def _has_health_page(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/healthz", timeout=_TIMEOUT_S) as response:
            page: bytes = response.read(64)
    except (OSError, http.client.HTTPException):
        return False
    return page.startswith(b"tcc:")


def _reachable(host: str, port: str) -> str:
    """Where to find who listens at every address."""
    anywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - it is looked for, not bound
    return f"{anywhere.get(host, host)}:{port}"


def _serves(address: str, service: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            _health(channel, service)
        except grpc.RpcError:
            return False
        return True


# --- traces -------------------------------------------------------------------


def _collector(endpoint: str) -> CheckResult:
    """Only whether anybody listens: what a collector takes, it says when spans come."""
    host, _, port = endpoint.partition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S).close()
    except OSError as error:
        return _warning(
            "tracing.endpoint",
            f"{endpoint} cannot be reached: {error.strerror or error}",
            "start the collector, or mend [tracing] endpoint; until then spans are lost, and nothing else",
        )
    return _ok("tracing.endpoint", f"somebody listens at {endpoint}")


# --- participants ---------------------------------------------------------------


def _participant(name: str, participant: ParticipantSettings) -> CheckResult:
    check = f"participant {name}"
    status = health_pb2.HealthCheckResponse.ServingStatus
    with open_sync_channel(participant.address()) as channel:
        if not _connects(channel):
            return _problem(
                check,
                f"{participant.target} cannot be reached",
                "is it running, does its name resolve here, does a firewall stand between, and do both sides "
                "agree on TLS?",
            )
        try:
            answer = _health(channel, "")
        except grpc.RpcError as error:
            code = error.code()
            if code is grpc.StatusCode.UNIMPLEMENTED:
                return _ok(check, f"{participant.target} answers; it has no health service to ask")
            return _problem(check, f"{participant.target}: {code.name}", _ASK_ITS_LOG)
    if answer != status.SERVING:
        message = f"{participant.target} says that it is {status.Name(answer)}"
        return _problem(check, message, _ASK_ITS_LOG)
    return _ok(check, f"{participant.target} is SERVING")


def _connects(channel: grpc.Channel) -> bool:
    """Whether somebody is there. Who refuses, at every address there is, is not asked again."""
    states = SimpleQueue[grpc.ChannelConnectivity]()
    channel.subscribe(states.put, try_to_connect=True)
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            state = states.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            return False
        if state is grpc.ChannelConnectivity.READY:
            return True
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            return False


def _health(channel: grpc.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    answer: int = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_TIMEOUT_S).status
    return answer
