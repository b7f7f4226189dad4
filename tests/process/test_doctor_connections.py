"""`tccd doctor`: certificates, and what participants are and offer."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from coordinator.process.checks import CheckStatus
from coordinator.process.doctor import _authorities, _certificates_in, _own_certificate
from coordinator.process.participant_checks import ParticipantInfo, _check_clock
from tcc.participant.v1 import participant_pb2, participant_pb2_grpc
from tests.engine.test_unary_only import UnaryOnly
from tests.process.test_doctor import findings, settings
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.streaming_participant import StreamingParticipant
from tests.support.worker import running, settings_for
from tests.tccctl.test_real_coordinator import make_certificates, needs_openssl

OK, WARNING, PROBLEM = CheckStatus


@needs_openssl
async def test_the_tls_ports_of_a_running_coordinator_are_no_problem(log_url: str, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    ca, certificate, key = (str(tmp_path / name) for name in ("ca.crt", "tcc.crt", "tcc.key"))
    tls = {"certificate_file": certificate, "key_file": key}
    running_with = settings_for(
        {},
        listen={"address": "127.0.0.1:0", "tls": tls},
        admin={"tls": tls | {"client_ca_file": ca}},
    )
    async with running(running_with, log_url) as worker:
        theirs = settings_for(
            {},
            log={"url": log_url},
            listen={"address": worker.address, "tls": tls},
            admin={"listen": f"127.0.0.1:{worker.worker.admin_port}", "tls": tls | {"client_ca_file": ca}},
        )
        found = await findings(theirs)
        (tmp_path / "other").mkdir()
        make_certificates(tmp_path / "other")
        files = {name: str(tmp_path / "other" / Path(file).name) for name, file in tls.items()}
        renewed = settings_for({}, log={"url": log_url}, listen={"address": worker.address, "tls": files})
        changed = (await findings(renewed))["listen"]
    for check in ("listen", "admin.listen"):
        assert (found[check].status, found[check].message.split()[-1]) == (OK, "coordinator"), check
    assert changed.status == PROBLEM
    assert "does not serve the certificate of this configuration" in changed.remedy
    # They were made for two days.
    for check in ("listen.tls.certificate_file", "admin.tls.certificate_file", "admin.tls.client_ca_file"):
        assert (found[check].status, "expires on" in found[check].message) == (WARNING, True)
        # Listeners and channels follow their files.
        assert found[check].remedy == "renew it; tccd reads the file again when it changes, without a restart"


def certificate(directory: Path, name: str, days: int) -> bytes:
    """Make a certificate that is valid for some days from now. Return it in PEM."""
    file = directory / f"{name}.crt"
    subprocess.run(
        (
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", str(directory / "key"), "-out", str(file), "-days", str(days), "-subj", "/CN=x"),
        ),
        check=True,
        capture_output=True,
    )
    return file.read_bytes()


@needs_openssl
def test_a_certificate_is_judged_by_its_dates(tmp_path: Path) -> None:
    certificate(tmp_path, "one", 100)
    file = tmp_path / "one.crt"
    (one,) = _certificates_in(file)
    begins, ends = one.not_valid_before_utc, one.not_valid_after_utc
    assert ends - begins == timedelta(days=100)
    assert abs(begins - datetime.now(UTC)) < timedelta(hours=1)
    moments = {
        begins - timedelta(seconds=1): PROBLEM,
        begins: OK,
        ends - timedelta(days=14, seconds=1): OK,
        ends - timedelta(days=14): WARNING,
        ends: PROBLEM,
    }
    assert {now: _own_certificate("x", file, now).status for now in moments} == moments
    assert f"expired on {ends:%Y-%m-%d}" in _own_certificate("x", file, ends).message


@needs_openssl
def test_a_chain_ends_with_its_first_and_authorities_with_their_last(tmp_path: Path) -> None:
    file = tmp_path / "both.crt"
    file.write_bytes(certificate(tmp_path, "short", 20) + certificate(tmp_path, "long", 60))
    later = datetime.now(UTC) + timedelta(days=30)
    assert _own_certificate("x", file, later).status is PROBLEM
    assert _authorities("x", file, later).status is OK


@needs_openssl
def test_dates_from_2050_on_are_read(tmp_path: Path) -> None:
    certificate(tmp_path, "far", 15_000)
    (far,) = _certificates_in(tmp_path / "far.crt")
    assert far.not_valid_after_utc - far.not_valid_before_utc == timedelta(days=15_000)


async def test_a_participant_without_batches_is_a_warning_if_they_are_configured(log_url: str) -> None:
    async with serving(UnaryOnly()) as address:
        table = settings_for(
            {"one": {"target": address}, "two": {"target": address, "batched": False}}, log={"url": log_url}
        )
        found = await findings(table)
    one, two = found["participant one"], found["participant two"]
    assert (one.status, "neither streams nor batches are offered" in one.message) == (WARNING, True)
    assert "set batched = false" in one.remedy
    assert two.status is OK


class StreamsOnly(StreamingParticipant, UnaryOnly):
    """Implements no batches."""


async def test_a_participant_with_streams_needs_no_batches(log_url: str) -> None:
    async with serving(StreamsOnly()) as address:
        found = (await findings(settings(log_url, stock=address)))["participant stock"]
    assert (found.status, "streams are offered, batches are not" in found.message) == (OK, True)


@asynccontextmanager
async def participant_named(name: str, directory: Path, **arguments: Any) -> AsyncIterator[str]:
    """A participant with the SDK, and its address. `arguments`: of its start."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{directory / name}.db")
    participant = tcc.Participant(name, database=engine)

    @participant.action("reserve", needs_request=False)
    class Reserve:
        async def try_(self, branch, request, db):
            pass

        async def confirm(self, branch, request, db):
            pass

        async def cancel(self, branch, request, db):
            pass

    await participant.create_schema()
    port = await participant.start("127.0.0.1:0", **arguments)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await participant.stop(0)
        await engine.dispose()


async def test_the_address_of_another_participant_is_a_problem(log_url: str, tmp_path: Path) -> None:
    async with participant_named("stock", tmp_path) as stock, participant_named("coupon", tmp_path) as coupon:
        right = await findings(settings(log_url, stock=stock, coupon=coupon))
        swapped = await findings(settings(log_url, stock=coupon, coupon=stock))
    for name, address in (("stock", stock), ("coupon", coupon)):
        expected = (
            f"{address} is SERVING; no TLS; serves {name}; streams and batches are offered; "
            f"tcc-python/{tcc.__version__}"
        )
        assert right[f"participant {name}"].message == expected
    assert swapped["participant stock"].message == f"{coupon} is participant coupon"
    assert swapped["participant stock"].status is PROBLEM
    assert swapped["participant stock"].remedy == "correct the target in [participants.stock]"


async def test_another_name_that_is_not_configured_is_a_warning(log_url: str, tmp_path: Path) -> None:
    async with participant_named("warehouse", tmp_path) as address:
        found = (await findings(settings(log_url, stock=address)))["participant stock"]
    assert (found.status, "serves warehouse" in found.message) == (WARNING, True)
    assert found.remedy.startswith("does the target belong to it?")


async def test_a_participant_of_this_machine_has_its_clock(log_url: str, tmp_path: Path) -> None:
    async with participant_named("stock", tmp_path) as address:
        found = (await findings(settings(log_url, stock=address)))["participant stock clock"]
    assert (found.status, found.remedy) == (OK, "")
    assert re.fullmatch(
        r"its clock differs from this machine's by [+-]\d\.\d{3} s \(± \d\.\d{3} s\)", found.message
    )


class Ahead(ScriptedParticipant):
    """Its clock is a minute ahead; it says nothing else of itself."""

    async def GetParticipantInfo(self, request, context):  # noqa: N802
        response = participant_pb2.GetParticipantInfoResponse()
        response.server_time.FromDatetime(datetime.now(UTC) + timedelta(minutes=1))
        return response


async def test_a_participant_whose_clock_is_wrong_is_a_warning(log_url: str) -> None:
    async with serving(Ahead()) as address:
        found = await findings(settings(log_url, stock=address))
    clock = found["participant stock clock"]
    assert clock.status is WARNING
    # As exactly as the round trip allows.
    assert re.match(r"its clock differs from this machine's by \+(59|6\d)\.\d{3} s", clock.message)
    assert clock.remedy.startswith("run NTP")
    assert found["participant stock"].message.endswith(
        "its name is not offered; batches are offered, streams are not; its version is not offered"
    )


@pytest.mark.parametrize(
    ("ahead_s", "error_s", "status"),
    [(2.0, 0.0, OK), (-2.001, 0.0, WARNING), (2.5, 0.5, OK), (-2.6, 0.5, WARNING)],
)
def test_the_round_trip_counts_for_the_participant(ahead_s: float, error_s: float, status: str) -> None:
    info = ParticipantInfo(name="stock", sdk="x/1", clock_ahead_s=ahead_s, clock_error_s=error_s)
    assert _check_clock("x", info).status is status


async def test_one_without_information_about_itself_is_no_problem(log_url: str) -> None:
    async with serving(ScriptedParticipant()) as address:
        found = await findings(settings(log_url, stock=address))
    assert "participant stock clock" not in found
    assert found["participant stock"].status is OK
    assert found["participant stock"].message == (
        f"{address} responds; it has no health service; no TLS; its name is not offered; "
        "batches are offered, streams are not; its version and clock are not offered"
    )


async def test_a_participant_that_refuses_the_coordinator_is_a_problem(log_url: str, tmp_path: Path) -> None:
    """Its health service is open to everybody, so health alone would be found good."""
    token = tmp_path / "token"
    callers = [f"sha256:{sha256(b'tcc_tccd_right').hexdigest()}"]
    async with participant_named("stock", tmp_path, callers=callers) as address:
        found = {}
        for content in ("tcc_tccd_right", "tcc_tccd_wrong"):
            token.write_text(content)
            participant = {"target": address, "token_file": str(token)}
            table = settings_for({"stock": participant}, log={"url": log_url})
            found[content] = (await findings(table))["participant stock"]
    assert found["tcc_tccd_right"].status is OK
    wrong = found["tcc_tccd_wrong"]
    assert (wrong.status, wrong.message.split(":")[2]) == (
        PROBLEM,
        " this participant does not know the caller",
    )
    assert "to the participant's callers" in wrong.remedy


@needs_openssl
async def test_what_is_wrong_with_tls_is_named(log_url: str, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    (tmp_path / "other").mkdir()
    make_certificates(tmp_path / "other")
    pair = ((tmp_path / "tcc.key").read_bytes(), (tmp_path / "tcc.crt").read_bytes())
    server = grpc.aio.server()
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(ScriptedParticipant(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    secured = f"127.0.0.1:{port}"
    ca, other = ({"ca_file": str(directory / "ca.crt")} for directory in (tmp_path, tmp_path / "other"))
    async with serving(ScriptedParticipant()) as plain:
        table = settings_for(
            {
                "right": {"target": secured, "tls": ca},
                "without": {"target": secured},
                "plain": {"target": plain, "tls": ca},
                "untrusted": {"target": secured, "tls": other},
            },
            log={"url": log_url},
        )
        found = await asyncio.wait_for(findings(table), 120)
    await server.stop(None)
    assert (found["participant right"].status, "; TLS;" in found["participant right"].message) == (OK, True)
    remedies = {name: found[f"participant {name}"].remedy for name in ("without", "plain", "untrusted")}
    assert remedies["without"] == "it speaks TLS: add tls to its table"
    assert remedies["plain"].startswith("it does not speak TLS: remove tls from its table")
    assert remedies["untrusted"].startswith("TLS fails: does ca_file have the authority")
