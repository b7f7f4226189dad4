"""The conformance suite: whether a participant, in any language, keeps the barrier's law.

It speaks gRPC and nothing else, so it runs against any ParticipantService:

    report = await conformance.run(
        "localhost:50051", action="reserve_stock", payload=b'{"sku": "a", "quantity": 1}'
    )
    assert report.ok, report

or with one test per case:

    @pytest.mark.parametrize("case", conformance.CASES, ids=str)
    async def test_conformance(case):
        await conformance.check("localhost:50051", case, action=..., payload=...)

Every case makes branches of its own under random gids, so the suite may be run
again and again, and against a service that others use. It leaves some
reservations confirmed: the payload should ask for little.

Over gRPC alone only answers can be seen. With `observe` the suite also asks, of
the participant's own tables, whether the effects are there, and there once.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import grpc

from tcc.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc

TRY, CONFIRM, CANCEL = pb.OPERATION_TRY, pb.OPERATION_CONFIRM, pb.OPERATION_CANCEL

_TIMEOUT_S = 10.0
_EXPIRY_MS = 10 * 60_000
# How many deliveries race in the concurrent cases, and how often.
_RACERS = 8
_ROUNDS = 8


class ConformanceError(AssertionError):
    """The participant breaks the law. The message says what to mend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """What a branch has in the participant's own tables now."""

    # How many reservations are held for it: 0 or 1 in a correct participant.
    reserved: int = 0
    # How many times its reservation was made final: 0 or 1.
    confirmed: int = 0


Observe = Callable[[str, str], Awaitable[Effects]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How one case went. `skipped` says why a case could not be run."""

    case: str
    failure: str = ""
    skipped: str = ""

    @property
    def ok(self) -> bool:
        return not self.failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """How all cases went; as text, one line a case."""

    results: Sequence[Result]

    @property
    def ok(self) -> bool:
        return all(result.ok for result in self.results)

    def __str__(self) -> str:
        return "\n".join(_line(result) for result in self.results)


def _line(result: Result) -> str:
    if result.failure:
        return f"FAILED   {result.case}: {result.failure}"
    if result.skipped:
        return f"skipped  {result.case}: {result.skipped}"
    return f"passed   {result.case}"


async def run(
    target: str | grpc.aio.Channel,
    *,
    action: str,
    payload: bytes,
    content_type: str = "application/json",
    rejected_payload: bytes | None = None,
    batched: bool = True,
    observe: Observe | None = None,
) -> Report:
    """Runs every case and reports on each; raises nothing for a participant that breaks the law.

    `target`: an address (without TLS) or a channel of your own. `payload` is one
    that the action can reserve some forty times; `rejected_payload` one that it
    answers with REJECTED. `batched`: whether the service has ExecuteBranches.
    `observe(gid, branch_id)` looks into the participant's tables.
    """
    async with _channel(target) as channel:
        results = []
        for case in CASES:
            subject = _Subject(
                stub=pb_grpc.ParticipantServiceStub(channel),
                action=action,
                payload=payload,
                content_type=content_type,
                rejected_payload=rejected_payload,
                batched=batched,
                observe=observe,
            )
            results.append(await _result(case, subject))
    return Report(results=results)


async def check(
    target: str | grpc.aio.Channel,
    case: "Case",
    *,
    action: str,
    payload: bytes,
    content_type: str = "application/json",
    rejected_payload: bytes | None = None,
    batched: bool = True,
    observe: Observe | None = None,
) -> str:
    """Runs one case, for a test of its own. Arguments as for `run`.

    Answers why the case could not be run, or "". Raises ConformanceError.
    """
    async with _channel(target) as channel:
        subject = _Subject(
            stub=pb_grpc.ParticipantServiceStub(channel),
            action=action,
            payload=payload,
            content_type=content_type,
            rejected_payload=rejected_payload,
            batched=batched,
            observe=observe,
        )
        result = await _result(case, subject)
    if result.failure:
        raise ConformanceError(f"{case}: {result.failure}")
    return result.skipped


@contextlib.asynccontextmanager
async def _channel(target: str | grpc.aio.Channel) -> AsyncIterator[grpc.aio.Channel]:
    if isinstance(target, str):
        async with grpc.aio.insecure_channel(target) as channel:
            yield channel
    else:
        yield target


async def _result(case: "Case", subject: "_Subject") -> Result:
    try:
        await case.check(subject)
    except _SkippedError as reason:
        return Result(case=case.name, skipped=str(reason))
    except ConformanceError as failure:
        return Result(case=case.name, failure=str(failure))
    except grpc.aio.AioRpcError as error:
        return Result(
            case=case.name,
            failure=f"the call ended with {error.code().name} ({error.details()}); "
            "answer with an outcome and the status OK instead",
        )
    return Result(case=case.name)


class _SkippedError(Exception):
    """The case cannot be run with what the author gave."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """The participant under test, and one branch of it."""

    stub: pb_grpc.ParticipantServiceStub
    action: str
    payload: bytes
    content_type: str
    rejected_payload: bytes | None
    batched: bool
    observe: Observe | None
    gid: str = field(default_factory=lambda: f"conformance-{uuid.uuid4()}")

    def call(
        self,
        operation: pb.Operation,
        *,
        branch_id: str = "branch",
        action: str | None = None,
        payload: bytes | None = None,
        expires_in_ms: int = _EXPIRY_MS,
        attempt: int = 0,
    ) -> pb.BranchCall:
        return pb.BranchCall(
            gid=self.gid,
            branch_id=branch_id,
            operation=operation,
            action=self.action if action is None else action,
            payload=self.payload if payload is None else payload,
            content_type=self.content_type,
            expires_at_ms=int(time.time() * 1000) + expires_in_ms,
            attempt=attempt,
        )

    async def send(self, call: pb.BranchCall) -> pb.BranchOutcome:
        request, method = {
            TRY: (pb.ParticipantServiceTryBranchRequest, self.stub.TryBranch),
            CONFIRM: (pb.ConfirmBranchRequest, self.stub.ConfirmBranch),
            CANCEL: (pb.CancelBranchRequest, self.stub.CancelBranch),
        }[call.operation]
        response = await method(request(call=call), timeout=_TIMEOUT_S)
        return cast("pb.BranchOutcome", response.outcome)

    async def succeed(self, call: pb.BranchCall, advice: str) -> pb.BranchOutcome:
        outcome = await self.send(call)
        _expect(outcome.code == pb.OUTCOME_CODE_SUCCEEDED, outcome, advice)
        return outcome

    async def fail(self, call: pb.BranchCall, reason: str, advice: str, *, permanent: bool = True) -> None:
        outcome = await self.send(call)
        _expect(_failed(outcome, reason, permanent=permanent), outcome, advice)

    async def effects(
        self, *, reserved: int = 0, confirmed: int = 0, branch_id: str = "branch", advice: str
    ) -> None:
        """Compares with the participant's own tables, where the author lets us see them."""
        if self.observe is None:
            return
        seen, wanted = (
            await self.observe(self.gid, branch_id),
            Effects(reserved=reserved, confirmed=confirmed),
        )
        if seen != wanted:
            raise ConformanceError(f"{advice} (observed {seen}, wanted {wanted})")


def _failed(outcome: pb.BranchOutcome, reason: str, *, permanent: bool = True) -> bool:
    return (
        outcome.code == pb.OUTCOME_CODE_FAILED
        and outcome.reason == reason
        # NOT_TRIED may be called either: the decision to confirm is repeated for ever anyway.
        and (outcome.permanent or not permanent)
    )


def _expect(holds: bool, outcome: pb.BranchOutcome, advice: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not holds:
        raise ConformanceError(f"{advice} (answered {_words(outcome)})")


def _words(outcome: pb.BranchOutcome) -> str:
    code = pb.OutcomeCode.Name(outcome.code).removeprefix("OUTCOME_CODE_")
    permanence = " permanent" if outcome.permanent else ""
    return f"{code}{permanence} {outcome.reason} {outcome.message}".strip()


_TRY_WORKS = "a first Try of the given payload must succeed; is the payload one that can be reserved?"
_CONFIRM_WORKS = "a Confirm after a successful Try must succeed"
_CANCEL_WORKS = "a Cancel after a successful Try must succeed"


async def _try_then_confirm(subject: _Subject) -> None:
    await subject.succeed(subject.call(TRY), _TRY_WORKS)
    await subject.effects(reserved=1, advice="a Try must reserve, once")
    await subject.succeed(subject.call(CONFIRM), _CONFIRM_WORKS)
    await subject.effects(confirmed=1, advice="a Confirm must turn the reservation into its final form, once")


async def _try_then_cancel(subject: _Subject) -> None:
    await subject.succeed(subject.call(TRY), _TRY_WORKS)
    await subject.succeed(subject.call(CANCEL), _CANCEL_WORKS)
    await subject.effects(advice="a Cancel must give the reservation back")


async def _rejected_try(subject: _Subject) -> None:
    if subject.rejected_payload is None:
        raise _SkippedError("give `rejected_payload`, one that the action answers with REJECTED")
    call = subject.call(TRY, payload=subject.rejected_payload)
    for _ in range(2):
        outcome = await subject.send(call)
        _expect(
            outcome.code == pb.OUTCOME_CODE_REJECTED and bool(outcome.reason),
            outcome,
            "a business no must be answered REJECTED with a reason, each time: an outcome, not a failure",
        )
    await subject.effects(advice="a rejected Try must reserve nothing: roll its local transaction back")
    await subject.succeed(
        subject.call(CANCEL, payload=subject.rejected_payload),
        "the Cancel of a rejected Try must succeed: there is nothing to give back",
    )


async def _duplicate_try(subject: _Subject) -> None:
    first = await subject.succeed(subject.call(TRY), _TRY_WORKS)
    again = await subject.succeed(
        subject.call(TRY, attempt=1),
        "a repeated Try must succeed without running again: keep a row per (gid, branch_id), "
        "written in the transaction of the reservation, and answer from it",
    )
    _expect(
        (first.result, first.content_type) == (again.result, again.content_type),
        again,
        "a repeated Try must answer the first one's result: store the result in the barrier's row",
    )
    await subject.effects(reserved=1, advice="a repeated Try must not reserve again")


async def _duplicate_confirm(subject: _Subject) -> None:
    await subject.succeed(subject.call(TRY), _TRY_WORKS)
    await subject.succeed(subject.call(CONFIRM), _CONFIRM_WORKS)
    await subject.succeed(
        subject.call(CONFIRM, attempt=1),
        "a repeated Confirm must succeed without running again: record CONFIRMED with the change",
    )
    await subject.effects(confirmed=1, advice="a repeated Confirm must change nothing")


async def _duplicate_cancel(subject: _Subject) -> None:
    await subject.succeed(subject.call(TRY), _TRY_WORKS)
    await subject.succeed(subject.call(CANCEL), _CANCEL_WORKS)
    await subject.succeed(
        subject.call(CANCEL, attempt=1),
        "a repeated Cancel must succeed without running again: record CANCELLED with the change",
    )
    await subject.effects(advice="a repeated Cancel must change nothing")


async def _try_after_confirm(subject: _Subject) -> None:
    first = await subject.succeed(subject.call(TRY), _TRY_WORKS)
    await subject.succeed(subject.call(CONFIRM), _CONFIRM_WORKS)
    again = await subject.succeed(
        subject.call(TRY, attempt=1), "a repeated Try that arrives after the Confirm must be replayed"
    )
    _expect(first.result == again.result, again, "and with the first one's result")
    await subject.effects(
        confirmed=1, advice="a Try that is replayed after the Confirm must not reserve again"
    )


async def _empty_cancel(subject: _Subject) -> None:
    for attempt in range(2):
        await subject.succeed(
            subject.call(CANCEL, attempt=attempt),
            "a Cancel whose Try never arrived must succeed: there is nothing to give back, and the "
            "coordinator would repeat it for ever",
        )
    await subject.effects(advice="an empty cancel must change nothing")


async def _late_try(subject: _Subject) -> None:
    await subject.succeed(subject.call(CANCEL), "a Cancel whose Try never arrived must succeed")
    await subject.fail(
        subject.call(TRY),
        "LATE_TRY",
        "a Try that arrives after its Cancel must be refused with FAILED, permanent, LATE_TRY: an empty "
        "cancel must leave a tombstone row that the Try finds, or its reservation is never released",
    )
    await subject.effects(advice="a refused late Try must reserve nothing")


async def _try_after_cancel(subject: _Subject) -> None:
    await subject.succeed(subject.call(TRY), _TRY_WORKS)
    await subject.succeed(subject.call(CANCEL), _CANCEL_WORKS)
    await subject.fail(
        subject.call(TRY, attempt=1),
        "LATE_TRY",
        "a repeated Try that arrives after the Cancel must be refused with FAILED, permanent, LATE_TRY",
    )
    await subject.effects(advice="a refused late Try must reserve nothing")


async def _confirm_without_try(subject: _Subject) -> None:
    await subject.fail(
        subject.call(CONFIRM),
        "NOT_TRIED",
        "a Confirm without a recorded Try must be answered FAILED with NOT_TRIED: a silent success would "
        "hide a lost reservation",
        permanent=False,
    )
    await subject.effects(advice="a Confirm without a Try must change nothing")


async def _cancel_after_confirm(subject: _Subject) -> None:
    await subject.succeed(subject.call(TRY), _TRY_WORKS)
    await subject.succeed(subject.call(CONFIRM), _CONFIRM_WORKS)
    await subject.fail(
        subject.call(CANCEL),
        "ALREADY_CONFIRMED",
        "a Cancel of a confirmed branch must be answered FAILED, permanent, ALREADY_CONFIRMED: "
        "a mixed outcome is reported, never hidden",
    )
    await subject.effects(confirmed=1, advice="a refused Cancel must leave the confirmed branch as it is")


async def _confirm_after_cancel(subject: _Subject) -> None:
    await subject.succeed(subject.call(TRY), _TRY_WORKS)
    await subject.succeed(subject.call(CANCEL), _CANCEL_WORKS)
    await subject.fail(
        subject.call(CONFIRM),
        "ALREADY_CANCELLED",
        "a Confirm of a cancelled branch must be answered FAILED, permanent, ALREADY_CANCELLED: "
        "a mixed outcome is reported, never hidden",
    )
    await subject.effects(advice="a refused Confirm must change nothing")


async def _expired_try(subject: _Subject) -> None:
    await subject.fail(
        subject.call(TRY, expires_in_ms=-_EXPIRY_MS),
        "EXPIRED",
        "a first Try past `expires_at_ms` must be refused with FAILED, permanent, EXPIRED: its tombstone "
        "may have been purged, and the expiry is what is left to tell that it is late",
    )
    await subject.effects(advice="an expired Try must reserve nothing")


async def _concurrent_duplicates(subject: _Subject) -> None:
    for round_ in range(_ROUNDS):
        branch_id = f"branch-{round_}"
        for operation in (TRY, CONFIRM):
            outcomes = await asyncio.gather(
                *(
                    subject.send(subject.call(operation, branch_id=branch_id, attempt=attempt))
                    for attempt in range(_RACERS)
                )
            )
            for outcome in outcomes:
                _expect(
                    outcome.code == pb.OUTCOME_CODE_SUCCEEDED and outcome.result == outcomes[0].result,
                    outcome,
                    "duplicates that arrive at the same moment must all get the one answer: let a unique key "
                    "or a row lock make the later ones wait, then answer them from the row",
                )
        await subject.effects(
            confirmed=1, branch_id=branch_id, advice="duplicates that arrive together must take effect once"
        )


async def _concurrent_try_and_cancel(subject: _Subject) -> None:
    for round_ in range(_ROUNDS):
        branch_id = f"branch-{round_}"
        tried, cancelled = await asyncio.gather(
            subject.send(subject.call(TRY, branch_id=branch_id)),
            subject.send(subject.call(CANCEL, branch_id=branch_id)),
        )
        _expect(
            cancelled.code == pb.OUTCOME_CODE_SUCCEEDED,
            cancelled,
            "a Cancel that races with its Try must succeed, whoever wins",
        )
        _expect(
            tried.code == pb.OUTCOME_CODE_SUCCEEDED or _failed(tried, "LATE_TRY"),
            tried,
            "a Try that races with its Cancel must either win and succeed or lose and be refused LATE_TRY",
        )
        await subject.fail(
            subject.call(TRY, branch_id=branch_id, attempt=1),
            "LATE_TRY",
            "after a Try and its Cancel have raced the branch must be cancelled: write both under one lock "
            "or unique key",
        )
        await subject.effects(
            branch_id=branch_id, advice="after a Try and its Cancel have raced nothing may stay reserved"
        )


async def _mixed_batch(subject: _Subject) -> None:
    if not subject.batched:
        raise _SkippedError("the service has no ExecuteBranches")
    await subject.succeed(subject.call(TRY, branch_id="to-confirm"), _TRY_WORKS)
    await subject.succeed(subject.call(TRY, branch_id="to-cancel"), _TRY_WORKS)
    calls = [
        subject.call(TRY, branch_id="to-try"),
        subject.call(CONFIRM, branch_id="to-confirm"),
        subject.call(CANCEL, branch_id="to-cancel"),
        subject.call(CONFIRM, branch_id="unknown"),
        subject.call(TRY, branch_id="late", expires_in_ms=-_EXPIRY_MS),
        subject.call(TRY, branch_id="of-no-action", action="conformance-no-such-action"),
    ]
    wanted = ["", "", "", "NOT_TRIED", "EXPIRED", "UNKNOWN_ACTION"]
    responses = subject.stub.ExecuteBranches(pb.ExecuteBranchesRequest(calls=calls), timeout=_TIMEOUT_S)
    outcomes = [outcome async for response in responses for outcome in response.outcomes]
    if sorted(outcome.index for outcome in outcomes) != list(range(len(calls))):
        raise ConformanceError(
            "ExecuteBranches must answer each call once, under the `index` of its place in the batch "
            f"(answered the indexes {[outcome.index for outcome in outcomes]} to {len(calls)} calls)"
        )
    for outcome in outcomes:
        _expect(
            outcome.reason == wanted[outcome.index]
            and (outcome.code == pb.OUTCOME_CODE_SUCCEEDED) == (not wanted[outcome.index]),
            outcome,
            f"call {outcome.index} of the batch must be answered {wanted[outcome.index] or 'SUCCEEDED'}, "
            "just as alone: one item must not change what another gets",
        )
    await subject.effects(reserved=1, branch_id="to-try", advice="a Try in a batch must reserve")
    await subject.effects(confirmed=1, branch_id="to-confirm", advice="a Confirm in a batch must be final")
    await subject.effects(branch_id="to-cancel", advice="a Cancel in a batch must give back")
    await subject.succeed(subject.call(CANCEL, branch_id="to-try"), _CANCEL_WORKS)


async def _unknown_action(subject: _Subject) -> None:
    await subject.fail(
        subject.call(TRY, action="conformance-no-such-action"),
        "UNKNOWN_ACTION",
        "a Try of an unknown action must be refused with FAILED, permanent, UNKNOWN_ACTION",
    )
    await subject.succeed(
        subject.call(CANCEL, action="conformance-no-such-action"),
        "the Cancel of a Try that was refused for its unknown action is an empty cancel and must succeed, "
        "or its transaction never ends",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One law, and how it is checked."""

    name: str
    check: Callable[[_Subject], Awaitable[None]]

    def __str__(self) -> str:
        return self.name


def _cases() -> Iterator[Case]:
    for check_case in (
        _try_then_confirm,
        _try_then_cancel,
        _rejected_try,
        _duplicate_try,
        _duplicate_confirm,
        _duplicate_cancel,
        _try_after_confirm,
        _try_after_cancel,
        _empty_cancel,
        _late_try,
        _confirm_without_try,
        _cancel_after_confirm,
        _confirm_after_cancel,
        _expired_try,
        _concurrent_duplicates,
        _concurrent_try_and_cancel,
        _mixed_batch,
        _unknown_action,
    ):
        yield Case(name=check_case.__name__.removeprefix("_"), check=check_case)


CASES: tuple[Case, ...] = tuple(_cases())
