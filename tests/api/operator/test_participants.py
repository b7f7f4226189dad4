"""Participants and coordinators: pause and resume, breakers, drains, and the figures of all processes."""

import asyncio

import grpc

from tcc.admin.v1 import admin_pb2 as apb
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.errors import refused
from tests.support.scripted_participant import ScriptedParticipant, serving
from tests.support.worker import Running, running, settings_for

from .conftest import REPORTS, Refusing, Stub, execute, inspect, operator_context, operators_of, until

TRY, CONFIRM = common.OPERATION_TRY, common.OPERATION_CONFIRM


async def status(admin: Stub, name: str = "stock") -> apb.ParticipantStatus:
    """The participant, once a coordinator has reported that it is configured with it."""
    while True:
        reply = await admin.ListParticipants(apb.ListParticipantsRequest())
        for one in reply.participants:
            if one.name == name:
                return one


async def until_paused(admin: Stub, *, paused: bool) -> None:
    """Return when every coordinator has reported the change."""

    async def heard() -> bool:
        reports = (await status(admin)).reports
        return bool(reports) and all(report.paused == paused for report in reports)

    await until(heard)


async def pause(admin: Stub, version: int = 0) -> apb.PauseParticipantResponse:
    return await admin.PauseParticipant(
        apb.PauseParticipantRequest(participant="stock", operator_context=operator_context(version))
    )


async def resume(admin: Stub, version: int) -> apb.ResumeParticipantResponse:
    return await admin.ResumeParticipant(
        apb.ResumeParticipantRequest(participant="stock", operator_context=operator_context(version))
    )


async def test_a_paused_participant_gets_no_calls_and_costs_no_attempts(
    tcc: Running, admin: Stub, stock: ScriptedParticipant
) -> None:
    script = stock.script = Refusing(CONFIRM)
    await tcc.stub.ExecuteTransaction(execute("g"))
    await stock.until(lambda: stock.count(CONFIRM) == 1)
    paused = await pause(admin)
    assert (paused.participant.paused, paused.participant.version) == (True, 1)
    assert paused.audit_record.action == "participant.pause"
    await until_paused(admin, paused=True)
    async with refused("UNAVAILABLE", "PARTICIPANT_PAUSED"):
        await tcc.stub.ExecuteTransaction(execute("new"))

    async def parked() -> bool:
        return not (await inspect(admin, "g")).transaction.owner

    await until(parked)  # what was under way has ended
    calls = stock.count()
    attempts = (await inspect(admin, "g")).transaction.branches[0].attempts
    explained = await admin.ExplainTransaction(apb.ExplainTransactionRequest(gid="g"))
    assert explained.branches[0].summary == "participant stock is paused by an operator; Confirm waits"
    assert "resume participant stock" in explained.advice
    script.mended = True
    assert (stock.count(), (await inspect(admin, "g")).transaction.branches[0].attempts) == (calls, attempts)
    resumed = await resume(admin, version=1)
    assert (resumed.participant.paused, resumed.participant.version) == (False, 2)
    assert (await tcc.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED
    await until_paused(admin, paused=False)
    await tcc.stub.ExecuteTransaction(execute("new"))


async def test_actions_on_participants_need_reason_and_version(tcc: Running, admin: Stub) -> None:
    requests = {
        "PauseParticipant": apb.PauseParticipantRequest,
        "ResumeParticipant": apb.ResumeParticipantRequest,
        "ResetBreaker": apb.ResetBreakerRequest,
    }
    await pause(admin)
    for method, request in requests.items():
        call = getattr(admin, method)
        async with refused("INVALID_ARGUMENT", "MISSING_REASON"):
            await call(
                request(participant="stock", operator_context=apb.OperatorContext(operator="ann", version=1))
            )
        async with refused("ABORTED", "VERSION_CHANGED") as refusal:
            await call(request(participant="stock", operator_context=operator_context(0)))
        assert refusal.info.metadata["version"] == "1"
        async with refused("INVALID_ARGUMENT", "UNKNOWN_PARTICIPANT"):
            await call(request(participant="absent", operator_context=operator_context(0)))
    assert (await status(admin)).version == 1


async def test_a_pause_outlives_the_coordinator(log_url: str, stock: ScriptedParticipant) -> None:
    settings = settings_for({"stock": {"target": stock.address}}, **REPORTS)
    async with running(settings, log_url) as one, operators_of(one) as admin:
        await pause(admin)
    async with running(settings, log_url) as other, operators_of(other) as admin:
        await until_paused(admin, paused=True)
        async with refused("UNAVAILABLE", "PARTICIPANT_PAUSED"):
            await other.stub.ExecuteTransaction(execute("g"))
    assert stock.count() == 0


async def test_resetting_a_breaker_lets_calls_leave_at_once(log_url: str, stock: ScriptedParticipant) -> None:
    slow = {"target": "127.0.0.1:1", "breaker_open_first_s": 3_600.0, "breaker_open_max_s": 3_600.0}
    settings = settings_for({"stock": slow}, **REPORTS)
    async with running(settings, log_url) as tcc, operators_of(tcc) as admin:
        asked = asyncio.ensure_future(tcc.stub.ExecuteTransaction(execute("g")))

        async def breaker() -> int:
            reports = (await status(admin)).reports
            return reports[0].breaker if reports else apb.BREAKER_STATE_UNSPECIFIED

        async def is_open() -> bool:
            return await breaker() == apb.BREAKER_STATE_OPEN

        async def is_closed() -> bool:
            return await breaker() == apb.BREAKER_STATE_CLOSED

        await until(is_open)
        shown = (await status(admin)).reports[0]
        assert shown.HasField("probe_at")
        assert shown.calls_failed >= 5
        assert shown.last_error
        async with refused("UNAVAILABLE", "PARTICIPANT_UNAVAILABLE"):
            await tcc.stub.ExecuteTransaction(execute("refused"))
        failed_before = tcc.engine.dispatchers["stock"].failed
        reset = await admin.ResetBreaker(
            apb.ResetBreakerRequest(participant="stock", operator_context=operator_context())
        )
        assert reset.audit_record.action == "participant.reset_breaker"

        # Its next call would have been sent in an hour.
        await until(is_closed)
        asked_anew = asyncio.ensure_future(tcc.stub.ExecuteTransaction(execute("taken on")))

        async def called_again() -> bool:
            await status(admin)
            return tcc.engine.dispatchers["stock"].failed > failed_before

        await until(called_again)
        asked.cancel()
        asked_anew.cancel()


async def test_one_of_two_coordinators_is_drained(log_url: str, stock: ScriptedParticipant) -> None:
    settings = settings_for({"stock": {"target": stock.address}}, **REPORTS)
    async with running(settings, log_url) as stays, operators_of(stays) as admin:
        async with running(settings, log_url) as goes:
            listed = await admin.ListCoordinators(apb.ListCoordinatorsRequest())
            assert {one.id for one in listed.coordinators if one.alive} == {
                stays.worker.owner,
                goes.worker.owner,
            }
            assert listed.responder_id == stays.worker.owner
            await goes.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
            drain = apb.DrainCoordinatorRequest(
                coordinator_id=goes.worker.owner, operator_context=operator_context()
            )
            async with refused("INVALID_ARGUMENT", "MISSING_REASON"):
                await admin.DrainCoordinator(
                    apb.DrainCoordinatorRequest(
                        coordinator_id=goes.worker.owner, operator_context=apb.OperatorContext(operator="ann")
                    )
                )
            drained = await admin.DrainCoordinator(drain)
            assert drained.coordinator.HasField("drain_requested_at")

            async def gone() -> bool:
                reply = await admin.ListCoordinators(apb.ListCoordinatorsRequest())
                return not any(one.id == goes.worker.owner and one.alive for one in reply.coordinators)

            await until(gone)
        async with refused("FAILED_PRECONDITION", "COORDINATOR_GONE"):
            await admin.DrainCoordinator(drain)
        async with refused("NOT_FOUND", "COORDINATOR_NOT_FOUND"):
            await admin.DrainCoordinator(
                apb.DrainCoordinatorRequest(coordinator_id="x", operator_context=operator_context())
            )
        # The other one has finished its unfinished work.
        await stays.stub.ConfirmTransaction(
            pb.ConfirmTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
        )
        records = await admin.ListAuditRecords(apb.ListAuditRecordsRequest(action="coordinator.drain"))
        assert [record.target for record in records.records] == [f"coordinator/{goes.worker.owner}"]


async def test_stats_count_the_backlog_of_all_coordinators(log_url: str, stock: ScriptedParticipant) -> None:
    settings = settings_for({"stock": {"target": stock.address}}, **REPORTS)
    async with (
        running(settings, log_url) as one,
        running(settings, log_url) as other,
        operators_of(one) as admin,
    ):
        await one.stub.BeginTransaction(pb.BeginTransactionRequest(gid="oldest"))
        await other.stub.BeginTransaction(pb.BeginTransactionRequest(gid="younger"))
        stock.script = Refusing(CONFIRM)
        await other.stub.ExecuteTransaction(execute("failing"))
        seen = (await inspect(admin, "younger")).transaction.version
        await admin.HoldTransaction(
            apb.HoldTransactionRequest(gid="younger", operator_context=operator_context(seen))
        )
        stats = await admin.GetStats(apb.GetStatsRequest())
        assert (stats.trying, stats.confirming, stats.cancelling, stats.held) == (2, 1, 0, 1)
        assert stats.oldest_unfinished_gid == "oldest"
        assert stats.oldest_unfinished_age.ToMicroseconds() > 0
        assert len(stats.coordinators) == 2

        async def reported() -> bool:
            return len((await admin.GetStats(apb.GetStatsRequest())).participants[0].reports) == 2

        await until(reported)


async def test_lists_are_filtered_and_come_in_pages(tcc: Running, admin: Stub) -> None:
    for number in range(5):
        await tcc.stub.ExecuteTransaction(
            execute(f"g{number}", labels={"region": "eu" if number % 2 else "us"}, initiator="shop")
        )
        await tcc.settled(f"g{number}")
    await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid="open"))

    async def found(filter_: str, page_size: int = 0) -> list[str]:
        gids: list[str] = []
        token = ""
        while True:
            request = apb.SearchTransactionsRequest(filter=filter_, page_size=page_size, page_token=token)
            reply = await admin.SearchTransactions(request)
            gids += [tx.gid for tx in reply.transactions]
            token = reply.next_page_token
            if not token:
                return gids

    assert await found("", page_size=2) == ["open", "g4", "g3", "g2", "g1", "g0"]
    assert await found("live") == ["open"]
    assert await found("!live state=confirmed label.region=eu") == ["g3", "g1"]
    assert await found("participant=stock initiator=shop !stuck !held age<1h", page_size=1) == [
        "g4", "g3", "g2", "g1", "g0",
    ]  # fmt: skip
    assert await found("gid=g2") == ["g2"]
    assert await found("stuck") == await found("held") == await found("age>1h") == []
    async with refused("INVALID_ARGUMENT", "INVALID_FILTER") as refusal:
        await found("live stat=X")
    assert dict(refusal.info.metadata) == {"position": "5", "term": "stat=X"}


async def test_the_admin_listener_does_not_serve_initiators(tcc: Running) -> None:
    async with grpc.aio.insecure_channel(tcc.address) as channel:
        try:
            await Stub(channel).GetStats(apb.GetStatsRequest())
        except grpc.aio.AioRpcError as error:
            code = error.code()
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_an_unknown_participant_is_explained(log_url: str, stock: ScriptedParticipant) -> None:
    """The participant was configured when the transaction began, but is no longer."""
    stock.script = Refusing(CONFIRM)
    async with running(settings_for({"stock": {"target": stock.address}}, **REPORTS), log_url) as tcc:
        await tcc.stub.ExecuteTransaction(execute("g"))
    other = ScriptedParticipant()
    async with (
        serving(other) as address,
        running(settings_for({"other": {"target": address}}, **REPORTS), log_url) as tcc,
        operators_of(tcc) as admin,
    ):
        explained = await admin.ExplainTransaction(apb.ExplainTransactionRequest(gid="g"))
        assert not explained.branches[0].configured
        assert "configure participant stock at a coordinator" in explained.advice
