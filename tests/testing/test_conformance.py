"""The conformance suite accepts the SDK's own participant and detects participants that break a rule."""

import asyncio
import dataclasses
import time
from contextlib import asynccontextmanager, nullcontext
from itertools import count

import grpc
import pytest
from sqlalchemy import text

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc
from tcc.testing import conformance, conformance_streams
from tests.barrier.test_barrier import make_participant

TRY, CONFIRM, CANCEL = common.OPERATION_TRY, common.OPERATION_CONFIRM, common.OPERATION_CANCEL
OK, FAILED = common.OUTCOME_CODE_SUCCEEDED, common.OUTCOME_CODE_FAILED
# The cases that need an action of kind SAGA or MESSAGE.
OF_KINDS = {
    "saga_executes_once",
    "saga_compensates_once",
    "saga_never_executed",
    "message_delivered_once",
    "kinds_apart",
    "check_after_try",
}


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

    @asynccontextmanager
    async def break_confirm(gid, branch_id):
        async with engine.begin() as db:
            await db.execute(
                text(
                    "ALTER TABLE effects ADD CONSTRAINT broken CHECK "
                    f"(gid <> '{gid}' OR branch_id <> '{branch_id}' OR operation <> 'confirm')"
                )
            )
        try:
            yield
        finally:
            async with engine.begin() as db:
                await db.execute(text("ALTER TABLE effects DROP CONSTRAINT broken"))

    report = await conformance.run(
        f"127.0.0.1:{participant.port}",
        action=action,
        payload=b'{"result": 1}',
        rejected_payload=b'{"reject": 1}',
        observe=observe,
        break_confirm=break_confirm,
    )

    assert report.ok, str(report)
    assert {result.case for result in report.results if result.skipped} == {"killed_half_way", *OF_KINDS}


class Careless(pb_grpc.ParticipantServiceServicer):
    """A participant in memory that follows every rule, except for one fault at a time."""

    def __init__(self, fault: str = "") -> None:
        self._fault = fault
        self._states: dict[tuple[str, str], str] = {}
        self._results: dict[tuple[str, str], bytes] = {}
        # What each Try asked for.
        self._tried: dict[tuple[str, str], tuple[bytes, str]] = {}
        # Branches whose Confirm violates a constraint.
        self._broken: set[tuple[str, str]] = set()
        self._effects: dict[tuple[str, str], list[str]] = {}
        self._tries = 0
        # Set when this process dies, and then one of the next.
        self._death = asyncio.Event()
        # Whether one of its calls hangs in the middle already.
        self._hangs = False

    async def restart(self):
        """Do what kill -9 does: abort all calls, and drop all state that is not durable."""
        self._death.set()
        self._death = asyncio.Event()
        self._hangs = False
        match self._fault:
            case "keeps its barrier in memory":
                self._states.clear()
                self._tried.clear()
                self._results.clear()
            case "keeps its results in memory":
                self._results.clear()
            case "keeps its tombstones in memory":
                self._states = {key: state for key, state in self._states.items() if key in self._results}
            case "answers before it commits" if self._states:
                last = list(self._states)[-1]
                for kept in (self._states, self._tried, self._results, self._effects):
                    kept.pop(last, None)
            case "does not come back":
                self._death.set()

    async def observe(self, gid, branch_id):
        done = self._effects.get(self._key(gid, branch_id), [])
        reserved = done.count("try") - done.count("confirm") - done.count("cancel")
        return conformance.Effects(reserved=reserved, confirmed=done.count("confirm"))

    @asynccontextmanager
    async def break_confirm(self, gid, branch_id):
        self._broken.add(self._key(gid, branch_id))
        try:
            yield
        finally:
            self._broken.clear()

    def _key(self, gid, branch_id):
        match self._fault:
            case "keys by gid alone":
                return gid, ""
            case "ignores case":
                return gid.lower(), branch_id
            case "ignores spaces at the end":
                return gid.rstrip(), branch_id
            case "ignores accents":
                return gid.replace("\u00e9", "e"), branch_id
            case "cuts keys off":
                return gid[:127], branch_id
        return gid, branch_id

    async def answer(self, call, context, index=0):
        if self._death.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not running")
        outcome = await self._outcome(call, context)
        outcome.index = index
        return outcome

    async def _outcome(self, call, context):
        key, fault = self._key(call.gid, call.branch_id), self._fault
        state = self._states.get(key)
        if call.action != "reserve" and call.operation != CANCEL:
            return self._no("UNKNOWN_ACTION", unless="takes any action")
        if call.action != "reserve" and fault == "cannot cancel an unknown action":
            return self._no("UNKNOWN_ACTION")
        if fault == "decodes before it asks its barrier" and call.payload.startswith((b"\xff", b'{"a":{')):
            return self._no("INVALID_PAYLOAD")
        if state is not None and self._conflicts(call, key):
            if fault == "does what it refuses":
                self._do(key, common.Operation.Name(call.operation).removeprefix("OPERATION_").lower())
            return self._no("BRANCH_CONFLICT")
        is_late = call.expires_at_ms < time.time() * 1000
        if call.operation == TRY:
            if fault == "looks before it writes":
                await asyncio.sleep(0.02)
            return await self._try(call, context, key, state, is_late)
        if is_late and fault == "ends nothing past its expiry":
            return self._no("EXPIRED")
        if call.operation == CONFIRM:
            return await self._confirm(context, key, state)
        if state is None and fault == "stores a digest with its tombstones":
            self._tried[key] = self._asked(call)
        return self._cancel(key, state)

    def _asked(self, call):
        is_half = self._fault == "leaves the content type out of its digest"
        return call.payload, "" if is_half else call.content_type

    def _conflicts(self, call, key):
        if self._fault == "keeps no digest":
            return False
        if call.tried_by_initiator and self._fault == "takes a caller's word for its Try":
            return False
        return key in self._tried and self._tried[key] != self._asked(call)

    async def _confirm(self, context, key, state):
        fault = self._fault
        if state is None:
            return self._no("NOT_TRIED", unless="confirms what was never tried")
        if state == "cancelled":
            return self._no("ALREADY_CANCELLED", unless="confirms what is cancelled")
        if key in self._broken and fault != "swallows a broken constraint":
            return self._break(key)
        if state == "tried" or fault == "confirms twice":
            self._do(key, "confirm", unless="confirms without doing it")
            await self._hang(context, "confirms before it writes its row")
        self._states[key] = "confirmed"
        return common.CallResult(code=OK)

    def _break(self, key):
        match self._fault:
            case "confirms half of what is broken":
                self._do(key, "confirm")
            case "records what is broken as confirmed":
                self._states[key] = "confirmed"
            case "fails for good what was broken":
                self._states[key] = "cancelled"
        is_permanent = self._fault == "calls what is broken permanent"
        return common.CallResult(code=FAILED, reason="CHECK_VIOLATION", permanent=is_permanent)

    def _cancel(self, key, state):
        fault = self._fault
        if state is None and fault == "fails an empty cancel":
            return self._no("NOT_FOUND")
        if state is None and fault == "forgets its tombstone":
            return common.CallResult(code=OK)
        if state == "confirmed":
            return self._no("ALREADY_CONFIRMED", unless="cancels what is confirmed")
        if state == "tried" or (state == "cancelled" and fault == "cancels twice"):
            self._do(key, "cancel", unless="cancels without doing it")
        self._states[key] = "cancelled"
        return common.CallResult(code=OK)

    async def _try(self, call, context, key, state, is_late):
        fault = self._fault
        if state == "cancelled" and fault != "takes a late Try":
            return self._no("LATE_TRY")
        if state in {"tried", "confirmed"} and fault == "fails a duplicate Try":
            return self._no("DUPLICATE")
        if state in {"tried", "confirmed"} and fault == "forgets its result":
            return common.CallResult(code=OK)
        if state in {"tried", "confirmed"} and fault != "tries twice":
            return common.CallResult(code=OK, result=self._results.get(key, b""))
        if is_late and fault != "takes an expired Try":
            return self._no("EXPIRED")
        if call.attempt and fault == "takes a repeated Try for a known one":
            return common.CallResult(code=OK)
        return await self._first_try(call, context, key)

    async def _first_try(self, call, context, key):
        if call.payload == b"reject":
            if self._fault == "reserves what it rejects":
                self._do(key, "try")
            code = (
                common.OUTCOME_CODE_FAILED
                if self._fault == "fails instead of rejecting"
                else common.OUTCOME_CODE_REJECTED
            )
            reason = "" if self._fault == "rejects without a reason" else "SOLD_OUT"
            return common.CallResult(code=code, reason=reason)
        self._tries += 1
        if self._fault != "writes its row before it reserves":
            self._do(key, "try", unless="reserves nothing")
        await self._hang(context, "reserves before it writes its row")
        self._states[key] = "tried"
        if not call.tried_by_initiator or self._fault == "compares what the initiator tried":
            self._tried[key] = self._asked(call)
        self._results[key] = b"%d" % self._tries
        if self._fault == "writes its row before it reserves":
            await self._hang(context, self._fault)
            self._do(key, "try")
        return common.CallResult(code=OK, result=self._results[key])

    async def _hang(self, context, fault):
        """Gets no further with one call of this life, so that a kill finds it half-way."""
        if fault == self._fault and not self._hangs and self._is_old:
            self._hangs = True
            await self._death.wait()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut off")

    @property
    def _is_old(self):
        """Return whether the case that kills has made the calls that it aborts."""
        return any(branch_id.startswith("branch-0-") for _, branch_id in self._effects)

    def _do(self, key, operation, unless=""):
        if not unless or unless != self._fault:
            self._effects.setdefault(key, []).append(operation)

    def _no(self, reason, unless=""):
        if unless and unless == self._fault:
            return common.CallResult(code=OK)
        return common.CallResult(
            code=common.OUTCOME_CODE_FAILED, reason=reason, permanent=self._fault != "calls nothing permanent"
        )

    async def TryBranch(self, request, context):  # noqa: N802 - named by the contract
        return pb.TryBranchResponse(result=await self.answer(request.call, context))

    async def ConfirmBranch(self, request, context):  # noqa: N802 - named by the contract
        return pb.ConfirmBranchResponse(result=await self.answer(request.call, context))

    async def CancelBranch(self, request, context):  # noqa: N802 - named by the contract
        if self._fault == "answers with a status":
            await context.abort(grpc.StatusCode.INTERNAL, "oops")
        return pb.CancelBranchResponse(result=await self.answer(request.call, context))

    async def ExecuteBranches(self, request, context):  # noqa: N802 - named by the contract
        for index, call in enumerate(request.calls):
            if self._fault == "skips an item" and index == 1:
                continue
            if self._fault == "fails duplicates in a batch" and call.attempt and call.operation == TRY:
                yield pb.ExecuteBranchesResponse(results=[common.CallResult(index=index, code=FAILED)])
                continue
            place = 0 if self._fault == "mixes up its indexes" else index
            yield pb.ExecuteBranchesResponse(results=[await self.answer(call, context, place)])

    async def StreamBranches(self, requests, context):  # noqa: N802 - named by the contract
        if self._fault != "greets no stream":
            yield pb.StreamBranchesResponse(credit=9, replica_id="one")
        async for request in requests:
            for item in request.items:
                item_id = 0 if self._fault == "mixes up its ids" else item.id
                result = await self.answer(item.call, context)
                yield pb.StreamBranchesResponse(results=[pb.StreamBranchesResult(id=item_id, result=result)])
        if self._fault == "never ends a stream":
            await asyncio.Event().wait()


# What asks for the same answer, and what asks for effects, wherever a branch goes through it.
STREAMS = {"stream_of_calls", "stream_half_closed"}
TRIES = {"duplicate_try", "try_after_confirm", "concurrent_duplicates", "duplicates_in_a_batch"}
KILLED = {"killed_half_way"}
# What must be refused BRANCH_CONFLICT.
CONFLICTS = {"try_with_another_payload", "ended_with_another_payload", "undecodable_confirm"}
REFUSED = CONFLICTS | {"tried_by_coordinator"}
# What breaks where a simple Try, Confirm or Cancel does.
TRIED = CONFLICTS | {"tried_by_initiator", "broken_confirm"}
CANCELLED = {"ended_with_another_payload", "tried_by_initiator", "undecodable_cancel"}
# A fault, the cases that must detect it, and a part of their message.
FAULTS = {
    "": (set(), ""),
    "tries twice": (TRIES | KILLED, "store the result in the barrier's row"),
    "fails a duplicate Try": (TRIES | KILLED, "must succeed without running again"),
    "forgets its result": (TRIES | KILLED, "store the result in the barrier's row"),
    "confirms twice": (
        {"duplicate_confirm", "concurrent_duplicates", "duplicates_in_a_batch"} | KILLED,
        "record CONFIRMED in the transaction of the change",
    ),
    "cancels twice": (
        {"duplicate_cancel", "empty_cancel", "undecodable_cancel"} | KILLED,
        "record CANCELLED in the transaction of the change",
    ),
    "takes a late Try": (
        {"late_try", "try_after_cancel", "concurrent_try_and_cancel", "undecodable_cancel"} | KILLED,
        "must leave a tombstone row",
    ),
    "forgets its tombstone": ({"late_try", "undecodable_cancel"} | KILLED, "must leave a tombstone row"),
    "fails an empty cancel": (
        {"empty_cancel", "late_try", "rejected_try", "unknown_action", "ended_after_expiry", "branches_apart",
         "keys_apart", "undecodable_cancel"} | KILLED,
        "there is nothing to give back",
    ),
    "keeps no digest": (REFUSED, "store a digest of action, payload and content type"),
    "leaves the content type out of its digest": (
        {"try_with_another_payload", "ended_with_another_payload"}, "with another content type",
    ),
    "does what it refuses": (REFUSED, "refused BRANCH_CONFLICT must"),
    "compares what the initiator tried": ({"tried_by_initiator"}, "store no digest then"),
    "takes a caller's word for its Try": ({"tried_by_coordinator"}, "the row decides whether"),
    "stores a digest with its tombstones": ({"undecodable_cancel"}, "which only a Try stores"),
    "decodes before it asks its barrier": (
        {"undecodable_cancel", "undecodable_confirm"}, "check the barrier first",
    ),
    "swallows a broken constraint": ({"broken_confirm"}, "only when COMMIT has succeeded"),
    "calls what is broken permanent": ({"broken_confirm"}, "must not be called permanent"),
    "confirms half of what is broken": ({"broken_confirm"}, "roll its local transaction back"),
    "records what is broken as confirmed": ({"broken_confirm"}, "both are rolled back together"),
    "fails for good what was broken": ({"broken_confirm"}, "nothing is in its way any more"),
    "confirms what was never tried": (
        {"confirm_without_try", "mixed_batch", "branches_apart", "undecodable_confirm"},
        "would hide a lost reservation",
    ),
    "confirms what is cancelled": ({"confirm_after_cancel"}, "never hidden"),
    "cancels what is confirmed": ({"cancel_after_confirm"}, "never hidden"),
    "takes an expired Try": ({"expired_try", "mixed_batch"}, "its tombstone may have been purged"),
    "takes any action": ({"unknown_action", "mixed_batch"}, "UNKNOWN_ACTION"),
    "cannot cancel an unknown action": ({"unknown_action"}, "is an empty cancel and must succeed"),
    "reserves what it rejects": ({"rejected_try"}, "roll its local transaction back"),
    "fails instead of rejecting": ({"rejected_try"}, "it is not a failure"),
    "rejects without a reason": ({"rejected_try"}, "REJECTED with a reason"),
    "calls nothing permanent": (
        {"late_try", "try_after_cancel", "cancel_after_confirm", "confirm_after_cancel", "expired_try",
         "unknown_action", "concurrent_try_and_cancel", "undecodable_cancel"} | REFUSED | KILLED,
        "permanent",
    ),
    "skips an item": ({"mixed_batch", "duplicates_in_a_batch"}, "under the `index` of its place"),
    "mixes up its indexes": ({"mixed_batch", "duplicates_in_a_batch"}, "under the `index` of its place"),
    "greets no stream": (STREAMS, "within 0.5 s: at once when it is opened"),
    "mixes up its ids": ({"stream_of_calls"}, "under its `id`"),
    "never ends a stream": ({"stream_half_closed"}, "by its end after the half-close"),
    "fails duplicates in a batch": ({"duplicates_in_a_batch"}, "return the same result twice"),
    "answers with a status": (
        {"try_then_cancel", "rejected_try", "duplicate_cancel", "try_after_cancel", "empty_cancel",
         "late_try", "cancel_after_confirm", "confirm_after_cancel", "concurrent_try_and_cancel",
         "mixed_batch", "unknown_action", "first_try_lost", "ended_after_expiry", "branches_apart",
         "keys_apart", "tried_by_coordinator"} | CANCELLED | KILLED,
        "return a result with the status OK instead",
    ),
    "reserves nothing": (
        {"try_then_confirm", "try_then_cancel", "duplicate_try", "duplicate_confirm", "duplicate_cancel",
         "try_after_confirm", "try_after_cancel", "first_try_lost", "cancel_after_confirm",
         "confirm_after_cancel", "ended_after_expiry", "branches_apart", "keys_apart",
         "concurrent_duplicates", "concurrent_try_and_cancel", "mixed_batch",
         "duplicates_in_a_batch"} | TRIED | REFUSED | KILLED,
        "a Try must reserve, once",
    ),
    "confirms without doing it": (
        {"try_then_confirm", "duplicate_confirm", "try_after_confirm", "cancel_after_confirm",
         "ended_after_expiry", "branches_apart", "keys_apart", "concurrent_duplicates", "mixed_batch",
         "duplicates_in_a_batch"} | TRIED | KILLED,
        "into its final form, once",
    ),
    "cancels without doing it": (
        {"try_then_cancel", "duplicate_cancel", "try_after_cancel", "confirm_after_cancel",
         "ended_after_expiry", "concurrent_try_and_cancel", "mixed_batch", "ended_with_another_payload",
         "tried_by_initiator"} | KILLED,
        "a Cancel must give the reservation back",
    ),
    "takes a repeated Try for a known one": ({"first_try_lost"}, "earlier deliveries were lost"),
    "ends nothing past its expiry": ({"ended_after_expiry"}, "never what was decided"),
    "keys by gid alone": (
        {"branches_apart", "ended_after_expiry", "mixed_batch", "concurrent_try_and_cancel",
         "ended_with_another_payload", "tried_by_initiator", "undecodable_confirm"} | KILLED,
        "the barrier's key is (gid, branch_id)",
    ),
    "ignores case": ({"keys_apart"}, "differ only in case"),
    "ignores spaces at the end": ({"keys_apart"}, "differ only in a space at the end"),
    "ignores accents": ({"keys_apart"}, "differ only in an accent"),
    "cuts keys off": ({"keys_apart"}, "differ only in their last byte of 128"),
    "looks before it writes": (
        {"concurrent_duplicates", "concurrent_try_and_cancel"}, "let a unique key or a row lock",
    ),
    "keeps its barrier in memory": (KILLED, "not in memory"),
    "keeps its results in memory": (KILLED, "must return the first one's result"),
    "keeps its tombstones in memory": (KILLED, "tombstones too"),
    "answers before it commits": (KILLED, "committed before the response"),
    "reserves before it writes its row": (KILLED, "in ONE local transaction"),
    "writes its row before it reserves": (KILLED, "in ONE local transaction"),
    "confirms before it writes its row": (KILLED, "in ONE local transaction"),
    "does not come back": (KILLED, "does `restart` start it?"),
}  # fmt: skip


@asynccontextmanager
async def serving(servicer):
    server = grpc.aio.server()
    pb_grpc.add_ParticipantServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


# One call of these is never answered; the kit waits for it as long as for any.
HANGING = {
    "reserves before it writes its row",
    "writes its row before it reserves",
    "confirms before it writes its row",
}


# The short suite has a third of the others: all of them take as long as a hundred other tests.
QUICK = set(list(FAULTS)[::3]) - HANGING


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[] if fault in QUICK else [pytest.mark.slow]) for fault in FAULTS],
    ids=lambda fault: fault or "no fault",
)
async def test_every_fault_is_caught_and_named(fault, monkeypatch):
    if "stream" in fault:
        monkeypatch.setattr(conformance_streams, "TIMEOUT_S", 0.5)
    servicer = Careless(fault)
    async with serving(servicer) as address:
        report = await conformance.run(
            address,
            action="reserve",
            payload=b"one",
            rejected_payload=b"reject",
            observe=servicer.observe,
            break_confirm=servicer.break_confirm,
            restart=servicer.restart,
            restart_timeout_s=0.5 if fault == "does not come back" else 60,
        )

    wanted, words = FAULTS[fault]
    failed = {result.case for result in report.results if result.failure}
    # What races may or may not meet the fault.
    racy = {"concurrent_try_and_cancel"}
    if fault == "takes a repeated Try for a known one":
        # It answers otherwise if a repetition overtakes the first Try.
        racy |= {"concurrent_duplicates"}
    assert failed - racy == wanted - racy, str(report)
    assert report.ok is not bool(fault)
    assert words in str(report)
    assert all(len(result.failure) > 40 for result in report.results if result.failure)


@pytest.mark.parametrize("case", conformance.CASES, ids=str)
async def test_one_test_per_case(sqlite, call_participant, case):
    await call_participant(participant := make_participant(sqlite[0]))

    skipped = await conformance.check(
        f"127.0.0.1:{participant.port}", case, action="single", payload=b"{}", batched=False
    )

    unknown = {"rejected_try", "broken_confirm", "mixed_batch", "duplicates_in_a_batch", "killed_half_way"}
    assert bool(skipped) == (case.name in unknown | OF_KINDS)


async def test_single_case_raises_what_to_fix():
    async with serving(Careless("forgets its tombstone")) as address:
        with pytest.raises(conformance.ConformanceError, match="leave a tombstone"):
            await conformance.check(address, case("late_try"), action="reserve", payload=b"one")


@pytest.mark.parametrize(
    ("command", "words"),
    [("exit 0", ""), ("echo no such container >&2; exit 3", "ended with 3: no such container")],
)
async def test_service_may_be_restarted_by_a_command(command, words):
    async with serving(Careless()) as address:
        killed = conformance.check(
            address,
            case("killed_half_way"),
            action="reserve",
            payload=b"one",
            restart=("sh", "-c", command),
        )
        if not words:
            assert await killed == ""
            return
        with pytest.raises(conformance.ConformanceError, match=words):
            await killed


async def test_branches_get_payloads_of_their_own_and_keep_them():
    payloads: dict[tuple[str, str], set[bytes]] = {}

    class Recording(Careless):
        async def _outcome(self, call, context):
            payloads.setdefault((call.gid, call.branch_id), set()).add(call.payload)
            return await super()._outcome(call, context)

    numbers = count()
    async with serving(Recording()) as address:
        for case in conformance.CASES:
            if case.name not in REFUSED | {"tried_by_initiator", "undecodable_cancel"}:
                await conformance.check(
                    address, case, action="reserve", payload=lambda: b"%d" % next(numbers)
                )

    assert all(len(each) == 1 for each in payloads.values())
    assert len(set().union(*payloads.values())) == len(payloads) > len(conformance.CASES)


@pytest.mark.parametrize(
    ("given", "another"),
    [
        ({"payload": b"{}"}, b"{} "),
        ({"payload": b"{}", "content_type": "application/json; charset=utf-8"}, b"{} "),
        ({"payload": lambda: b"{}"}, b"{} "),
        ({"payload": b"{}", "other_payload": b"[]"}, b"[]"),
        ({"payload": iter((b"first", b"second")).__next__}, b"second"),
        ({"payload": b"\x08\x01", "content_type": "application/x-protobuf"}, None),
        ({"payload": b"\x08\x01", "content_type": "", "other_payload": b"\x08\x02"}, b"\x08\x02"),
    ],
)
async def test_another_payload_is_given_or_made(given, another):
    sent = []

    class Recording(Careless):
        async def _outcome(self, call, context):
            sent.append(call.payload)
            return await super()._outcome(call, context)

    async with serving(Recording()) as address:
        skipped = await conformance.check(
            address, case("try_with_another_payload"), action="reserve", **given
        )

    assert ("give `other_payload`" in skipped) == (another is None)
    assert not sent if another is None else sent[1] == another


async def test_content_type_of_a_repeated_try_may_be_refused_before_the_barrier():
    class Strict(Careless):
        async def _outcome(self, call, context):
            if call.operation == TRY and call.content_type != "application/json":
                return self._no("INVALID_PAYLOAD")
            return await super()._outcome(call, context)

    async with serving(Strict()) as address:
        assert (
            await conformance.check(
                address, case("try_with_another_payload"), action="reserve", payload=b"one"
            )
            == ""
        )


async def test_same_meaning_in_other_bytes_is_known_only_of_json():
    async with serving(Careless()) as address:
        skipped = await conformance.check(
            address, case("tried_by_initiator"), action="reserve", payload=b"one", content_type="text/plain"
        )

    assert "only JSON" in skipped


async def test_break_that_breaks_nothing_is_named():
    async with serving(Careless()) as address:
        with pytest.raises(conformance.ConformanceError, match="does `break_confirm` break nothing"):
            await conformance.check(
                address,
                case("broken_confirm"),
                action="reserve",
                payload=b"one",
                break_confirm=lambda gid, branch_id: nullcontext(),
            )


def case(name):
    [found] = [case for case in conformance.CASES if case.name == name]
    return found


def test_report_has_one_line_per_case():
    report = conformance.Report(
        results=[
            conformance.Result(case="a"),
            conformance.Result(case="b", failure="fix it"),
            dataclasses.replace(conformance.Result(case="c"), skipped="no payload"),
        ]
    )
    assert str(report) == "passed   a\nFAILED   b: fix it\nskipped  c: no payload"
    assert not report.ok
