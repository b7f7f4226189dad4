"""Outcomes as events: their format, and how a webhook and a participant get them."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import OpenerDirector

import pytest
from msgspec.structs import replace

from coordinator.core.model import CancelReason, TransactionState
from coordinator.jobs import outcome_webhook
from coordinator.jobs.outcome_events import (
    BATCH_CONTENT_TYPE,
    CONTENT_TYPE,
    batch_json,
    event_data,
    event_json,
)
from coordinator.jobs.outcome_webhook import OutcomeWebhook
from coordinator.ports.outcomes import Outcome, PublishError
from coordinator.security.https import bounded_opener
from participants.events.envelope import event_id, read, structured
from participants.events.requests import Publish
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.identities import Authority
from tests.support.scripted_participant import ScriptedParticipant
from tests.support.webhook import HANG, EventWebhook, event_webhook
from tests.support.worker import Running, branch, running, settings_for

CONFIRMED = Outcome(
    gid="order-7",
    state=TransactionState.CONFIRMED,
    stuck=False,
    initiator="checkout",
    tenant="shop",
    labels='{"city": "Bern"}',
    cancel_reason=CancelReason.NONE,
    cancel_branch_id="",
    cancel_detail="",
    created_at=1_700_000_000.5,
    decided_at=1_700_000_001.0,
    ended_at=1_700_000_002.25,
)
CANCELLED = replace(
    CONFIRMED,
    gid="order-8",
    state=TransactionState.CANCELLED,
    cancel_reason=CancelReason.REJECTED,
    cancel_branch_id="reserve",
    cancel_detail="SOLD_OUT",
)
STUCK = replace(CONFIRMED, gid="order-9", state=TransactionState.CONFIRMING, stuck=True, ended_at=None)


@pytest.fixture
async def webhook() -> AsyncIterator[EventWebhook]:
    async with event_webhook() as hook:
        yield hook


def metrics(coordinator: Running) -> str:
    return coordinator.worker.monitoring.metrics.text().decode()


def test_an_event_has_all_of_an_outcome_but_payloads() -> None:
    assert json.loads(event_json(CANCELLED, source="/here")) == {
        "specversion": "1.0",
        "id": "order-8/cancelled",
        "source": "/here",
        "type": "tcc.transaction.cancelled",
        "subject": "order-8",
        "time": "2023-11-14T22:13:22.250000+00:00",
        "datacontenttype": "application/json",
        "data": {
            "gid": "order-8",
            "state": "CANCELLED",
            "tenant": "shop",
            "initiator": "checkout",
            "labels": {"city": "Bern"},
            "created_at": "2023-11-14T22:13:20.500000+00:00",
            "decided_at": "2023-11-14T22:13:21+00:00",
            "ended_at": "2023-11-14T22:13:22.250000+00:00",
            "cancel_reason": "REJECTED",
            "cancel_branch_id": "reserve",
            "cancel_detail": "SOLD_OUT",
        },
    }


@pytest.mark.parametrize("outcome", [CONFIRMED, CANCELLED, STUCK], ids=lambda outcome: outcome.gid)
def test_coordinator_and_participant_write_the_same_format(outcome: Outcome) -> None:
    """The participant's is that of the package cloudevents."""
    assert outcome.kind is not None
    ours = json.loads(event_json(outcome, source="/here"))
    attributes = {
        "id": event_id(outcome.gid, outcome.kind.value),
        "source": "/here",
        "type": f"tcc.transaction.{outcome.kind.value}",
        "subject": outcome.gid,
        "time": datetime.fromtimestamp(outcome.ended_at or outcome.decided_at or 0.0, UTC),
    }
    theirs = json.loads(structured(attributes, ours["data"]))
    for event in (ours, theirs):
        event["time"] = datetime.fromisoformat(event["time"])
    assert ours == theirs
    assert read(event_json(outcome, source="/here")).get_id() == attributes["id"]


def test_a_gid_with_a_slash_has_an_id_of_its_own() -> None:
    """Otherwise the ids of "a" and "a/confirmed" could be the same."""
    event = json.loads(event_json(replace(CONFIRMED, gid="a/b ü"), source="/here"))
    assert event["id"] == event_id("a/b ü", "confirmed")


def test_a_batch_is_an_array_of_events() -> None:
    batch = json.loads(batch_json([CONFIRMED, STUCK], source="/here"))
    assert batch == [json.loads(event_json(one, source="/here")) for one in (CONFIRMED, STUCK)]


def test_data_is_the_same_each_time() -> None:
    """A participant refuses a repeated call with another payload."""
    assert event_data(STUCK) == event_data(STUCK)
    assert "stuck_at" not in event_data(STUCK)


async def test_a_webhook_gets_batches_with_the_token_of_a_file(webhook: EventWebhook, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    target = OutcomeWebhook(webhook.url, source="/here", token_file=token)
    await target.publish([CONFIRMED, CANCELLED])
    assert webhook.ids == ["order-7/confirmed", "order-8/cancelled"]
    (head,) = webhook.heads
    assert head.startswith("post /events?key=secret http/1.1\r\n")
    assert f"content-type: {BATCH_CONTENT_TYPE}\r\n" in head
    assert "authorization: bearer s3cret\r\n" in head


async def test_without_batches_each_post_is_one_event(webhook: EventWebhook) -> None:
    await OutcomeWebhook(webhook.url, source="/here", is_batched=False).publish([CONFIRMED, CANCELLED])
    assert webhook.ids == ["order-7/confirmed", "order-8/cancelled"]
    assert all(f"content-type: {CONTENT_TYPE}\r\n" in head for head in webhook.heads)


@pytest.mark.parametrize("status", [301, 400, 503])
async def test_any_other_answer_than_2xx_is_an_error_without_the_url(
    webhook: EventWebhook, status: int
) -> None:
    webhook.status = status
    with pytest.raises(PublishError) as caught:
        await OutcomeWebhook(webhook.url, source="/here").publish([CONFIRMED])
    assert str(caught.value) == f"the webhook answered {status}"
    assert len(webhook.heads) == 1


async def test_a_webhook_that_hangs_is_given_up_in_time(webhook: EventWebhook) -> None:
    webhook.status = HANG
    with pytest.raises(PublishError, match=r"did not answer within 0\.2 s|failed: TimeoutError"):
        await OutcomeWebhook(webhook.url, source="/here", timeout_s=0.2).publish([CONFIRMED])


def tls_server(authority: Authority, name: str, directory: Path) -> ssl.SSLContext:
    """Return what a server needs that has a certificate of this name."""
    pair, file = authority.issue(name, client=False), directory / f"{name}.pem"
    file.write_bytes(pair.certificate_pem + pair.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_a_webhook_over_https_must_prove_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    authority, trusted = Authority(), tmp_path / "ca.pem"
    trusted.write_bytes(authority.own.certificate_pem)
    for name, is_trusted in (("localhost", True), ("elsewhere", False)):
        async with event_webhook(tls_server(authority, name, tmp_path)) as webhook:
            target = OutcomeWebhook(webhook.url, source="/here", ca_file=trusted)
            if is_trusted:
                await target.publish([CONFIRMED])
                target = OutcomeWebhook(webhook.url, source="/here")
            with pytest.raises(PublishError, match="CERTIFICATE_VERIFY_FAILED"):
                await target.publish([CONFIRMED])
            assert webhook.ids == ["order-7/confirmed"] * is_trusted


async def test_authorities_are_read_again_when_their_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    made: list[Path | None] = []

    def counted(timeout_s: float, ca_file: Path | None) -> OpenerDirector:
        made.append(ca_file)
        return bounded_opener(timeout_s, ca_file)

    monkeypatch.setattr(outcome_webhook, "bounded_opener", counted)
    authority, trusted = Authority(), tmp_path / "ca.pem"
    trusted.write_bytes(Authority().own.certificate_pem)
    async with event_webhook(tls_server(authority, "localhost", tmp_path)) as webhook:
        target = OutcomeWebhook(webhook.url, source="/here", ca_file=trusted)
        with pytest.raises(PublishError, match="CERTIFICATE_VERIFY_FAILED"):
            await target.publish([CONFIRMED])
        trusted.write_bytes(authority.own.certificate_pem)
        await target.publish([CONFIRMED])
        await target.publish([CANCELLED])
    assert webhook.ids == ["order-7/confirmed", "order-8/cancelled"]
    assert made == [trusted, trusted]


async def test_an_unreachable_webhook_and_a_missing_token_are_errors(tmp_path: Path) -> None:
    target = OutcomeWebhook("http://127.0.0.1:1/?key=secret", source="/here")
    with pytest.raises(PublishError) as caught:
        await target.publish([CONFIRMED])
    assert "secret" not in str(caught.value)
    target = OutcomeWebhook("http://127.0.0.1:1/", source="/here", token_file=tmp_path / "none")
    with pytest.raises(PublishError):
        await target.publish([CONFIRMED])


async def test_a_coordinator_publishes_to_a_webhook_and_a_participant(
    log_url: str, webhook: EventWebhook, stock: ScriptedParticipant
) -> None:
    participant = {"target": stock.address}
    settings = settings_for(
        {"stock": participant, "events": participant},
        events={"url": webhook.url, "participant": "events", "topic": "outcomes", "types": ["confirmed"]},
    )
    async with running(settings, log_url) as coordinator:
        begun = asyncio.ensure_future(
            stock.until(lambda: any(call.action == "publish" for call in stock.calls))
        )
        await coordinator.stub.ExecuteTransaction(
            pb.ExecuteTransactionRequest(
                gid="g", branches=[branch("1", payload=b"4711")], wait_for=pb.WAIT_FOR_COMPLETION
            )
        )
        await webhook.until_has("g/confirmed")
        await begun
        wanted = {
            f'tcc_events_{name}{{target="{target}"}} {value}'
            for target in ("webhook", "participant")
            for name, value in (("published_total", "1.0"), ("failed_total", "0.0"))
        }
        async with asyncio.timeout(60):
            while not wanted <= set(metrics(coordinator).splitlines()):
                await coordinator.state("g")
        lags = re.findall(r"tcc_events_lag_seconds\{target=\"(\w+)\"\} (\S+)", metrics(coordinator))
        assert [target for target, _ in lags] == ["participant", "webhook"]
        assert all(0 < float(lag) < 60 for _, lag in lags)
    (call,) = [call for call in stock.calls if call.action == "publish"]
    assert (call.branch_id, b"4711" in call.payload) == ("confirmed", False)
    request = Publish.model_validate_json(call.payload)
    assert (request.topic, request.type, request.subject) == ("outcomes", "tcc.transaction.confirmed", "g")
    assert request.data == webhook.events[0]["data"]


@pytest.mark.slow
async def test_a_webhook_that_hangs_delays_no_transaction(
    log_url: str, webhook: EventWebhook, stock: ScriptedParticipant
) -> None:
    webhook.status = HANG
    settings = settings_for({"stock": {"target": stock.address}}, events={"url": webhook.url}, drain_s=0.1)
    async with running(settings, log_url) as coordinator:
        first = pb.ExecuteTransactionRequest(
            gid="first", branches=[branch("1")], wait_for=pb.WAIT_FOR_COMPLETION
        )
        await coordinator.stub.ExecuteTransaction(first)
        await webhook.until_posts(1)
        # It hangs now.
        for number in range(5):
            request = pb.ExecuteTransactionRequest(
                gid=f"g{number}", branches=[branch("1")], wait_for=pb.WAIT_FOR_COMPLETION
            )
            await coordinator.stub.ExecuteTransaction(request)
        assert webhook.events == []
        assert len(webhook.heads) == 1
