"""`tccd doctor`: check everything that a coordinator needs, and explain how to fix problems.

It changes nothing and may run beside a coordinator. Each check is a function that
returns results. A result without a problem has no remedy.
"""

import http.client
import os
import secrets
import socket
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from coordinator.api.operator.server import SERVICE as ADMIN_SERVICE
from coordinator.api.server import SERVICE
from coordinator.config.settings import ListenTlsSettings, Settings
from coordinator.core.errors import LogUnavailable
from coordinator.embedded_postgres.server import INSTALL, EmbeddedPostgres, is_installed
from coordinator.log.diagnosis import LogFacts, examine, why_unusable
from coordinator.log.migration import CellPlace
from coordinator.log.requirements import LogUrlError
from coordinator.log.schema import SCHEMA, cell_schema
from coordinator.process.checks import (
    TIMEOUT_S,
    CheckResult,
    health,
    ok,
    problem,
    served_certificate,
    warning,
)
from coordinator.process.log_cells import cell_places
from coordinator.process.log_checks import encryption, replication
from coordinator.process.participant_checks import check_participant
from coordinator.process.supervisor import DATABASE
from tcc._internal.channel_options import operator_options

# PostgreSQL versions that the tests run on, as in server_version_num.
_OLDEST_VERSION = 140_000
# Only people compare clocks; deadlines and leases use the database's.
_CLOCK_AHEAD_MAX_S = 1.0
# A certificate that ends sooner should be renewed.
_EXPIRY_WARNING = timedelta(days=14)
_PROXY_VARIABLES = {"grpc_proxy", "https_proxy", "http_proxy"}
# Our own ports are asked directly, whatever proxy is configured.
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_WHERE_TO_LOOK = (
    "is PostgreSQL running (if not, its own log has the cause: a full disk?), does [log] url have the right "
    "host, port, database and user, and does pg_hba.conf allow this machine?"
)


_DATE = "%Y-%m-%d"


def diagnose(settings: Settings) -> Iterator[CheckResult]:
    """Yield the results of all checks, one after the other. Each takes a few seconds at most."""
    if settings.log.is_embedded:
        yield from _own_log(settings.log.data_dir)
    else:
        yield from _cells(cell_places(settings.log, settings.log.shared_url()))
    yield from _ports(settings)
    yield from _certificates(settings)
    if settings.insecure:
        yield warning(
            "insecure",
            "every caller that reaches a listener may do everything",
            "configure [auth], with clients and operators, and remove insecure = true",
        )
    if settings.tracing.endpoint is not None:
        yield _collector(settings.tracing.endpoint)
    if settings.events.url is not None:
        yield _webhook(settings.events.url.get_secret_value())
    yield from _http_proxy(settings)
    if not settings.participants:
        yield warning(
            "participants", "no participant is configured", "add a table [participants.NAME] for each one"
        )
    for name, participant in settings.participants.items():
        yield from check_participant(name, participant, settings.participants.keys() - {name})


def to_text(findings: Sequence[CheckResult]) -> str:
    """Return one line per result, and one for its remedy."""
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
    """Check the PostgreSQL that `serve` starts. If it does not run, check only its directory."""
    if not is_installed():
        yield problem("log", "[log] url is not set, and the embedded PostgreSQL is not installed", INSTALL)
        return
    server = EmbeddedPostgres(data_dir)
    try:
        is_running = server.is_running()
    except OSError as error:
        yield problem(
            "log",
            f"[log] url is not set, and {error.filename} cannot be read: {error.strerror}",
            "run tccd doctor as the same user as tccd",
        )
        return
    if not is_running:
        yield _data_dir(data_dir)
        return
    yield ok("log", f"[log] url is not set: tccd is running, with its own PostgreSQL in {data_dir}")
    yield from _log(
        server.url(DATABASE),
        f"{data_dir}/postgres.log has the cause (a full disk?); fix it, and restart tccd",
    )


def _data_dir(data_dir: Path) -> CheckResult:
    bind_address = next(path for path in (data_dir.absolute(), *data_dir.absolute().parents) if path.exists())
    probe = bind_address / f".tccd-doctor-{secrets.token_hex(8)}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return problem(
            "log",
            f"[log] url is not set, and {bind_address} is not writable: {error.strerror}",
            "make [log] data_dir writable for the user of tccd, or set [log] url",
        )
    return ok(
        "log",
        f"[log] url is not set: tccd serve runs its own PostgreSQL in {data_dir}. It is not running now, "
        "so there is nothing else to check",
    )


def _cells(places: Sequence[CellPlace]) -> Iterator[CheckResult]:
    """Check each server of the log by the first of its cells, and that each cell is where it should be."""
    first = {place.url: place for place in reversed(places)}
    for place in sorted(first.values(), key=lambda place: place.number):
        yield from _log(place.url, _WHERE_TO_LOOK, cell_schema(place.number))
    if len(places) == 1:
        return
    wrong = why_unusable(places)
    for number, why in wrong.items():
        yield problem(f"cell {number}", why, "run tccd cells list; see docs/CELLS.md")
    if not wrong:
        yield ok("cells", f"{len(places)} cells at {len(first)} servers, each where it should be")


def _log(url: str, where_to_look: str, schema: str = SCHEMA) -> Iterator[CheckResult]:
    try:
        facts = examine(url, schema)
    except LogUrlError as error:
        yield problem("log", str(error), "fix [log] url, or grant its user the missing privileges")
        return
    except LogUnavailable as error:
        yield problem("log", f"the database cannot be reached: {error.explained}", where_to_look)
        return
    yield _version(facts)
    yield _writable(facts)
    yield _migrations(facts)
    yield from _durability(facts)
    yield from replication(facts)
    yield from encryption(url)
    yield _clock(facts)


def _version(facts: LogFacts) -> CheckResult:
    version = facts.settings.get("server_version", "unknown")
    if int(facts.settings.get("server_version_num", "0")) < _OLDEST_VERSION:
        return warning("version", f"the database is version {version}", "use PostgreSQL 14 or newer")
    return ok("version", f"the database responds; its version is {version}")


def _writable(facts: LogFacts) -> CheckResult:
    if facts.read_only:
        return problem(
            "writable",
            "the database is read-only: a standby, or default_transaction_read_only is on",
            "point [log] url to the primary (target_session_attrs=read-write finds it)",
        )
    return ok("writable", "the database accepts writes")


def _migrations(facts: LogFacts) -> CheckResult:
    applied = ", ".join(sorted(facts.applied)) or "none"
    if facts.applied == facts.wanted:
        return ok("migrations", f"at {applied}, as this version requires")
    if facts.is_newer:
        return ok("migrations", f"at {applied}, of a newer version, beside which this one can run")
    return problem(
        "migrations",
        f"at {applied}, but this version requires {', '.join(sorted(facts.wanted))}",
        "run tccd migrate (tccd serve does it, too); if the database is newer, use the newer tccd",
    )


def _durability(facts: LogFacts) -> Iterator[CheckResult]:
    lose = "if the database's machine crashes, acknowledged transactions can be lost"
    for name in ("fsync", "full_page_writes"):
        if facts.settings.get(name) == "off":
            yield problem(
                name, f"{name} is off: {lose}", f"set {name} = on in postgresql.conf, and reload PostgreSQL"
            )
        else:
            yield ok(name, f"{name} is {facts.settings.get(name, 'not a setting of this server')}")
    value = facts.settings.get("synchronous_commit", "on")
    if value in {"off", "local"}:
        yield warning(
            "synchronous_commit",
            f"synchronous_commit is {value} by default; tccd sets it to on for its own connections",
            "set synchronous_commit = on, so that it does not depend on tccd",
        )
    else:
        yield ok("synchronous_commit", f"synchronous_commit is {value}")


def _clock(facts: LogFacts) -> CheckResult:
    ahead_s, error_s = facts.clock_ahead_s, facts.clock_error_s
    message = f"this machine's clock differs from the database's by {ahead_s:+.3f} s (± {error_s:.3f} s)"
    if abs(ahead_s) - error_s > _CLOCK_AHEAD_MAX_S:
        return warning(
            "clock", message, "run NTP on both; tccd uses the database's clock, but logs show this one's"
        )
    return ok("clock", message)


# --- ports --------------------------------------------------------------------


def _ports(settings: Settings) -> Iterator[CheckResult]:
    """Check that each port is free, or in use by a coordinator."""
    listen, admin = settings.listen, settings.admin
    yield _port("listen", listen.address, lambda at: _is_ours(at, listen.tls, SERVICE))
    yield _port("admin.listen", settings.admin_address(), lambda at: _is_ours(at, admin.tls, ADMIN_SERVICE))
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
            return ok(check, f"{address} is free")
    if is_ours(_reachable(host, port)):
        return ok(check, f"{address} is in use by a coordinator")
    return problem(
        check,
        f"cannot listen on {address}: {reason}",
        f"stop its process (ss -ltnp shows it), or change {check} in the configuration; if it is a "
        "coordinator, it does not serve the certificate of this configuration",
    )


def _is_ours(address: str, tls: ListenTlsSettings | None, service: str) -> bool:
    """Return whether a coordinator with this configuration has the port.

    With TLS its certificate decides: it may require client certificates that we do not have.
    """
    if tls is None:
        return _serves(address, service)
    try:
        served = served_certificate(address)
    except OSError:
        return False
    return served in {one.public_bytes(Encoding.DER) for one in _certificates_in(tls.certificate_file)}


def _has_health_page(address: str) -> bool:
    try:
        with _WITHOUT_PROXY.open(f"http://{address}/healthz", timeout=TIMEOUT_S) as response:
            page: bytes = response.read(64)
    except (OSError, http.client.HTTPException):
        return False
    return page.startswith(b"tcc:")


def _reachable(host: str, port: str) -> str:
    """Return where to reach a process that listens on every address."""
    anywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - it is looked for, not bound
    return f"{anywhere.get(host, host)}:{port}"


def _serves(address: str, service: str) -> bool:
    with grpc.insecure_channel(address, options=operator_options(keepalive_s=TIMEOUT_S)) as channel:
        try:
            health(channel, service)
        except grpc.RpcError:
            return False
        return True


# --- certificates ---------------------------------------------------------------


def _certificates(settings: Settings) -> Iterator[CheckResult]:
    """Check when our own certificates, and those of the authorities that we trust, expire."""
    now = datetime.now(UTC)
    tables = {"listen.tls": settings.listen.tls, "admin.tls": settings.admin.tls}
    for name, listener in tables.items():
        if listener is not None:
            yield _own_certificate(f"{name}.certificate_file", listener.certificate_file, now)
            if listener.client_ca_file is not None:
                yield _authorities(f"{name}.client_ca_file", listener.client_ca_file, now)
    for name, participant in settings.participants.items():
        table, tls = f"participants.{name}.tls", participant.tls
        if tls is not None and tls.certificate_file is not None:
            yield _own_certificate(f"{table}.certificate_file", tls.certificate_file, now)
        if tls is not None and tls.ca_file is not None:
            yield _authorities(f"{table}.ca_file", tls.ca_file, now)


def _own_certificate(check: str, file: Path, now: datetime) -> CheckResult:
    """Check a chain: it is valid while all of its certificates are."""
    chain = _certificates_in(file)
    begins = max(one.not_valid_before_utc for one in chain)
    ends = min(one.not_valid_after_utc for one in chain)
    return _validity(check, file, begins, ends, now)


def _authorities(check: str, file: Path, now: datetime) -> CheckResult:
    """Check a list: an authority that expired harms nothing if another one is valid."""
    authorities = _certificates_in(file)
    begins = min(one.not_valid_before_utc for one in authorities)
    ends = max(one.not_valid_after_utc for one in authorities)
    return _validity(check, file, begins, ends, now)


def _certificates_in(file: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(file.read_bytes())


def _validity(check: str, file: Path, begins: datetime, ends: datetime, now: datetime) -> CheckResult:
    remedy = "renew it; tccd reads the file again when it changes, without a restart"
    if now < begins:
        return problem(check, f"{file} is not valid before {begins:{_DATE}}", "check this machine's clock")
    if now >= ends:
        return problem(check, f"{file} expired on {ends:{_DATE}}", remedy)
    if now >= ends - _EXPIRY_WARNING:
        return warning(check, f"{file} expires on {ends:{_DATE}}", remedy)
    return ok(check, f"{file} is valid until {ends:{_DATE}}")


# --- traces -------------------------------------------------------------------


def _collector(endpoint: str) -> CheckResult:
    """Check only that something listens: a collector reports what it accepts when spans arrive."""
    host, _, port = endpoint.partition("://")[2].rpartition(":")
    return _listens(
        "tracing.endpoint",
        endpoint,
        (host.strip("[]"), int(port)),
        advice="start the collector, or fix [tracing] endpoint; until then only spans are lost",
    )


def _webhook(url: str) -> CheckResult:
    """Check only that something listens: an event must not be sent for a test. The URL may have a secret."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    return _listens(
        "events.url",
        f"{host}:{port}",
        (host, port),
        advice="start the webhook's server, or fix [events] url; until then outcomes wait in the log",
    )


def _listens(key: str, name: str, address: tuple[str, int], *, advice: str) -> CheckResult:
    """Check that a server accepts connections. `name`: of it, as it is shown."""
    try:
        socket.create_connection(address, TIMEOUT_S).close()
    except OSError as error:
        return warning(key, f"{name} cannot be reached: {error.strerror or error}", advice)
    return ok(key, f"{name} accepts connections")


# --- proxies ------------------------------------------------------------------


def _http_proxy(settings: Settings) -> Iterator[CheckResult]:
    """Warn if the environment names a proxy that calls to participants do not use."""
    names = [name for name in os.environ if name.lower() in _PROXY_VARIABLES and os.environ[name]]
    direct = [name for name, participant in settings.participants.items() if not participant.use_http_proxy]
    if names and direct:
        yield warning(
            "proxy",
            f"{', '.join(sorted(names))} is set; tccd ignores it and calls participants directly",
            "if a participant is behind the proxy, set use_http_proxy = true in its table",
        )
