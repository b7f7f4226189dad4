"""`tccd doctor`: what it finds, and which remedies it prints."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import grpc
import psycopg
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from psycopg import sql
from sqlalchemy import make_url

from coordinator.config.settings import EventSettings, MetricsSettings, Settings, TracingSettings
from coordinator.embedded_postgres.server import EmbeddedPostgres
from coordinator.log.diagnosis import LogFacts
from coordinator.log.migration import migrate
from coordinator.log.requirements import LogUrlError
from coordinator.process.checks import CheckResult, CheckStatus
from coordinator.process.doctor import _clock, _durability, diagnose
from tcc.participant.v1 import participant_pb2_grpc
from tests.e2e.test_startup import ended, tccd
from tests.observability.scraping import get
from tests.support.ports import free_port
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import running, settings_for

STATUS = health_pb2.HealthCheckResponse.ServingStatus
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
NOWHERE = "postgresql://u:secret@127.0.0.1:1/tcc"


async def findings(settings: Settings) -> dict[str, CheckResult]:
    return {finding.check: finding for finding in await asyncio.to_thread(lambda: list(diagnose(settings)))}


def settings(url: str | None, address: str = "127.0.0.1:0", **participants: str) -> Settings:
    return settings_for(
        {name: {"target": target} for name, target in participants.items()},
        log={"url": url},
        listen={"address": address},
    )


@pytest.fixture
async def healthy() -> AsyncIterator[tuple[str, health.aio.HealthServicer]]:
    """The address of a participant with a health service."""
    servicer = health.aio.HealthServicer()
    server = grpc.aio.server()
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(ScriptedParticipant(), server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}", servicer
    await server.stop(None)


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_nothing_is_wrong(log_url: str, healthy: tuple[str, health.aio.HealthServicer]) -> None:
    address, servicer = healthy
    await servicer.set("", STATUS.SERVING)
    found = await findings(settings(log_url, stock=address))
    assert {finding.status for finding in found.values()} == {CheckStatus.OK}
    assert found.keys() >= {
        *("version", "writable", "migrations", "fsync", "synchronous_commit", "clock", "listen"),
        "participant stock",
    }
    assert not any(finding.remedy for finding in found.values())


def findings_in(home: Path) -> dict[str, CheckResult]:
    """Settings of a coordinator with an embedded PostgreSQL in that directory."""
    return {finding.check: finding for finding in diagnose(settings_for({}, log={"data_dir": home}))}


def test_a_running_embedded_postgresql_is_checked_like_any_other(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.start()
    try:
        server.create_database("tcc")
        before = findings_in(home)
        migrate(server.url("tcc"))
        found = findings_in(home)
    finally:
        server.stop("immediate")
    assert before["migrations"].status is CheckStatus.PROBLEM
    for check in ("log", "version", "writable", "migrations", "fsync", "synchronous_commit", "clock"):
        assert found[check].status is CheckStatus.OK, check
    assert "tccd is running" in found["log"].message


def test_an_embedded_postgresql_that_has_died_is_a_problem(home: Path) -> None:
    owner = EmbeddedPostgres(home)
    owner.start()
    try:
        pid = int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        found = findings_in(home)
    finally:
        owner.stop()
    assert (found["log"].status, "version" in found) == (CheckStatus.PROBLEM, False)
    assert found["log"].remedy.startswith(f"{home}/postgres.log has the cause")


def test_a_stopped_embedded_postgresql_is_reported_and_not_created(home: Path) -> None:
    never = findings_in(home)
    assert list(home.iterdir()) == []
    server = EmbeddedPostgres(home)
    server.start()
    server.stop()
    ended = findings_in(home)
    for found in (never, ended):
        assert (found["log"].status, "version" in found) == (CheckStatus.OK, False)
        assert "It is not running now" in found["log"].message


async def test_an_unreachable_database_is_the_only_finding() -> None:
    found = await findings(settings(NOWHERE))
    assert found["log"].status is CheckStatus.PROBLEM
    assert "pg_hba.conf" in found["log"].remedy
    assert "secret" not in found["log"].message
    assert "migrations" not in found


async def test_missing_migrations_are_a_problem(database_url: str) -> None:
    found = (await findings(settings(database_url)))["migrations"]
    assert (found.status, found.message.partition(",")[0]) == (CheckStatus.PROBLEM, "at none")
    assert "tccd migrate" in found.remedy


async def test_a_user_without_access_to_the_tables_is_a_problem(log_url: str) -> None:
    role = f"reader_{uuid4().hex}"
    with psycopg.connect(log_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        try:
            url = make_url(log_url).set(username=role).render_as_string(hide_password=False)
            found = (await findings(settings(url)))["log"]
            with pytest.raises(LogUrlError, match="permission denied"):
                migrate(url)
        finally:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    assert found.status is CheckStatus.PROBLEM
    assert "permission denied" in found.message


@pytest.mark.parametrize(
    ("setting", "value", "check", "status"),
    [
        ("synchronous_commit", "off", "synchronous_commit", CheckStatus.WARNING),
        ("default_transaction_read_only", "on", "writable", CheckStatus.PROBLEM),
    ],
)
async def test_unsafe_settings_are_reported(
    log_url: str, setting: str, value: str, check: str, status: CheckStatus
) -> None:
    with psycopg.connect(log_url, autocommit=True) as connection:
        statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
        names = sql.Identifier(connection.info.dbname), sql.Identifier(setting)
        connection.execute(statement.format(*names, sql.Literal(value)))
    found = (await findings(settings(log_url)))[check]
    assert (found.status, bool(found.remedy)) == (status, True)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_a_server_without_durability_is_a_problem(setting: str) -> None:
    """The doctor does not start such a server."""
    facts = LogFacts(
        synchronous_standbys=0,
        standbys=0,
        standby_behind_bytes=None,
        settings={"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"} | {setting: "off"},
        read_only=False,
        applied=frozenset(),
        wanted=frozenset(),
        is_newer=False,
        clock_ahead_s=0.0,
        clock_error_s=0.0,
    )
    problems = [finding.check for finding in _durability(facts) if finding.status is CheckStatus.PROBLEM]
    assert problems == [setting]


@pytest.mark.parametrize(
    ("ahead_s", "status"), [(-5, CheckStatus.WARNING), (0.9, CheckStatus.OK), (1.2, CheckStatus.OK)]
)
def test_a_clock_is_wrong_only_beyond_its_error(ahead_s: float, status: CheckStatus) -> None:
    facts = LogFacts(
        synchronous_standbys=0,
        standbys=0,
        standby_behind_bytes=None,
        settings={},
        read_only=False,
        applied=frozenset(),
        wanted=frozenset(),
        is_newer=False,
        clock_ahead_s=ahead_s,
        clock_error_s=0.5,
    )
    assert _clock(facts).status is status


async def test_a_port_used_by_a_coordinator_is_no_problem(log_url: str) -> None:
    async with running(settings_for({}), log_url) as worker:
        found = (await findings(settings(log_url, worker.address)))["listen"]
    assert (found.status, "by a coordinator" in found.message) == (CheckStatus.OK, True)


async def test_every_port_is_checked(log_url: str) -> None:
    port = free_port()
    table = settings_for({}, metrics={"listen": f"127.0.0.1:{port}"})
    async with running(table, log_url) as worker:
        await get(port, "/healthz")
        admin = f"127.0.0.1:{worker.worker.admin_port}"
        theirs = settings_for(
            {},
            log={"url": log_url},
            listen={"address": worker.address},
            admin={"listen": admin},
            metrics={"listen": f"127.0.0.1:{port}"},
        )
        found = await findings(theirs)
        # A port that serves another purpose does not count.
        wrong = theirs.model_copy(update={"metrics": MetricsSettings(listen=worker.address)})
        not_found = await findings(wrong)
    for check in ("listen", "admin.listen", "metrics.listen"):
        assert found[check].message.endswith("is in use by a coordinator"), check
    assert not_found["metrics.listen"].status is CheckStatus.PROBLEM


async def test_the_port_of_another_process_is_a_problem(log_url: str) -> None:
    async with serving(ScriptedParticipant()) as address:
        found = (await findings(settings(log_url, address)))["listen"]
    assert (found.status, "ss -ltnp" in found.remedy) == (CheckStatus.PROBLEM, True)


async def test_an_unreachable_collector_is_a_warning(log_url: str) -> None:
    async with serving(ScriptedParticipant()) as collector:
        there = settings(log_url).model_copy(
            update={"tracing": TracingSettings(endpoint=f"http://{collector}")}
        )
        assert (await findings(there))["tracing.endpoint"].status is CheckStatus.OK
    away = there.model_copy(update={"tracing": TracingSettings(endpoint="http://127.0.0.1:1")})
    found = (await findings(away))["tracing.endpoint"]
    assert (found.status, "spans are lost" in found.remedy) == (CheckStatus.WARNING, True)
    assert "tracing.endpoint" not in await findings(settings(log_url))


async def test_an_unreachable_webhook_of_events_is_a_warning(log_url: str) -> None:
    async with serving(ScriptedParticipant()) as webhook:
        there = settings(log_url).model_copy(
            update={"events": EventSettings.model_validate({"url": f"http://{webhook}/?key=secret"})}
        )
        assert (await findings(there))["events.url"].status is CheckStatus.OK
    found = (await findings(there))["events.url"]
    assert (found.status, "wait in the log" in found.remedy) == (CheckStatus.WARNING, True)
    assert "secret" not in found.message
    assert "events.url" not in await findings(settings(log_url))


async def test_participants_are_checked_for_health(
    log_url: str, healthy: tuple[str, health.aio.HealthServicer]
) -> None:
    address, servicer = healthy
    await servicer.set("", STATUS.NOT_SERVING)
    async with serving(ScriptedParticipant()) as plain:
        found = await findings(settings(log_url, sick=address, plain=plain, gone="127.0.0.1:1"))
    assert found["participant sick"].message == f"{address} reports NOT_SERVING"
    assert found["participant plain"].status is CheckStatus.OK
    assert found["participant gone"].message == "127.0.0.1:1 cannot be reached"
    assert {found[f"participant {name}"].status for name in ("sick", "gone")} == {CheckStatus.PROBLEM}


async def test_a_proxy_that_participants_are_called_without_is_a_warning(
    log_url: str, healthy: tuple[str, health.aio.HealthServicer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor itself does not use it either."""
    address, servicer = healthy
    await servicer.set("", STATUS.SERVING)
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert "proxy" not in await findings(settings(log_url, stock=address))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    found = await findings(settings(log_url, stock=address))
    assert found["proxy"].status is CheckStatus.WARNING
    assert found["proxy"].message.startswith("HTTP_PROXY, https_proxy is set; tccd ignores it")
    assert found["participant stock"].status is CheckStatus.OK
    through = settings_for({"stock": {"target": address, "use_http_proxy": True}}, log={"url": log_url})
    assert "proxy" not in await findings(through)


@pytest.mark.slow
async def test_the_command_prints_text_and_json(log_url: str, tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text('[listen]\naddress = "127.0.0.1:0"\n[participants.gone]\ntarget = "127.0.0.1:1"\n')
    options, environment = ("--config", str(path)), {"TCC_LOG__URL": log_url}
    async with tccd("doctor", *options, environment=environment) as process:
        status, words, _ = await ended(process)
    assert status == 1
    lines = words.splitlines()
    assert lines[-2] == "problem  participant gone: 127.0.0.1:1 cannot be reached"
    assert lines[-1].startswith("         -> is it running")
    path.write_text('[listen]\naddress = "127.0.0.1:0"\n')
    async with tccd("doctor", "--json", *options, environment=environment) as process:
        status, out, _ = await ended(process)
    assert status == 0
    checks = json.loads(out)
    assert {check["status"] for check in checks} == {"ok", "warning"}
    assert checks[-1]["check"] == "participants"
