"""The conformance suite passes on the SDK's own participant and catches participants that break the law."""

import dataclasses
import time

import grpc
import pytest
from sqlalchemy import text

from tcc.testing import conformance
from tcc.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc

from .test_barrier import make_participant

TRY, CONFIRM, CANCEL = pb.OPERATION_TRY, pb.OPERATION_CONFIRM, pb.OPERATION_CANCEL
OK = pb.OUTCOME_CODE_SUCCEEDED


@pytest.mark.parametrize("action", ["single", "batch"])
async def test_sdk_participant_conforms(postgresql, call_participant, action):
    engine, _ = postgresql
    await call_participant(participant := make_participant(engine))

    async def observe(gid, branch_id):
        async with engine.connect() as db:
            found = await db.scalars(
                text("SELECT operation FROM effects WHERE gid = :gid AND branch_id = :branch_id"),
                {"gid": gid, "branch_id": branch_id},
            )
            done = found.all()
        reserved = done.count("try") - done.count("confirm") - done.count("cancel")
        return conformance.Effects(reserved=reserved, confirmed=done.count("confirm"))

    report = await conformance.run(
        f"127.0.0.1:{participant.port}",
        action=action,
        payload=b'{"result": 1}',
        rejected_payload=b'{"reject": 1}',
        observe=observe,
    )

    assert report.ok, str(report)
    assert not [result for result in report.results if result.skipped]


class Careless(pb_grpc.ParticipantServiceServicer):
    """A participant in memory that keeps the whole law, except for one fault at a time."""

    def __init__(self, fault: str = "") -> None:
        self._fault = fault
        self._states: dict[tuple[str, str], str] = {}
        self._results: dict[tuple[str, str], bytes] = {}
        self._effects: dict[tuple[str, str], list[str]] = {}
        self._tries = 0

    async def observe(self, gid, branch_id):
        done = self._effects.get((gid, branch_id), [])
        reserved = done.count("try") - done.count("confirm") - done.count("cancel")
        return conformance.Effects(reserved=reserved, confirmed=done.count("confirm"))

    def answer(self, call, index=0):
        outcome = self._outcome(call)
        outcome.index = index
        return outcome

    def _outcome(self, call):
        key, fault = (call.gid, call.branch_id), self._fault
        state = self._states.get(key)
        if call.action != "reserve" and call.operation != CANCEL:
            return self._no("UNKNOWN_ACTION", unless="takes any action")
        if call.action != "reserve" and fault == "cannot cancel an unknown action":
            return self._no("UNKNOWN_ACTION")
        if call.operation == TRY:
            return self._try(call, key, state)
        if call.operation == CONFIRM:
            if state is None:
                return self._no("NOT_TRIED", unless="confirms what was never tried")
            if state == "cancelled":
                return self._no("ALREADY_CANCELLED", unless="confirms what is cancelled")
            if state == "tried" or fault == "confirms twice":
                self._do(key, "confirm")
            self._states[key] = "confirmed"
            return pb.BranchOutcome(code=OK)
        if state is None and fault == "fails an empty cancel":
            return self._no("NOT_FOUND")
        if state is None and fault == "forgets its tombstone":
            return pb.BranchOutcome(code=OK)
        if state == "confirmed":
            return self._no("ALREADY_CONFIRMED", unless="cancels what is confirmed")
        if state == "tried" or (state == "cancelled" and fault == "cancels twice"):
            self._do(key, "cancel")
        self._states[key] = "cancelled"
        return pb.BranchOutcome(code=OK)

    def _try(self, call, key, state):
        fault = self._fault
        if state == "cancelled" and fault != "takes a late Try":
            return self._no("LATE_TRY")
        if state in {"tried", "confirmed"} and fault == "fails a duplicate Try":
            return self._no("DUPLICATE")
        if state in {"tried", "confirmed"} and fault == "forgets its result":
            return pb.BranchOutcome(code=OK)
        if state in {"tried", "confirmed"} and fault != "tries twice":
            return pb.BranchOutcome(code=OK, result=self._results[key])
        if call.expires_at_ms < time.time() * 1000 and fault != "takes an expired Try":
            return self._no("EXPIRED")
        return self._first_try(call, key)

    def _first_try(self, call, key):
        if call.payload == b"reject":
            if self._fault == "reserves what it rejects":
                self._do(key, "try")
            code = (
                pb.OUTCOME_CODE_FAILED
                if self._fault == "fails instead of rejecting"
                else pb.OUTCOME_CODE_REJECTED
            )
            return pb.BranchOutcome(code=code, reason="SOLD_OUT")
        self._tries += 1
        self._do(key, "try")
        self._states[key] = "tried"
        self._results[key] = b"%d" % self._tries
        return pb.BranchOutcome(code=OK, result=self._results[key])

    def _do(self, key, operation):
        self._effects.setdefault(key, []).append(operation)

    def _no(self, reason, unless=""):
        if unless and unless == self._fault:
            return pb.BranchOutcome(code=OK)
        return pb.BranchOutcome(
            code=pb.OUTCOME_CODE_FAILED, reason=reason, permanent=self._fault != "calls nothing permanent"
        )

    async def TryBranch(self, request, context):  # noqa: N802 - named by the contract
        return pb.ParticipantServiceTryBranchResponse(outcome=self.answer(request.call))

    async def ConfirmBranch(self, request, context):  # noqa: N802 - named by the contract
        return pb.ConfirmBranchResponse(outcome=self.answer(request.call))

    async def CancelBranch(self, request, context):  # noqa: N802 - named by the contract
        if self._fault == "answers with a status":
            await context.abort(grpc.StatusCode.INTERNAL, "oops")
        return pb.CancelBranchResponse(outcome=self.answer(request.call))

    async def ExecuteBranches(self, request, context):  # noqa: N802 - named by the contract
        for index, call in enumerate(request.calls):
            if self._fault == "skips an item" and index == 1:
                continue
            place = 0 if self._fault == "mixes up its indexes" else index
            yield pb.ExecuteBranchesResponse(outcomes=[self.answer(call, place)])


# A fault, and the cases that must catch it.
FAULTS = {
    "": set(),
    "tries twice": {"duplicate_try", "try_after_confirm", "concurrent_duplicates"},
    "fails a duplicate Try": {"duplicate_try", "try_after_confirm", "concurrent_duplicates"},
    "forgets its result": {"duplicate_try", "try_after_confirm", "concurrent_duplicates"},
    "confirms twice": {"duplicate_confirm", "concurrent_duplicates"},
    "cancels twice": {"duplicate_cancel", "empty_cancel"},
    "takes a late Try": {"late_try", "try_after_cancel", "concurrent_try_and_cancel"},
    "forgets its tombstone": {"late_try"},
    "fails an empty cancel": {"empty_cancel", "late_try", "rejected_try", "unknown_action"},
    "confirms what was never tried": {"confirm_without_try", "mixed_batch"},
    "confirms what is cancelled": {"confirm_after_cancel"},
    "cancels what is confirmed": {"cancel_after_confirm"},
    "takes an expired Try": {"expired_try", "mixed_batch"},
    "takes any action": {"unknown_action", "mixed_batch"},
    "cannot cancel an unknown action": {"unknown_action"},
    "reserves what it rejects": {"rejected_try"},
    "fails instead of rejecting": {"rejected_try"},
    "calls nothing permanent": {
        "late_try", "try_after_cancel", "cancel_after_confirm", "confirm_after_cancel", "expired_try",
        "unknown_action", "concurrent_try_and_cancel",
    },
    "skips an item": {"mixed_batch"},
    "mixes up its indexes": {"mixed_batch"},
    "answers with a status": {
        "try_then_cancel", "rejected_try", "duplicate_cancel", "try_after_cancel", "empty_cancel", "late_try",
        "cancel_after_confirm", "confirm_after_cancel", "concurrent_try_and_cancel", "mixed_batch",
        "unknown_action",
    },
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault or "no fault")
async def test_every_fault_is_caught_and_named(fault):
    servicer = Careless(fault)
    server = grpc.aio.server()
    pb_grpc.add_ParticipantServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        report = await conformance.run(
            f"127.0.0.1:{port}",
            action="reserve",
            payload=b"one",
            rejected_payload=b"reject",
            observe=servicer.observe,
        )
    finally:
        await server.stop(None)

    failed = {result.case for result in report.results if result.failure}
    # What races may or may not meet the fault.
    racy = {"concurrent_try_and_cancel"}
    assert failed - racy == FAULTS[fault] - racy, str(report)
    assert report.ok is not bool(fault)
    assert all(len(result.failure) > 40 for result in report.results if result.failure)


@pytest.mark.parametrize("case", conformance.CASES, ids=str)
async def test_one_test_per_case(sqlite, call_participant, case):
    await call_participant(participant := make_participant(sqlite[0]))

    skipped = await conformance.check(
        f"127.0.0.1:{participant.port}", case, action="single", payload=b"{}", batched=False
    )

    assert bool(skipped) == (case.name in {"rejected_try", "mixed_batch"})


async def test_single_case_raises_what_to_mend():
    server = grpc.aio.server()
    pb_grpc.add_ParticipantServiceServicer_to_server(Careless("forgets its tombstone"), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    [case] = [case for case in conformance.CASES if case.name == "late_try"]
    try:
        with pytest.raises(conformance.ConformanceError, match="leave a tombstone"):
            await conformance.check(f"127.0.0.1:{port}", case, action="reserve", payload=b"one")
    finally:
        await server.stop(None)


def test_report_reads_one_line_a_case():
    report = conformance.Report(
        results=[
            conformance.Result(case="a"),
            conformance.Result(case="b", failure="mend it"),
            dataclasses.replace(conformance.Result(case="c"), skipped="no payload"),
        ]
    )
    assert str(report) == "passed   a\nFAILED   b: mend it\nskipped  c: no payload"
    assert not report.ok
