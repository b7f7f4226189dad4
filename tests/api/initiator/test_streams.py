"""Streams of transactions at the coordinator, over real gRPC with a real log."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import grpc
import pytest
from msgspec.structs import replace

import tcc as sdk
from coordinator.api.access import Access
from coordinator.api.calls import UnreadBytes
from coordinator.api.initiator import stream as streams
from coordinator.api.initiator.stream import StreamItem
from coordinator.config.settings import Settings
from coordinator.core.errors import Draining, NotAllowed, NotAuthenticated
from coordinator.security.authentication import CACHED_MAX_S, Authenticator, Policy
from coordinator.security.caller import CALLER, Caller, Client
from coordinator.security.certificates import certificate_end
from coordinator.security.jwt import Issuer as TrustedIssuer
from coordinator.security.rates import Rates
from coordinator.security.tokens import StaticToken, new_token, token_hash
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.api.test_access import SHOP, guarded
from tests.support.errors import refused
from tests.support.identities import AUDIENCE, ISSUER, Authority, Issuer
from tests.support.raw_http2 import connect
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed, rejected
from tests.support.transaction_stream import METHOD, TransactionStream, item
from tests.support.worker import Running, branch, running, settings_for

CONFIRMED = common.TRANSACTION_STATE_CONFIRMED
CANCELLED = common.TRANSACTION_STATE_CANCELLED


@asynccontextmanager
async def coordinator(log_url: str, stock: ScriptedParticipant, **changes: object) -> AsyncIterator[Running]:
    settings = settings_for({"stock": {"target": stock.address}}, **changes)
    async with running(settings, log_url) as worker:
        yield worker


@pytest.fixture
async def tcc(log_url: str, stock: ScriptedParticipant) -> AsyncIterator[Running]:
    async with coordinator(log_url, stock) as worker:
        yield worker


def execute(gid: str, **fields: Any) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(
        **{"gid": gid, "branches": [branch("1")], "wait_for": pb.WAIT_FOR_COMPLETION} | fields
    )


# --- items and their replies -----------------------------------------------------------


async def test_each_item_gets_its_own_reply(tcc: Running, stock: ScriptedParticipant) -> None:
    async def script(call: Any) -> common.CallResult:
        is_rejected = call.gid == "no" and call.operation == common.OPERATION_TRY
        return rejected("SOLD_OUT") if is_rejected else SUCCEEDED

    stock.script = script
    stream = await TransactionStream(tcc.channel).opened()
    assert (stream.greeting.credit, stream.greeting.coordinator_id) == (1_024, tcc.worker.owner)
    await stream.send(i1=execute("yes"), i2=execute("no"))
    await stream.send(i3=execute("", branches=[branch("1")]))
    assert (await stream.reply(1)).outcome.state == CONFIRMED
    assert (await stream.reply(2)).outcome.cancel_detail == "SOLD_OUT"
    assert (await stream.reply(3)).outcome.gid
    await stream.send(i4=execute("yes"))
    assert (await stream.reply(4)).outcome.gid == "yes"
    await stream.end()
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_a_half_closed_stream_ends_after_its_last_reply(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    go = stock.hold_confirms()
    stream = await TransactionStream(tcc.channel).opened()
    await stream.send(i1=execute("a"))
    ending = asyncio.create_task(stream.end())
    await stock.until(lambda: stock.count(common.OPERATION_CONFIRM) == 1)
    go.set()
    await ending
    assert stream.replies[1].outcome.state == CONFIRMED


async def test_a_bad_item_fails_alone(tcc: Running) -> None:
    good = pb.StreamTransactionsRequest(items=[item(5, execute("good"))]).SerializeToString()
    # With an id and no transaction; without an id that could be read; and one with another content.
    undecodable, illegible = b"\x0a\x05\x08\x03\x1a\x01\xff", b"\x0a\x01\xff"
    # An id of more than 64 bits has its lowest ones, as in an item that can be decoded.
    overlong = b"\x0a\x0c\x08" + 9 * b"\xff" + b"\x7f\xff"
    stream = await TransactionStream(tcc.channel).opened()
    await stream.send(i4=execute("good"))
    await stream.send_raw(undecodable + illegible + overlong + good)
    await stream.send(i6=execute("good", branches=[branch("other")]), i7=execute("x", branches=[]))
    await stream.send(i8=execute("y", branches=[branch("1", participant="unknown")]))
    reasons = {
        number: (await stream.reply(number)).error.reason for number in (0, 3, 4, 5, 6, 7, 8, 2**64 - 1)
    }
    assert reasons == {
        0: "INVALID_MESSAGE",
        3: "INVALID_MESSAGE",
        4: "",
        5: "",
        6: "GID_CONFLICT",
        7: "NO_BRANCHES",
        8: "UNKNOWN_PARTICIPANT",
        2**64 - 1: "INVALID_MESSAGE",
    }
    await stream.end()


async def test_an_id_that_is_used_twice_or_unknown_fails_no_item(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    go = stock.hold_confirms()
    stream = await TransactionStream(tcc.channel).opened()
    await stream.send(i1=execute("a"))
    await stream.cancel(99)
    await stream.send(i1=execute("b"), i2=execute("c"))
    await stock.until(lambda: stock.count(common.OPERATION_CONFIRM) == 3)
    go.set()
    await stream.end()  # each item has its reply, or it would not end
    assert {number: reply.outcome.state for number, reply in stream.replies.items()} == {
        1: CONFIRMED,
        2: CONFIRMED,
    }
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_a_message_that_is_none_ends_the_stream_alone(tcc: Running) -> None:
    streams = [await TransactionStream(tcc.channel).opened() for _ in range(2)]
    await streams[0].send_raw(b"\xff\xff")
    async with refused("INVALID_ARGUMENT", "INVALID_MESSAGE"):
        await streams[0].reply(1)
    await streams[1].send(i1=execute("a"))
    assert (await streams[1].reply(1)).outcome.state == CONFIRMED
    await streams[1].end()


async def test_overload_is_a_reply_and_not_the_end(log_url: str, stock: ScriptedParticipant) -> None:
    go = stock.hold_confirms()
    async with coordinator(log_url, stock, limits={"live_max": 4}) as tcc:
        stream = await TransactionStream(tcc.channel).opened()
        await stream.send(i1=execute("a"), i2=execute("b"))
        await stock.until(lambda: stock.count(common.OPERATION_CONFIRM) == 2)
        await stream.send(i3=execute("c"))
        refusal = (await stream.reply(3)).error
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "OVERLOADED")
        assert refusal.retry_after_ms > 0
        go.set()
        assert {(await stream.reply(number)).outcome.state for number in (1, 2)} == {CONFIRMED}
        await stream.send(i4=execute("c"))
        assert (await stream.reply(4)).outcome.state == CONFIRMED


async def test_the_reply_to_a_late_item_names_the_branch_that_keeps_failing(
    tcc: Running, stock: ScriptedParticipant
) -> None:
    async def script(_: Any) -> common.CallResult:
        return failed("DOWN", "the shop is closed")

    stock.script = script
    stream = await TransactionStream(tcc.channel).opened()
    transaction = execute("a")
    transaction.expiry.FromSeconds(60)
    items = [item(1, transaction, timeout_ms=300)]
    await stream.send_raw(pb.StreamTransactionsRequest(items=items).SerializeToString())
    refusal = (await stream.reply(1)).error
    assert (refusal.reason, refusal.metadata["branch_id"]) == ("DEADLINE_EXCEEDED", "1")
    await stream.end()


async def test_an_item_without_a_timeout_is_answered_in_time(
    log_url: str, stock: ScriptedParticipant
) -> None:
    go = stock.hold_confirms()
    async with coordinator(log_url, stock, limits={"call_max_s": 0.3}) as tcc:
        stream = await TransactionStream(tcc.channel).opened()
        items = [item(1, execute("a"), timeout_ms=0)]
        await stream.send_raw(pb.StreamTransactionsRequest(items=items).SerializeToString())
        assert (await stream.reply(1)).error.reason == "CALL_TOO_LONG"
        go.set()


async def test_a_cancelled_item_leaves_no_one_waiting(tcc: Running, stock: ScriptedParticipant) -> None:
    go = stock.hold_confirms()
    stream = await TransactionStream(tcc.channel).opened()
    await stream.send(i1=execute("a"))
    await stock.until(lambda: stock.count(common.OPERATION_CONFIRM) == 1)
    assert len(tcc.engine.live["a"].waiters) == 1
    await stream.cancel(1, 77)
    await stream.send(i2=execute("a", wait_for=pb.WAIT_FOR_DECISION))
    await stream.reply(2)
    assert tcc.engine.live["a"].waiters == []
    go.set()
    await tcc.settled("a")
    await stream.end()
    assert stream.replies.keys() == {2}


# --- bounds ------------------------------------------------------------------------------


async def test_no_more_than_the_credit_is_read() -> None:
    stream = streams.TransactionStream(UnreadBytes(1_000_000), credit=2)
    items = [StreamItem(stream, number, str(number)) for number in (1, 2)]
    for each in items:
        stream.begin(each)
    reading = asyncio.create_task(stream.until_room())
    items[0].fail(Draining("draining"))
    await asyncio.sleep(0)
    assert not reading.done()  # its reply was not sent yet
    response = await stream.take()
    assert response is not None
    assert [reply.id for reply in response.replies] == [1]
    await reading
    stream.close()


async def test_one_timer_answers_all_late_items() -> None:
    late: list[int] = []

    def answer(each: StreamItem) -> None:
        late.append(each.id)
        each.fail(Draining("late"))

    stream = streams.TransactionStream(UnreadBytes(1_000_000), credit=9, on_late=answer)
    for number, reply_in_s in ((1, 0.03), (2, 0.01), (3, 60.0), (4, 0.02)):
        each = StreamItem(stream, number, "")
        stream.begin(each)
        each.began("", reply_in_s, has_timeout=True)
    stream.cancel(4)
    while len(late) < 2:
        await stream.take()
    assert sorted(late) == [1, 2]
    stream.close()


async def test_one_stream_too_many_is_refused(
    log_url: str, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = replace(settings_for({}).server_limits(), arriving_bytes_max=1)
    monkeypatch.setattr(Settings, "server_limits", lambda _: bounds)
    async with coordinator(log_url, stock) as tcc:
        stream = await TransactionStream(tcc.channel).opened()
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED"):
            await TransactionStream(tcc.channel).opened()
        # Calls have places of their own.
        await tcc.stub.ExecuteTransaction(execute("a"))
        await stream.end()


async def test_a_client_that_reads_no_replies_loses_its_stream(
    log_url: str, stock: ScriptedParticipant
) -> None:
    listen = {"address": "127.0.0.1:0", "response_max_s": 0.3}
    async with coordinator(log_url, stock, listen=listen) as tcc:
        raw = await connect(tcc.address, window=0)
        message = pb.StreamTransactionsRequest(items=[item(1, execute("a"))]).SerializeToString()
        raw.call(METHOD, is_complete=True, message=message)
        async with asyncio.timeout(30):
            await raw.closed.wait()
        await raw.close()
        assert await tcc.settled("a")


# --- the end -----------------------------------------------------------------------------


async def test_a_drain_finishes_what_is_in_flight(log_url: str, stock: ScriptedParticipant) -> None:
    go = stock.hold_confirms()
    async with coordinator(log_url, stock) as tcc:
        stream = await TransactionStream(tcc.channel).opened()
        await stream.send(i1=execute("a"))
        await stock.until(lambda: stock.count(common.OPERATION_CONFIRM) == 1)
        tcc.worker.stop()
        await stream.until_draining()
        await stream.send(i2=execute("b"))
        assert (await stream.reply(2)).error.reason == "DRAINING"
        async with refused("UNAVAILABLE", "DRAINING"):
            await TransactionStream(tcc.channel).opened()
        go.set()
        await stream.end()
        assert stream.replies[1].outcome.state == CONFIRMED


async def test_an_old_stream_is_asked_to_leave_and_then_ended(
    tcc: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "AGE_MAX_S", 0.05)
    stream = await TransactionStream(tcc.channel).opened()
    await stream.until_draining()
    await stream.send(i1=execute("a"))
    assert (await stream.reply(1)).outcome.state == CONFIRMED
    monkeypatch.setattr(streams, "LEAVING_MAX_S", 0.0)
    async with refused("UNAVAILABLE", "DRAINING"):
        await (await TransactionStream(tcc.channel).opened()).reply(1)


@pytest.mark.slow
async def test_coordinators_restart_under_load_without_a_failed_call(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """Two coordinators; each is replaced by another one at its address while eight callers go on."""
    stopping, done = asyncio.Event(), 0

    async def call_on(client: sdk.Client) -> None:
        nonlocal done
        while not stopping.is_set():
            outcome = await client.execute([sdk.BranchRequest("stock", "reserve")])
            assert outcome.confirmed
            done += 1

    async def until_further(count: int) -> None:
        before = done
        await stock.until(lambda: done > before + count)

    async with (
        coordinator(log_url, stock) as one,
        coordinator(log_url, stock) as two,
        sdk.Client(f"ipv4:{one.address},{two.address}", timeout_s=60) as client,
    ):
        calls = [asyncio.create_task(call_on(client)) for _ in range(8)]
        await until_further(50)
        one.worker.stop()
        await until_further(50)
        async with coordinator(log_url, stock, listen={"address": one.address}):
            two.worker.stop()
            await until_further(50)
            stopping.set()
            await asyncio.gather(*calls)


# --- who may ------------------------------------------------------------------------------


async def test_rights_are_those_of_now_and_for_each_item(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant
) -> None:
    async with guarded(log_url, tmp_path, {"stock": {"target": stock.address}}) as tcc:
        channel = tcc.channel(tcc.tls.authority.issue(SHOP))
        stream = await TransactionStream(channel).opened()
        other = execute("shop-2", branches=[branch("1", action="other")])
        await stream.send(i1=execute("shop-1"), i2=execute("bank-1"), i3=other)
        assert (await stream.reply(1)).outcome.state == CONFIRMED
        assert {(await stream.reply(number)).error.reason for number in (2, 3)} == {"NOT_ALLOWED"}
        access = tcc.worker.worker._access
        assert access is not None
        policy = access.authenticator.policy
        access.authenticator = Authenticator(
            replace(policy, clients={}), now=access.authenticator.now, monotonic=access.authenticator.now
        )
        await stream.send(i4=execute("shop-4"))
        assert (await stream.reply(4)).error.reason == "NOT_ALLOWED"
        async with refused("PERMISSION_DENIED", "NOT_ALLOWED"):
            await TransactionStream(channel).opened()


class Call:
    """What is known of a call by its token, over TLS."""

    def __init__(self, token: str = "", certificate: bytes = b"") -> None:
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._certificate = certificate

    def invocation_metadata(self) -> object:
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        shown = {"x509_pem_cert": [self._certificate], "peer_spiffe_id": [SHOP.encode()]}
        return {"transport_security_type": [b"ssl"], **(shown if self._certificate else {})}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


class OpenStream:
    """The check of an open stream whose caller has shown this."""

    def __init__(self, call: Call, policy: Policy, now: float) -> None:
        self.now = now
        self.access = Access(self.authenticator(policy), Rates(lambda: 0.0))
        self._check = self.access.rechecked(METHOD, call)  # type: ignore[arg-type] # a part of one
        # It sets the caller of its task, which is not to be that of other tests.
        self._context = copy_context()

    def authenticator(self, policy: Policy) -> Authenticator:
        return Authenticator(policy, now=lambda: self.now, monotonic=lambda: 0.0)

    def check(self, now: float) -> Caller | None:
        """Check at this time, and return the caller that the stream then has."""
        self.now = now
        self._context.run(self._check)
        return self._context.run(CALLER.get)


def client(identity: str) -> dict[str, Client]:
    shop = Client(name="shop", gid_prefixes=("",), calls={}, calls_per_s=math.inf, expiry_max_s=math.inf)
    return {identity: shop}


async def test_a_token_that_expires_in_an_open_stream_is_not_accepted() -> None:
    token = new_token("shop")
    known = StaticToken(sha256=token_hash(token), expires_at=100.0)
    policy = Policy(tokens={"shop": known}, clients=client("token:shop"))
    stream = OpenStream(Call(token), policy, 98.0)
    stream.check(98.0)
    stream.check(99.0)
    for _ in range(2):
        with pytest.raises(NotAuthenticated, match="token is not accepted"):
            stream.check(101.0)


async def test_new_rights_hold_at_once_in_an_open_stream() -> None:
    token = new_token("shop")
    known = StaticToken(sha256=token_hash(token), expires_at=100.0)
    policy = Policy(tokens={"shop": known}, clients=client("token:shop"))
    stream = OpenStream(Call(token), policy, 1.0)
    first = stream.check(1.0)
    slower = replace(policy.clients["token:shop"], calls_per_s=1.0)
    stream.access.authenticator = stream.authenticator(replace(policy, clients={"token:shop": slower}))
    second = stream.check(1.0)
    assert first is not None
    assert second is not None
    assert (first.client, second.client) == (policy.clients["token:shop"], slower)
    stream.access.authenticator = stream.authenticator(replace(policy, clients={}))
    with pytest.raises(NotAllowed):
        stream.check(1.0)
    stream.access.authenticator = stream.authenticator(replace(policy, tokens={}))
    with pytest.raises(NotAuthenticated):
        stream.check(1.0)


async def test_a_withdrawn_key_ends_the_rights_of_an_open_stream_in_a_minute(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    trusted = TrustedIssuer(
        name="corp", issuer=ISSUER, audience=AUDIENCE, jwks=str(issuer.jwks), algorithms=("ES256",)
    )
    policy = Policy(issuers=(trusted,), clients=client("jwt:corp:sub:shop"))
    now = time.time()
    stream = OpenStream(Call(issuer.token()), policy, now)
    await stream.access.authenticator.refresh()
    stream.check(now)
    Issuer(tmp_path, "another")
    await stream.access.authenticator.refresh()
    stream.check(now + CACHED_MAX_S - 1)
    with pytest.raises(NotAuthenticated):
        stream.check(now + CACHED_MAX_S)


async def test_a_certificate_that_expires_in_an_open_stream_is_not_accepted() -> None:
    pair = Authority().issue(SHOP)
    end = certificate_end({"x509_pem_cert": [pair.certificate_pem]})
    assert end == pair.certificate.not_valid_after_utc.timestamp()
    policy = Policy(certificate_names=("spiffe",), clients=client(SHOP))
    stream = OpenStream(Call(certificate=pair.certificate_pem), policy, end - 1)
    stream.check(end - 1)
    with pytest.raises(NotAuthenticated, match="the certificate has expired"):
        stream.check(end)


async def test_the_rate_of_a_client_counts_each_item(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant
) -> None:
    participants = {"stock": {"target": stock.address}}
    shop = {"identities": [SHOP], "calls": {"*": ["*"]}, "calls_per_s": 2}
    async with guarded(log_url, tmp_path, participants, clients={"shop": shop}, operators={}) as tcc:
        stream = await TransactionStream(tcc.channel(tcc.tls.authority.issue(SHOP))).opened()
        await stream.send(**{f"i{number}": execute(f"shop-{number}") for number in range(1, 5)})
        refusals = [(await stream.reply(number)).error for number in range(1, 5)]
        assert [each.reason for each in refusals].count("TENANT_LIMIT") >= 2
        assert all(each.retry_after_ms > 0 for each in refusals if each.reason)
        await stream.end()


async def test_a_client_above_its_rate_is_not_read_for_a_while(
    log_url: str, tmp_path: Path, stock: ScriptedParticipant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals cost time as well, which others would miss. Requests without items count, too."""
    pauses: asyncio.Queue[float] = asyncio.Queue()
    go = asyncio.Semaphore(0)

    async def pause(_stream: streams.TransactionStream, wait_s: float) -> None:
        pauses.put_nowait(wait_s)
        await go.acquire()

    monkeypatch.setattr(streams.TransactionStream, "pause", pause)
    participants = {"stock": {"target": stock.address}}
    shop = {"identities": [SHOP], "calls": {"*": ["*"]}, "calls_per_s": 0.001}
    async with guarded(log_url, tmp_path, participants, clients={"shop": shop}, operators={}) as tcc:
        stream = await TransactionStream(tcc.channel(tcc.tls.authority.issue(SHOP))).opened()
        # The call itself was the one that is allowed.
        await stream.cancel(77)
        assert await pauses.get() > 0
        await stream.send(i1=execute("shop-1"))
        go.release()
        assert (await stream.reply(1)).error.reason == "TENANT_LIMIT"
        assert await pauses.get() > 0
        go.release()
        await stream.end()
