"""Hostile initiators, as a program: `python -m tests.soak.hostile HOST:PORT`, until SIGTERM.

Errors are what an attack expects; only their number is printed, at the end.
"""

import asyncio
import contextlib
import resource
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

import grpc

from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc
from tests.support.raw_http2 import connect

SERVICE = "/tcc.transaction.v1.TransactionService"
MIB = 2**20
EVERY_S = 1.0
WAITS = 6_000
IDLE_CONNECTIONS = 1_500
HALF_OPEN_CONNECTIONS = 100
SLOW_READERS = 20
HALF_UPLOADS = 40
# More than there are places; those that are ended or refused are opened again after this time.
STREAMS = 48
REOPENED_S = 10.0
SENDS_LARGE = (("grpc.max_send_message_length", -1),)

answers: Counter[str] = Counter()


async def note(call: grpc.aio.Call, name: str) -> None:
    answers[f"{name}: {(await call.code()).name}"] += 1


async def send_large_requests(channel: grpc.aio.Channel) -> None:
    """30 MiB, and as much as is read at all, which are refused."""
    for name, size in (("ExecuteTransaction", 30 * MIB), ("GetTransaction", 7 * MIB)):
        await note(channel.unary_unary(f"{SERVICE}/{name}")(bytes(size), timeout=30), f"{name} {size}")


async def send_millions_of_items(channel: grpc.aio.Channel) -> None:
    empty = pb.ExecuteTransactionsRequest(transactions=[pb.ExecuteTransactionRequest()])
    batch = channel.unary_stream(f"{SERVICE}/ExecuteTransactions")
    await note(batch(empty.SerializeToString() * 3_000_000, timeout=30), "3,000,000 items")
    states = pb.ListTransactionsRequest(states=[common.TRANSACTION_STATE_TRYING] * 5_000_000)
    method = channel.unary_unary(f"{SERVICE}/ListTransactions")
    await note(method(states.SerializeToString(), timeout=30), "5,000,000 states")


async def wait_without_end(channel: grpc.aio.Channel) -> None:
    """Waits for a transaction that no caller ends. Those that are refused are not repeated."""
    stub = transaction_pb2_grpc.TransactionServiceStub(channel)
    begin = pb.BeginTransactionRequest(gid="hostile")
    begin.expiry.FromSeconds(3_600)
    await stub.BeginTransaction(begin)
    notes: list[asyncio.Task[None]] = []
    while len(notes) < WAITS:
        # Not so many at once that gRPC itself gives them up.
        waits = [stub.WaitTransaction(pb.WaitTransactionRequest(gid="hostile")) for _ in range(100)]
        notes += [asyncio.create_task(note(wait, "wait")) for wait in waits]
        await asyncio.sleep(0.05)
    await asyncio.gather(*notes)


async def read_nothing(channel: grpc.aio.Channel) -> None:
    """Repeats a batch with large results, and reads no response of it."""
    stub = transaction_pb2_grpc.TransactionServiceStub(channel)
    branches = [common.BranchSpec(branch_id=str(n), participant="stock", action="large") for n in range(4)]
    transactions = [
        pb.ExecuteTransactionRequest(gid=f"large{n}", branches=branches, wait_for=pb.WAIT_FOR_COMPLETION)
        for n in range(8)
    ]
    request = pb.ExecuteTransactionsRequest(transactions=transactions)
    calls = [stub.ExecuteTransactions(request) for _ in range(SLOW_READERS)]
    await asyncio.gather(*(note(call, "slow reader") for call in calls))


async def leave_streams_idle(channel: grpc.aio.Channel) -> None:
    """Opens streams, and sends nothing over them."""
    method = channel.stream_stream(f"{SERVICE}/StreamTransactions")

    async def keep_open() -> None:
        while True:
            call = method()
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
                    pass
            await note(call, "idle stream")
            await asyncio.sleep(REOPENED_S)

    await asyncio.gather(*(keep_open() for _ in range(STREAMS)))


async def repeat(attack: Callable[[str], Awaitable[None]], address: str) -> None:
    """Attack again whenever the coordinator has ended the connection."""
    while True:
        with contextlib.suppress(OSError):
            await attack(address)
        await asyncio.sleep(EVERY_S)


async def upload_by_half(
    address: str, method: str = "ExecuteTransactions", name: str = "half-uploaded requests"
) -> None:
    """Announces requests of 7 MiB, and sends a part of each."""
    connection = await connect(address)
    try:
        streams = [connection.call(f"{SERVICE}/{method}") for _ in range(HALF_UPLOADS)]
        await asyncio.gather(*(connection.upload(stream, 7 * MIB, 2 * MIB) for stream in streams))
        await connection.until_ended(HALF_UPLOADS)
    finally:
        answers[f"{name}: ended"] += len(connection.ended)
        await connection.close()


async def upload_by_half_in_streams(address: str) -> None:
    """The same in streams that stay open."""
    await upload_by_half(address, "StreamTransactions", "half-uploaded requests of streams")
    await asyncio.sleep(REOPENED_S)


async def take_nothing(address: str) -> None:
    """Allows no byte of a response to be sent."""
    connection = await connect(address, window=0)
    request = pb.ListTransactionsRequest(page_size=100).SerializeToString()
    for _ in range(SLOW_READERS):
        connection.call(f"{SERVICE}/ListTransactions", is_complete=True, message=request)
    await connection.closed.wait()
    answers["connections that take nothing: closed"] += 1
    await connection.close()


class Nothing:
    """A request that never comes."""

    def __aiter__(self) -> "Nothing":
        return self

    async def __anext__(self) -> bytes:
        await asyncio.Event().wait()
        raise StopAsyncIteration


async def send_headers_only(channel: grpc.aio.Channel) -> None:
    method = channel.stream_unary(f"{SERVICE}/GetTransaction")
    await asyncio.gather(*(note(method(Nothing()), "headers only") for _ in range(100)))


async def connect_and_be_silent(host: str, port: int, count: int, greeting: bytes) -> None:
    """Keep this many connections that send nothing, or only the beginning of a greeting."""
    connected: set[asyncio.Task[None]] = set()
    while True:
        while len(connected) < count:
            task = asyncio.create_task(_be_silent(host, port, greeting))
            connected.add(task)
            task.add_done_callback(connected.discard)
        await asyncio.sleep(EVERY_S)


async def _be_silent(host: str, port: int, greeting: bytes) -> None:
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(greeting)
        while await reader.read(1_024):
            pass
        writer.close()
        answers["silent connection: closed"] += 1
    except OSError as error:
        answers[f"silent connection: {type(error).__name__}"] += 1
    await asyncio.sleep(EVERY_S)


async def main(address: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, _, port = address.partition(":")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with contextlib.AsyncExitStack() as stack:

        async def channel() -> grpc.aio.Channel:
            own = (*SENDS_LARGE, ("grpc.use_local_subchannel_pool", 1))
            opened = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=own))
            await opened.channel_ready()
            return opened

        large, millions, waits, slow, headers, idle = [await channel() for _ in range(6)]

        async def on_schedule() -> None:
            while True:
                await asyncio.gather(
                    send_large_requests(large), send_millions_of_items(millions), asyncio.sleep(EVERY_S)
                )

        tasks = [
            asyncio.create_task(attack)
            for attack in (
                on_schedule(),
                wait_without_end(waits),
                read_nothing(slow),
                send_headers_only(headers),
                leave_streams_idle(idle),
                repeat(upload_by_half, address),
                repeat(upload_by_half_in_streams, address),
                repeat(take_nothing, address),
                connect_and_be_silent(host, int(port), HALF_OPEN_CONNECTIONS, b"PRI * HTTP/2.0\r\n"),
                connect_and_be_silent(host, int(port), IDLE_CONNECTIONS, b""),
            )
        ]
        print("attacking", flush=True)
        await stopped.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for answer, count in sorted(answers.items()):
        print(f"  {answer} {count}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
