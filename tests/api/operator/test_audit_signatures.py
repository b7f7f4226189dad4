"""The audit chain against someone with the database role: what hashes alone accept, signatures find."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from msgspec.structs import replace
from structlog.testing import capture_logs
from typer.testing import CliRunner

from coordinator.core.audit import AuditEntry, AuditHead, AuditRecord, chained
from coordinator.log.operator_store import OperatorPool, PostgresOperatorLog
from coordinator.log.schema import HOME
from tccctl.cli import app
from tests.log.transactions import SEARCH_PATH
from tests.support.worker import Running, running, settings_for
from tests.tccctl.scripted_admin import NO_SETTINGS

from .conftest import REPORTS

COUNT = 12

Attack = Callable[[list[AuditEntry]], list[AuditEntry]]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A new private key, beside its public key `audit.pub`."""
    key = Ed25519PrivateKey.generate()
    path = tmp_path / "audit.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "audit.pub").write_bytes(public)
    return path


def signing(key_file: Path):
    return settings_for({}, audit={"key_file": str(key_file)}, **REPORTS)


@pytest.fixture
async def coordinator(log_url: str, key_file: Path) -> AsyncIterator[Running]:
    async with running(signing(key_file), log_url) as worker:
        yield worker


async def act_often(log_url: str) -> None:
    log = PostgresOperatorLog(OperatorPool(log_url), owner="c")
    for number in range(1, COUNT + 1):
        await log.audit_append(
            AuditEntry(operator="ann", action="transaction.hold", target=f"transaction/{number}", reason="r")
        )
    await log.close()


async def verify(coordinator: Running, *arguments: str | Path) -> tuple[int, str]:
    """Return the exit code of `tccctl audit verify`, and the line that it prints."""
    environment = NO_SETTINGS | {"TCCCTL_ADDRESS": f"127.0.0.1:{coordinator.worker.admin_port}"}
    command = ("audit", "verify", *map(str, arguments))
    result = await asyncio.to_thread(CliRunner(env=environment).invoke, app, command)
    return result.exit_code, result.stdout.splitlines()[-1]


async def rewrite(log_url: str, attack: Attack) -> None:
    """Replace the chain by another one with the right hashes, and remove all statements about it."""
    log = PostgresOperatorLog(OperatorPool(log_url), owner="c")
    records = await log.audit_after(0, 100)
    await log.close()
    head, forged = AuditHead(), list[AuditRecord]()
    for entry, original in zip(attack([record.entry for record in records]), records, strict=False):
        forged.append(chained(head, entry, original.at_us))
        head = AuditHead(forged[-1].sequence, forged[-1].hash)
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as db:
        await db.execute("DELETE FROM audit_heads")
        await db.execute("DELETE FROM audit WHERE sequence > %s", (len(forged),))
        for record in forged:
            await db.execute(
                "UPDATE audit SET operator = %s, target = %s, previous_hash = %s, hash = %s"
                " WHERE sequence = %s",
                (
                    record.entry.operator,
                    record.entry.target,
                    record.previous_hash,
                    record.hash,
                    record.sequence,
                ),
            )


def one_renamed(entries: list[AuditEntry]) -> list[AuditEntry]:
    return [*entries[:4], replace(entries[4], operator="eve"), *entries[5:]]


def tail_cut_off(entries: list[AuditEntry]) -> list[AuditEntry]:
    return entries[:8]


def order_swapped(entries: list[AuditEntry]) -> list[AuditEntry]:
    return [*entries[:4], entries[5], entries[4], *entries[6:]]


ATTACKS = pytest.mark.parametrize(
    ("attack", "broken_at"), [(one_renamed, COUNT), (tail_cut_off, 9), (order_swapped, COUNT)]
)


async def test_an_intact_chain_is_proven_by_its_signature(
    coordinator: Running, log_url: str, key_file: Path
) -> None:
    public = key_file.with_suffix(".pub")
    assert await verify(coordinator, "--public-key", public) == (0, "intact: no operator has acted yet")
    await act_often(log_url)
    exit_code, line = await verify(coordinator, "--public-key", public)
    assert exit_code == 0
    assert line.startswith(f"intact: {COUNT} records, head {COUNT}:")


@ATTACKS
async def test_a_running_coordinator_finds_what_hashes_accept(
    coordinator: Running, log_url: str, key_file: Path, attack: Attack, broken_at: int
) -> None:
    await act_often(log_url)
    await coordinator.worker.auditors[HOME].state_head()
    await rewrite(log_url, attack)
    hashes_alone, _ = await verify(coordinator, "--here")
    assert hashes_alone == 0
    exit_code, line = await verify(coordinator, "--public-key", key_file.with_suffix(".pub"))
    assert exit_code == 6
    assert line.startswith(f"BROKEN at record {broken_at}: ")
    with capture_logs() as logged:
        await coordinator.worker.auditors[HOME].state_head()
    events = {entry["event"] for entry in logged}
    assert "the audit chain is broken" in events
    assert "audit head" not in events


@ATTACKS
async def test_after_a_restart_the_logged_heads_find_it(
    log_url: str, key_file: Path, tmp_path: Path, attack: Attack, broken_at: int
) -> None:
    await act_often(log_url)
    output = tmp_path / "tccd.log"
    with capture_logs() as logged:
        async with running(signing(key_file), log_url) as worker:
            await worker.worker.auditors[HOME].state_head()
    output.write_text("".join(json.dumps(entry) + "\n" for entry in logged) + "listening\n")
    await rewrite(log_url, attack)
    public = key_file.with_suffix(".pub")
    async with running(signing(key_file), log_url) as restarted:
        # It knows only the forged chain, which it signs in good faith.
        in_good_faith, _ = await verify(restarted, "--public-key", public)
        found = await verify(restarted, "--public-key", public, "--heads", output)
    assert in_good_faith == 0
    problem = "is missing" if attack is tail_cut_off else "differs from the given head"
    assert found == (6, f"BROKEN at record {COUNT}: record {COUNT} {problem}")


async def test_a_restarted_coordinator_signs_nothing_against_a_stored_statement(
    log_url: str, key_file: Path
) -> None:
    await act_often(log_url)
    public = key_file.with_suffix(".pub")
    async with running(signing(key_file), log_url) as worker:
        await worker.worker.auditors[HOME].state_head()
    await tamper(log_url, "DELETE FROM audit WHERE sequence = 12")
    async with running(signing(key_file), log_url) as restarted:
        found = await verify(restarted, "--public-key", public)
        # A forger has no key, so that statements of his own do not help.
        await tamper(log_url, "UPDATE audit_heads SET sequence = 11")
        forged, _ = await verify(restarted, "--public-key", public)
    assert found == (6, "BROKEN at record 12: record 12 is missing")
    assert forged == 6


async def tamper(log_url: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(log_url, options=SEARCH_PATH) as db:
        await db.execute(statement)


async def test_a_forged_line_of_the_log_is_found(
    coordinator: Running, log_url: str, key_file: Path, tmp_path: Path
) -> None:
    await act_often(log_url)
    with capture_logs() as logged:
        await coordinator.worker.auditors[HOME].state_head()
    # Its job may have stated it as well.
    *_, stated = [entry for entry in logged if entry["event"] == "audit head"]
    output = tmp_path / "tccd.log"
    output.write_text(json.dumps(stated | {"sequence": 11}))
    found = await verify(coordinator, "--public-key", key_file.with_suffix(".pub"), "--heads", output)
    assert found == (6, "NOT PROVEN: the signature of head 11 is wrong")


async def test_another_key_and_no_key_prove_nothing(log_url: str, key_file: Path, tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate().public_key()
    path = tmp_path / "other.pub"
    path.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    async with running(signing(key_file), log_url) as worker:
        wrong_key, line = await verify(worker, "--public-key", path)
    async with running(settings_for({}, **REPORTS), log_url) as worker:
        missing = await verify(worker, "--public-key", path)
    assert wrong_key == 6
    assert line.startswith("NOT PROVEN: the coordinator signs with the key ")
    assert missing == (6, "NOT PROVEN: the coordinator has no key ([audit] key_file)")


@pytest.mark.parametrize("content", ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_without_a_key_is_refused_at_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "audit.pem"
    path.write_text(content)
    with pytest.raises(ValueError, match="must hold an Ed25519 private key"):
        settings_for({}, audit={"key_file": str(path)})
