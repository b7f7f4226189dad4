"""Several coordinators on one log: taking over, watching, coming back from a pause, leaving."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from msgspec.structs import replace

from coordinator.core.errors import LogUnavailable, Refused
from coordinator.core.model import Branch, BranchSpec, Transaction, TransactionState
from coordinator.engine.waiting import Milestone, Waiter
from coordinator.log.migration import migrate
from coordinator.log.store import LogPool, PostgresLog
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.log.transactions import sql
from tests.support.errors import refused
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed
from tests.support.worker import QUICK, Running, branch, running, settings_for

TRY = common.OPERATION_TRY
CONFIRM = common.OPERATION_CONFIRM


@pytest.fixture
async def pair(log_url: str, stock: ScriptedParticipant) -> AsyncIterator[tuple[Running, Running]]:
    settings = settings_for({"stock": {"target": stock.address}})
    async with running(settings, log_url) as one, running(settings, log_url) as other:
        yield one, other


def execute(gid: str, wait_for: pb.WaitFor = pb.WAIT_FOR_DECISION) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(gid=gid, branches=[branch("1")], wait_for=wait_for)


class Noting(Waiter):
    """Wait for completion, and record each notification."""

    def __init__(self, name: str, replies: dict[str, object]) -> None:
        super().__init__(Milestone.COMPLETED)
        self._name = name
        self._replies = replies

    def settle(self, tx: Transaction) -> None:
        self._replies[self._name] = tx.saved_state

    def fail(self, error: Refused) -> None:
        self._replies[self._name] = error.reason

    def is_cancelled(self) -> bool:
        return False


async def test_any_coordinator_takes_any_step_of_an_interactive_transaction(
    pair: tuple[Running, Running], stock: ScriptedParticipant
) -> None:
    one, other = pair
    await one.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
    await other.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    await one.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("2")))
    await other.stub.ConfirmTransaction(
        pb.ConfirmTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
    )
    assert await one.state("g") == "CONFIRMED"
    heard = stock.heard("g")
    assert sorted(call for call in set(heard) if call.startswith("CONFIRM")) == ["CONFIRM 1", "CONFIRM 2"]
    assert stock.count(common.OPERATION_CANCEL) == 0


async def test_an_unknown_participant_does_not_hide_a_begun_transaction(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """As while a changed configuration is rolled out: the initiator would take the no for an answer."""
    knowing = settings_for({"stock": {"target": stock.address}})
    async with running(knowing, log_url) as one, running(settings_for({}), log_url) as other:
        await one.stub.ExecuteTransaction(execute("g", pb.WAIT_FOR_COMPLETION))
        reply = await other.stub.ExecuteTransaction(execute("g"))
        assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMED
        different = pb.ExecuteTransactionRequest(gid="g", branches=[branch("2")])
        async with refused("ALREADY_EXISTS", "GID_CONFLICT"):
            await other.stub.ExecuteTransaction(different)
        async with refused("INVALID_ARGUMENT", "UNKNOWN_PARTICIPANT"):
            await other.stub.ExecuteTransaction(execute("new"))
        batch = pb.ExecuteTransactionsRequest(transactions=[execute("g"), different, execute("new")])
        replies = [
            reply
            async for response in other.stub.ExecuteTransactions(batch, timeout=60)
            for reply in response.replies
        ]
        said = {reply.index: reply.error.reason or reply.outcome.state for reply in replies}
        assert said == {0: common.TRANSACTION_STATE_CONFIRMED, 1: "GID_CONFLICT", 2: "UNKNOWN_PARTICIPANT"}
        async with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
            await one.state("new")


async def test_a_request_repeated_elsewhere_waits_for_the_owner(
    pair: tuple[Running, Running], stock: ScriptedParticipant
) -> None:
    one, other = pair
    go = asyncio.Event()

    async def wait(_call: participant_pb2.BranchCall) -> common.CallResult:
        await go.wait()
        return SUCCEEDED

    stock.script = wait
    first = asyncio.ensure_future(one.stub.ExecuteTransaction(execute("g")))
    await stock.until(lambda: stock.count(TRY) == 1)
    again = asyncio.ensure_future(other.stub.ExecuteTransaction(execute("g", pb.WAIT_FOR_COMPLETION)))
    conflicting = pb.ExecuteTransactionRequest(gid="g", branches=[branch("1", payload=b"other")])
    async with refused("ALREADY_EXISTS", "GID_CONFLICT"):
        await other.stub.ExecuteTransaction(conflicting)
    go.set()
    assert (await first).outcome.state == common.TRANSACTION_STATE_CONFIRMING
    assert (await again).outcome.state == common.TRANSACTION_STATE_CONFIRMED
    assert stock.heard("g") == ["TRY 1", "CONFIRM 1"]


async def test_a_coordinator_that_lost_a_transaction_forgets_it(
    pair: tuple[Running, Running], stock: ScriptedParticipant
) -> None:
    one, other = pair
    await one.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
    await one.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    # The other takes it over and cancels; the first still has it in memory, undecided.
    await other.stub.CancelTransaction(pb.CancelTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION))
    assert "g" in one.engine.live
    # Its own decision is refused by the log; the request then sees how the transaction really stands.
    async with refused("FAILED_PRECONDITION", "DECISION_CONFLICT"):
        await one.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="g"))
    assert "g" not in one.engine.live
    assert await one.state("g") == "CANCELLED"
    assert stock.count(CONFIRM) == 0


async def test_a_begin_during_the_adoption_of_the_same_transaction_is_kept(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """A client repeats its request while the coordinator that it asks adopts the transaction."""
    settings = settings_for({"stock": {"target": stock.address}})
    async with running(settings, log_url) as worker:
        dead = PostgresLog(LogPool(log_url), owner="dead", name="dead")
        await dead.coordinator_heartbeat(lease_s=3600)
        original = Transaction(
            gid="g",
            branches=(Branch(spec=BranchSpec(branch_id="1", participant="stock", action="reserve")),),
            expires_at=worker.worker.clock.now() + 60,
            fingerprint=b"ours",
        )
        assert await dead.transaction_begin([original]) == [None]
        taken = await worker.worker.log.transaction_take("g", version=1)
        assert taken is not None
        replies: dict[str, object] = {}
        for fingerprint in (b"other", b"ours"):
            name = fingerprint.decode()
            waiter = Noting(name, replies)
            worker.engine.begin(replace(original, fingerprint=fingerprint), waiter)
        # The insert is on its way now; the adoption comes in before it has an answer.
        assert worker.engine.resume([taken]) == 1
        assert (await worker.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED
        assert replies == {"other": "GID_CONFLICT", "ours": TransactionState.CONFIRMED}
        # The writer is alive: the late answer to the insert harms nothing.
        assert (await worker.stub.ExecuteTransaction(execute("next"))).outcome.state
        assert stock.heard("g") == ["TRY 1", "CONFIRM 1"]
        await dead.close()


async def test_transactions_of_an_unknown_owner_are_adopted_after_a_lease(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """As after a restore that lost the table of coordinators."""
    lost = PostgresLog(LogPool(log_url), owner="lost", name="")
    spec = BranchSpec(branch_id="1", participant="stock", action="reserve")
    assert await lost.transaction_begin(
        [Transaction(gid="g", branches=(Branch(spec=spec),), expires_at=4e9, fingerprint=b"f")]
    ) == [None]
    await lost.close()
    quick = QUICK | {"lease_s": 0.5}
    settings = settings_for({"stock": {"target": stock.address}}, recovery=quick)
    async with running(settings, log_url) as worker:
        assert (await worker.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED
    assert stock.heard("g") == ["TRY 1", "CONFIRM 1"]


async def test_a_coordinator_that_drains_leaves_its_work_to_others_at_once(
    log_url: str, stock: ScriptedParticipant
) -> None:
    settings = settings_for({"stock": {"target": stock.address}}, drain_s=0.1)

    async def hang_first(_call: participant_pb2.BranchCall) -> common.CallResult:
        if stock.count(TRY) == 1:
            await asyncio.Event().wait()
        return SUCCEEDED

    stock.script = hang_first
    async with running(settings, log_url) as other:
        async with running(settings, log_url) as one:
            await one.stub.BeginTransaction(pb.BeginTransactionRequest(gid="open"))
            accepted = pb.WAIT_FOR_ACCEPTED
            await one.stub.ExecuteTransaction(execute("hanging", accepted))
            await stock.until(lambda: stock.count(TRY) == 1)
        assert (await other.settled("hanging")).state == common.TRANSACTION_STATE_CONFIRMED
        await other.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="open"))
        assert await other.state("open") in {"CONFIRMING", "CONFIRMED"}


async def test_a_coordinator_without_a_lease_is_succeeded_by_another(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """The first one stops dead: no drain, no heartbeat. Its transactions are decided and undecided ones."""
    # A lease that no pause of this machine ends.
    settings = settings_for(
        {"stock": {"target": stock.address, "call_timeout_s": 60}}, recovery=QUICK | {"lease_s": 3_600}
    )
    refuse_confirms = asyncio.Event()

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        if not refuse_confirms.is_set():
            return SUCCEEDED
        if call.operation == CONFIRM or call.gid == "trying":
            await asyncio.Event().wait()
        return SUCCEEDED

    stock.script = script
    async with running(settings, log_url) as other:
        dead = await _stopped_dead(settings, log_url, stock, refuse_confirms)
        refuse_confirms.clear()
        driven = (
            "SELECT count(*) FROM transactions "
            "WHERE owner = %s AND next_attempt_at IS NULL AND ended_at IS NULL"
        )
        assert await sql(log_url, driven, dead.owner) == [(2,)]
        await sql(log_url, "UPDATE coordinators SET lease_until = now() WHERE id = %s", dead.owner)
        for gid in ("trying", "confirming"):
            assert (await other.settled(gid)).state == common.TRANSACTION_STATE_CONFIRMED
        assert dead.owner != other.worker.owner
        assert stock.heard("confirming").count("TRY 1") == 1


async def _stopped_dead(settings, log_url: str, stock: ScriptedParticipant, hold: asyncio.Event):
    """Runs a coordinator until it has one transaction in each phase, and stops it dead."""
    task: asyncio.Task[None]

    async def live() -> None:
        async with running(settings, log_url) as one:
            hold.set()
            await one.stub.ExecuteTransaction(execute("trying", pb.WAIT_FOR_ACCEPTED))
            await one.stub.ExecuteTransaction(execute("confirming"))
            await stock.until(lambda: stock.count(CONFIRM) == 1 and stock.count(TRY) == 2)
            started.set_result(one)
            await asyncio.Event().wait()

    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(live())
    one = await started
    worker = one.worker

    async def unreachable(*_: object) -> None:
        raise LogUnavailable("it is dead")

    # Nothing of it reaches the log any more; then its tasks end however they end.
    for connections in (worker.log._connections, worker.log._heartbeats, worker._operator_log._connections):
        connections.execute = unreachable  # type: ignore[method-assign, assignment] # that is how it dies
    task.cancel()
    worker.stop()
    await asyncio.gather(task, return_exceptions=True)
    return worker


async def test_a_confirm_that_keeps_failing_is_stuck_and_never_becomes_a_cancel(
    log_url: str, stock: ScriptedParticipant
) -> None:
    mended = asyncio.Event()

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == CONFIRM and not mended.is_set():
            return failed("HANDLER_ERROR")
        return SUCCEEDED

    stock.script = script
    settings = settings_for({"stock": {"target": stock.address, "attempts_before_stuck": 3}})
    async with running(settings, log_url) as worker:
        await worker.stub.ExecuteTransaction(execute("g"))
        await stock.until(lambda: stock.count(CONFIRM) >= 6)
        listed = await worker.stub.ListTransactions(pb.ListTransactionsRequest(stuck=True))
        (stuck,) = listed.transactions
        assert (stuck.gid, stuck.state) == ("g", common.TRANSACTION_STATE_CONFIRMING)
        assert stuck.branches[0].attempts >= 3
        assert stuck.branches[0].last_error == "HANDLER_ERROR"
        async with refused("FAILED_PRECONDITION", "DECISION_CONFLICT"):
            await worker.stub.CancelTransaction(pb.CancelTransactionRequest(gid="g"))
        mended.set()
        assert (await worker.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED
        assert stock.count(common.OPERATION_CANCEL) == 0


async def test_waiting_for_a_retry_costs_no_memory(log_url: str, stock: ScriptedParticipant) -> None:
    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("HANDLER_ERROR") if call.operation == CONFIRM else SUCCEEDED

    stock.script = script
    settings = settings_for({"stock": {"target": stock.address, "retry_first_s": 3600, "retry_max_s": 3600}})
    async with running(settings, log_url) as worker:
        for number in range(10):
            await worker.stub.ExecuteTransaction(execute(f"g{number}"))
        await stock.until(lambda: stock.count(CONFIRM) == 10)
        confirming = pb.ListTransactionsRequest(states=[common.TRANSACTION_STATE_CONFIRMING])
        async with asyncio.timeout(60):
            while worker.engine.live:
                await worker.stub.ListTransactions(confirming)  # each turn of the loop is a round trip
        listed = await worker.stub.ListTransactions(confirming)
        assert [tx.owner for tx in listed.transactions] == [""] * 10


async def test_a_waiter_for_the_end_is_notified_though_it_was_parked(
    log_url: str, stock: ScriptedParticipant
) -> None:
    async def fail_first(call: participant_pb2.BranchCall) -> common.CallResult:
        is_first = call.operation == CONFIRM and stock.count(CONFIRM) == 1
        return failed("LATER") if is_first else SUCCEEDED

    stock.script = fail_first
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        request = execute("g", pb.WAIT_FOR_COMPLETION)
        outcome = (await worker.stub.ExecuteTransaction(request, timeout=60)).outcome
    assert outcome.state == common.TRANSACTION_STATE_CONFIRMED
    assert stock.count(CONFIRM) == 2


async def test_work_beyond_the_bound_is_refused_before_it_is_written(
    log_url: str, stock: ScriptedParticipant
) -> None:
    go = asyncio.Event()

    async def wait(_call: participant_pb2.BranchCall) -> common.CallResult:
        await go.wait()
        return SUCCEEDED

    stock.script = wait
    settings = settings_for({"stock": {"target": stock.address}}, limits={"live_max": 6})
    async with running(settings, log_url) as worker:
        for number in range(3):
            await worker.stub.ExecuteTransaction(execute(f"g{number}", pb.WAIT_FOR_ACCEPTED))
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED") as refusal:
            await worker.stub.ExecuteTransaction(execute("one too many"))
        assert refusal.retry_after_s
        # A repeat of what is accepted is no new work.
        await worker.stub.ExecuteTransaction(execute("g0", pb.WAIT_FOR_ACCEPTED))
        assert len((await worker.stub.ListTransactions(pb.ListTransactionsRequest())).transactions) == 3
        go.set()


async def test_the_limit_holds_for_any_distribution_of_the_work(
    log_url: str, stock: ScriptedParticipant
) -> None:
    go = asyncio.Event()

    async def wait(_call: participant_pb2.BranchCall) -> common.CallResult:
        await go.wait()
        return SUCCEEDED

    stock.script = wait
    names = ("one", "two", "three")
    participants = {name: {"target": stock.address} for name in names}
    async with running(settings_for(participants, limits={"live_max": 6}), log_url) as worker:
        # Two each, where each alone may have three.
        for number, name in enumerate(names * 2):
            await worker.stub.ExecuteTransaction(
                pb.ExecuteTransactionRequest(
                    gid=f"g{number}", branches=[branch("1", name)], wait_for=pb.WAIT_FOR_ACCEPTED
                )
            )
        async with refused("RESOURCE_EXHAUSTED", "OVERLOADED") as refusal:
            await worker.stub.ExecuteTransaction(
                pb.ExecuteTransactionRequest(gid="one too many", branches=[branch("1", "one")]), timeout=15
            )
        assert "participant" not in refusal.info.metadata
        go.set()


async def test_a_full_coordinator_refuses_new_items_and_answers_repeated_ones(
    log_url: str, stock: ScriptedParticipant
) -> None:
    go = asyncio.Event()

    async def wait(_call: participant_pb2.BranchCall) -> common.CallResult:
        await go.wait()
        return SUCCEEDED

    stock.script = wait
    both = {"stock": {"target": stock.address}, "second": {"target": stock.address}}
    async with running(settings_for(both, limits={"live_max": 6}), log_url) as worker:
        known = [
            pb.ExecuteTransactionRequest(
                gid=f"{name} {number}", branches=[branch("1", name)], wait_for=pb.WAIT_FOR_ACCEPTED
            )
            for name in both
            for number in range(3)
        ]
        for request in known:
            await worker.stub.ExecuteTransaction(request)
        new = execute("new", pb.WAIT_FOR_ACCEPTED)
        # It has no branches; but it has not been read.
        wrong = pb.ExecuteTransactionRequest(gid="wrong")
        batch = pb.ExecuteTransactionsRequest(transactions=[new, known[0], wrong])
        replies = {
            reply.index: reply
            async for response in worker.stub.ExecuteTransactions(batch)
            for reply in response.replies
        }
        assert [replies[index].error.reason for index in range(3)] == ["OVERLOADED", "", "OVERLOADED"]
        assert replies[0].error.retry_after_ms > 0
        assert replies[1].outcome.gid == known[0].gid
        assert len((await worker.stub.ListTransactions(pb.ListTransactionsRequest())).transactions) == 6
        go.set()


async def test_a_dead_participant_delays_only_its_own_transactions(
    log_url: str, stock: ScriptedParticipant
) -> None:
    settings = settings_for(
        {
            "stock": {"target": stock.address},
            # No server listens there.
            "dead": {"target": "127.0.0.1:1", "breaker_open_first_s": 60, "breaker_open_max_s": 60},
        }
    )
    async with running(settings, log_url) as worker:
        dead = pb.ExecuteTransactionRequest(
            gid="dead", branches=[branch("1", "dead")], wait_for=pb.WAIT_FOR_ACCEPTED
        )
        await worker.stub.ExecuteTransaction(dead)
        async with asyncio.timeout(60):
            while worker.engine.dispatchers["dead"].breaker.closed:
                await worker.stub.ExecuteTransaction(execute(""))
        dead.gid = "dead 2"
        async with refused("UNAVAILABLE", "PARTICIPANT_UNAVAILABLE"):
            await worker.stub.ExecuteTransaction(dead)
        outcome = (await worker.stub.ExecuteTransaction(execute("g"))).outcome
        assert outcome.state == common.TRANSACTION_STATE_CONFIRMING
        assert await worker.state("dead") == "TRYING"


async def test_an_unavailable_log_refuses_new_work_and_loses_nothing(
    own_postgres, stock: ScriptedParticipant
) -> None:
    migrate(own_postgres.url())
    settings = settings_for({"stock": {"target": stock.address}})
    go = asyncio.Event()

    async def wait(call: participant_pb2.BranchCall) -> common.CallResult:
        await go.wait()
        return SUCCEEDED

    stock.script = wait
    async with running(settings, own_postgres.url()) as worker:
        pending = [asyncio.ensure_future(worker.stub.ExecuteTransaction(execute(f"g{n}"))) for n in range(20)]
        await stock.until(lambda: stock.count(TRY) == 20)
        await asyncio.to_thread(own_postgres.stop, "immediate")
        go.set()  # the decisions cannot be written now
        await worker.until_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        async with refused("UNAVAILABLE", "LOG_UNAVAILABLE") as refusal:
            await worker.stub.ExecuteTransaction(execute("new"))
        assert refusal.retry_after_s
        assert stock.count(CONFIRM) == 0
        await asyncio.to_thread(own_postgres.start)
        for reply in await asyncio.gather(*pending):
            assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMING
            assert (await worker.settled(reply.outcome.gid)).state == common.TRANSACTION_STATE_CONFIRMED
        await worker.until_health(health_pb2.HealthCheckResponse.SERVING)
        assert (await worker.stub.ExecuteTransaction(execute("new"))).outcome.state


async def test_parallel_steps_at_two_coordinators_are_all_answered(
    pair: tuple[Running, Running], stock: ScriptedParticipant
) -> None:
    """Each step takes the transaction over; a step that was lost in the other's memory is made again."""
    await pair[0].stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))

    async def try_branch(number: int) -> pb.TryBranchResponse:
        request = pb.TryBranchRequest(gid="g", branch=branch(str(number)))
        for _ in range(20):
            try:
                return await pair[number % 2].stub.TryBranch(request, timeout=60)
            except grpc.aio.AioRpcError as error:
                # The SDK repeats these; anything else, a deadline above all, is an error.
                if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}:
                    raise
        raise AssertionError("never answered")

    tried = await asyncio.gather(*(try_branch(number) for number in range(8)))
    assert {reply.state for reply in tried} == {common.BRANCH_STATE_TRIED}
    request = pb.ConfirmTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
    assert (
        await pair[0].stub.ConfirmTransaction(request)
    ).outcome.state == common.TRANSACTION_STATE_CONFIRMED
    assert {call for call in stock.heard("g") if call.startswith("CONFIRM")} == {
        f"CONFIRM {n}" for n in range(8)
    }


async def test_a_waiter_at_a_former_owner_gets_the_outcome(pair: tuple[Running, Running]) -> None:
    one, other = pair
    await one.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g", expiry=Duration(seconds=3600)))
    await one.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
    waiting = asyncio.ensure_future(one.settled("g"))
    request = pb.ConfirmTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
    await other.stub.ConfirmTransaction(request)
    assert (await waiting).state == common.TRANSACTION_STATE_CONFIRMED


async def test_requests_whose_callers_have_gone_are_forgotten(
    log_url: str, stock: ScriptedParticipant
) -> None:
    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("STUCK") if call.operation == CONFIRM else SUCCEEDED

    stock.script = script
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        await worker.stub.ExecuteTransaction(execute("g"))
        wait = pb.WaitTransactionRequest(gid="g", wait_for=pb.WAIT_FOR_COMPLETION)
        for _ in range(3):
            gone = [worker.stub.WaitTransaction(wait, timeout=0.1) for _ in range(100)]
            await asyncio.gather(*gone, return_exceptions=True)
        async with asyncio.timeout(60):
            while worker.engine.watched or any(entry.waiters for entry in worker.engine.live.values()):
                await worker.state("g")  # each turn is a round trip


async def test_a_step_that_is_refused_takes_nothing_over(
    pair: tuple[Running, Running], stock: ScriptedParticipant
) -> None:
    one, other = pair
    go = asyncio.Event()

    async def wait(_call: participant_pb2.BranchCall) -> common.CallResult:
        await go.wait()
        return SUCCEEDED

    stock.script = wait
    await one.stub.ExecuteTransaction(execute("g", pb.WAIT_FOR_ACCEPTED))
    async with refused("FAILED_PRECONDITION", "NOT_INTERACTIVE"):
        await other.stub.ConfirmTransaction(pb.ConfirmTransactionRequest(gid="g"))
    tx = (await one.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
    assert tx.owner == one.worker.owner
    go.set()
