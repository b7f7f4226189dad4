"""Clients with TLS and tokens over real connections, while their certificates change."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

import tcc
from tcc._internal.tls import server_credentials
from tcc.client import connection
from tcc.transaction.v1 import transaction_pb2_grpc
from tests.client.scripted_service import ScriptedService
from tests.support.tls_site import Site

SHOP, RENEWED = "spiffe://bank.example/shop", "spiffe://bank.example/shop/renewed"


class Callers(grpc.aio.ServerInterceptor):
    """Records the token of each call, but of streams, which these services do not know."""

    def __init__(self) -> None:
        self.tokens: list[str | bytes | None] = []

    async def intercept_service(self, continuation, handler_call_details):
        if not handler_call_details.method.endswith("/StreamTransactions"):
            self.tokens.append(dict(handler_call_details.invocation_metadata).get("authorization"))
        return await continuation(handler_call_details)


class Recording(ScriptedService):
    """Records the names in the certificates of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        # Set once a caller has shown the name.
        self.seen = defaultdict(asyncio.Event)

    async def ExecuteTransaction(self, request, context):  # noqa: N802 - the method's name
        self._record(context)
        return await super().ExecuteTransaction(request, context)

    async def ExecuteTransactions(self, request, context):  # noqa: N802 - the method's name
        self._record(context)
        await super().ExecuteTransactions(request, context)

    def _record(self, context) -> None:
        [name] = (name.decode() for name in context.auth_context()["peer_spiffe_id"])
        self.names.append(name)
        self.seen[name].set()


@asynccontextmanager
async def serving(service: ScriptedService, tls: tcc.Tls | None, *interceptors) -> AsyncIterator[int]:
    server = grpc.aio.server(interceptors=interceptors)
    transaction_pb2_grpc.add_TransactionServiceServicer_to_server(service, server)
    port = (
        server.add_secure_port("127.0.0.1:0", server_credentials(tls))
        if tls
        else server.add_insecure_port("127.0.0.1:0")
    )
    await server.start()
    yield port
    await server.stop(None)


def sites(directory: Path) -> tuple[Site, Site]:
    """Return a server's files, and those of a client."""
    for name in ("server", "client"):
        (directory / name).mkdir()
    server = Site(directory / "server")
    client = Site(directory / "client", server.authority, server.authority.issue(SHOP))
    return server, client


def branches() -> list[tcc.BranchRequest]:
    return [tcc.BranchRequest("stock", "reserve", {})]


async def test_certificates_rotate_under_load_without_a_failed_call(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "_FILES_CHECKED_EVERY_S", 0.0)
    server, ours = sites(tmp_path)
    service = Recording()
    renewed_server = server.authority.issue("tcc.test", client=False)
    async with (
        serving(service, server.tls()) as port,
        tcc.Client(f"127.0.0.1:{port}", tls=ours.tls()) as client,
    ):
        stopping = asyncio.Event()

        async def call_on() -> int:
            calls = 0
            while not stopping.is_set():
                await client.execute(branches(), wait_for="decision")
                calls += 1
            return calls

        load = [asyncio.create_task(call_on()) for _ in range(8)]
        await service.seen[SHOP].wait()
        server.write(renewed_server)
        ours.write(server.authority.issue(RENEWED))
        await asyncio.wait_for(service.seen[RENEWED].wait(), 10)
        serial = await asyncio.to_thread(server.served_serial, port)
        stopping.set()
        calls = sum(await asyncio.gather(*load))
    assert serial == renewed_server.certificate.serial_number
    assert (service.names[0], service.names[-1]) == (SHOP, RENEWED)
    # None was repeated.
    assert len(service.gids) == calls


async def test_files_that_do_not_fit_together_change_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(connection, "_FILES_CHECKED_EVERY_S", 0.0)
    server, ours = sites(tmp_path)
    service = Recording()
    async with (
        serving(service, server.tls()) as port,
        tcc.Client(f"127.0.0.1:{port}", tls=ours.tls()) as client,
    ):
        await client.execute(branches())
        for site in (server, ours):
            (site.directory / "tls.key").write_bytes(server.authority.issue("other").key_pem)
        await client.execute(branches())
        async with tcc.Client(f"127.0.0.1:{port}", tls=tcc.Tls(ca=ours.directory / "ca.crt")) as other:
            with pytest.raises(tcc.TccError):
                await other.execute(branches(), timeout_s=0.2)
        (ours.directory / "tls.key").unlink()
        await client.execute(branches())
    assert service.names == [SHOP] * 3
    assert "the certificates in use are kept" in caplog.text


async def test_each_call_shows_the_token(tmp_path):
    server, _ = sites(tmp_path)
    file = tmp_path / "token"
    callers = Callers()
    tls = tcc.Tls(ca=server.directory / "ca.crt", server_name="tcc.test")
    numbers = iter("123")
    async with serving(ScriptedService(), server.tls(ca=False), callers) as port:
        for token, shown in (("text", "text"), (file, "one"), (lambda: next(numbers), "2")):
            file.write_text("one\n")
            async with tcc.Client(f"127.0.0.1:{port}", tls=tls, token=token) as client:
                await client.execute(branches())
                assert callers.tokens[-1] == f"Bearer {shown}"
                file.write_text("two\n")
                await client.execute(branches())
    assert callers.tokens[1::2] == ["Bearer text", "Bearer two", "Bearer 3"]


def test_the_sync_client_takes_them_too(tmp_path):
    server, ours = sites(tmp_path)
    callers, ready, stop = Callers(), [], []

    async def serve() -> None:
        async with serving(ScriptedService(), server.tls(), callers) as port:
            ready.append(port)
            await asyncio.to_thread(call, port)

    def call(port: int) -> None:
        with tcc.SyncClient(f"127.0.0.1:{port}", tls=ours.tls(), token="text") as client:
            stop.append(client.execute(branches()))

    asyncio.run(serve())
    assert (len(stop), callers.tokens) == (1, ["Bearer text"])


async def test_a_token_is_sent_over_tls_or_loopback_only():
    with pytest.raises(ValueError, match="over TLS only"):
        tcc.Client("tcc.example:50050", token="secret")
    callers = Callers()
    async with (
        serving(ScriptedService(), None, callers) as port,
        tcc.Client(f"127.0.0.1:{port}", token="secret") as client,
    ):
        await client.execute(branches())
    assert callers.tokens == ["Bearer secret"]


def test_files_are_checked_when_a_client_is_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        tcc.Client("tcc:50050", tls=tcc.Tls(ca=tmp_path / "none"))
    (tmp_path / "ca").write_text("nothing")
    with pytest.raises(ValueError, match="contains no certificate"):
        tcc.Client("tcc:50050", tls=tcc.Tls(ca=tmp_path / "ca"))
    with pytest.raises(ValueError, match="together"):
        tcc.Tls(certificate=tmp_path / "ca")
