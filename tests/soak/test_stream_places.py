"""A tenant that keeps all streams open, against a real `tccd`: another tenant gets its share of them.

Half of its streams are idle, and the others send what is refused. What is ended is soon opened again.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

import tcc
from coordinator.security.tokens import new_token
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.soak.test_hostile_clients import Honest, Stock, tccd
from tests.soak.test_tenants import tenants
from tests.support.identities import SERVER_NAME, Tls, bearer
from tests.support.scripted_participant import serving
from tests.support.transaction_stream import EOF, TransactionStream, item

STREAMS = 64
# To open a stream counts as a call.
CALLS_PER_S = 200.0
PHASE_S = 1.5
EVERY_S = 0.5


async def keep_open(channel: grpc.aio.Channel, token: str, ended: Counter[str], *, is_idle: bool) -> None:
    """Open a stream again whenever it was ended."""
    refused = pb.StreamTransactionsRequest(items=[item(1, pb.ExecuteTransactionRequest(gid="another's"))])
    while True:
        stream = TransactionStream(channel, bearer(token))
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while await stream.call.read() is not EOF:
                if not is_idle:
                    await asyncio.sleep(EVERY_S)
                    await stream.send_raw(refused.SerializeToString())
        ended[(await stream.call.code()).name] += 1
        await asyncio.sleep(EVERY_S)


@asynccontextmanager
async def kept_open(channel: grpc.aio.Channel, token: str, ended: Counter[str]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        attacks = [
            tasks.create_task(keep_open(channel, token, ended, is_idle=number % 2 == 0))
            for number in range(STREAMS)
        ]
        await asyncio.sleep(PHASE_S)
        yield
        for attack in attacks:
            attack.cancel()


@pytest.mark.slow
async def test_a_tenant_with_all_streams_leaves_others_their_share(tmp_path: Path, log_url: str) -> None:
    tls, tokens = Tls(tmp_path), {name: new_token(name) for name in ("honest", "second", "flood")}
    shown = tcc.Tls(ca=tls.ca_file, server_name=SERVER_NAME)
    ended: Counter[str] = Counter()
    async with (
        serving(Stock()) as target,
        tccd(tmp_path / "tcc.toml", log_url, target, more=tenants(tls, tokens, CALLS_PER_S)) as it,
        tls.channel(it.address, None) as channel,
    ):
        honest = [
            Honest(it.address, prefix=f"{name}-", tls=shown, token=tokens[name])
            for name in ("honest", "second")
        ]
        async with kept_open(channel, tokens["flood"], ended):
            assert ended["RESOURCE_EXHAUSTED"]  # there are fewer places
            for client in honest:
                await client.run(PHASE_S)  # raises if a transaction fails
            assert [client.has_stream() for client in honest] == [True, True]
        for client in honest:
            await client.close()
    print(f"\n{[client.done for client in honest]} transactions; streams of the other tenant: {dict(ended)}")
