"""Calls as a server takes them on: counted before they are read, bounded in size and time, decoded.

gRPC itself knows one limit for all calls of a server, and reads and decodes a request before any
code of ours runs. Here each kind of method has its own limit, so that calls of one kind (waits, say)
leave room for the others (Confirms, health checks). A call that is refused has not been read.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError
from msgspec import Struct

from coordinator.api.access import METADATA, Access, Metadata
from coordinator.api.arrivals import Arrivals, unreadable
from coordinator.api.errors import Context, fail, refuse
from coordinator.api.slow_readers import SlowReaders
from coordinator.core.errors import InvalidRequest, Overloaded, Refused, ResponsesUnread

# A caller that was refused because too many calls are in flight waits this long before it repeats.
RETRY_AFTER_S = 0.2

# How much of the room for responses one call may take.
_UNREAD_SHARE = 0.25
# Shorter responses are not worth counting: their number is limited.
_COUNTED_FROM_BYTES = 64 * 2**10

# Lets a call go on, or raises a Refused.
Admit: TypeAlias = Callable[[Context], None]
Handlers: TypeAlias = "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"


class CallLimit:
    """How many calls of some methods may be in flight at once."""

    def __init__(self, most: int, what: str) -> None:
        """`what`: the calls, as named to a caller that is refused."""
        self.in_flight = 0
        self._most = most
        self._what = what

    def admit(self) -> None:
        """Count the call that this task runs, until its response was sent.

        Raises:
            Overloaded
        """
        if self.in_flight >= self._most:
            raise Overloaded(f"too many {self._what} are in flight", retry_after_s=RETRY_AFTER_S)
        self.in_flight += 1
        at_end_of_call(self._release)

    def _release(self) -> None:
        self.in_flight -= 1


def at_end_of_call(release: Callable[[], None]) -> None:
    """Run `release` when the call that this task runs has ended and its response was sent.

    A callback of the call's context would make a cycle of each call.
    """
    task = asyncio.current_task()
    assert task is not None, "gRPC runs each call in a task"
    task.add_done_callback(lambda _: release())


class UnreadBytes:
    """The bytes of responses that wait until their clients read them."""

    def __init__(self, most: int) -> None:
        self.held = 0
        self._most = most

    def has_room(self, size: int, held_by_call: int = 0) -> bool:
        """Return whether a call may hold `size` bytes more: one call gets a part of the room."""
        return self.held + size <= self._most and held_by_call + size <= self._most * _UNREAD_SHARE

    def hold(self, size: int) -> None:
        """Count the response of the unary call that this task runs, until it was sent.

        Raises:
            ResponsesUnread
        """
        if not self.has_room(size):
            raise responses_unread()
        self.held += size
        at_end_of_call(lambda: self.release(size))

    def release(self, size: int) -> None:
        self.held -= size


def responses_unread() -> ResponsesUnread:
    """Return the refusal of a response that would have to wait."""
    return ResponsesUnread("too many responses wait until their clients read them", retry_after_s=1.0)


class Method(Struct, frozen=True, kw_only=True):
    """The bounds of one method's calls."""

    limit: CallLimit
    # The largest request.
    request_bytes_max: int
    # Decodes a request; None: as generated.
    decode: Callable[[bytes], Any] | None = None


class Services:
    """The registry for generated code: bounded calls, with one queue for all methods.

    Generated code would make a queue per method, and gRPC's server would check all of them per call.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        method: Callable[[str, str], Method],
        *,
        arrivals: Arrivals,
        slow_readers: SlowReaders,
        unread: UnreadBytes,
        access: Access | None = None,
        uses_tls: bool = False,
    ) -> None:
        """`method`: the bounds, by service and method.

        `access`: checks who calls, before anything else; None: every caller may do everything. `uses_tls`:
        whether all connections of the server are encrypted.
        """
        self._uses_tls = uses_tls
        self._access = access
        self._server = server
        self._method = method
        self._arrivals = arrivals
        self._slow_readers = slow_readers
        self._unread = unread

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        """Ignore them: generated code adds the same methods by name as well."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Handlers) -> None:
        """Serve the methods of a service, each within its bounds."""
        paths = {name: f"/{service_name}/{name}" for name in method_handlers}
        bounded = {
            path: self._bounded(method_handlers[name], self._method(service_name, name), path)
            for name, path in paths.items()
        }
        self._server.add_generic_rpc_handlers((_Finder(bounded),))

    def _bounded(self, handler: Any, method: Method, path: str) -> "grpc.RpcMethodHandler[Any, Any]":
        """Return a handler that counts the call before it reads the request.

        It is registered as one for a stream of requests, although a unary call has one: gRPC then runs
        it as soon as the call arrives. On the wire there is no difference.
        """
        decode = _decoder(method.decode or handler.request_deserializer, method.request_bytes_max)
        encode = handler.response_serializer
        admit = self._admission(path, method.limit)
        if inspect.iscoroutinefunction(handler.stream_stream):
            behaviour = _duplex(handler.stream_stream, admit)
        elif handler.request_streaming:
            behaviour = _stream(handler.stream_stream, admit)
        elif handler.response_streaming:
            behaviour = _single(handler.unary_stream, admit, self._arrivals)
        else:
            behaviour = _single(self._held(handler.unary_unary, encode), admit, self._arrivals)
        behaviour = self._ended(behaviour, path)
        if handler.request_streaming or handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                behaviour, request_deserializer=decode, response_serializer=encode
            )
        return grpc.stream_unary_rpc_method_handler(behaviour, request_deserializer=decode)

    def _admission(self, path: str, limit: CallLimit) -> Admit:
        """Return what checks who makes a call, and counts it."""
        if self._access is None:
            return lambda _: limit.admit()
        check = self._access.admission(path, uses_tls=self._uses_tls)

        def admit(context: Context) -> None:
            check(context)
            limit.admit()

        return admit

    def _ended(
        self, behaviour: Callable[[Any, Context], Awaitable[Any]], path: str
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """Return the method with a boundary for bugs, and with a response that must be taken in time.

        gRPC would send the text of an exception to the caller.
        """

        async def answer(request: Any, context: Context) -> Any:
            try:
                response = await behaviour(request, context)
            except grpc.aio.BaseError:  # the call is over, by an abort or by its end
                raise
            except Exception as error:  # noqa: BLE001 - it is a bug, and logged
                fail(context, error, path)
                return None
            self._slow_readers.ending(context)
            return response

        return answer

    def _held(
        self, behaviour: Callable[[Any, Context], Awaitable[Any]], encode: Callable[[Any], bytes]
    ) -> Callable[[Any, Context], Awaitable[bytes | None]]:
        """Return a unary method that returns bytes; many of them are counted until they are sent."""

        async def answer(request: Any, context: Context) -> bytes | None:
            response = await behaviour(request, context)
            if response is None:  # it was refused
                return None
            raw = encode(response)
            if len(raw) >= _COUNTED_FROM_BYTES:
                self._unread.hold(len(raw))
            return raw

        return answer


class _Finder(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in the stubs only
    """Finds a method by its full name, and keeps the metadata of the call for it."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def service(self, call: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        handler = self._handlers.get(call.method)
        if handler is not None:  # then it runs in this task
            METADATA.set(cast("Metadata", call.invocation_metadata or ()))
        return handler


def _decoder(decode: Callable[[bytes], Any], bytes_max: int) -> Callable[[bytes], Any]:
    def decoded(raw: bytes) -> Any:
        if len(raw) > bytes_max:
            raise InvalidRequest("REQUEST_TOO_LARGE", f"such a request may have at most {bytes_max} bytes")
        return decode(raw)

    return decoded


def _single(
    behaviour: Callable[[Any, Context], Awaitable[Any]], admit: Admit, arrivals: Arrivals
) -> Callable[[object, Context], Awaitable[Any]]:
    async def answer(_requests: object, context: Context) -> Any:
        try:
            admit(context)
            return await behaviour(await arrivals.read(context), context)
        except Refused as error:
            refuse(context, error)
        return None

    return answer


def _duplex(
    behaviour: Callable[[Any, Context], Awaitable[None]], admit: Admit
) -> Callable[[Any, Context], Awaitable[Any]]:
    """Return a method that reads and writes its stream itself, and may do both at once."""

    async def answer(requests: Any, context: Context) -> None:
        try:
            admit(context)
            await behaviour(requests, context)
        except Refused as error:
            refuse(context, error)

    return answer


def _stream(
    behaviour: Callable[[Any, Context], AsyncIterator[Any]], admit: Admit
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def answer(requests: Any, context: Context) -> None:
        try:
            admit(context)
            async for response in behaviour(requests, context):
                await context.write(response)
        except DecodeError:
            refuse(context, unreadable())
        except Refused as error:
            refuse(context, error)

    return answer
