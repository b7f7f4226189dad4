"""TLS on both sides of a coordinator, with certificates verified on both sides."""

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from pydantic import ValidationError

from coordinator.config.settings import ListenTlsSettings, ParticipantTlsSettings
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2_grpc
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc
from tests.support.scripted_participant import ScriptedParticipant
from tests.support.worker import branch, running, settings_for

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates")


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A directory with ca.crt, and tcc.crt with tcc.key for the server name tcc.test."""

    def openssl(*arguments: str) -> None:
        subprocess.run(("openssl", *arguments), cwd=tmp_path, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=authority"
    )
    openssl("req", *curve, "-keyout", "tcc.key", "-out", "tcc.csr", "-subj", "/CN=tcc.test")
    (tmp_path / "names").write_text("subjectAltName=DNS:tcc.test")
    openssl(
        *("x509", "-req", "-in", "tcc.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-extfile", "names", "-out", "tcc.crt"),
    )
    return tmp_path


@asynccontextmanager
async def serving_tls(participant: ScriptedParticipant, files: Path) -> AsyncIterator[str]:
    """A participant that requires a client certificate."""
    pair = ((files / "tcc.key").read_bytes(), (files / "tcc.crt").read_bytes())
    credentials = grpc.ssl_server_credentials(
        [pair], (files / "ca.crt").read_bytes(), require_client_auth=True
    )
    server = grpc.aio.server()
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(participant, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_both_sides_present_and_verify_certificates(log_url: str, certificates: Path) -> None:
    stock = ScriptedParticipant()
    pair = {
        key: str(certificates / name)
        for key, name in (("certificate_file", "tcc.crt"), ("key_file", "tcc.key"))
    }
    authority = str(certificates / "ca.crt")
    async with serving_tls(stock, certificates) as target:
        tls = pair | {"ca_file": authority, "server_name": "tcc.test"}
        listen = {"address": "127.0.0.1:0", "tls": pair | {"client_ca_file": authority}}
        settings = settings_for({"stock": {"target": target, "tls": tls}}, listen=listen)
        async with running(settings, log_url) as worker:
            request = pb.ExecuteTransactionRequest(
                gid="g", branches=[branch("1")], wait_for=pb.WAIT_FOR_COMPLETION
            )
            credentials = grpc.ssl_channel_credentials(
                (certificates / "ca.crt").read_bytes(),
                (certificates / "tcc.key").read_bytes(),
                (certificates / "tcc.crt").read_bytes(),
            )
            options = (("grpc.ssl_target_name_override", "tcc.test"),)
            async with grpc.aio.secure_channel(worker.address, credentials, options) as channel:
                stub = transaction_pb2_grpc.TransactionServiceStub(channel)
                reply = await stub.ExecuteTransaction(request, timeout=30)
            assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED
            with pytest.raises(grpc.aio.AioRpcError) as caught:  # in plain text
                await worker.stub.ExecuteTransaction(request, timeout=30)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert stock.heard("g") == ["TRY 1", "CONFIRM 1"]


@pytest.mark.parametrize("server_name", ["tcc.test", "vault.test"])
async def test_a_participant_with_the_certificate_of_another_is_not_called(
    log_url: str, certificates: Path, server_name: str
) -> None:
    stock, is_right = ScriptedParticipant(), server_name == "tcc.test"
    files = {"certificate_file": "tcc.crt", "key_file": "tcc.key", "ca_file": "ca.crt"}
    tls = {key: str(certificates / name) for key, name in files.items()} | {"server_name": server_name}
    async with serving_tls(stock, certificates) as target:
        settings = settings_for({"stock": {"target": target, "tls": tls}})
        async with running(settings, log_url) as worker:
            request = pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")])
            request.expiry.FromSeconds(30 if is_right else 1)
            reply = await worker.stub.ExecuteTransaction(request, timeout=60)
    cancelled = (common.TRANSACTION_STATE_CANCELLING, common.TRANSACTION_STATE_CANCELLED)
    assert (reply.outcome.state not in cancelled) is is_right
    assert bool(stock.heard("g")) is is_right


def test_invalid_tls_settings_are_refused(certificates: Path) -> None:
    certificate, key = certificates / "tcc.crt", certificates / "tcc.key"
    for wrong, said in (
        ({"certificate_file": certificate, "key_file": certificates / "ca.key"}, "do not match"),
        ({"certificate_file": certificate}, "requires key_file"),
        ({"key_file": key}, "requires certificate_file"),
        ({"ca_file": key}, "contains no certificate"),
        ({"certificate_file": key, "key_file": key}, "one of them is invalid"),
    ):
        with pytest.raises(ValidationError, match=said):
            ParticipantTlsSettings.model_validate(wrong)
    with pytest.raises(ValidationError, match="contains no certificate"):
        ListenTlsSettings(certificate_file=certificate, key_file=key, client_ca_file=key)
