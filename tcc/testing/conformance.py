"""The conformance suite: checks that a participant, in any language, follows the barrier's rules.

It uses only gRPC, so it runs against any ParticipantService:

    report = await conformance.run(
        "localhost:50051", action="reserve_stock", payload=b'{"sku": "a", "quantity": 1}'
    )
    assert report.ok, report

or with one test per case:

    @pytest.mark.parametrize("case", conformance.CASES, ids=str)
    async def test_conformance(case):
        await conformance.check("localhost:50051", case, action=..., payload=...)

Every case creates branches of its own under random gids. So the suite may be run
repeatedly, and against a service that is in use. It leaves some reservations
confirmed: use a payload that reserves little.

Over gRPC the suite sees only results of calls. With `observe` it also checks, in the
participant's own tables, that each effect exists exactly once. With `break_confirm` it makes
a Confirm fail in the participant's database. With `restart` it kills the service repeatedly
while calls are in flight, and checks their effects.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc

from tcc._internal.channel_options import conformance_options
from tcc.participant.v1 import participant_pb2_grpc as pb_grpc
from tcc.testing import conformance_cases as cases, conformance_kinds as kinds, conformance_streams as streams
from tcc.testing.conformance_kills import killed_half_way
from tcc.testing.conformance_subject import (
    BreakConfirm,
    ConformanceError,
    Effects,
    Kind,
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
    "Kind",
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
    """A rule and the function that checks it."""

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
        cases.tried_by_coordinator,
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
        streams.stream_of_calls,
        streams.stream_half_closed,
        cases.unknown_action,
        cases.listing_agrees,
        kinds.saga_executes_once,
        kinds.saga_compensates_once,
        kinds.saga_never_executed,
        kinds.message_delivered_once,
        kinds.kinds_apart,
        kinds.check_without_try,
        kinds.check_after_try,
        killed_half_way,
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The result of a case. `skipped` is the reason why it could not be run."""

    case: str
    failure: str = ""
    skipped: str = ""

    @property
    def ok(self) -> bool:
        return not self.failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The results of all cases; as text, one line per case."""

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
    saga: Kind | None = None,
    message: Kind | None = None,
) -> Report:
    """Run every case and return a report. A broken rule does not raise.

    `target` is an address (without TLS) or a channel. `payload` is a payload that the
    action can reserve some hundred times, or a function that returns a new one for each
    branch, if each needs its own (a coupon, an order number). `rejected_payload` is a payload
    that the action rejects. `batched` is True if the service has ExecuteBranches.
    `observe(gid, branch_id)` returns the branch's effects in the participant's tables.

    Some cases repeat a branch's calls with another payload, which must be refused with
    BRANCH_CONFLICT. That payload is `other_payload` if given, otherwise the next one of a
    `payload` function, otherwise (for JSON) `payload` with a space at the end: the meaning is the
    same, but the barrier compares bytes, and a coordinator never changes them. With any other
    `content_type` and a fixed `payload`, these cases are skipped unless `other_payload` is given.
    The action must accept it, because a participant may decode a Try's payload before it checks
    its barrier.

    `break_confirm(gid, branch_id)` is an async context manager. Within its block, a Confirm of
    that branch violates a constraint of the participant's database. For example with PostgreSQL:

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

    `restart` kills the service like `kill -9` and starts it again at the same
    address. It is a coroutine function, or a command such as
    `("docker", "restart", "--time", "0", "inventory")`. The service must respond again
    within `restart_timeout_s` seconds.

    `saga` and `message` are actions of these kinds; without them their cases are skipped.
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
                saga=saga,
                message=message,
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
    saga: Kind | None = None,
    message: Kind | None = None,
) -> str:
    """Run one case as a test of its own. The arguments are those of `run`.

    Returns:
        The reason why the case could not be run, or "".

    Raises:
        ConformanceError: The participant breaks the rule. The message says how to fix it.
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
            saga=saga,
            message=message,
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
            "return a result with the status OK instead",
        )
    return Result(case=case.name)
