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
the participant's own tables, whether the effects are there, and there once. With
`break_confirm` it has a Confirm fail in the participant's own database. With
`restart` it also kills the service in the midst of calls, again and again, and
asks what has become of them.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc

from tcc._internal.channel_options import conformance_options
from tcc.participant.v1 import participant_pb2_grpc as pb_grpc
from tcc.testing import conformance_cases as cases
from tcc.testing.conformance_kills import killed_half_way
from tcc.testing.conformance_subject import (
    BreakConfirm,
    ConformanceError,
    Effects,
    Observe,
    Payload,
    Restart,
    SkippedError,
    Subject,
)

__all__ = [
    "CASES",
    "BreakConfirm",
    "Case",
    "ConformanceError",
    "Effects",
    "Observe",
    "Payload",
    "Report",
    "Restart",
    "Result",
    "check",
    "run",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One law, and how it is checked."""

    name: str
    check: Callable[[Subject], Awaitable[None]]

    def __str__(self) -> str:
        return self.name


CASES: tuple[Case, ...] = tuple(
    Case(name=check_case.__name__, check=check_case)
    for check_case in (
        cases.try_then_confirm,
        cases.try_then_cancel,
        cases.rejected_try,
        cases.duplicate_try,
        cases.duplicate_confirm,
        cases.duplicate_cancel,
        cases.try_after_confirm,
        cases.try_after_cancel,
        cases.first_try_lost,
        cases.empty_cancel,
        cases.late_try,
        cases.confirm_without_try,
        cases.cancel_after_confirm,
        cases.confirm_after_cancel,
        cases.try_with_another_payload,
        cases.ended_with_another_payload,
        cases.tried_by_initiator,
        cases.undecodable_cancel,
        cases.undecodable_confirm,
        cases.broken_confirm,
        cases.expired_try,
        cases.ended_after_expiry,
        cases.branches_apart,
        cases.keys_apart,
        cases.concurrent_duplicates,
        cases.concurrent_try_and_cancel,
        cases.mixed_batch,
        cases.duplicates_in_a_batch,
        cases.unknown_action,
        cases.listing_agrees,
        killed_half_way,
    )
)


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
    payload: Payload,
    content_type: str = "application/json",
    rejected_payload: bytes | None = None,
    other_payload: bytes | None = None,
    batched: bool = True,
    observe: Observe | None = None,
    break_confirm: BreakConfirm | None = None,
    restart: Restart | None = None,
    restart_timeout_s: float = 60.0,
) -> Report:
    """Run every case and report on each; raise nothing for a participant that breaks the rules.

    `target`: an address (without TLS) or a channel of your own. `payload` is one
    that the action can reserve some hundred times, or a function that makes a fresh one
    for each branch, where each needs its own (a coupon, an order number).
    `rejected_payload` is one that it answers with REJECTED. `batched`: whether the service has
    ExecuteBranches. `observe(gid, branch_id)` looks into the participant's tables.

    Some cases repeat a branch's calls with another payload, which must be refused BRANCH_CONFLICT.
    It is `other_payload` if that is given; else what a `payload` function makes next; else, for
    JSON, `payload` with a space at its end: it means the same, but what the barrier compares is
    bytes, and a coordinator never changes them. With any other `content_type` and one fixed
    `payload` these cases are skipped unless there is an `other_payload`. It must be one that the
    action takes, so that a participant may decode a Try's payload before it asks its barrier.

    `break_confirm(gid, branch_id)` is an async context manager: while its block runs, a Confirm of
    that branch violates a constraint of the participant's database. With PostgreSQL for example:

        @contextlib.asynccontextmanager
        async def break_confirm(gid, branch_id):
            await execute(
                "ALTER TABLE reservation ADD CONSTRAINT broken "
                f"CHECK (gid <> '{gid}' OR branch_id <> '{branch_id}' OR state <> 'CONFIRMED')"
            )
            try:
                yield
            finally:
                await execute("ALTER TABLE reservation DROP CONSTRAINT broken")

    `restart` kills the service as `kill -9` does and starts it again at the same
    address: a coroutine function, or a command such as
    `("docker", "restart", "--time", "0", "inventory")`. The service may take
    `restart_timeout_s` until it answers again.
    """
    async with _channel(target) as channel:
        results = []
        for case in CASES:
            subject = Subject(
                stub=pb_grpc.ParticipantServiceStub(channel),
                action=action,
                payload=payload,
                content_type=content_type,
                rejected_payload=rejected_payload,
                other_payload=other_payload,
                batched=batched,
                observe=observe,
                break_confirm=break_confirm,
                restart=restart,
                restart_timeout_s=restart_timeout_s,
            )
            results.append(await _result(case, subject))
    return Report(results=results)


async def check(
    target: str | grpc.aio.Channel,
    case: Case,
    *,
    action: str,
    payload: Payload,
    content_type: str = "application/json",
    rejected_payload: bytes | None = None,
    other_payload: bytes | None = None,
    batched: bool = True,
    observe: Observe | None = None,
    break_confirm: BreakConfirm | None = None,
    restart: Restart | None = None,
    restart_timeout_s: float = 60.0,
) -> str:
    """Run one case, for a test of its own. Arguments as for `run`.

    Answers why the case could not be run, or "". Raises ConformanceError.
    """
    async with _channel(target) as channel:
        subject = Subject(
            stub=pb_grpc.ParticipantServiceStub(channel),
            action=action,
            payload=payload,
            content_type=content_type,
            rejected_payload=rejected_payload,
            other_payload=other_payload,
            batched=batched,
            observe=observe,
            break_confirm=break_confirm,
            restart=restart,
            restart_timeout_s=restart_timeout_s,
        )
        result = await _result(case, subject)
    if result.failure:
        raise ConformanceError(f"{case}: {result.failure}")
    return result.skipped


@contextlib.asynccontextmanager
async def _channel(target: str | grpc.aio.Channel) -> AsyncIterator[grpc.aio.Channel]:
    if isinstance(target, str):
        async with grpc.aio.insecure_channel(target, options=conformance_options()) as channel:
            yield channel
    else:
        yield target


async def _result(case: Case, subject: Subject) -> Result:
    try:
        await case.check(subject)
    except SkippedError as reason:
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
