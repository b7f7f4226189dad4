"""The cases of the conformance suite. Each checks one rule."""

import asyncio

import grpc

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tcc.testing.conformance_subject import (
    CANCEL,
    CONFIRM,
    EXPIRY_MS,
    TIMEOUT_S,
    TRY,
    TRY_WORKS,
    ConformanceError,
    SkippedError,
    Subject,
    expect,
    failed,
)

# The number of concurrent deliveries in a round, and the number of rounds.
_RACERS = 8
_ROUNDS = 8
_GID_BYTES_MAX = 128
# Not decodable by any action: invalid text, and truncated JSON that is too deep for a recursive decoder.
_UNDECODABLE = (b"\xff" * 16, b'{"a":' * 50_000)

_CONFIRM_WORKS = "a Confirm after a successful Try must succeed"
_CANCEL_WORKS = "a Cancel after a successful Try must succeed"
_DIGEST = (
    "let the Try store a digest of action, payload and content type (SHA-256 of their bytes) in the "
    "barrier's row, and compare the digest of every later call with it first"
)
_DECODE_LATE = "check the barrier first, and decode the payload only if the handler has to run"


async def try_then_confirm(subject: Subject) -> None:
    await subject.succeed(subject.call(TRY), TRY_WORKS)
    await subject.effects(reserved=1, advice="a Try must reserve, once")
    await subject.succeed(subject.call(CONFIRM), _CONFIRM_WORKS)
    await subject.effects(confirmed=1, advice="a Confirm must turn the reservation into its final form, once")


async def try_then_cancel(subject: Subject) -> None:
    await subject.succeed(subject.call(TRY), TRY_WORKS)
    await subject.succeed(subject.call(CANCEL), _CANCEL_WORKS)
    await subject.effects(advice="a Cancel must give the reservation back")


async def rejected_try(subject: Subject) -> None:
    if subject.rejected_payload is None:
        raise SkippedError("give `rejected_payload`, a payload that the action rejects")
    call = subject.call(TRY, payload=subject.rejected_payload)
    for _ in range(2):
        outcome = await subject.send(call)
        expect(
            outcome.code == common.OUTCOME_CODE_REJECTED and bool(outcome.reason),
            outcome,
            "a business rejection must return REJECTED with a reason each time: it is not a failure",
        )
    await subject.effects(advice="a rejected Try must reserve nothing: roll its local transaction back")
    await subject.succeed(
        subject.call(CANCEL, payload=subject.rejected_payload),
        "the Cancel of a rejected Try must succeed: there is nothing to give back",
    )


async def duplicate_try(subject: Subject) -> None:
    first = await subject.succeed(subject.call(TRY), TRY_WORKS)
    again = await subject.succeed(
        subject.call(TRY, attempt=1),
        "a repeated Try must succeed without running again: keep a row per (gid, branch_id), "
        "written in the transaction of the reservation, and return the result from it",
    )
    expect(
        (first.result, first.content_type) == (again.result, again.content_type),
        again,
        "a repeated Try must return the first one's result: store the result in the barrier's row",
    )
    await subject.effects(
        reserved=1, advice="a repeated Try must not reserve again: look for the barrier's row first"
    )


async def duplicate_confirm(subject: Subject) -> None:
    await subject.succeed(subject.call(TRY), TRY_WORKS)
    await subject.succeed(subject.call(CONFIRM), _CONFIRM_WORKS)
    await subject.succeed(
        subject.call(CONFIRM, attempt=1),
        "a repeated Confirm must succeed without running again: record CONFIRMED with the change",
    )
    await subject.effects(
        confirmed=1,
        advice="a repeated Confirm must change nothing: "
        "record CONFIRMED in the transaction of the change, and look there first",
    )


async def duplicate_cancel(subject: Subject) -> None:
    await subject.succeed(subject.call(TRY), TRY_WORKS)
    await subject.succeed(subject.call(CANCEL), _CANCEL_WORKS)
    await subject.succeed(
        subject.call(CANCEL, attempt=1),
        "a repeated Cancel must succeed without running again: record CANCELLED with the change",
    )
    await subject.effects(
        advice="a repeated Cancel must change nothing: "
        "record CANCELLED in the transaction of the change, and look there first"
    )


async def try_after_confirm(subject: Subject) -> None:
    first = await subject.succeed(subject.call(TRY), TRY_WORKS)
    await subject.succeed(subject.call(CONFIRM), _CONFIRM_WORKS)
    again = await subject.succeed(
        subject.call(TRY, attempt=1), "a repeated Try that arrives after the Confirm must be replayed"
    )
    expect(first.result == again.result, again, "and with the first one's result")
    await subject.effects(
        confirmed=1, advice="a Try that is replayed after the Confirm must not reserve again"
    )


async def empty_cancel(subject: Subject) -> None:
    for attempt in range(2):
        await subject.succeed(
            subject.call(CANCEL, attempt=attempt),
            "a Cancel whose Try never arrived must succeed: there is nothing to give back, and the "
            "coordinator would repeat it indefinitely",
        )
    await subject.effects(advice="an empty cancel must change nothing")


async def late_try(subject: Subject) -> None:
    await subject.succeed(subject.call(CANCEL), "a Cancel whose Try never arrived must succeed")
    await subject.fail(
        subject.call(TRY),
        "LATE_TRY",
        "a Try that arrives after its Cancel must be refused with FAILED, permanent, LATE_TRY: an empty "
        "cancel must leave a tombstone row that the Try finds, or its reservation is never released",
    )
    await subject.effects(advice="a refused late Try must reserve nothing")


async def try_after_cancel(subject: Subject) -> None:
    await subject.succeed(subject.call(TRY), TRY_WORKS)
    await subject.succeed(subject.call(CANCEL), _CANCEL_WORKS)
    await subject.fail(
        subject.call(TRY, attempt=1),
        "LATE_TRY",
        "a repeated Try that arrives after the Cancel must be refused with FAILED, permanent, LATE_TRY",
    )
    await subject.effects(advice="a refused late Try must reserve nothing")


async def confirm_without_try(subject: Subject) -> None:
    await subject.fail(
        subject.call(CONFIRM),
        "NOT_TRIED",
        "a Confirm without a recorded Try must return FAILED with NOT_TRIED: a silent success would "
        "hide a lost reservation",
        permanent=False,
    )
    await subject.effects(advice="a Confirm without a Try must change nothing")


async def cancel_after_confirm(subject: Subject) -> None:
    await subject.succeed(subject.call(TRY), TRY_WORKS)
    await subject.succeed(subject.call(CONFIRM), _CONFIRM_WORKS)
    await subject.fail(
        subject.call(CANCEL),
        "ALREADY_CONFIRMED",
        "a Cancel of a confirmed branch must return FAILED, permanent, ALREADY_CONFIRMED: "
        "a mixed outcome is reported, never hidden",
    )
    await subject.effects(confirmed=1, advice="a refused Cancel must leave the confirmed branch as it is")


async def confirm_after_cancel(subject: Subject) -> None:
    await subject.succeed(subject.call(TRY), TRY_WORKS)
    await subject.succeed(subject.call(CANCEL), _CANCEL_WORKS)
    await subject.fail(
        subject.call(CONFIRM),
        "ALREADY_CANCELLED",
        "a Confirm of a cancelled branch must return FAILED, permanent, ALREADY_CANCELLED: "
        "a mixed outcome is reported, never hidden",
    )
    await subject.effects(advice="a refused Confirm must change nothing")


async def try_with_another_payload(subject: Subject) -> None:
    another = subject.another_payload()
    await subject.succeed(subject.call(TRY), TRY_WORKS)
    await subject.fail(
        subject.call(TRY, payload=another, attempt=1),
        "BRANCH_CONFLICT",
        "a Try that is repeated with another payload must be refused with FAILED, permanent, "
        f"BRANCH_CONFLICT: two callers share a gid by mistake; {_DIGEST}",
    )
    outcome = await subject.send(subject.call(TRY, content_type=subject.another_content_type, attempt=1))
    expect(
        # A participant may check a Try's content type before it checks its barrier.
        failed(outcome, "BRANCH_CONFLICT") or failed(outcome, "INVALID_PAYLOAD"),
        outcome,
        "a Try that is repeated with another content type must be refused with FAILED, permanent, "
        f"BRANCH_CONFLICT: {_DIGEST}",
    )
    await subject.effects(
        reserved=1,
        advice="a Try that is refused BRANCH_CONFLICT must leave the first one's reservation as it is",
    )
    await subject.succeed(
        subject.call(CONFIRM),
        "after a Try was refused BRANCH_CONFLICT the Confirm with the first Try's payload must succeed: "
        "leave the row and its digest as the first Try wrote them",
    )
    await subject.effects(confirmed=1, advice="and it must take effect, once")


async def ended_with_another_payload(subject: Subject) -> None:
    for operation in (CONFIRM, CANCEL):
        branch_id = f"branch-{operation}"
        another = subject.another_payload(branch_id)
        await subject.succeed(subject.call(TRY, branch_id=branch_id), TRY_WORKS)
        await subject.fail(
            subject.call(operation, branch_id=branch_id, payload=another),
            "BRANCH_CONFLICT",
            "a Confirm or Cancel with another payload than its Try's must be refused with FAILED, permanent, "
            f"BRANCH_CONFLICT: {_DIGEST}",
        )
        await subject.fail(
            subject.call(operation, branch_id=branch_id, content_type=subject.another_content_type),
            "BRANCH_CONFLICT",
            "a Confirm or Cancel with another content type than its Try's must be refused with FAILED, "
            f"permanent, BRANCH_CONFLICT: {_DIGEST}",
        )
        await subject.effects(
            reserved=1,
            branch_id=branch_id,
            advice="a Confirm or Cancel that is refused BRANCH_CONFLICT must change nothing",
        )
        await subject.succeed(
            subject.call(operation, branch_id=branch_id, attempt=1),
            "a Confirm or Cancel with its Try's own payload must succeed, also after one was refused "
            "BRANCH_CONFLICT",
        )
        await subject.effects(
            confirmed=1 if operation == CONFIRM else 0,
            branch_id=branch_id,
            advice="and it must take effect, once",
        )


async def tried_by_initiator(subject: Subject) -> None:
    for operation in (CONFIRM, CANCEL):
        branch_id = f"branch-{operation}"
        payload = subject.same_payload_in_other_bytes(branch_id)
        await subject.succeed(subject.call(TRY, branch_id=branch_id, tried_by_initiator=True), TRY_WORKS)
        await subject.succeed(
            subject.call(operation, branch_id=branch_id, payload=payload, tried_by_initiator=True),
            "a Confirm or Cancel must succeed whatever bytes its Try had, if that had `tried_by_initiator`: "
            "store no digest then",
        )
        await subject.effects(
            confirmed=1 if operation == CONFIRM else 0,
            branch_id=branch_id,
            advice="a Confirm or Cancel with `tried_by_initiator` must take effect, once",
        )


async def tried_by_coordinator(subject: Subject) -> None:
    for operation in (CONFIRM, CANCEL):
        branch_id = f"branch-{operation}"
        another = subject.another_payload(branch_id)
        await subject.succeed(subject.call(TRY, branch_id=branch_id), TRY_WORKS)
        await subject.fail(
            subject.call(operation, branch_id=branch_id, payload=another, tried_by_initiator=True),
            "BRANCH_CONFLICT",
            "a Confirm or Cancel with another payload than its Try's must be refused with FAILED, permanent, "
            "BRANCH_CONFLICT, also with `tried_by_initiator`, if the Try did not have it: the row decides "
            f"whether digests are compared, because the call may have been forged; {_DIGEST}",
        )
        await subject.effects(
            reserved=1,
            branch_id=branch_id,
            advice="a Confirm or Cancel that is refused BRANCH_CONFLICT must change nothing",
        )


async def undecodable_cancel(subject: Subject) -> None:
    for number, payload in enumerate(_UNDECODABLE):
        branch_id = f"branch-{number}"
        for attempt in range(2):
            await subject.succeed(
                subject.call(CANCEL, branch_id=branch_id, payload=payload, attempt=attempt),
                "a Cancel whose Try never arrived must succeed even if its payload cannot be decoded, each "
                f"time: such a Try is refused, and its Cancel must end; {_DECODE_LATE}",
            )
        await subject.fail(
            subject.call(TRY, branch_id=branch_id),
            "LATE_TRY",
            "a Try after an empty cancel whose payload could not be decoded must be refused with FAILED, "
            "permanent, LATE_TRY: that cancel leaves a tombstone too, without a digest, which only a Try "
            "stores",
        )
        await subject.effects(
            branch_id=branch_id,
            advice="a Cancel that cannot be decoded, and its late Try, must change nothing",
        )


async def undecodable_confirm(subject: Subject) -> None:
    for number, payload in enumerate(_UNDECODABLE):
        branch_id = f"branch-{number}"
        await subject.fail(
            subject.call(CONFIRM, branch_id=branch_id, payload=payload),
            "NOT_TRIED",
            "a Confirm without a recorded Try must return FAILED with NOT_TRIED even if its payload "
            f"cannot be decoded: {_DECODE_LATE}",
            permanent=False,
        )
        await subject.succeed(subject.call(TRY, branch_id=branch_id), TRY_WORKS)
        await subject.fail(
            subject.call(CONFIRM, branch_id=branch_id, payload=payload),
            "BRANCH_CONFLICT",
            "a Confirm whose payload cannot be decoded differs from its Try and must be refused with FAILED, "
            f"permanent, BRANCH_CONFLICT: {_DIGEST}",
        )
        await subject.effects(
            reserved=1, branch_id=branch_id, advice="a Confirm that cannot be decoded must change nothing"
        )
        await subject.succeed(subject.call(CONFIRM, branch_id=branch_id, attempt=1), _CONFIRM_WORKS)
        await subject.effects(
            confirmed=1, branch_id=branch_id, advice="a Confirm after a refused one must take effect, once"
        )


async def broken_confirm(subject: Subject) -> None:
    if subject.break_confirm is None:
        raise SkippedError("give `break_confirm`, in whose block a branch's Confirm violates a constraint")
    await subject.succeed(subject.call(TRY), TRY_WORKS)
    async with subject.break_confirm(subject.gid, "branch"):
        outcome = await subject.send(subject.call(CONFIRM))
    expect(
        outcome.code == common.OUTCOME_CODE_FAILED,
        outcome,
        "a Confirm whose change violates a constraint must return FAILED: return SUCCEEDED only when "
        "COMMIT has succeeded, and swallow no error of the database; or does `break_confirm` break nothing?",
    )
    expect(
        not outcome.permanent,
        outcome,
        "a Confirm whose change violates a constraint must not be called permanent: it can be done once the "
        "rows are put right, so let it be repeated",
    )
    await subject.effects(
        reserved=1,
        advice="a Confirm that violates a constraint must change nothing: roll its local transaction back",
    )
    await subject.succeed(
        subject.call(CONFIRM, attempt=1),
        "a Confirm that failed must succeed when it is repeated and nothing is in its way any more",
    )
    await subject.effects(
        confirmed=1,
        advice="a Confirm that is repeated after a failure must take effect, once: record CONFIRMED in ONE "
        "local transaction with the change, so that both are rolled back together",
    )


async def expired_try(subject: Subject) -> None:
    await subject.fail(
        subject.call(TRY, expires_in_ms=-EXPIRY_MS),
        "EXPIRED",
        "a first Try past `expires_at_ms` must be refused with FAILED, permanent, EXPIRED: its tombstone "
        "may have been purged, and the expiry is what is left to tell that it is late",
    )
    await subject.effects(advice="an expired Try must reserve nothing")


async def concurrent_duplicates(subject: Subject) -> None:
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
                expect(
                    outcome.code == common.OUTCOME_CODE_SUCCEEDED and outcome.result == outcomes[0].result,
                    outcome,
                    "duplicates that arrive at the same moment must all get the same result: let a unique "
                    "key or a row lock make the later ones wait, then return the result from the row",
                )
        await subject.effects(
            confirmed=1, branch_id=branch_id, advice="duplicates that arrive together must take effect once"
        )


async def concurrent_try_and_cancel(subject: Subject) -> None:
    for round_ in range(_ROUNDS):
        branch_id = f"branch-{round_}"
        tried, cancelled = await asyncio.gather(
            subject.send(subject.call(TRY, branch_id=branch_id)),
            subject.send(subject.call(CANCEL, branch_id=branch_id)),
        )
        expect(
            cancelled.code == common.OUTCOME_CODE_SUCCEEDED,
            cancelled,
            "a Cancel that races with its Try must succeed, whichever is first",
        )
        expect(
            tried.code == common.OUTCOME_CODE_SUCCEEDED or failed(tried, "LATE_TRY"),
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


async def mixed_batch(subject: Subject) -> None:
    if not subject.batched:
        raise SkippedError("the service has no ExecuteBranches")
    await subject.succeed(subject.call(TRY, branch_id="to-confirm"), TRY_WORKS)
    await subject.succeed(subject.call(TRY, branch_id="to-cancel"), TRY_WORKS)
    calls = [
        subject.call(TRY, branch_id="to-try"),
        subject.call(CONFIRM, branch_id="to-confirm"),
        subject.call(CANCEL, branch_id="to-cancel"),
        subject.call(CONFIRM, branch_id="unknown"),
        subject.call(TRY, branch_id="late", expires_in_ms=-EXPIRY_MS),
        subject.call(TRY, branch_id="of-no-action", action="conformance-no-such-action"),
    ]
    wanted = ["", "", "", "NOT_TRIED", "EXPIRED", "UNKNOWN_ACTION"]
    outcomes = await _execute(subject, calls)
    for outcome in outcomes:
        expect(
            outcome.reason == wanted[outcome.index]
            and (outcome.code == common.OUTCOME_CODE_SUCCEEDED) == (not wanted[outcome.index]),
            outcome,
            f"call {outcome.index} of the batch must return {wanted[outcome.index] or 'SUCCEEDED'}, "
            "just as alone: one item must not change what another gets",
        )
    await subject.effects(reserved=1, branch_id="to-try", advice="a Try in a batch must reserve")
    await subject.effects(confirmed=1, branch_id="to-confirm", advice="a Confirm in a batch must be final")
    await subject.effects(branch_id="to-cancel", advice="a Cancel in a batch must give back")
    await subject.succeed(subject.call(CANCEL, branch_id="to-try"), _CANCEL_WORKS)


async def first_try_lost(subject: Subject) -> None:
    await subject.succeed(
        subject.call(TRY, attempt=3),
        "a Try whose earlier deliveries were all lost must reserve like a first one: let the barrier's row "
        "tell what is new, not `attempt`",
    )
    await subject.effects(reserved=1, advice="a Try whose earlier deliveries were lost must reserve, once")
    await subject.succeed(subject.call(CANCEL), _CANCEL_WORKS)


async def ended_after_expiry(subject: Subject) -> None:
    for operation in (CONFIRM, CANCEL):
        branch_id = f"branch-{operation}"
        await subject.succeed(subject.call(TRY, branch_id=branch_id), TRY_WORKS)
        await subject.succeed(
            subject.call(operation, branch_id=branch_id, expires_in_ms=-EXPIRY_MS),
            "Confirm and Cancel must be done however late they come: the expiry forbids a first Try, "
            "never what was decided",
        )
    await subject.effects(
        confirmed=1, branch_id=f"branch-{CONFIRM}", advice="a Confirm past the expiry must take effect"
    )
    await subject.effects(branch_id=f"branch-{CANCEL}", advice="a Cancel past the expiry must give back")
    await subject.succeed(
        subject.call(CANCEL, branch_id="never-tried", expires_in_ms=-EXPIRY_MS),
        "an empty cancel past the expiry must succeed, or its transaction never ends",
    )


async def branches_apart(subject: Subject) -> None:
    advice = (
        "branches of one transaction must not know of each other: the barrier's key is (gid, branch_id), "
        "both of them"
    )
    await subject.succeed(subject.call(CANCEL, branch_id="cancelled"), advice)
    await subject.succeed(subject.call(TRY, branch_id="confirmed"), advice)
    await subject.succeed(subject.call(CONFIRM, branch_id="confirmed"), advice)
    await subject.fail(subject.call(CONFIRM, branch_id="untried"), "NOT_TRIED", advice, permanent=False)
    await subject.succeed(subject.call(TRY, branch_id="tried"), advice)
    await subject.effects(reserved=1, branch_id="tried", advice=advice)
    await subject.effects(confirmed=1, branch_id="confirmed", advice=advice)
    await subject.succeed(subject.call(CANCEL, branch_id="tried"), advice)


async def keys_apart(subject: Subject) -> None:
    long = subject.gid.ljust(_GID_BYTES_MAX, "x")
    twins = {
        "their last byte of 128": (long, f"{long[:-1]}y"),
        "case": (f"{subject.gid}-a", f"{subject.gid}-A"),
        "a space at the end": (f"{subject.gid}-b", f"{subject.gid}-b "),
        "an accent": (f"{subject.gid}-e", f"{subject.gid}-\u00e9"),
    }
    for difference, (gid, other) in twins.items():
        advice = (
            f"gids that differ only in {difference} are two transactions: keep keys of up to 128 bytes "
            "whole and compare them byte by byte (a binary collation or binary columns)"
        )
        await subject.succeed(subject.call(CANCEL, gid=other), advice)
        await subject.succeed(subject.call(TRY, gid=gid), advice)
        await subject.succeed(subject.call(CONFIRM, gid=gid), advice)
        await subject.effects(gid=other, advice=advice)
        await subject.effects(confirmed=1, gid=gid, advice=advice)


async def duplicates_in_a_batch(subject: Subject) -> None:
    if not subject.batched:
        raise SkippedError("the service has no ExecuteBranches")
    for operation in (TRY, CONFIRM):
        calls = [subject.call(operation), subject.call(operation, attempt=1)]
        outcomes = await _execute(subject, calls)
        for outcome in outcomes:
            expect(
                outcome.code == common.OUTCOME_CODE_SUCCEEDED and outcome.result == outcomes[0].result,
                outcome,
                "a call that is twice in one batch must take effect once and return the same result twice",
            )
    await subject.effects(confirmed=1, advice="a call that is twice in one batch must take effect once")


async def unknown_action(subject: Subject) -> None:
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


async def listing_agrees(subject: Subject) -> None:
    """Check ListBranches, which is optional: it lists the state of each row of the barrier."""
    await _is_listed(subject, None)
    for operation, state in ((TRY, common.BARRIER_STATE_TRIED), (CONFIRM, common.BARRIER_STATE_CONFIRMED)):
        await subject.succeed(subject.call(operation), TRY_WORKS)
        await _is_listed(subject, state)
    for page_size in (0, 1):
        request = pb.ListBranchesRequest(page_size=page_size)
        page = await subject.stub.ListBranches(request, timeout=TIMEOUT_S)
        too_many = page_size and len(page.rows) > page_size
        if too_many or any(row.state != common.BARRIER_STATE_TRIED for row in page.rows):
            raise ConformanceError(
                "ListBranches must return at most page_size rows, and only open ones "
                f"if no state is given (got {list(page.rows)})"
            )


async def _is_listed(subject: Subject, state: "common.BarrierState | None") -> None:
    keys = [pb.BranchKey(gid=subject.gid, branch_id=name) for name in ("branch", "never tried")]
    try:
        page = await subject.stub.ListBranches(pb.ListBranchesRequest(keys=keys), timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise SkippedError("the service has no ListBranches, so that it cannot be reconciled") from error
        raise
    found = [(row.gid, row.branch_id, row.action, row.state) for row in page.rows]
    wanted = [] if state is None else [(subject.gid, "branch", subject.action, state)]
    if found != wanted:
        raise ConformanceError(
            "ListBranches with keys must return those of the rows that exist, with their "
            f"states (got {found}, wanted {wanted})"
        )


async def _execute(subject: Subject, calls: list[pb.BranchCall]) -> list[common.CallResult]:
    responses = subject.stub.ExecuteBranches(pb.ExecuteBranchesRequest(calls=calls), timeout=TIMEOUT_S)
    outcomes = [outcome async for response in responses for outcome in response.results]
    if sorted(outcome.index for outcome in outcomes) != list(range(len(calls))):
        raise ConformanceError(
            "ExecuteBranches must return one result per call, under the `index` of its place in the batch "
            f"(got the indexes {[outcome.index for outcome in outcomes]} to {len(calls)} calls)"
        )
    return outcomes
