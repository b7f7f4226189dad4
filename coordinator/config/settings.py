"""Every limit and address, typed: a TOML file, overridden by the environment.

Environment variables start with `TCC_`, and `__` separates tables:
`TCC_LOG__URL`, `TCC_PARTICIPANTS__INVENTORY__TARGET`.
"""

import re
import ssl
import unicodedata
from itertools import combinations, permutations
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from msgspec import structs
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from coordinator.api.initiator.replies import BRANCH_RESPONSE_BYTES
from coordinator.api.initiator.requests import RequestLimits
from coordinator.api.operator.server import ADMIN_REQUEST_BYTES
from coordinator.api.server import ServerLimits
from coordinator.core.model import RetryPolicy
from coordinator.engine.auditor import HeadSigner, read_signer
from coordinator.engine.breaker import BreakerPolicy
from coordinator.engine.dispatcher import BATCH_BYTES_MAX, ParticipantPolicy
from coordinator.engine.limits import EngineLimits, TenantLimits
from coordinator.engine.reconciler import ReconcileSettings
from coordinator.jobs.publish_outcomes import OutcomeSettings
from coordinator.jobs.settings import RecoverySettings
from coordinator.participant_client.channel import (
    OTHER_SCHEMES,
    ParticipantAddress,
    call_bytes_max,
)
from coordinator.ports.outcomes import OutcomeKind
from coordinator.security.authentication import Policy
from coordinator.security.caller import ANY, Client, Operator, Role
from coordinator.security.jwt import Issuer
from coordinator.security.tokens import ID, StaticToken
from tcc._internal.local_address import is_local, is_loopback
from tcc._internal.ports import PORT_MAX, check_port
from tcc._internal.tls import Tls, pem_labels

# The tables that a reload applies. Whether there is an [auth] at all is decided at the start.
RELOADED = ("participants", "auth", "clients", "operators")
# gRPC's own limit is 2 GiB; a log's row is limited to less.
MESSAGE_BYTES_MAX = 512 * 2**20
# The smallest limit for responses; half of it is for lists and histories.
RESPONSE_BYTES_MIN = 32 * 2**20

_ADDRESS = re.compile(r"(\[[^\s\[\]]+\]|[^\s:\[\]/]+):([0-9]{1,5})")
_DNS = re.compile(r"dns:(//[^/\s]*/)?")
# gRPC sends at most one ping a second.
_KEEPALIVE_LEAST_S = 2.0
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# A name, an IPv4 address, an IPv6 address in brackets, or nothing; and perhaps a port.
_HOST_AND_PORT = re.compile(r"(?:\[[^\[\]@,]*\]|[^\[\]:@,]*)(?::\d*)?")
# Times above these bounds are mistakes, and the database's timestamps could not hold all of them.
_HOUR_S = 3_600.0
_DAY_S = 24 * _HOUR_S
_MONTH_S = 30 * _DAY_S
_DECADE_S = 3_650 * _DAY_S
# Unicode categories: control and format characters, surrogates, separators of lines and paragraphs.
_NOT_PRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# The jobs would only run, and nothing else.
_EVERY_MIN_S = 0.01


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise PydanticCustomError(
            "file", "cannot read {path}: {why}", {"path": str(path), "why": error.strerror}
        ) from error
    return path


PemFile = Annotated[Path, AfterValidator(_readable)]


def _at(key: str, message: str) -> PydanticCustomError:
    """Return an error that concerns several keys of a table; `key` is the one to fix."""
    return PydanticCustomError("together", "{message}", {"key": key, "message": message})


def _number(default: float, least: float, most: float) -> Any:
    """Return a field for a number. Every numeric setting has bounds."""
    return Field(default=default, ge=least, le=most, allow_inf_nan=False)


def _count(default: int, least: int, most: int) -> Any:
    """Return a field for an integer. Every numeric setting has bounds."""
    return Field(default=default, ge=least, le=most)


def _check_printable(text: str) -> None:
    """Raise for a newline, NUL, ESC, byte order mark and the like: no value has one on purpose."""
    for character in text:
        if unicodedata.category(character) in _NOT_PRINTABLE:
            raise PydanticCustomError(
                "control_character",
                "must not contain the control character {name}",
                {"name": f"U+{ord(character):04X}"},
            )


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _printable(cls, value: Any) -> Any:
        if isinstance(value, str):
            _check_printable(value)
        return value


def _checked_log_url(url: SecretStr | None) -> SecretStr | None:
    if url is not None and not _is_log_url(url.get_secret_value()):
        raise PydanticCustomError("log_url", "must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    if url is not None and _BARE_PERCENT.search(url.get_secret_value()):
        # The driver's error would contain the whole token, which may be the password.
        raise PydanticCustomError("log_url", "contains a bare %; write it as %25")
    if url is not None and _wants_standby(url.get_secret_value()):
        raise PydanticCustomError("log_url", "asks for a standby, but the log needs the primary")
    return url


class LogServerSettings(_Table):
    """A server, besides that of `url`, that has cells of the log. Its standbys are in its URL."""

    url: SecretStr
    """Its PostgreSQL database, as `log.url`."""
    owner_url: SecretStr | None = None
    """The same database with the role that owns the cells and migrates them, as `log.owner_url`."""
    cells: Annotated[str, Field(pattern=r"^\d{1,3}(-\d{1,3})?(,\d{1,3}(-\d{1,3})?)*$")]
    """The cells that it has: numbers from 0, and ranges of them, for example "0-7,12"."""

    _postgresql = field_validator("url", "owner_url")(_checked_log_url)

    def owner(self) -> str | None:
        """Return the URL to migrate with, if it is not `url`."""
        return self.owner_url.get_secret_value() if self.owner_url else None

    def name(self) -> str:
        """Return its URL without credentials and options."""
        parts = urlsplit(self.url.get_secret_value())
        return parts.netloc.rpartition("@")[2] + parts.path

    def numbers(self) -> list[int]:
        """Return the cells."""
        ranges = [part.partition("-") for part in self.cells.split(",")]
        return [number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)]


class LogSettings(_Table):
    """The location of the transaction log."""

    url: SecretStr | None = None
    """A PostgreSQL database that all coordinators share (several servers: HOST:PORT,HOST:PORT).

    Not set: the embedded PostgreSQL, in `data_dir`.
    """
    owner_url: SecretStr | None = None
    """The same database with the role that owns the log and migrates it; that of `url` then may only run."""
    data_dir: Path = Path("var/tcc")
    """The directory of the embedded PostgreSQL."""
    connections: int = _count(4, 2, 64)
    """Connections of one worker to the log."""
    retention_s: float = _number(7 * _DAY_S, 1.0, _DECADE_S)
    """How long ended transactions are kept."""
    payload_retention_s: Annotated[float, Field(ge=60.0, le=_DECADE_S, allow_inf_nan=False)] | None = None
    """How long their payloads and results are kept. Not set: as long as the transactions."""

    cells: int = _count(1, 1, 256)
    """How many cells the log has: fixed when it is made. See docs/CELLS.md."""
    servers: tuple[LogServerSettings, ...] = ()
    """Where cells are that are not at `url`."""

    _postgresql = field_validator("url", "owner_url")(_checked_log_url)

    @model_validator(mode="after")
    def _two_roles(self) -> Self:
        if self.owner_url is not None and self.url is None:
            raise _at("owner_url", "owner_url requires url")
        return self

    @model_validator(mode="after")
    def _each_cell_once(self) -> Self:
        places = [(number, server) for server in self.servers for number in server.numbers()]
        numbers = [number for number, _ in places]
        if any(number >= self.cells for number in numbers):
            raise _at("servers", f"a cell is beyond the last one, {self.cells - 1} (cells = {self.cells})")
        twice = next((number for number in numbers if numbers.count(number) > 1), None)
        if twice is not None:
            first, second, *_ = (server.name() for number, server in places if number == twice)
            raise _at("servers", f"cell {twice} is at two servers: {first} and {second}")
        if numbers and self.url is None and len(numbers) < self.cells:
            raise _at("servers", "some cells are at none of the servers, and url is not set")
        return self

    @property
    def is_embedded(self) -> bool:
        """Whether a coordinator runs its own PostgreSQL."""
        return self.url is None and not self.servers

    def shared_url(self) -> str:
        """Return the URL of the cells that no server has; empty: it is not set."""
        return self.url.get_secret_value() if self.url else ""

    def owner(self) -> str | None:
        """Return the URL to migrate with, if it is not `url`."""
        return self.owner_url.get_secret_value() if self.owner_url else None


def _checked_address(address: str) -> str:
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[2]) > PORT_MAX:
        raise PydanticCustomError("address", "must be HOST:PORT, with a port from 0 to 65535")
    return address


class _TlsTable(_Table):
    """An own certificate with its key, and trusted authorities. All files are PEM."""

    def _check(
        self, certificate: Path | None, key: Path | None, authorities: tuple[str, Path | None]
    ) -> None:
        """Raise if one of the files is missing, or has the wrong content."""
        if (certificate is None) is not (key is None):
            missing, given = (
                ("key_file", "certificate_file") if key is None else ("certificate_file", "key_file")
            )
            raise _at(given, f"{given} requires {missing}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        name, file = authorities
        try:
            if file is not None:
                context.load_verify_locations(file)
        except ssl.SSLError as error:
            assert file is not None
            found = pem_labels(file.read_bytes())
            raise _at(name, f"{name} contains no certificate in PEM format, but {found}") from error
        try:
            if certificate is not None:
                # Without a password it would prompt for one on the terminal.
                context.load_cert_chain(certificate, key, password=lambda: b"")
        except ssl.SSLError as error:
            reason = (
                "they do not match" if error.reason == "KEY_VALUES_MISMATCH" else "one of them is invalid"
            )
            raise _at(
                "key_file", f"certificate_file and key_file: {reason}; use PEM without a password"
            ) from error


class ListenTlsSettings(_TlsTable):
    """TLS of a listener. With `client_ca_file`, client certificates of these authorities are required."""

    certificate_file: PemFile
    """The certificate of the listener, with its chain."""
    key_file: PemFile
    """The certificate's private key, without a password."""
    client_ca_file: PemFile | None = None
    """Clients need a certificate of one of these authorities. Not set: they need none."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        self._check(self.certificate_file, self.key_file, ("client_ca_file", self.client_ca_file))
        return self

    def files(self) -> Tls:
        """Return the files, which are read again when they change."""
        return Tls(certificate=self.certificate_file, key=self.key_file, ca=self.client_ca_file)


class ListenSettings(_Table):
    """The listener for initiators."""

    address: str = "127.0.0.1:50050"
    """HOST:PORT for initiators. Port 0: any free port."""
    tls: ListenTlsSettings | None = None
    """TLS for initiators. Not set: plain text."""
    connections_max: int = _count(8_192, 1, 1_000_000)
    """Connections at once; fewer if the process may not open so many files."""
    calls_max: int = _count(8_192, 1, 1_000_000)
    """Calls in flight at once, but for the kinds below; more are refused with RESOURCE_EXHAUSTED, unread."""
    waits_max: int = _count(2_048, 1, 1_000_000)
    """Calls of WaitTransaction in flight at once."""
    decisions_max: int = _count(2_048, 2, 1_000_000)
    """Requests for Confirm or Cancel in flight at once; half of them may wait for the completion."""
    health_max: int = _count(1_024, 1, 1_000_000)
    """Health checks in flight at once, and watches of the health."""
    request_bytes_max: int = _count(8 * 2**20, 2**16, MESSAGE_BYTES_MAX)
    """Bytes of the largest request, a batch of transactions."""
    unread_bytes_max: int = _count(256 * 2**20, 2**20, 2**40)
    """Bytes of responses in memory that wait until their clients read them."""
    arriving_bytes_max: int = _count(256 * 2**20, 2**20, 2**40)
    """Bytes of requests that take more than a thirtieth of `request_max_s`; each counts as the largest.
    As much again is for open streams of transactions."""
    request_max_s: float = _number(30.0, 0.1, _HOUR_S)
    """How long a request may take to arrive."""
    response_max_s: float = _number(10.0, 0.1, _HOUR_S)
    """How long a client may take to read one response; after twice that, its connection is ended."""
    idle_max_s: float = _number(300.0, 1.0, _DAY_S)
    """How long a connection may be idle."""

    _host_and_port = field_validator("address")(_checked_address)


class AdminSettings(_Table):
    """The listener for operators. Without [auth], every client that can reach it has an operator's rights."""

    listen: str = "127.0.0.1:7091"
    """HOST:PORT for operators. Not set, and the port of `listen.address` is 0: any free port."""
    tls: ListenTlsSettings | None = None
    """TLS for operators. Not set: plain text. With `client_ca_file`, operators need certificates."""
    report_every_s: float = _number(1.0, _EVERY_MIN_S, 60.0)
    """How often coordinators report their status to the log, and read the operators' directives from it."""
    connections_max: int = _count(256, 1, 100_000)
    """Connections of operators at once."""
    calls_max: int = _count(64, 1, 10_000)
    """Calls of operators in flight at once."""

    _host_and_port = field_validator("listen")(_checked_address)


class AuditSettings(_Table):
    """What makes the audit chain stand against someone who may write to the log's database."""

    key_file: PemFile | None = None
    """An Ed25519 private key (PEM) that signs the end of the chain. Not set: it is only logged."""
    head_every_s: float = _number(60.0, _EVERY_MIN_S, _HOUR_S)
    """How often each worker logs the end of the audit chain."""

    @field_validator("key_file")
    @classmethod
    def _ed25519(cls, key_file: Path | None) -> Path | None:
        try:
            _signer(key_file)
        except ValueError as error:
            raise PydanticCustomError(
                "audit_key", "must hold an Ed25519 private key in PEM format, without a password"
            ) from error
        return key_file

    def signer(self) -> HeadSigner | None:
        return _signer(self.key_file)


def _signer(key_file: Path | None) -> HeadSigner | None:
    return read_signer(key_file.read_bytes()) if key_file else None


class MetricsSettings(_Table):
    """The listener for Prometheus and for health probes."""

    listen: str = "127.0.0.1:9464"
    """HOST:PORT. Worker n of several uses this port + n (the first is worker 0). Empty: no metrics."""

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, listen: str) -> str:
        return _checked_address(listen) if listen else listen

    def bind_address(self, slot: int) -> tuple[str, int]:
        """Return host and port of the worker in this slot. With port 0, each takes any free port."""
        host, _, port = self.listen.rpartition(":")
        return host, int(port) + slot if int(port) else 0


class AlertSettings(_Table):
    """Where to send alerts."""

    webhook_url: SecretStr | None = None
    """An http or https URL that accepts POSTs of JSON. Not set: no alerts. Tokens in it are secret."""

    @field_validator("webhook_url")
    @classmethod
    def _http(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.match(r"https?://[^/\s]+", url.get_secret_value()):
            raise PydanticCustomError("webhook_url", "must be an http:// or https:// URL")
        return url


class EventSettings(_Table):
    """Where to publish the outcomes of transactions, as CloudEvents. See docs/EVENTS.md."""

    url: SecretStr | None = None
    """A webhook that accepts POSTs of events: https, or http on loopback. Tokens in it are secret."""
    token_file: PemFile | None = None
    """A file with a token that each POST shows (Authorization: Bearer); it is read for each POST."""
    ca_file: PemFile | None = None
    """The authorities that may have signed the webhook's certificate. Not set: those of the system."""
    participant: str = ""
    """A participant with the message `publish`, as participants.events. Empty: none."""
    topic: str = Field(default="transactions", min_length=1, max_length=128)
    """The topic of the events that the participant publishes."""
    types: tuple[Literal["confirmed", "cancelled", "stuck"], ...] = ("confirmed", "cancelled", "stuck")
    """The outcomes that are published."""
    source: str = Field(default="/tcc/coordinator", min_length=1, max_length=1_000)
    """The attribute `source` of events for the webhook."""
    batch_max: int = _count(100, 1, 1_000)
    """Events in one POST, or in one call of the participant. 1: each POST is one event and no batch."""

    @field_validator("url")
    @classmethod
    def _protected(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not _is_protected(url.get_secret_value()):
            raise PydanticCustomError("url", "must be an https:// URL, or an http:// URL on loopback")
        return url

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.types:
            raise _at("types", "at least one is required")
        for key in ("token_file", "ca_file"):
            if getattr(self, key) is not None and self.url is None:
                raise _at(key, f"{key} requires url")
        return self

    @property
    def is_on(self) -> bool:
        """Whether there is a receiver."""
        return self.url is not None or bool(self.participant)


class TracingSettings(_Table):
    """The export of OpenTelemetry traces. OTEL_* variables set the rest: headers, certificates, batches."""

    endpoint: str | None = None
    """A collector for OTLP over gRPC; http: plain text, https: TLS. Not set: no traces."""
    ratio: float = _number(1.0, 0.0, 1.0)
    """The share of transactions without a trace context for which a trace is started."""
    service_name: str = ""
    """Empty: OTEL_SERVICE_NAME, or else tccd."""

    @field_validator("endpoint")
    @classmethod
    def _http(cls, endpoint: str | None) -> str | None:
        scheme, _, bind_address = (endpoint or "").partition("://")
        found = _ADDRESS.fullmatch(bind_address)
        is_right = scheme in {"http", "https"} and found is not None and 0 < int(found[2]) <= PORT_MAX
        if endpoint is not None and not is_right:
            raise PydanticCustomError("otlp", "must be http://HOST:PORT, or https://HOST:PORT for TLS")
        return endpoint


class LimitSettings(_Table):
    """Bounds on requests and on the memory of one worker."""

    branches_max: int = _count(64, 1, 1_000)
    """Branches of one transaction."""
    payload_bytes_max: int = _count(256 * 1024, 0, 64 * 2**20)
    """Bytes of one payload, and of the result of one Try."""
    transaction_bytes_max: int = _count(1024 * 1024, 0, 64 * 2**20)
    """Bytes of all payloads of one transaction, and of all its results."""
    live_max: int = _count(20_000, 1, 1_000_000)
    """Transactions in the memory of one worker. New ones are refused from 90 % of it on."""
    live_bytes_max: int = _count(2**30, 2**22, 2**40)
    """Bytes of their payloads and results. New ones are refused from 90 % of it on."""
    interactive_share: float = _number(0.5, 0.01, 0.9)
    """The share of `live_max` that interactive transactions may fill: while idle, they only wait."""
    call_max_s: float = _number(300.0, 0.01, _DAY_S)
    """The time limit of a call without a deadline."""
    expiry_default_s: float = _number(30.0, 0.05, _MONTH_S)
    """The expiry of a transaction that sets none."""
    expiry_max_s: float = _number(_HOUR_S, 0.05, _MONTH_S)
    """The longest expiry that a transaction may set."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.expiry_default_s > self.expiry_max_s:
            raise _at("expiry_default_s", "expiry_default_s must not be more than expiry_max_s")
        if self.payload_bytes_max > self.transaction_bytes_max:
            raise _at("payload_bytes_max", "payload_bytes_max must not be more than transaction_bytes_max")
        if self.live_bytes_max < 4 * self.transaction_bytes_max:
            raise _at("live_bytes_max", "live_bytes_max must be at least four times transaction_bytes_max")
        return self


class RecoveryTable(_Table):
    """How often the scheduler's jobs run."""

    lease_s: float = _number(3.0, 0.1, _DAY_S)
    """A coordinator without a heartbeat for this long is dead, and others adopt its transactions."""
    heartbeat_every_s: float = _number(1.0, _EVERY_MIN_S, _HOUR_S)
    """How often a coordinator renews its lease."""
    sweep_every_s: float = _number(0.2, _EVERY_MIN_S, _HOUR_S)
    """How often a worker retries what is due, and reads the rows that its requests wait for."""
    poll_every_s: float = _number(1.0, _EVERY_MIN_S, _HOUR_S)
    """How often a worker claims due transactions that other workers parked."""
    adopt_every_s: float = _number(1.0, _EVERY_MIN_S, _HOUR_S)
    """How often a coordinator checks for leases that have ended."""
    purge_every_s: float = _number(10.0, _EVERY_MIN_S, _DAY_S)
    """How often ended transactions are deleted after their retention."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        # Otherwise one late heartbeat would make others adopt the work of a healthy coordinator.
        if self.lease_s < 2 * self.heartbeat_every_s:
            raise _at("lease_s", "lease_s must be at least twice heartbeat_every_s")
        return self


class ReconcileTable(_Table):
    """How often, and which, barrier rows of participants are compared with the log."""

    every_s: float = _number(_HOUR_S, 0.0, _MONTH_S)
    """How often one coordinator compares them. 0: only on an operator's request."""
    min_age_s: float = _number(300.0, 0.0, _DECADE_S)
    """Only rows whose last change, and whose transaction's expiry, are at least this old."""
    ended_within_s: float = _number(0.0, 0.0, _DECADE_S)
    """Confirmed and cancelled rows are compared, too, for this long after their expiry. 0: never."""


class JwtSettings(_Table):
    """An issuer of JSON Web Tokens, whose claims `iss`, `aud`, `exp` and `sub` are required."""

    issuer: str = Field(min_length=1)
    """What the claim `iss` must be."""
    audience: str = Field(min_length=1)
    """What the claim `aud` must contain."""
    jwks: str = Field(min_length=1)
    """The issuer's public keys (JWKS): an https URL or a file. They are read again every five minutes."""
    algorithms: tuple[Literal["ES256", "PS256", "EdDSA"], ...] = ("ES256",)
    """The accepted algorithms."""
    groups_claim: str = ""
    """The claim with the list of the caller's groups. Empty: groups give no rights."""

    @field_validator("jwks")
    @classmethod
    def _location(cls, jwks: str) -> str:
        if re.match(r"https://[^/\s]+", jwks):
            return jwks
        if "://" in jwks:
            raise PydanticCustomError("jwks", "must be an https:// URL or a file")
        return str(_readable(Path(jwks)))


class TokenSettings(_Table):
    """A static token, as `tccd token create` makes it. The token itself is not stored."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """The SHA-256 of the token."""
    expires_at: AwareDatetime
    """When it ends, with a time zone."""


class AuthSettings(_Table):
    """How callers prove who they are. With this table, each call needs an identity."""

    certificate_names: tuple[Literal["spiffe", "uri", "dns", "email", "common_name"], ...] = ("spiffe",)
    """The names in client certificates that are identities."""
    jwt: dict[str, JwtSettings] = Field(default_factory=dict)
    """Issuers of JSON Web Tokens."""
    tokens: dict[str, TokenSettings] = Field(default_factory=dict)
    """Static tokens, by id."""
    two_persons: bool = False
    """ResolveBranch and RepairBranch are carried out only when another admin repeats them."""
    approval_s: float = _number(_HOUR_S, 1.0, _MONTH_S)
    """With `two_persons`: how long a request can be repeated."""

    @field_validator("jwt", "tokens")
    @classmethod
    def _named(cls, tables: dict[str, Any]) -> dict[str, Any]:
        if any(ID.fullmatch(name) is None for name in tables):
            raise PydanticCustomError("id", "a name may have lower-case letters, digits and dashes")
        return tables

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        issuers = [one.issuer for one in self.jwt.values()]
        if len(set(issuers)) < len(issuers):
            raise _at("jwt", "two tables have the same issuer")
        return self

    def is_of_certificate(self, identity: str) -> bool:
        """Return whether it is a name in a client certificate that proves this identity."""
        return identity.partition(":")[0] not in {"jwt", "token"}

    def has_method_of(self, identity: str) -> bool:
        """Return whether a caller can prove this identity."""
        kind, _, rest = identity.partition(":")
        match kind:
            case "jwt":
                return rest.partition(":")[0] in self.jwt
            case "token":
                return rest in self.tokens
            case "cn":
                return "common_name" in self.certificate_names
            case _:
                return kind in self.certificate_names


class ClientSettings(_Table):
    """A client, which is a tenant: it sees and changes only its own transactions."""

    identities: tuple[str, ...] = ()
    """spiffe://…, uri:…, dns:…, email:…, cn:…, jwt:NAME:sub:SUBJECT, jwt:NAME:group:GROUP or token:ID."""
    gid_prefixes: tuple[str, ...] = ()
    """What its gids begin with; a gid that the coordinator makes begins with the first. Empty: NAME-."""
    calls: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """The actions that it may call, by participant; "*" stands for all. Empty: none."""
    live_max: int = _count(1_000_000, 1, 1_000_000)
    """Its transactions in the memory of one worker, besides [limits] live_max."""
    live_bytes_max: int = _count(2**40, 1, 2**40)
    """The bytes of their payloads and results, in the memory of one worker."""
    calls_per_s: float = _number(1e6, 0.001, 1e6)
    """Its calls per second to one worker; each transaction of a batch counts as one."""
    expiry_max_s: float = _number(_MONTH_S, 0.05, _MONTH_S)
    """The longest expiry of its transactions, besides [limits] expiry_max_s."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.identities:
            raise _at("identities", "at least one is required")
        if "" in self.gid_prefixes:
            raise _at("gid_prefixes", "a prefix must not be empty")
        return self

    def prefixes(self, name: str) -> tuple[str, ...]:
        return self.gid_prefixes or (f"{name}-",)

    def client(self, name: str) -> Client:
        return Client(
            name=name,
            gid_prefixes=self.prefixes(name),
            calls={participant: frozenset(actions) for participant, actions in self.calls.items()},
            calls_per_s=self.calls_per_s,
            expiry_max_s=self.expiry_max_s,
        )


class OperatorSettings(_Table):
    """Operators with the same rights."""

    identities: tuple[str, ...] = ()
    """As those of clients."""
    role: Literal["read", "operate", "admin"] = "read"
    """read: queries. operate: also commands. admin: also ResolveBranch and RepairBranch."""
    tenants: tuple[str, ...] = ("*",)
    """The clients on whose transactions they work; "*": all, and participants and coordinators as well."""
    payloads: bool = False
    """True: they see payloads and results."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.identities:
            raise _at("identities", "at least one is required")
        return self

    def operator(self, name: str, approval_s: float) -> Operator:
        return Operator(
            approval_s=approval_s,
            name=name,
            role=Role[self.role.upper()],
            tenants=None if "*" in self.tenants else frozenset(self.tenants),
            payloads=self.payloads,
        )


class ParticipantTlsSettings(_TlsTable):
    """TLS to a participant. Without `ca_file`, gRPC's list of public authorities is trusted."""

    ca_file: PemFile | None = None
    """The authorities that may have signed the participant's certificate."""
    certificate_file: PemFile | None = None
    """The coordinator's certificate, for a participant that requires one."""
    key_file: PemFile | None = None
    """The certificate's private key, without a password."""
    server_name: str | None = Field(default=None, min_length=1)
    """The name in its certificate, if it differs from the target's."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        self._check(self.certificate_file, self.key_file, ("ca_file", self.ca_file))
        return self

    def files(self) -> Tls:
        """Return the files. Raise OSError or ValueError if they cannot be used."""
        files = Tls(
            certificate=self.certificate_file,
            key=self.key_file,
            ca=self.ca_file,
            server_name=self.server_name,
        )
        files.content()
        return files


class ParticipantSettings(_Table):
    """One participant: its address and its policy."""

    target: str
    """A gRPC target: HOST:PORT, dns:///HOST:PORT or another scheme of gRPC."""
    tls: ParticipantTlsSettings | None = None
    """TLS to the participant. Not set: plain text."""
    token_file: PemFile | None = None
    """A file with a token that each call shows; it is read for each call. Only with `tls` or on loopback."""
    batched: bool = True
    """False: the participant does not implement ExecuteBranches."""
    call_timeout_s: float = _number(5.0, 0.01, _HOUR_S)
    """The time limit of one call."""
    keepalive_s: float = _number(15.0, 0, _HOUR_S)
    """Within this time a connection that died silently is noticed. 0: no pings."""
    use_http_proxy: bool = False
    """True: connect through the HTTP proxy that the environment names."""
    concurrency_max: int = _count(2_048, 1, 1_000_000)
    """Branch calls in flight."""
    backlog_max: int = _count(8_192, 1, 1_000_000)
    """Branch calls queued or in flight. Beyond that, new transactions are refused."""
    batch_max: int = _count(256, 1, 4_096)
    """Branch calls in one message."""
    request_bytes_max: int = _count(16 * 2**20, 2**16, MESSAGE_BYTES_MAX)
    """Bytes of the largest request that it accepts: the SDK this much, many a gRPC server only 4 MiB."""
    retry_first_s: float = _number(0.1, 0.001, _DAY_S)
    """The longest pause after the first failure. It doubles with each further one (full jitter)."""
    retry_max_s: float = _number(30.0, 0.001, _DAY_S)
    """The longest pause between two attempts."""
    attempts_before_stuck: int = _count(10, 1, 1_000_000)
    """Failures of one call in phase two after which the transaction is marked stuck."""
    breaker_failures: int = _count(5, 1, 1_000_000)
    """Consecutive failures that open the circuit breaker."""
    breaker_open_first_s: float = _number(0.5, 0.001, _HOUR_S)
    """How long the circuit breaker stays open at first. The time doubles with each failed probe."""
    breaker_open_max_s: float = _number(10.0, 0.001, _HOUR_S)
    """The longest time that it stays open."""
    cancel_in_stage_order: bool = False
    """True: its Cancels wait until every later stage is cancelled (not in interactive transactions)."""

    @field_validator("target")
    @classmethod
    def _grpc_target(cls, target: str) -> str:
        found = _ADDRESS.fullmatch(_DNS.sub("", target, count=1))
        has_port = found is not None and 0 < int(found[2]) <= PORT_MAX
        if not has_port and not target.startswith(OTHER_SCHEMES):
            raise PydanticCustomError(
                "target", "must be HOST:PORT or dns:///HOST:PORT, or another gRPC target"
            )
        try:
            check_port(target)
        except ValueError as error:
            raise PydanticCustomError("target", "must have a port of at most 65535") from error
        return target

    @model_validator(mode="after")
    def _token_is_protected(self) -> Self:
        if self.token_file is not None and self.tls is None and not is_local(self.target):
            raise _at("token_file", "a token is sent over TLS only, or to loopback: add tls")
        return self

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if 0 < self.keepalive_s < _KEEPALIVE_LEAST_S:
            raise _at("keepalive_s", "must be 0, or at least 2")
        if self.retry_first_s > self.retry_max_s:
            raise _at("retry_first_s", "retry_first_s must not be more than retry_max_s")
        if self.breaker_open_first_s > self.breaker_open_max_s:
            raise _at("breaker_open_first_s", "breaker_open_first_s must not be more than breaker_open_max_s")
        return self

    def address(self) -> ParticipantAddress:
        """Return the address. Raise OSError if a TLS file can no longer be read."""
        return ParticipantAddress(
            target=self.target,
            tls=self.tls.files() if self.tls else None,
            token_file=self.token_file,
            batched=self.batched,
            call_timeout_s=self.call_timeout_s,
            keepalive_s=self.keepalive_s,
            use_http_proxy=self.use_http_proxy,
            request_bytes_max=self.request_bytes_max,
        )

    def policy(self) -> ParticipantPolicy:
        return ParticipantPolicy(
            retry=RetryPolicy(
                delay_first_s=self.retry_first_s,
                delay_max_s=self.retry_max_s,
                attempts_before_stuck=self.attempts_before_stuck,
            ),
            breaker=BreakerPolicy(
                failures_to_open=self.breaker_failures,
                open_first_s=self.breaker_open_first_s,
                open_max_s=self.breaker_open_max_s,
            ),
            concurrency_max=self.concurrency_max,
            backlog_max=self.backlog_max,
            batch_max=self.batch_max,
            batch_bytes_max=min(BATCH_BYTES_MAX, self.request_bytes_max // 2),
            cancel_in_stage_order=self.cancel_in_stage_order,
        )


class Settings(BaseSettings):
    """The whole configuration of a coordinator."""

    model_config = SettingsConfigDict(
        env_prefix="TCC_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    listen: ListenSettings = ListenSettings()
    admin: AdminSettings = AdminSettings()
    audit: AuditSettings = AuditSettings()
    workers: int = _count(1, 1, 64)
    """The number of processes that share the port."""
    pin_workers: bool = False
    """Pin each worker to one CPU, in turn, of those that the process may use. Linux only."""
    drain_s: float = _number(10.0, 0.0, _HOUR_S)
    """How long a stopping coordinator may take to finish its work."""
    log: LogSettings = LogSettings()
    limits: LimitSettings = LimitSettings()
    metrics: MetricsSettings = MetricsSettings()
    alerts: AlertSettings = AlertSettings()
    events: EventSettings = EventSettings()
    tracing: TracingSettings = TracingSettings()
    recovery: RecoveryTable = RecoveryTable()
    reconcile: ReconcileTable = ReconcileTable()
    insecure: bool = False
    """True: listen beyond loopback, although every caller may do everything."""
    reflection: bool = False
    """True: gRPC reflection describes the services to callers, such as grpcurl."""
    auth: AuthSettings | None = None
    """How callers prove who they are. Not set: every caller may do everything."""
    clients: dict[str, ClientSettings] = Field(default_factory=dict)
    operators: dict[str, OperatorSettings] = Field(default_factory=dict)
    participants: dict[str, ParticipantSettings] = Field(default_factory=dict)

    @field_validator("participants", "clients", "operators")
    @classmethod
    def _named(cls, tables: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        for name in tables:
            _check_printable(name)
            if not name:
                kind = str(info.field_name).removesuffix("s")
                raise PydanticCustomError("name", "the name of a {kind} must not be empty", {"kind": kind})
        return tables

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        """Check that callers can be told apart, and that what they are given exists."""
        auth = self.auth
        if auth is None:
            for table in ("clients", "operators"):
                if getattr(self, table):
                    raise _at(table, "requires [auth], or every caller may do everything")
            return self
        if not self.clients and not self.operators:
            raise _at("auth", "requires [clients.NAME] or [operators.NAME], or no caller may do anything")
        for table, named in (("clients", self.clients), ("operators", self.operators)):
            owners: dict[str, str] = {}
            for name, one in named.items():
                for identity in one.identities:
                    key = f"{table}.{name}.identities"
                    if not auth.has_method_of(identity):
                        raise _at(key, f"[auth] has no method that proves {identity}")
                    if owners.setdefault(identity, name) != name:
                        raise _at(key, f"{identity} is already that of {owners[identity]}")
        for name, client in self.clients.items():
            unknown = ", ".join(sorted(client.calls.keys() - self.participants.keys() - {ANY}))
            if unknown:
                raise _at(f"clients.{name}.calls", f"there is no [participants.NAME] for {unknown}")
        prefixes = [(prefix, name) for name, one in self.clients.items() for prefix in one.prefixes(name)]
        for (prefix, name), (other, owner) in permutations(prefixes, 2):
            if name != owner and prefix.startswith(other):
                raise _at(f"clients.{name}.gid_prefixes", f"{prefix} overlaps with {other} of {owner}")
        for name, operator in self.operators.items():
            for tenant in operator.tenants:
                if tenant != ANY and tenant not in self.clients:
                    raise _at(f"operators.{name}.tenants", f"there is no [clients.{tenant}]")
        return self

    @model_validator(mode="after")
    def _check_provable(self) -> Self:
        """Check that callers can show the certificates that are identities of theirs."""
        for table, key, tls in (
            ("clients", "listen.tls", self.listen.tls),
            ("operators", "admin.tls", self.admin.tls),
        ):
            if self.auth is None or tls is None or tls.client_ca_file is not None:
                continue
            for name, one in getattr(self, table).items():
                for identity in one.identities:
                    if self.auth.is_of_certificate(identity):
                        raise _at(
                            key,
                            f"requires client_ca_file: without it no caller can show a certificate, "
                            f"and {table}.{name} has the identity {identity}",
                        )
        return self

    @model_validator(mode="after")
    def _check_distinct_ports(self) -> Self:
        """Check for shared ports: the second listener would fail, or get calls meant for the first."""
        places = [("listen.address", self.listen.address), ("admin.listen", self.admin_address())]
        if self.metrics_address():
            metrics = [self.metrics.bind_address(slot) for slot in range(self.workers)]
            if metrics[-1][1] > PORT_MAX:
                message = f"needs a port for each of {self.workers} workers, from this one up to 65535"
                raise _at("metrics.listen", message)
            places += [("metrics.listen", f"{host}:{port}") for host, port in metrics]
        for (one, here), (other, there) in combinations(places, 2):
            if one != other and _is_same_place(here, there):
                raise _at(other, f"{there} is already used by {one}, {here}")
        return self

    @model_validator(mode="after")
    def _check_listeners(self) -> Self:
        """Check that no stranger can call, unless that is wanted."""
        listeners = (
            ("listen.address", self.listen.address, "listen.tls", self.listen.tls),
            ("admin.listen", self.admin_address(), "admin.tls", self.admin.tls),
        )
        for key, address, tls_key, tls in listeners:
            if self.auth is not None and tls is None:
                raise _at(tls_key, "[auth] requires TLS: a token is accepted in no other way")
            if self.auth is None and not self.insecure and not is_loopback(address):
                raise _at(
                    key,
                    f"{address} is not on loopback, so strangers could call: configure [auth], "
                    "or set insecure = true",
                )
        return self

    @model_validator(mode="after")
    def _check_events(self) -> Self:
        """Check that events can be published before their transactions are purged."""
        name = self.events.participant
        if name and name not in self.participants:
            raise _at("events.participant", f"there is no [participants.{name}]")
        if self.events.is_on and self.log.retention_s < _HOUR_S:
            raise _at(
                "log.retention_s", "must be at least 3600 with [events]: what is purged is not published"
            )
        return self

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        """Check that what is accepted can be sent on, and be read again."""
        needed = self.request_limits().transaction_request_bytes_max
        if needed > self.listen.request_bytes_max:
            raise _at(
                "listen.request_bytes_max",
                f"must be at least {needed} for the largest transaction",
            )
        needed = call_bytes_max(self.limits.payload_bytes_max)
        for name, participant in self.participants.items():
            if needed > participant.request_bytes_max:
                raise _at(
                    f"participants.{name}.request_bytes_max",
                    f"must be at least {needed} for the largest payload",
                )
        return self

    def admin_address(self) -> str:
        """Return the address of the listener for operators."""
        if "listen" not in self.admin.model_fields_set and self.listen.address.endswith(":0"):
            return "127.0.0.1:0"
        return self.admin.listen

    def certificate_files(self) -> list[Path]:
        """Return the files of all certificates, each once."""
        tables = [self.listen.tls, self.admin.tls, *(one.tls for one in self.participants.values())]
        files = [table.certificate_file for table in tables if table is not None]
        files += [table.client_ca_file for table in tables if isinstance(table, ListenTlsSettings)]
        files += [table.ca_file for table in tables if isinstance(table, ParticipantTlsSettings)]
        return sorted({file for file in files if file is not None})

    def metrics_address(self) -> str:
        """Return the first worker's metrics address; empty: no metrics, as when `listen` is any free port."""
        if "listen" not in self.metrics.model_fields_set and self.listen.address.endswith(":0"):
            return ""
        return self.metrics.listen

    def reloaded(self, changed: Self) -> Self:
        """Return these settings with what a reload of `changed` applies; the rest waits for a restart."""
        names = RELOADED if self.auth is not None and changed.auth is not None else ("participants",)
        update: dict[str, Any] = {name: getattr(changed, name) for name in names}
        if self.can_move_cells(changed):
            update["log"] = self.log.model_copy(update={"servers": changed.log.servers})
        return self.model_copy(update=update)

    def can_move_cells(self, changed: Self) -> bool:
        """Return whether cells may follow a reload to other servers: only their number must be the same."""
        return self.log.cells == changed.log.cells and self.log.is_embedded == changed.log.is_embedded

    def policy(self) -> Policy | None:
        """Return who may do what; None: every caller may do everything."""
        if self.auth is None:
            return None
        return Policy(
            certificate_names=self.auth.certificate_names,
            tokens={
                name: StaticToken(sha256=one.sha256, expires_at=one.expires_at.timestamp())
                for name, one in self.auth.tokens.items()
            },
            issuers=tuple(Issuer(name=name, **one.model_dump()) for name, one in self.auth.jwt.items()),
            clients={
                identity: one.client(name)
                for name, one in self.clients.items()
                for identity in one.identities
            },
            operators={
                identity: one.operator(name, self.auth.approval_s if self.auth.two_persons else 0.0)
                for name, one in self.operators.items()
                for identity in one.identities
            },
        )

    def tenant_limits(self) -> dict[str, TenantLimits]:
        """Return the bounds on each client's live transactions."""
        return {
            name: TenantLimits(live_max=one.live_max, bytes_max=one.live_bytes_max)
            for name, one in self.clients.items()
        }

    def engine_limits(self) -> EngineLimits:
        return EngineLimits(
            live_max=self.limits.live_max,
            live_bytes_max=self.limits.live_bytes_max,
            interactive_share=self.limits.interactive_share,
            results_bytes_max=self.limits.transaction_bytes_max,
        )

    def server_limits(self) -> ServerLimits:
        """Return the bounds of the server for initiators."""
        return ServerLimits(
            response_bytes_max=self._response_bytes_max(),
            **self.listen.model_dump(include=set(ServerLimits.__struct_fields__)),
        )

    def admin_limits(self) -> ServerLimits:
        """Return the bounds of the server for operators."""
        return structs.replace(
            self.server_limits(),
            connections_max=self.admin.connections_max,
            calls_max=self.admin.calls_max,
            # A repair carries a payload.
            request_bytes_max=self.limits.payload_bytes_max + ADMIN_REQUEST_BYTES,
        )

    def _response_bytes_max(self) -> int:
        """Return the size of the largest response: a transaction with its payloads, results and texts."""
        limits = self.limits
        return max(
            RESPONSE_BYTES_MIN,
            2 * limits.transaction_bytes_max
            + limits.branches_max * BRANCH_RESPONSE_BYTES
            + RESPONSE_BYTES_MIN // 2,
        )

    def request_limits(self) -> RequestLimits:
        return RequestLimits(
            branches_max=self.limits.branches_max,
            payload_bytes_max=self.limits.payload_bytes_max,
            transaction_bytes_max=self.limits.transaction_bytes_max,
            call_max_s=self.limits.call_max_s,
            expiry_default_s=self.limits.expiry_default_s,
            expiry_max_s=self.limits.expiry_max_s,
        )

    def recovery_settings(self) -> RecoverySettings:
        return RecoverySettings(retention_s=self.log.retention_s, **self.recovery.model_dump())

    def outcome_settings(self) -> OutcomeSettings:
        return OutcomeSettings(
            kinds=frozenset(OutcomeKind(name) for name in self.events.types), batch_max=self.events.batch_max
        )

    def reconcile_settings(self) -> ReconcileSettings:
        return ReconcileSettings(retention_s=self.log.retention_s, **self.reconcile.model_dump())


def _is_same_place(here: str, there: str) -> bool:
    (host, _, port), (other, _, other_port) = here.rpartition(":"), there.rpartition(":")
    anywhere = {"0.0.0.0", "[::]"}  # noqa: S104 - it is looked for, not bound
    return int(port) == int(other_port) != 0 and (host == other or bool(anywhere & {host, other}))


def _is_protected(url: str) -> bool:
    """Return whether no stranger can read what is sent to a URL over HTTP."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    is_local = parts.scheme == "http" and is_loopback(f"{host}:{port}")
    return bool(host) and not re.search(r"\s", url) and (parts.scheme == "https" or is_local)


def _is_log_url(url: str) -> bool:
    scheme, found, rest = url.partition("://")
    # A password with a bare @ would be taken for a part of the host, and said in errors.
    user, _, hosts = re.split("[/?]", rest, maxsplit=1)[0].rpartition("@")
    return (
        bool(found)
        and scheme.partition("+")[0] in {"postgresql", "postgres"}
        and "@" not in user
        and all(_HOST_AND_PORT.fullmatch(host) for host in hosts.split(","))
    )


def _wants_standby(url: str) -> bool:
    wanted = parse_qs(urlsplit(url).query).get("target_session_attrs", [""])
    return wanted[-1] in {"read-only", "standby", "prefer-standby"}
