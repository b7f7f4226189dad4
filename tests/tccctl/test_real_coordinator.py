"""tccctl and a real coordinator: cases that the guide for operators does not cover."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.processes import run_python
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, serving
from tests.support.worker import Running, branch, running, settings_for
from tests.tccctl.scripted_admin import NO_SETTINGS

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates")


async def tccctl(worker: Running, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """The answer of `tccctl_at` for this worker."""
    return await tccctl_at(f"127.0.0.1:{worker.worker.admin_port}", *arguments, **environment)


async def tccctl_at(address: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of the command as a process."""
    settings = NO_SETTINGS | {"TCCCTL_ADDRESS": address} | environment
    return await run_python("-m", "tccctl", *arguments, environment=settings)


@pytest.fixture
async def worker(log_url: str) -> AsyncIterator[Running]:
    """A coordinator with one participant, whose Try never completes."""
    stock = ScriptedParticipant()

    async def wait(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == common.OPERATION_TRY:
            await asyncio.Event().wait()
        return SUCCEEDED

    stock.script = wait
    async with (
        serving(stock) as address,
        running(
            settings_for({"stock": {"target": address, "call_timeout_s": 60}}, drain_s=0.1), log_url
        ) as worker,
    ):
        for gid in ("order-1", "order-2"):
            request = pb.ExecuteTransactionRequest(
                gid=gid, branches=[branch("1")], wait_for=pb.WAIT_FOR_ACCEPTED, initiator="shop"
            )
            request.expiry.FromSeconds(3_000)
            await worker.stub.ExecuteTransaction(request)
        yield worker


@pytest.mark.slow
async def test_a_command_on_an_old_version_changes_nothing_and_exits_with_4(worker: Running) -> None:
    code, out, _ = await tccctl(worker, "tx", "hold", "order-1", "--reason", "r", "-o", "json")
    assert code == 0
    held = json.loads(out)["transaction"]
    code, out, error = await tccctl(
        worker, "tx", "release", "order-1", "--reason", "r", "--version", str(held["version"] - 1)
    )
    assert (code, out) == (4, "")
    assert f"its version is now {held['version']}" in error
    _, out, _ = await tccctl(worker, "tx", "list", "--filter", "held", "-o", "json")
    assert [each["gid"] for each in json.loads(out)["transactions"]] == ["order-1"]


@pytest.mark.slow
async def test_a_token_is_valid_only_for_the_transactions_found(worker: Running) -> None:
    cancel = ("tx", "cancel", "--filter", "state=TRYING", "-o", "json")
    _, out, _ = await tccctl(worker, *cancel, "--dry-run")
    plan = json.loads(out)
    assert (plan["matched"], plan["succeeded"]) == (2, 2)
    await tccctl(worker, "tx", "cancel", "order-1", "--reason", "r")
    await worker.settled("order-1")
    token = plan["confirmation_token"]
    code, _, error = await tccctl(worker, *cancel, "--token", token, "--reason", "r")
    assert code == 4
    assert "repeat the dry run" in error
    assert await worker.state("order-2") == "TRYING"
    code, out, _ = await tccctl(worker, *cancel, "--yes", "--reason", "r")
    assert (code, json.loads(out)["succeeded"]) == (0, 1)
    await worker.settled("order-2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("tx", "show", "order-9"), 3, "TRANSACTION_NOT_FOUND"),
        (("tx", "list", "--filter", "live stukc"), 2, "stukc"),
        (("tx", "retry", "order-1", "--reason", "r"), 1, "NOT_DECIDED"),
        (("tx", "release", "order-1", "--reason", "r"), 1, "TRANSACTION_NOT_HELD"),
        (("tx", "resolve", "order-1", "9", "confirmed", "--reason", "r", "--yes"), 1, "NOT_DECIDED"),
        (("participant", "pause", "absent", "--reason", "r"), 3, "known participants: stock"),
    ],
)
async def test_each_refusal_has_its_exit_code(
    worker: Running, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended, out, error = await tccctl(worker, *arguments)
    assert (ended, out) == (code, "")
    assert said in error


@pytest.mark.slow
async def test_a_coordinator_s_chain_verifies_locally(
    worker: Running,
) -> None:
    for reason in ("größe \u2028 \x7f", '"quoted" \\ and\ttabbed'):
        await tccctl(worker, "tx", "hold", "order-1", "--reason", reason)
        await tccctl(worker, "tx", "release", "order-1", "--reason", reason)
    code, there, _ = await tccctl(worker, "audit", "verify")
    assert (code, there.split(",")[0]) == (0, "intact: 4 records")
    assert await tccctl(worker, "audit", "verify", "--here") == (0, there, "")
    head = there.split()[-1]
    assert await tccctl(worker, "audit", "verify", "--head", head) == (0, there, "")


@pytest.mark.slow
async def test_an_address_for_initiators_is_not_one_for_operators(worker: Running) -> None:
    code, _, error = await tccctl(worker, "stats", TCCCTL_ADDRESS=worker.address)
    assert code == 5
    assert "not an admin listener" in error


def make_certificates(directory: Path) -> None:
    """ca.crt, and tcc.crt with tcc.key for 127.0.0.1."""

    def openssl(*arguments: str) -> None:
        subprocess.run(("openssl", *arguments), cwd=directory, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=ca")
    openssl("req", *curve, "-keyout", "tcc.key", "-out", "tcc.csr", "-subj", "/CN=tcc")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl(
        *("x509", "-req", "-in", "tcc.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-extfile", "names", "-out", "tcc.crt"),
    )


@pytest.mark.slow
@needs_openssl
async def test_both_sides_present_certificates(log_url: str, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    ca, certificate, key = (str(tmp_path / name) for name in ("ca.crt", "tcc.crt", "tcc.key"))
    tls = {"certificate_file": certificate, "key_file": key, "client_ca_file": ca}
    pair = ("--certificate-file", certificate, "--key-file", key)
    async with running(settings_for({}, admin={"tls": tls}), log_url) as worker:
        code, out, _ = await tccctl(worker, "tx", "list", "--ca-file", ca, *pair)
        assert (code, out) == (0, "no transactions found\n")
        by_environment = {
            "TCCCTL_CA_FILE": ca,
            "TCCCTL_CERTIFICATE_FILE": certificate,
            "TCCCTL_KEY_FILE": key,
        }
        assert (await tccctl(worker, "tx", "list", **by_environment))[0] == 0
        for without in ((), ("--ca-file", ca)):
            code, out, error = await tccctl(worker, "tx", "list", *without)
            assert (code, out) == (5, "")
            assert "does not respond" in error
            assert "If it uses TLS, give --ca-file, and also --certificate-file" in " ".join(error.split())
        assert (await tccctl(worker, "tx", "list", *pair))[0] == 2
        assert (await tccctl(worker, "tx", "list", "--ca-file", ca, *pair[:2]))[0] == 2
        assert (await tccctl(worker, "tx", "list", "--ca-file", "/nonexistent"))[0] == 2
