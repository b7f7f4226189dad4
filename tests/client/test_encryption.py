"""Encrypted payloads and results: end to end with a real coordinator, and the codec alone."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from hypothesis import given, strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

import tcc
from tcc.admin.v1 import admin_pb2 as apb, admin_pb2_grpc
from tcc.payload import ENCRYPTED, Encoded, InvalidPayloadError, payload_place, result_place
from tests.support.worker import Running, running, settings_for

SECRET = "4111-1111-1111-1111"
OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
CODEC = tcc.AesGcmCodec({"old": OLD, "new": NEW}, current="new")
REQUEST = {"card": SECRET}
PLACE = payload_place("g", "card", "card", "charge")


class Charge:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def try_(self, branch: tcc.Branch, request: Any, db: Any) -> Any:
        self.seen.append(request)
        return {"receipt": SECRET}

    async def confirm(self, branch: tcc.Branch, request: Any, db: Any) -> None:
        self.seen += [request, branch.try_result_as(dict)]

    async def cancel(self, branch: tcc.Branch, request: Any, db: Any) -> None:
        self.seen.append(request)


@asynccontextmanager
async def system(
    log_url: str, directory: Path, codec: tcc.AesGcmCodec | None
) -> AsyncIterator[tuple[Running, Charge]]:
    """A coordinator, and the participant "card"."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{directory / 'card.db'}")
    card, handlers = tcc.Participant("card", database=engine, payload_codec=codec), Charge()
    card.action("charge")(handlers)
    await card.create_schema()
    await card.start()
    settings = settings_for(
        {"card": {"target": f"127.0.0.1:{card.port}"}}, limits={"expiry_default_s": 5.0, "expiry_max_s": 5.0}
    )
    async with running(settings, log_url) as coordinator:
        yield coordinator, handlers
    await card.stop()
    await engine.dispose()


async def stored(log_url: str) -> bytes:
    """Return all that the log holds of its transactions."""
    async with await psycopg.AsyncConnection.connect(log_url) as db:
        rows = await (await db.execute("SELECT * FROM tcc.transactions")).fetchall()
    return b"".join(bytes(value) if isinstance(value, bytes) else str(value).encode() for value in rows[0])


async def test_only_initiator_and_participant_see_the_content(log_url: str, tmp_path: Path) -> None:
    branches = [tcc.BranchRequest("card", "charge", REQUEST)]
    async with (
        system(log_url, tmp_path, CODEC) as (coordinator, handlers),
        tcc.Client(coordinator.address, payload_codec=CODEC) as client,
        tcc.Client(coordinator.address) as stranger,
    ):
        outcome = await client.execute(branches, gid="g", wait_for="completion")
        assert outcome.results["card"].json() == {"receipt": SECRET}
        assert handlers.seen == [REQUEST, REQUEST, {"receipt": SECRET}]
        # A repeated call is the same transaction.
        again = await client.execute(branches, gid="g", wait_for="completion")
        assert again.results["card"].as_(dict) == {"receipt": SECRET}
        assert (await client.get("g")).branches[0].payload == b'{"card":"' + SECRET.encode() + b'"}'
        held = (await stranger.get("g")).branches[0]
        assert held.content_type == f"{ENCRYPTED}; key=new"
        assert SECRET.encode() not in held.payload + held.result.data
        with pytest.raises(InvalidPayloadError, match="it is encrypted"):
            held.result.as_(bytes)
        address = f"127.0.0.1:{coordinator.worker.admin_port}"
        async with grpc.aio.insecure_channel(address) as channel:
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            seen = await admin.InspectTransaction(apb.InspectTransactionRequest(gid="g"))
        assert SECRET.encode() not in seen.SerializeToString()
    assert SECRET.encode() not in await stored(log_url)


async def test_without_a_codec_the_log_holds_the_content(log_url: str, tmp_path: Path) -> None:
    """What the test above would not notice if it searched in the wrong place."""
    async with (
        system(log_url, tmp_path, None) as (coordinator, _),
        tcc.Client(coordinator.address) as client,
    ):
        await client.execute([tcc.BranchRequest("card", "charge", REQUEST)], gid="g", wait_for="completion")
    assert SECRET.encode() in await stored(log_url)


async def test_the_steps_of_an_interactive_transaction_are_encrypted(log_url: str, tmp_path: Path) -> None:
    async with (
        system(log_url, tmp_path, CODEC) as (coordinator, handlers),
        tcc.Client(coordinator.address, payload_codec=CODEC) as client,
    ):
        async with client.transaction(gid="g", wait_for="completion") as tx:
            assert (await tx.try_("card", "charge", REQUEST)).json() == {"receipt": SECRET}
        assert handlers.seen[-1] == {"receipt": SECRET}
    assert SECRET.encode() not in await stored(log_url)


async def test_a_participant_with_a_codec_refuses_plain_payloads(log_url: str, tmp_path: Path) -> None:
    async with (
        system(log_url, tmp_path, CODEC) as (coordinator, handlers),
        tcc.Client(coordinator.address) as client,
    ):
        with pytest.raises(tcc.TransactionCancelled) as cancelled:
            await client.execute([tcc.BranchRequest("card", "charge", REQUEST)], gid="g")
    assert cancelled.value.detail == "INVALID_PAYLOAD"
    assert handlers.seen == []


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
PLACES = st.tuples(TEXTS, TEXTS, TEXTS, TEXTS)
CONTENTS = st.builds(Encoded, st.binary(max_size=64), st.sampled_from(["", "application/json"]))


@given(CONTENTS, PLACES, PLACES)
def test_what_is_sealed_opens_at_its_own_place_alone(
    content: Encoded, place: tuple[str, ...], other: tuple[str, ...]
) -> None:
    sealed = CODEC.seal(content, payload_place(*place))
    assert sealed == CODEC.seal(content, payload_place(*place))
    assert CODEC.open(sealed, payload_place(*place)) == content
    wrong = [result_place(*place[:2])] if other == place else [payload_place(*other)]
    with pytest.raises(InvalidPayloadError, match="belongs to another"):
        CODEC.open(sealed, *wrong)


@given(CONTENTS, st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_is_accepted(content: Encoded, position: int, change: int) -> None:
    data, content_type = CODEC.seal(content, PLACE)
    forged = bytearray(data)
    forged[position % len(forged)] ^= change
    with pytest.raises(InvalidPayloadError):
        CODEC.open(Encoded(bytes(forged), content_type), PLACE)


@pytest.mark.parametrize("data", [b"", b"short", bytes(27)])
def test_too_short_content_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidPayloadError):
        CODEC.open(Encoded(data, f"{ENCRYPTED}; key=new"), PLACE)


def test_other_content_at_one_place_has_another_nonce() -> None:
    sealed = {CODEC.seal(Encoded(bytes([number]), ""), PLACE).data[:12] for number in range(200)}
    assert len(sealed) == 200


def test_an_old_key_opens_until_it_is_removed() -> None:
    content = Encoded(b"{}", "application/json")
    sealed = tcc.AesGcmCodec({"old": OLD}, current="old").seal(content, PLACE)
    assert CODEC.open(sealed, PLACE) == content
    with pytest.raises(InvalidPayloadError, match="with the key 'old', which is not known here"):
        tcc.AesGcmCodec({"new": NEW}, current="new").open(sealed, PLACE)


def test_plain_content_is_accepted_only_if_asked_for() -> None:
    content = Encoded(b"{}", "application/json")
    assert tcc.AesGcmCodec({"new": NEW}, current="new", accept_plain=True).open(content, PLACE) == content
    with pytest.raises(InvalidPayloadError, match="not encrypted"):
        CODEC.open(content, PLACE)


@pytest.mark.parametrize(
    ("keys", "current"), [({}, "a"), ({"a": b"short"}, "a"), ({"a;b": NEW}, "a;b"), ({"": NEW}, "")]
)
def test_unusable_keys_are_refused(keys: dict[str, bytes], current: str) -> None:
    with pytest.raises(ValueError, match="key"):
        tcc.AesGcmCodec(keys, current=current)
