"""The coordinator's certificate to participants rotates while calls are running."""

import asyncio
from pathlib import Path

import grpc
import pytest
from pydantic import ValidationError

from coordinator.config.settings import ParticipantSettings
from coordinator.core.model import OutcomeCode
from coordinator.participant_client import client as participant_client
from coordinator.participant_client.channel import ParticipantAddress
from tcc._internal.tls import server_credentials
from tcc.participant.v1 import participant_pb2_grpc
from tests.participant_client.test_connections import calling, result
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.tls_site import Site

TCCD, RENEWED = "spiffe://bank.example/tccd", "spiffe://bank.example/tccd/renewed"


class Stock(ScriptedParticipant):
    """A participant that records the names of its callers."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    async def TryBranch(self, request, context):  # noqa: N802 - the method's name
        self.names += [name.decode() for name in context.auth_context()["peer_spiffe_id"]]
        return await super().TryBranch(request, context)


async def test_certificates_rotate_without_a_failed_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participant_client, "_FILES_CHECKED_EVERY_S", 0.0)
    for name in ("stock", "tccd"):
        (tmp_path / name).mkdir()
    theirs = Site(tmp_path / "stock")
    ours = Site(tmp_path / "tccd", theirs.authority, theirs.authority.issue(TCCD))
    stock = Stock()
    server = grpc.aio.server()
    participant_pb2_grpc.add_ParticipantServiceServicer_to_server(stock, server)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(theirs.tls()))
    await server.start()
    address = ParticipantAddress(target=f"127.0.0.1:{port}", tls=ours.tls(), batched=False)
    async with calling(address) as client:
        codes = [(await result(client)).code]
        theirs.write(theirs.authority.issue("tcc.test", client=False))
        ours.write(theirs.authority.issue(RENEWED))
        async with asyncio.timeout(30):
            while stock.names[-1] != RENEWED:
                codes.append((await result(client)).code)
    await server.stop(None)
    assert set(codes) == {OutcomeCode.SUCCEEDED}
    assert (stock.names[0], len(stock.names)) == (TCCD, len(codes))


async def test_each_call_shows_the_token_of_the_file(tmp_path: Path) -> None:
    shown: list[object] = []

    class Stock(ScriptedParticipant):
        async def TryBranch(self, request, context):  # noqa: N802 - the method's name
            shown.append(dict(context.invocation_metadata()).get("authorization"))
            return await super().TryBranch(request, context)

    file = tmp_path / "token"
    async with (
        serving(Stock()) as target,
        calling(ParticipantAddress(target=target, token_file=file)) as client,
    ):
        for token in ("one", "two"):
            file.write_text(f"{token}\n")
            assert (await result(client)).code is OutcomeCode.SUCCEEDED
        file.unlink()
        assert (await result(client)).code is OutcomeCode.SUCCEEDED
    assert shown == ["Bearer one", "Bearer two", "Bearer two"]


def test_a_token_is_sent_over_tls_or_loopback_only(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    assert ParticipantSettings(target="127.0.0.1:1", token_file=file).address().token_file == file
    with pytest.raises(ValidationError, match="over TLS only"):
        ParticipantSettings(target="stock.example:1", token_file=file)
