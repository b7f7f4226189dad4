"""Checks of `tccd doctor` that concern a log on another machine: its connection and its standbys."""

import ipaddress
import os
from collections.abc import Iterator

from psycopg.conninfo import conninfo_to_dict

from coordinator.log.diagnosis import LogFacts
from coordinator.log.servers import Server, servers
from coordinator.process.checks import CheckResult, ok, problem, warning

# Four of PostgreSQL's WAL segments: less is normal while a standby receives.
_BEHIND_MAX_BYTES = 64 * 2**20
_MIB = 2**20
# What each mode of libpq leaves open; it is the default that only prefers TLS.
_WEAKNESSES = {
    "disable": "the connection is not encrypted",
    "allow": "the connection may not be encrypted",
    "prefer": "the connection may not be encrypted",
    "require": "the server's certificate is not verified",
    "verify-ca": "the server's certificate may be another host's",
}


def encryption(url: str) -> Iterator[CheckResult]:
    """Check how connections to other machines are protected."""
    remote = [server for server in servers(url) if not _is_local(server)]
    if not remote:
        return
    # All servers of a URL share it.
    mode = str(conninfo_to_dict(remote[0].conninfo).get("sslmode") or os.environ.get("PGSSLMODE") or "prefer")
    if mode not in _WEAKNESSES:
        yield ok("sslmode", f"sslmode is {mode}")
        return
    yield warning(
        "sslmode",
        f"sslmode is {mode}, and {remote[0].name} is another machine: {_WEAKNESSES[mode]}",
        "add sslmode=verify-full&sslrootcert=FILE to [log] url",
    )


def _is_local(server: Server) -> bool:
    """Return whether no network is between this process and the server."""
    settings = conninfo_to_dict(server.conninfo)
    host = str(settings.get("hostaddr") or settings.get("host") or "/")
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def replication(facts: LogFacts) -> Iterator[CheckResult]:
    """Check what a failover would lose, and whether there can be one."""
    names = facts.settings.get("synchronous_standby_names", "")
    if names and not facts.synchronous_standbys:
        yield problem(
            "standbys",
            f"synchronous_standby_names is {names!r}, but none is connected: every write waits for it",
            "start the standby, or take its name out of synchronous_standby_names and reload PostgreSQL",
        )
    elif names:
        yield ok("standbys", f"{facts.synchronous_standbys} synchronous standbys are connected ({names})")
    elif facts.standbys:
        yield warning(
            "standbys",
            f"no write waits for any of the {facts.standbys} standbys: a failover can lose acknowledged "
            "transactions",
            "set synchronous_standby_names (with two standbys: 'ANY 1 (*)'), and reload PostgreSQL",
        )
    if facts.standby_behind_bytes is None:
        return
    message = f"the slowest standby is {facts.standby_behind_bytes / _MIB:.1f} MiB of WAL behind"
    if facts.standby_behind_bytes > _BEHIND_MAX_BYTES:
        yield warning(
            "replication",
            message,
            "do not promote it before it has caught up; check its disk and the network between them",
        )
    else:
        yield ok("replication", message)
