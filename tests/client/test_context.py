"""The transaction context: in code, in metadata, and across real calls, aio and sync."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tcc import context as contexts
from tcc.context import (
    AioServerInterceptor,
    ClientInterceptor,
    InvalidContextError,
    ServerInterceptor,
    TransactionContext,
    aio_client_interceptors,
    from_metadata,
    to_metadata,
)

CONTEXT = TransactionContext(gid="order 17 %ü\u20ac", branch_id="a/b", expires_at_ms=1_700_000_000_123)
KINDS = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]


def test_contexts_nest():
    outer, inner = TransactionContext(gid="outer"), TransactionContext(gid="inner")
    assert contexts.current() is None
    with outer:
        with inner:
            assert contexts.current() == inner
        assert contexts.current() == outer
    assert contexts.current() is None


@pytest.mark.parametrize("context", [CONTEXT, TransactionContext(gid="g"), TransactionContext(gid=" ")])
def test_metadata_carries_every_context_as_printable_ascii(context):
    metadata = to_metadata(context)
    assert from_metadata(metadata) == context
    assert all(value.isascii() and value.isprintable() and " " not in value for _, value in metadata)


def test_plain_ids_travel_as_they_are():
    context = TransactionContext(gid="order-17", branch_id="order/inventory-2", expires_at_ms=5)
    assert to_metadata(context) == (
        ("tcc-gid", "order-17"),
        ("tcc-branch-id", "order/inventory-2"),
        ("tcc-expires-at-ms", "5"),
    )


def test_other_metadata_is_no_context():
    assert from_metadata([("user-agent", "x"), ("trace-bin", b"\0")]) is None


@pytest.mark.parametrize(
    "metadata",
    [
        [("tcc-branch-id", "b")],
        [("tcc-gid", "")],
        [("tcc-gid", "g"), ("tcc-expires-at-ms", "soon")],
        [("tcc-gid", "g"), ("tcc-expires-at-ms", "-1")],
    ],
)
def test_half_a_context_is_an_error(metadata):
    with pytest.raises(InvalidContextError):
        from_metadata(metadata)


# --- across calls --------------------------------------------------------------
#
# Four methods, one of each kind, that answer with the handler's current context.


def _seen() -> bytes:
    context = contexts.current()
    return b"none" if context is None else repr(context).encode()


def handlers(*, aio: bool) -> grpc.GenericRpcHandler:
    def unary(request, call):
        return _seen()

    def stream(request, call):
        yield _seen()

    async def aio_unary(request, call):
        return _seen()

    async def aio_stream(request, call):
        yield _seen()

    answers = (aio_unary, aio_stream) if aio else (unary, stream)
    makers = [
        grpc.unary_unary_rpc_method_handler,
        grpc.unary_stream_rpc_method_handler,
        grpc.stream_unary_rpc_method_handler,
        grpc.stream_stream_rpc_method_handler,
    ]
    methods = {
        kind: make(answers[number % 2]) for number, (kind, make) in enumerate(zip(KINDS, makers, strict=True))
    }
    return grpc.method_handlers_generic_handler("test.Service", methods)


@pytest.fixture(params=["aio server", "sync server"])
async def target(request):
    if request.param == "aio server":
        server = grpc.aio.server(interceptors=[AioServerInterceptor()])
        server.add_generic_rpc_handlers((handlers(aio=True),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(None)
    else:
        with ThreadPoolExecutor(2) as threads:
            sync_server = grpc.server(threads, interceptors=[ServerInterceptor()])
            sync_server.add_generic_rpc_handlers((handlers(aio=False),))
            port = sync_server.add_insecure_port("127.0.0.1:0")
            sync_server.start()
            yield f"127.0.0.1:{port}"
            sync_server.stop(None).wait()


async def aio_call(channel: grpc.aio.Channel, kind: str, metadata=(), messages=(b"",)) -> bytes:
    if kind == "UnaryUnary":
        return await channel.unary_unary("/test.Service/UnaryUnary")(b"", metadata=metadata)
    if kind == "StreamUnary":
        return await channel.stream_unary("/test.Service/StreamUnary")(iter(messages), metadata=metadata)
    if kind == "UnaryStream":
        call = channel.unary_stream("/test.Service/UnaryStream")(b"", metadata=metadata)
    else:
        call = channel.stream_stream("/test.Service/StreamStream")(iter(messages), metadata=metadata)
    return b"".join([part async for part in call])


def sync_call(channel: grpc.Channel, kind: str) -> bytes:
    if kind == "UnaryUnary":
        return channel.unary_unary("/test.Service/UnaryUnary")(b"")
    if kind == "StreamUnary":
        return channel.stream_unary("/test.Service/StreamUnary")(iter([b""]))
    if kind == "UnaryStream":
        return b"".join(channel.unary_stream("/test.Service/UnaryStream")(b""))
    return b"".join(channel.stream_stream("/test.Service/StreamStream")(iter([b""])))


@pytest.mark.parametrize("kind", KINDS)
async def test_an_aio_channel_sends_the_context_to_the_handler(target, kind):
    async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors()) as channel:
        with CONTEXT:
            assert await aio_call(channel, kind) == repr(CONTEXT).encode()
        assert await aio_call(channel, kind) == b"none", "one call's context does not stay for the next"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_sync_channel_sends_the_context_to_the_handler(target, kind):
    def work():
        with grpc.insecure_channel(target) as plain:
            channel = grpc.intercept_channel(plain, ClientInterceptor())
            with CONTEXT:
                assert sync_call(channel, kind) == repr(CONTEXT).encode()
            assert sync_call(channel, kind) == b"none"

    await asyncio.to_thread(work)


async def test_the_callers_own_metadata_is_kept(target):
    """The context is added to it: were it replaced, the broken expiry would not be seen."""
    async with grpc.aio.insecure_channel(target, interceptors=aio_client_interceptors()) as channel:
        with TransactionContext(gid="g"), pytest.raises(grpc.aio.AioRpcError) as raised:
            await aio_call(channel, "UnaryUnary", metadata=(("tcc-expires-at-ms", "soon"),))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_with_half_a_context_is_refused(target, kind):
    async with grpc.aio.insecure_channel(target) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            # Without messages: sending one races with the refusal, and may fail first.
            await aio_call(channel, kind, metadata=(("tcc-branch-id", "b"),), messages=())
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "tcc-gid" in raised.value.details()
