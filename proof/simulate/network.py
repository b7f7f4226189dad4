"""gRPC without a wire: channels and servers of `grpc.aio` whose messages travel in simulated time.

The product's stubs and servicers use them unchanged; messages are serialized and
parsed as always. A call is a request one way and messages back, in order; a stream
is messages in order both ways. Each message may be lost, late, or cut off by a
partition of its direction; a request may be doubled. What a caller sees then is
what gRPC shows: UNAVAILABLE where the connection breaks, DEADLINE_EXCEEDED where
nothing ever comes. A server's deadline counts from the arrival of the request, as
it does in gRPC.
"""

import asyncio
import inspect
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc

from proof.simulate.odd_responses import odd_responses
from proof.simulate.tenants import call_as
from proof.simulate.virtual_loop import Process, VirtualLoop, context_of, current_process

_REFUSED = (grpc.StatusCode.UNAVAILABLE, "connection refused", ())
# What ends the reading of a stream that its caller has cancelled.
_LEFT = (grpc.StatusCode.CANCELLED, "Locally cancelled by application!", ())
# A stream has no deadline: both ends notice by keepalive that the other one is gone.
_KEEPALIVE_S = 8.0
_RESET = (grpc.StatusCode.UNAVAILABLE, "connection reset", ())
# How many messages of a stream are written before one of them is read.
_WINDOW = 4

Status = tuple[grpc.StatusCode, str, Sequence[tuple[str, str | bytes]]]


@dataclass(kw_only=True)
class NetworkConditions:
    """How the network is now. Chances are for each message."""

    delay_s: float = 0.001
    lost: float = 0.0
    doubled: float = 0.0
    # Late by up to minutes.
    very_late: float = 0.0
    very_late_s: float = 150.0
    # The connection breaks at a message of a stream, and both ends notice.
    broken: float = 0.0
    # Hosts whose responses in streams are odd so often.
    odd: dict[str, float] = field(default_factory=dict)
    # Hosts that read nothing of their streams until then.
    stalled: dict[str, asyncio.Event] = field(default_factory=dict)
    # Pairs of hosts, from and to, between which nothing passes; dicts, for their order.
    cut: dict[tuple[str, str], None] = field(default_factory=dict)
    # How much slower a host's traffic is.
    slow: dict[str, float] = field(default_factory=dict)


class Network:
    """Hosts, the servers that listen on them, and the weather between them."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, note: Callable[[str], None]) -> None:
        self.loop = loop
        self.rng = rng
        self.note = note
        self.conditions = NetworkConditions()
        # Told of each request that a server begins: its host, the path, the message.
        self.on_request: Callable[[str, str, Any], None] = lambda *_: None
        self.servers: dict[str, Server] = {}
        # What a target stands for, where that is several addresses.
        self.names: dict[str, list[str]] = {}
        # Methods that a host does not implement.
        self.unimplemented: dict[str, frozenset[str]] = {}
        self.open_calls: dict[int, Call] = {}
        self._calls = 0

    def travel_s(self, source: str, target: str) -> float | None:
        """Return the delay of a message that leaves now; None: it is lost."""
        conditions, rng = self.conditions, self.rng
        if (source, target) in conditions.cut or rng.random() < conditions.lost:
            return None
        delay_s = rng.expovariate(1 / conditions.delay_s) + 0.0001
        if rng.random() < conditions.very_late:
            delay_s += rng.uniform(0.5, conditions.very_late_s)
        return delay_s * conditions.slow.get(source, 1.0) * conditions.slow.get(target, 1.0)

    def addresses(self, target: str) -> list[str]:
        name = target.rpartition("/")[2]
        return self.names.get(name, [name])

    def next_call_number(self) -> int:
        self._calls += 1
        return self._calls

    def process_died(self, process: Process) -> None:
        """Its connections are reset, those that anybody can still reach."""
        for call in list(self.open_calls.values()):
            if call.server_process is process:
                call.server_died()
            elif call.client is process:
                call.client_left()
        for address, server in list(self.servers.items()):
            if server.process is process:
                del self.servers[address]


class Call:
    """One RPC, seen from both ends. The client waits on `inbox`."""

    def __init__(
        self,
        network: Network,
        address: str,
        path: str,
        request: bytes,
        timeout_s: float | None,
        *,
        is_stream: bool = False,
    ) -> None:
        client = current_process()
        assert client is not None, "only processes make calls"
        self.network = network
        self.number = network.next_call_number()
        self.client = client
        self.address = address
        self.host = address.partition(":")[0]
        self.path = path
        self.request = request
        self.timeout_s = timeout_s
        self.inbox: asyncio.Queue[bytes | Status] = asyncio.Queue()
        self.over = False
        self.server_process: Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.is_stream = is_stream
        # What the server reads of a stream; None: the client has half-closed it.
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        # Messages that were sent and not read, and whether another one may be sent.
        self._unread = 0
        self._room = asyncio.Event()
        self._room.set()
        self._sent_until = 0.0
        self._arrived_at = 0.0
        self._deadline: asyncio.TimerHandle | None = None

    def start(self) -> None:
        network, loop = self.network, self.network.loop
        network.open_calls[self.number] = self
        if self.timeout_s is not None:
            self._deadline = loop.call_later(max(0.0, self.timeout_s), self._deadline_passed)
        copies = 1 + (not self.is_stream and network.rng.random() < network.conditions.doubled)
        for copy in range(copies):
            travel_s = self._stream_travel_s(network.travel_s(self.client.host, self.host))
            if copy:
                network.note(f"{self} arrives twice")
            if travel_s is None:
                network.note(f"{self} is lost")
                self._break_later()
            else:
                if travel_s > 1:
                    network.note(f"{self} is late by {travel_s:.1f} s")
                self._at(travel_s, None, self._arrive, copy)
            self._sent_until = loop.time() + travel_s if travel_s is not None else math.inf

    def send(self, message: bytes | None) -> None:
        """Send the next message of a stream, which does not overtake others; None half-closes it."""
        travel_s = self._stream_travel_s(self.network.travel_s(self.client.host, self.host))
        if message is not None:
            self._unread += 1
            if self._unread >= _WINDOW:
                self._room.clear()
        if travel_s is None:
            self.network.note(f"a message of {self} is lost")
            self._sent_until = math.inf
            self._break_later()
        if self._sent_until < math.inf:
            now = self.network.loop.time()
            self._sent_until = max(self._sent_until, now + (travel_s or 0.0))
            self._at(self._sent_until - now, None, self._come_in, message)
            self._break_by_chance()

    async def wait_for_room(self) -> None:
        """Wait until another message of a stream may be sent, or the call is over."""
        await self._room.wait()

    async def receive(self) -> bytes | None:
        """Return the next message of a stream, at the server."""
        message = await self.incoming.get()
        resumed = self.network.conditions.stalled.get(self.host)
        if resumed is not None:
            await resumed.wait()
        if message is not None:
            self._unread -= 1
            self._room.set()
        return message

    def _stream_travel_s(self, travel_s: float | None) -> float | None:
        """Return the delay of a message; None: it is lost, or keepalive ends its stream before."""
        is_too_late = self.is_stream and travel_s is not None and travel_s > _KEEPALIVE_S
        return None if is_too_late else travel_s

    def _come_in(self, message: bytes | None) -> None:
        if self.server_process is not None:
            self.server_process.run_soon(self.incoming.put_nowait, message)

    def __str__(self) -> str:
        return f"{self.client.name} -> {self.host} {self.path.rpartition('/')[2]} #{self.number}"

    # --- at the server ---------------------------------------------------------------

    def _arrive(self, copy: int) -> None:
        server = self.network.servers.get(self.address)
        if server is None:
            self._reply(_REFUSED, copy)
            return
        self.server_process = server.process
        server.process.run_soon(self._serve, server, copy)

    def _serve(self, server: "Server", copy: int) -> None:
        self._tasks.append(server.serve(self, copy))

    def reply(self, message: "bytes | Status", copy: int) -> None:
        """Return a message of the server. Only the first of a duplicated request has a caller."""
        if copy or self.over:
            return
        self._reply(message, copy)

    def _reply(self, message: "bytes | Status", copy: int) -> None:
        if copy:
            return
        travel_s = self._stream_travel_s(self.network.travel_s(self.host, self.client.host))
        if self._arrived_at == math.inf:
            return  # an earlier message of the stream is lost
        if travel_s is None:
            self.network.note(f"an answer to {self} is lost")
            if self.is_stream:
                self._arrived_at = math.inf
            self._break_later()
            return
        if travel_s > 1:
            self.network.note(f"an answer to {self} is late by {travel_s:.1f} s")
        now = self.network.loop.time()
        self._arrived_at = max(self._arrived_at, now + travel_s)
        self._at(self._arrived_at - now, self.client, self._deliver, message)
        self._break_by_chance()

    # --- at the client ---------------------------------------------------------------

    def _deliver(self, message: "bytes | Status") -> None:
        if self.over:
            return
        if isinstance(message, tuple):
            self._end()
        self.inbox.put_nowait(message)

    def _deadline_passed(self) -> None:
        self._deliver((grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ()))
        self._cancel_at_server()

    def leave(self) -> None:
        """The caller hangs up."""
        if not self.over:
            self._end()
            self._cancel_at_server()

    def _end(self) -> None:
        self.over = True
        self._room.set()
        if self._deadline is not None:
            self._deadline.cancel()
        self.network.open_calls.pop(self.number, None)

    # --- what goes wrong -------------------------------------------------------------

    def server_died(self) -> None:
        if self.network.rng.random() < 0.7:
            self._at(0.001, self.client, self._deliver, _RESET)
        elif self.is_stream:
            self._at(_KEEPALIVE_S, self.client, self._deliver, _RESET)

    def client_left(self) -> None:
        self._end()
        self._cancel_at_server()

    def _break_later(self) -> None:
        """A lost message breaks its connection, sooner or later; the deadline may be first."""
        if self.network.rng.random() < 0.5:
            self._at(self.network.rng.uniform(0.01, 5.0), self.client, self._deliver, _RESET)
        elif self.is_stream:
            self._at(_KEEPALIVE_S, self.client, self._deliver, _RESET)

    def _break_by_chance(self) -> None:
        """Break a stream's connection at the message just sent; it may still arrive."""
        conditions, rng = self.network.conditions, self.network.rng
        if not self.is_stream or not conditions.broken or rng.random() >= conditions.broken:
            return
        self.network.note(f"{self} breaks")
        self._sent_until = self._arrived_at = math.inf
        delay_s = 2 * rng.expovariate(1 / conditions.delay_s)
        self._at(delay_s, self.client, self._deliver, _RESET)
        if self.server_process is not None:
            self._at(delay_s, self.server_process, self._cancel_tasks)

    def _cancel_at_server(self) -> None:
        process = self.server_process
        if process is not None and self.network.rng.random() < 0.8:
            self._at(0.001, process, self._cancel_tasks)
        elif process is not None and self.is_stream:
            self._at(_KEEPALIVE_S, process, self._cancel_tasks)

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _at(self, delay_s: float, process: Process | None, callback: Callable[..., None], *args: Any) -> None:
        """Run it in the process's context, or in none."""
        loop = self.network.loop
        loop.call_later(delay_s, callback, *args, context=context_of(process))


class Channel:
    """A client's end: what the product's stubs are made of."""

    def __init__(self, network: Network, target: str) -> None:
        self._network = network
        self._addresses = network.addresses(target)
        self._turn = network.rng.randrange(len(self._addresses))

    def unary_unary(self, path: str, **kinds: Any) -> Callable[..., Any]:
        async def call(request: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - gRPC's own name
            calling = self._start(path, kinds["request_serializer"](request), timeout)
            try:
                response = await calling.inbox.get()
                if isinstance(response, tuple):
                    raise _error(response)
                status = await calling.inbox.get()
                assert isinstance(status, tuple), "a unary call has one response"
                _raise_unless_ok(status)
                return kinds["response_deserializer"](response)
            finally:
                calling.leave()

        return call

    def unary_stream(self, path: str, **kinds: Any) -> Callable[..., "Stream"]:
        def call(request: Any, timeout: float | None = None) -> Stream:
            calling = self._start(path, kinds["request_serializer"](request), timeout)
            return Stream(calling, kinds["response_deserializer"])

        return call

    def stream_stream(self, path: str, **kinds: Any) -> Callable[..., "Duplex"]:
        def call() -> Duplex:
            calling = self._start(path, b"", None, is_stream=True)
            return Duplex(
                calling, kinds.get("request_serializer", bytes), kinds.get("response_deserializer", bytes)
            )

        return call

    async def channel_ready(self) -> None:
        """Nothing has to be connected before a call."""

    async def close(self, _grace: float | None = None) -> None:
        """Nothing is held."""

    def _start(self, path: str, request: bytes, timeout_s: float | None, *, is_stream: bool = False) -> Call:
        call = Call(self._network, self._pick(), path, request, timeout_s, is_stream=is_stream)
        call.start()
        return call

    def _pick(self) -> str:
        """The next address in turn, preferring those where a server listens."""
        addresses = self._addresses
        for _ in addresses:
            self._turn = (self._turn + 1) % len(addresses)
            if addresses[self._turn] in self._network.servers:
                break
        return addresses[self._turn]


class Stream:
    """The responses of one call, as they come."""

    def __init__(self, call: Call, parse: Callable[[bytes], Any]) -> None:
        self._call = call
        self._parse = parse

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            message = await self._call.inbox.get()
            if isinstance(message, tuple):
                _raise_unless_ok(message)
                return
            yield self._parse(message)

    def cancel(self) -> None:
        self._call.leave()


class Duplex:
    """The client's end of a stream."""

    def __init__(self, call: Call, serialize: Callable[[Any], bytes], parse: Callable[[bytes], Any]) -> None:
        self._call = call
        self._serialize = serialize
        self._parse = parse
        self._status: Status | None = None

    async def write(self, message: Any) -> None:
        await self._call.wait_for_room()
        if self._call.over:
            raise asyncio.InvalidStateError("RPC already finished.")
        self._call.send(self._serialize(message))
        await asyncio.sleep(0)

    async def done_writing(self) -> None:
        if not self._call.over:
            self._call.send(None)

    async def read(self) -> Any:
        if self._status is None:
            message = await self._call.inbox.get()
            if not isinstance(message, tuple):
                return self._parse(message)
            self._status = message
        if self._status is _LEFT:
            raise asyncio.CancelledError
        _raise_unless_ok(self._status)
        return grpc.aio.EOF  # type: ignore[attr-defined] # the stubs lack it

    def cancel(self) -> None:
        if not self._call.over:
            self._call.leave()
            self._call.inbox.put_nowait(_LEFT)


def _raise_unless_ok(status: Status) -> None:
    if status[0] is not grpc.StatusCode.OK:
        raise _error(status)


def _error(status: Status) -> grpc.aio.AioRpcError:
    code, details, metadata = status
    pairs: Any = tuple(metadata)
    return grpc.aio.AioRpcError(
        code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata.from_tuple(pairs),
        details=details,
        debug_error_string=None,
    )


class _Aborted(Exception):  # noqa: N818 - it names what happened
    """A servicer has ended its call with this status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


class AbortError(grpc.aio.AbortError, _Aborted):
    """As gRPC raises it into the servicer."""


class Context:
    """What a servicer is given besides the request."""

    def __init__(self, call: Call, copy: int, request: Any, handler: Any, loop: VirtualLoop) -> None:
        self._parse = handler.request_deserializer or bytes
        self.status: Status = (grpc.StatusCode.OK, "", ())
        self._call = call
        self._copy = copy
        self._request = request
        self._serialize = handler.response_serializer or bytes
        self._loop = loop
        self._deadline = None if call.timeout_s is None else loop.time() + call.timeout_s

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def read(self) -> Any:
        if not self._call.is_stream:
            return self._request
        message = await self._call.receive()
        if message is None:
            return grpc.aio.EOF  # type: ignore[attr-defined] # the stubs lack it
        request = self._parse(message)
        self._call.network.on_request(self._call.host, self._call.path, request)
        return request

    async def requests(self) -> AsyncIterator[Any]:
        """Yield the messages of a stream."""
        while (request := await self.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined] # the stubs lack it
            yield request

    def set_code(self, code: grpc.StatusCode) -> None:
        self.status = (code, *self.status[1:])

    def set_details(self, details: str) -> None:
        self.status = (self.status[0], details, self.status[2])

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.status = (*self.status[:2], tuple(metadata))

    async def write(self, message: Any) -> None:
        raw = self._serialize(message)
        if self._is_odd():
            self._write_oddly(raw)
        else:
            self._call.reply(raw, self._copy)
        await asyncio.sleep(0)

    def _is_odd(self) -> bool:
        network = self._call.network
        chance = network.conditions.odd.get(self._call.host, 0.0)
        return self._call.path.endswith("/StreamBranches") and network.rng.random() < chance

    def _write_oddly(self, raw: bytes) -> None:
        network = self._call.network
        network.note(f"an odd answer to {self._call}")
        for delay_s, odd in odd_responses(raw, network.rng):
            self._loop.call_later(delay_s, self._call.reply, odd, self._copy)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        raise AbortError((code, details, tuple(trailing_metadata)))

    async def abort_with_status(self, status: Any) -> NoReturn:
        raise AbortError((status.code, status.details, tuple(status.trailing_metadata or ())))


@dataclass(frozen=True, kw_only=True)
class _HandlerCallDetails(grpc.HandlerCallDetails):
    """What a generic handler is asked for."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


class Server:
    """A server's end, in place of `grpc.aio.server`'s."""

    def __init__(self, network: Network, *, calls_max: int | None) -> None:
        process = current_process()
        assert process is not None, "only processes serve"
        self.process = process
        self._network = network
        self._calls_max = calls_max
        self._handlers: list[Any] = []
        self._addresses: list[str] = []
        self._tasks: dict[asyncio.Task[None], None] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """The same methods come as generic ones as well."""

    def add_insecure_port(self, address: str) -> int:
        self._addresses.append(address)
        return int(address.rpartition(":")[2])

    async def start(self) -> None:
        for address in self._addresses:
            self._network.servers[address] = self

    async def stop(self, grace_s: float | None) -> None:
        """Accept no new calls; those in flight have `grace_s` seconds to end."""
        for address in self._addresses:
            if self._network.servers.get(address) is self:
                del self._network.servers[address]
        in_flight = list(self._tasks)
        if in_flight and grace_s:
            await asyncio.wait(in_flight, timeout=grace_s)
        for task in in_flight:
            task.cancel()

    def serve(self, call: Call, copy: int) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._serve(call, copy))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        if call.timeout_s is not None:
            alarm = asyncio.get_running_loop().call_later(call.timeout_s, task.cancel)
            task.add_done_callback(lambda _: alarm.cancel())
        return task

    async def _serve(self, call: Call, copy: int) -> None:
        if self._calls_max is not None and len(self._tasks) > self._calls_max:
            call.reply((grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", ()), copy)
            return
        if call.path.rpartition("/")[2] in self._network.unimplemented.get(call.host, ()):
            call.reply((grpc.StatusCode.UNIMPLEMENTED, "Method not found!", ()), copy)
            return
        asked = _HandlerCallDetails(method=call.path)
        handler = next(found for each in self._handlers if (found := each.service(asked)) is not None)
        request = None if call.is_stream else handler.request_deserializer(call.request)
        context = Context(call, copy, request, handler, self._network.loop)
        try:
            call_as(call.client.host)
            if not call.is_stream:
                self._network.on_request(call.host, call.path, request)
            await _run(handler, request, context)
        except asyncio.CancelledError:
            call.reply((grpc.StatusCode.CANCELLED, "the server cancelled the call", ()), copy)
            raise
        except AbortError as error:
            call.reply(error.status, copy)
        else:
            call.reply(context.status, copy)


async def _run(handler: Any, request: Any, context: Context) -> None:
    if inspect.isasyncgenfunction(handler.stream_stream):
        async with aclosing(handler.stream_stream(context.requests(), context)) as responses:
            async for response in responses:
                await context.write(response)
    elif handler.request_streaming:
        response = await (handler.stream_unary or handler.stream_stream)(None, context)
        if response is not None:
            await context.write(response)
    elif not handler.response_streaming:
        await context.write(await handler.unary_unary(request, context))
    elif inspect.isasyncgenfunction(handler.unary_stream):
        async for response in handler.unary_stream(request, context):
            await context.write(response)
    else:
        await handler.unary_stream(request, context)
