"""Alerts to a webhook: delivered, repeated, given up, dropped; never blocking."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from coordinator.engine.observer import Anomaly
from coordinator.observability.alerts import ATTEMPTS_MAX, QUEUE_MAX, WebhookAlerts
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed, serving
from tests.support.worker import branch, running, settings_for


class Webhook:
    """Answers each request with the next of `statuses` (0: not in HTTP), and with 200 when there are no more.

    `posts` are the alerts of those that were POSTs.
    """

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.posts: list[list[dict[str, object]]] = []
        self.url = ""
        self._posted = asyncio.Condition()

    async def until(self, posts: int) -> None:
        async with asyncio.timeout(120), self._posted:
            await self._posted.wait_for(lambda: len(self.posts) >= posts)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(asked.partition("content-length: ")[2].split("\r\n")[0] or 0)
        if asked.startswith("post"):
            self.posts.append(json.loads(await reader.readexactly(length))["alerts"])
        status = self.statuses.pop(0) if self.statuses else 200
        location = f"Location: {self.url}\r\n" if status in range(300, 400) else ""
        head = f"HTTP/1.1 {status} X\r\n{location}Content-Length: 0\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() if status else b"SSH-2.0-OpenSSH\r\n")
        await writer.drain()
        writer.close()
        async with self._posted:
            self._posted.notify_all()


@pytest.fixture
async def webhook() -> AsyncIterator[Webhook]:
    hook = Webhook()
    server = await asyncio.start_server(hook.answer, "127.0.0.1", 0)
    hook.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"
    async with server:
        yield hook


class Outcomes(Counter[str]):
    """The outcomes of alerts."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Event()

    def add(self, outcome: str, count: int) -> None:
        self[outcome] += count
        self.changed.set()

    async def until(self, outcome: str, count: int) -> None:
        async with asyncio.timeout(120):
            while self[outcome] < count:
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def alerting(url: str) -> AsyncIterator[tuple[WebhookAlerts, Outcomes]]:
    outcomes = Outcomes()
    alerts = WebhookAlerts(url, coordinator="c", on_outcome=outcomes.add, pause_first_s=0.001)
    task = asyncio.create_task(alerts.run())
    yield alerts, outcomes
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_stuck_transaction_is_posted(log_url: str, webhook: Webhook) -> None:
    stock = ScriptedParticipant()

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("BROKEN") if call.operation == common.OPERATION_CONFIRM else SUCCEEDED

    stock.script = script
    async with serving(stock) as target:
        settings = settings_for(
            {"stock": {"target": target, "attempts_before_stuck": 2}}, alerts={"webhook_url": webhook.url}
        )
        async with running(settings, log_url) as worker:
            await worker.stub.ExecuteTransaction(
                pb.ExecuteTransactionRequest(gid="g", branches=[branch("1")])
            )
            await webhook.until(1)
    ((alert,),) = webhook.posts
    assert (alert["kind"], alert["gid"], alert["branch_id"], alert["participant"], alert["state"]) == (
        *("STUCK", "g", "1", "stock", "CONFIRMING"),
    )
    assert alert["attempts"] == 2
    assert "BROKEN" in str(alert["last_error"])


async def test_a_post_that_fails_is_repeated(webhook: Webhook) -> None:
    webhook.statuses = [500, 429]
    async with alerting(webhook.url) as (alerts, outcomes):
        alerts.put(Anomaly.LOG_UNAVAILABLE, {"error": "gone"})
        await outcomes.until("delivered", 1)
    assert [[alert["kind"] for alert in post] for post in webhook.posts] == [["LOG_UNAVAILABLE"]] * 3


@pytest.mark.parametrize("status", [0, 301, 302, 307])
async def test_an_invalid_response_to_an_alert_is_a_failure(webhook: Webhook, status: int) -> None:
    """A redirected POST would arrive as an empty GET, and a reply that is not HTTP confirms nothing."""
    webhook.statuses = [status]
    async with alerting(webhook.url) as (alerts, outcomes):
        alerts.put(Anomaly.STUCK, {"gid": "g"})
        await outcomes.until("delivered", 1)
    assert [post[0]["gid"] for post in webhook.posts] == ["g", "g"]


async def test_alerts_are_given_up_after_some_attempts_and_the_next_are_sent(webhook: Webhook) -> None:
    webhook.statuses = [500] * ATTEMPTS_MAX
    async with alerting(webhook.url) as (alerts, outcomes):
        alerts.put(Anomaly.STUCK, {"gid": "lost"})
        await outcomes.until("failed", 1)
        alerts.put(Anomaly.STUCK, {"gid": "told"})
        await outcomes.until("delivered", 1)
    assert [post[0]["gid"] for post in webhook.posts] == ["lost"] * ATTEMPTS_MAX + ["told"]


async def test_alerts_leave_in_batches_and_an_overflow_is_dropped(webhook: Webhook) -> None:
    async with alerting(webhook.url) as (alerts, outcomes):
        for number in range(QUEUE_MAX + 3):  # before anything can leave
            alerts.put(Anomaly.STUCK, {"gid": str(number)})
        await outcomes.until("delivered", QUEUE_MAX)
    assert outcomes["dropped"] == 3
    assert [len(post) for post in webhook.posts] == [100] * 10


async def test_an_unresponsive_peer_is_given_up_too() -> None:
    async with alerting("http://127.0.0.1:1/") as (alerts, outcomes):
        alerts.put(Anomaly.STUCK, {"gid": "g"})
        await outcomes.until("failed", 1)
