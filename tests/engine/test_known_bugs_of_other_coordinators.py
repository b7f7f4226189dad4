"""Known bugs of other coordinators, over real gRPC and a real log. Those of the core are in tests/core."""

import asyncio

from coordinator.process.log_cells import cell_places
from coordinator.process.worker import end_lease
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.scripted_participant import SUCCEEDED, ScriptedParticipant, failed, rejected, serving
from tests.support.worker import QUICK, branch, running, settings_for

TRY = common.OPERATION_TRY
CONFIRM = common.OPERATION_CONFIRM
CANCEL = common.OPERATION_CANCEL


def execute(gid: str, *branches: common.BranchSpec, **fields: object) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(gid=gid, branches=branches or [branch("1")], **fields)


async def test_dtm_a_second_confirm_does_not_stand_for_the_first(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """DTM marks a transaction that is submitted again as succeeded without a Confirm."""
    go = stock.hold_confirms()
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        await worker.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
        await worker.stub.TryBranch(pb.TryBranchRequest(gid="g", branch=branch("1")))
        confirm = pb.ConfirmTransactionRequest(gid="g")
        for _ in range(3):
            reply = await worker.stub.ConfirmTransaction(confirm)
            assert reply.outcome.state == common.TRANSACTION_STATE_CONFIRMING
        go.set()
        assert (await worker.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED
    assert stock.count(CONFIRM) == 1


async def test_dtm_registering_a_branch_twice_makes_one_branch(
    log_url: str, stock: ScriptedParticipant
) -> None:
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        await worker.stub.BeginTransaction(pb.BeginTransactionRequest(gid="g"))
        register = pb.RegisterBranchRequest(gid="g", branch=branch("1"))
        await asyncio.gather(*(worker.stub.RegisterBranch(register) for _ in range(3)))
        tx = (await worker.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
        assert [b.spec.branch_id for b in tx.branches] == ["1"]


async def test_dtm_a_long_error_text_does_not_stop_the_cancel(
    log_url: str, stock: ScriptedParticipant
) -> None:
    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        return rejected("NO", "\0é" * 100_000) if call.operation == TRY else SUCCEEDED

    stock.script = script
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        await worker.stub.ExecuteTransaction(execute("g"))
        outcome = await worker.settled("g")
        tx = (await worker.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
    assert (outcome.state, outcome.cancel_detail) == (common.TRANSACTION_STATE_CANCELLED, "NO")
    assert tx.branches[0].last_error.startswith("NO: ")
    assert len(tx.branches[0].last_error) <= 1_000


async def test_dtm_a_branch_that_fails_does_not_stop_the_others(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """DTM's phase two goes branch by branch and stops at the first error."""

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("BROKEN") if call.operation == CONFIRM and call.branch_id == "1" else SUCCEEDED

    stock.script = script
    async with running(settings_for({"stock": {"target": stock.address}}), log_url) as worker:
        await worker.stub.ExecuteTransaction(execute("g", branch("1"), branch("2"), branch("3")))
        await stock.until(lambda: stock.heard("g").count("CONFIRM 1") >= 3)
        tx = (await worker.stub.GetTransaction(pb.GetTransactionRequest(gid="g"))).transaction
        states = {b.spec.branch_id: common.BranchState.Name(b.state) for b in tx.branches}
    assert states == {
        "1": "BRANCH_STATE_TRIED",
        "2": "BRANCH_STATE_CONFIRMED",
        "3": "BRANCH_STATE_CONFIRMED",
    }
    assert stock.heard("g").count("CONFIRM 2") == 1


async def test_seata_a_hundred_poison_transactions_starve_no_other_retry(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """All wait for one participant and are always due; another participant's single retry gets its turn."""
    poisoned = ScriptedParticipant()
    once = iter([failed("ONCE")])

    async def poison(call: participant_pb2.BranchCall) -> common.CallResult:
        return failed("POISON") if call.operation == CONFIRM else SUCCEEDED

    async def fail_once(call: participant_pb2.BranchCall) -> common.CallResult:
        return next(once, SUCCEEDED) if call.operation == CONFIRM else SUCCEEDED

    poisoned.script, stock.script = poison, fail_once
    async with serving(poisoned) as address:
        settings = settings_for({"stock": {"target": stock.address}, "poisoned": {"target": address}})
        async with running(settings, log_url) as worker:
            poison_requests = (execute(f"p{n}", branch("1", "poisoned")) for n in range(100))
            await asyncio.gather(*(worker.stub.ExecuteTransaction(request) for request in poison_requests))
            await poisoned.until(lambda: poisoned.count(CONFIRM) > 200)
            await worker.stub.ExecuteTransaction(execute("good"))
            assert (await worker.settled("good")).state == common.TRANSACTION_STATE_CONFIRMED
            assert poisoned.count(CANCEL) == 0


async def test_seata_confirming_work_of_a_dead_coordinator_waits_for_its_lease(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """Seata shows such rows as Committing until a threshold of 130 s has passed."""
    hold = asyncio.Event()

    async def script(call: participant_pb2.BranchCall) -> common.CallResult:
        if call.operation == CONFIRM and call.attempt == 0 and not hold.is_set():
            hold.set()
            await asyncio.Event().wait()
        return SUCCEEDED

    stock.script = script
    # Without adoption the call would be given up, and repeated, in an hour.
    participants = {"stock": {"target": stock.address, "call_timeout_s": 3_600.0}}
    # Its heart stops with the first beat, and its lease is ended by hand.
    still = QUICK | {"heartbeat_every_s": 3_600.0, "lease_s": 7_200.0}
    settings = settings_for(participants, drain_s=0.0, recovery=still)
    async with running(settings, log_url) as dead, running(settings, log_url) as other:
        await dead.stub.ExecuteTransaction(execute("g"))
        await hold.wait()
        await end_lease(cell_places(settings.log, log_url), dead.worker.owner)
        assert (await other.settled("g")).state == common.TRANSACTION_STATE_CONFIRMED
    assert stock.heard("g") == ["TRY 1", "CONFIRM 1", "CONFIRM 1"]


async def test_a_participant_that_never_answers_delays_only_its_own_transactions(
    log_url: str, stock: ScriptedParticipant
) -> None:
    """DTM's one recovery routine waits for a participant that does not answer."""
    hole = ScriptedParticipant()

    async def swallow(_call: participant_pb2.BranchCall) -> common.CallResult:
        await asyncio.Event().wait()
        return SUCCEEDED

    hole.script = swallow
    async with serving(hole) as address:
        participants = {
            "stock": {"target": stock.address},
            "hole": {"target": address, "call_timeout_s": 60, "concurrency_max": 8, "backlog_max": 16},
        }
        async with running(settings_for(participants, drain_s=0.1), log_url) as worker:
            into_the_hole = (
                execute(f"h{n}", branch("1", "hole"), wait_for=pb.WAIT_FOR_ACCEPTED) for n in range(16)
            )
            await asyncio.gather(*(worker.stub.ExecuteTransaction(request) for request in into_the_hole))
            await hole.until(lambda: hole.count(TRY) >= 8)
            replies = await asyncio.gather(
                *(
                    worker.stub.ExecuteTransaction(execute(f"g{n}", wait_for=pb.WAIT_FOR_COMPLETION))
                    for n in range(50)
                )
            )
            assert {reply.outcome.state for reply in replies} == {common.TRANSACTION_STATE_CONFIRMED}
            # Its own bulkhead is full: what more wants it is refused, before anything is written.
            assert worker.engine.dispatchers["hole"].backlog == 16
