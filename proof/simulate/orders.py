"""The initiators: what they want of the coordinators, and how they ask until they know.

Each order is made beforehand, from the seed. An initiator that dies and comes back
asks for its unfinished orders again, with the same gids and contents, as a service
does that has written them down.
"""

import asyncio
import random
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

import grpc
from msgspec import Struct
from sqlalchemy.exc import OperationalError

from proof.history.events import ReplyOutcome, Verb
from proof.simulate.business import ACTIONS, note_local_change
from proof.simulate.moments import EPOCH_S
from proof.simulate.observer import Observer
from proof.simulate.participant_database import ParticipantDatabase
from tcc import errors, payload
from tcc.client.client import Client
from tcc.client.interactive import InteractiveTransaction
from tcc.client.outcome import Outcome as TccOutcome, TransactionState, WaitFor
from tcc.client.requests import BranchRequest, Kind, TriedKind
from tcc.common.v1 import common_pb2 as common
from tcc.participant.participant import Participant
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc

_CONFIRMED = (TransactionState.CONFIRMING, TransactionState.CONFIRMED)
_CANCELLED = (TransactionState.CANCELLING, TransactionState.CANCELLED)
_ENDED = (TransactionState.CONFIRMED, TransactionState.CANCELLED)


LOCAL_BRANCH = "local"
KINDS: tuple[Kind, ...] = ("tcc", "tcc", "saga", "message")


class Shape(Enum):
    """How an order is asked for."""

    WHOLE = auto()
    STEPS = auto()
    # Step by step, and decided by the initiator's own database.
    LOCAL = auto()
    # Begun step by step and then forgotten: its expiry ends it.
    FORGOTTEN = auto()
    # Requested whole, and cancelled in the meantime by another caller.
    CANCELLED = auto()


class Order(Struct, kw_only=True):
    """One transaction that an initiator wants. `rival`: another content for the same gid."""

    gid: str
    shape: Shape
    at: float
    branches: list[BranchRequest]
    rival: list[BranchRequest]
    expiry_s: float
    wait_for: WaitFor
    timeout_s: float
    # How many ask for it at the same time.
    waiters: int
    # Step by step only: the initiator calls the Trys of these branches itself.
    own_tries: list[str]
    # LOCAL only: the participant whose database is the initiator's own.
    local: str = ""
    done: bool = False


def make_orders(
    rng: random.Random, participants: list[str], accounts: list[str], *, until_s: float
) -> list[Order]:
    """Return the requests of one initiator, in order of time."""
    count = rng.randint(4, 16)
    return sorted(
        (_order(rng, number, participants, accounts, until_s) for number in range(count)), key=lambda o: o.at
    )


def _order(
    rng: random.Random, number: int, participants: list[str], accounts: list[str], until_s: float
) -> Order:
    shape = rng.choices(list(Shape), (10, 4, 3, 1, 1))[0]
    branches = _branches(rng, participants, accounts)
    has_rival = rng.random() < 0.1 and shape is not Shape.LOCAL
    rival = _branches(rng, participants, accounts) if has_rival else []
    # Step by step, a Confirm vouches for what others have registered: only one of the two may come to it.
    if shape is not Shape.WHOLE and any(each and each[0].kind == "message" for each in (branches, rival)):
        rival = []
    return Order(
        gid=f"{number}",
        shape=shape,
        at=rng.choice((rng.uniform(0.0, until_s), rng.uniform(0.0, 2.0))),
        branches=branches,
        rival=rival,
        expiry_s=rng.choice((2.0, 5.0, 15.0, 30.0)),
        wait_for=rng.choice(("decision", "decision", "completion", "accepted")),
        timeout_s=rng.choice((0.5, 3.0, 10.0, 30.0)),
        waiters=rng.choices((1, 2, 3), (8, 2, 1))[0],
        local=rng.choice(participants) if shape is Shape.LOCAL else "",
        own_tries=[b.branch_id for b in branches if b.kind != "message" and rng.random() < 0.3],
    )


def _branches(rng: random.Random, participants: list[str], accounts: list[str]) -> list[BranchRequest]:
    staged = rng.random() < 0.3
    # Mixed, or of one kind alone.
    kinds = rng.choice((KINDS, KINDS, KINDS, ("tcc",), ("saga",), ("message",)))
    return [
        _branch(rng, number, rng.choice(kinds), participants, accounts, staged=staged)
        for number in range(rng.randint(1, 3))
    ]


def _branch(
    rng: random.Random,
    number: int,
    kind: Kind,
    participants: list[str],
    accounts: list[str],
    *,
    staged: bool,
) -> BranchRequest:
    late = kind == "message" and rng.random() < 0.3
    return BranchRequest(
        participant=rng.choice(participants),
        action=ACTIONS[kind],
        payload={"account": rng.choice(accounts), "quantity": rng.randint(1, 3)},
        # A message has an id of its own: what a Confirm brings is not in the checker's books of branches.
        branch_id=f"{'m' if kind == 'message' else 'b'}{number}",
        stage=rng.randint(0, 2) if staged and kind != "message" else 0,
        kind=kind,
        not_before=datetime.fromtimestamp(EPOCH_S + rng.uniform(0.0, 60.0), UTC) if late else None,
    )


class Initiator:
    """A service that places orders through the SDK's client. One life of it."""

    def __init__(
        self,
        name: str,
        orders: list[Order],
        observer: Observer,
        rng: random.Random,
        databases: Mapping[str, ParticipantDatabase],
        *,
        tenant: str,
    ) -> None:
        """`databases`: those of the participants, by name."""
        self._databases = databases
        self._name = name
        self._tenant = tenant
        self._orders = orders
        self._observer = observer
        self._rng = rng
        self._client = Client("dns:///coordinators", initiator=name)

    async def run(self) -> None:
        """Place every order that is not done, each at its time, until each outcome is known."""
        async with asyncio.TaskGroup() as tasks:
            for order in self._orders:
                if not order.done:
                    tasks.create_task(self._place(order))

    async def _place(self, order: Order) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, order.at - loop.time()))
        async with asyncio.TaskGroup() as waiters:
            for number in range(order.waiters):
                waiters.create_task(self._ask(order, order.branches, number))
            if order.rival:
                waiters.create_task(self._ask(order, order.rival, 0))
            if order.shape is Shape.CANCELLED:
                waiters.create_task(self._cancel(order))
        order.done = True

    async def _ask(self, order: Order, branches: list[BranchRequest], number: int) -> None:
        """Repeat the request until its outcome is known."""
        while True:
            if order.shape in (Shape.STEPS, Shape.LOCAL) and number == 0:
                known = await self._steps(order, branches)
            elif order.shape in (Shape.STEPS, Shape.LOCAL, Shape.FORGOTTEN):
                known = await self._begin_and_forget(order, branches)
            else:
                known = await self._execute(order, branches)
            if known:
                return
            await asyncio.sleep(self._rng.uniform(0.05, 2.0))

    async def _execute(self, order: Order, branches: list[BranchRequest]) -> bool:
        async def ask() -> TccOutcome:
            return await self._client.execute(
                branches,
                gid=order.gid,
                expiry_s=order.expiry_s,
                wait_for=order.wait_for,
                timeout_s=order.timeout_s,
                raise_on_cancel=False,
            )

        branch_ids = tuple([branch.branch_id for branch in branches])
        digest = _digest(branches, "whole")
        return await self._told(Verb.EXECUTE, order.gid, ask, digest=digest, branch_ids=branch_ids)

    async def _cancel(self, order: Order) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        await self._told(Verb.CANCEL, order.gid, lambda: self._client.cancel(order.gid, timeout_s=5.0))

    async def _begin_and_forget(self, order: Order, branches: list[BranchRequest]) -> bool:
        tx = self._transaction(order)
        if not await self._begin(tx):
            return False
        if branches[0].kind != "message":
            await self._try(tx, branches[0])
        return await self._wait(order)

    async def _steps(self, order: Order, branches: list[BranchRequest]) -> bool:
        tx = self._transaction(order)
        if not await self._begin(tx):
            return False
        for branch in branches:
            if branch.kind == "message":
                tx.message(
                    branch.participant,
                    branch.action,
                    branch.payload,
                    branch_id=branch.branch_id,
                    not_before=branch.not_before,
                )
                continue
            by_itself = branch.branch_id in order.own_tries
            if not await (self._try_directly(tx, branch) if by_itself else self._try(tx, branch)):
                break
            await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.5)))
        else:
            if not order.local or await self._change_locally(order, tx):
                return await self._told(Verb.CONFIRM, order.gid, tx.confirm, branch_ids=_messages(branches))
        if self._rng.random() < 0.5:
            return await self._told(Verb.CANCEL, order.gid, tx.cancel)
        return await self._wait(order)

    async def _change_locally(self, order: Order, tx: InteractiveTransaction) -> bool:
        """Commit the change in the initiator's own database. Return whether it is committed."""
        own = Participant(order.local, database=self._databases[order.local])  # type: ignore[arg-type] # `seams` opens it
        digest = f"local {_digest(order.branches, 'first')}"
        name = self._observer.asked(
            self._name,
            Verb.REGISTER_BRANCH,
            tx.gid,
            tenant=self._tenant,
            branch_id=LOCAL_BRANCH,
            branch_ids=_messages(order.branches),
            digest=digest,
        )
        outcome, reason, committed = ReplyOutcome.ACCEPTED, "", True
        try:
            async with tx.local(own, branch_id=LOCAL_BRANCH) as db:
                await note_local_change(tx.gid, LOCAL_BRANCH, db)
                await asyncio.sleep(self._rng.choice((0.0, 0.0, 1.0)))
        except errors.LocalAlreadyCommitted:
            pass  # in an earlier life
        except (errors.LocalCommitUnknown, OperationalError):
            outcome, committed = ReplyOutcome.UNKNOWN, False
        except errors.TccError as error:
            (outcome, reason), committed = _outcome_of_error(error), False
        self._observer.told(name, tx.gid, outcome, reason=reason)
        return committed

    def _transaction(self, order: Order) -> InteractiveTransaction:
        return self._client.transaction(
            gid=order.gid, expiry_s=order.expiry_s, wait_for=order.wait_for, timeout_s=order.timeout_s
        )

    async def _begin(self, tx: InteractiveTransaction) -> bool:
        return await self._told(Verb.BEGIN, tx.gid, tx.begin, digest="steps")

    async def _try(self, tx: InteractiveTransaction, branch: BranchRequest) -> bool:
        """Return whether the branch is tried; if not, the state of the transaction is unknown."""
        name = self._observer.asked(
            self._name,
            Verb.TRY_BRANCH,
            tx.gid,
            tenant=self._tenant,
            branch_id=branch.branch_id,
            digest=_step_digest(branch),
        )
        try:
            await tx.try_(
                branch.participant,
                branch.action,
                branch.payload,
                branch_id=branch.branch_id,
                kind=_tried_kind(branch),
            )
        except errors.TccError as error:
            outcome, reason = _outcome_of_error(error)
            self._observer.told(name, tx.gid, outcome, reason=reason)
            return False
        self._observer.told(name, tx.gid, ReplyOutcome.TRIED)
        return True

    async def _try_directly(self, tx: InteractiveTransaction, branch: BranchRequest) -> bool:
        """Registers the branch, then calls its participant."""

        expires_at_ms: list[int] = []

        async def register() -> None:
            context = await tx.register(
                branch.participant,
                branch.action,
                branch.payload,
                branch_id=branch.branch_id,
                kind=_tried_kind(branch),
            )
            expires_at_ms.append(context.expires_at_ms)

        digest = f"registered {_step_digest(branch)}"
        await self._told(Verb.REGISTER_BRANCH, tx.gid, register, branch_id=branch.branch_id, digest=digest)
        if not expires_at_ms:
            return False
        data, content_type = payload.encode(branch.payload)
        call = pb.BranchCall(
            gid=tx.gid,
            branch_id=branch.branch_id,
            operation=common.OPERATION_TRY,
            action=branch.action,
            payload=data,
            content_type=content_type,
            expires_at_ms=expires_at_ms[0],
            kind=common.BRANCH_KIND_SAGA if branch.kind == "saga" else common.BRANCH_KIND_TCC,
        )
        stub = pb_grpc.ParticipantServiceStub(grpc.aio.insecure_channel(f"{branch.participant}:1"))
        try:
            reply = await stub.TryBranch(pb.TryBranchRequest(call=call), timeout=2.0)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.result.code == common.OUTCOME_CODE_SUCCEEDED)

    async def _wait(self, order: Order) -> bool:
        return await self._told(
            Verb.WAIT,
            order.gid,
            lambda: self._client.wait(order.gid, wait_for=order.wait_for, timeout_s=order.timeout_s),
        )

    async def _told(
        self,
        verb: Verb,
        gid: str,
        ask: Any,
        *,
        branch_id: str = "",
        branch_ids: tuple[str, ...] = (),
        digest: str = "",
    ) -> bool:
        """Make one request, and record it. Return whether its outcome is known."""
        name = self._observer.asked(
            self._name,
            verb,
            gid,
            tenant=self._tenant,
            branch_id=branch_id,
            branch_ids=branch_ids,
            digest=digest,
        )
        try:
            answer: TccOutcome | None = await ask()
        except errors.TccError as error:
            outcome, reason = _outcome_of_error(error)
            self._observer.told(name, gid, outcome, reason=reason)
            return outcome is not ReplyOutcome.UNKNOWN
        state = answer.state if answer is not None else TransactionState.TRYING
        outcome = (
            ReplyOutcome.CONFIRMED
            if state in _CONFIRMED
            else ReplyOutcome.CANCELLED
            if state in _CANCELLED
            else ReplyOutcome.ACCEPTED
        )
        self._observer.told(name, gid, outcome, completed=state in _ENDED)
        return True


def _messages(branches: Iterable[BranchRequest]) -> tuple[str, ...]:
    """Return the branches that join with the decision."""
    return tuple([branch.branch_id for branch in branches if branch.kind == "message"])


def _digest(branches: list[BranchRequest], how: str) -> str:
    return f"{how} " + " ".join(f"{b.stage}:{_step_digest(b)}:{b.not_before}" for b in branches)


def _step_digest(branch: BranchRequest) -> str:
    """A single step has no stage."""
    return f"step {branch.branch_id}:{branch.kind}:{branch.participant}:{branch.payload}"


def _tried_kind(branch: BranchRequest) -> TriedKind:
    return "saga" if branch.kind == "saga" else "tcc"


def _outcome_of_error(error: errors.TccError) -> tuple[ReplyOutcome, str]:
    """Return what an initiator knows after an error. Raise what shows a bug of the coordinator."""
    match error:
        case errors.TransactionCancelled():
            return ReplyOutcome.CANCELLED, error.reason
        case errors.InternalError():
            raise error
        case errors.Unavailable() | errors.DeadlineExceeded() | errors.ResourceExhausted():
            return ReplyOutcome.UNKNOWN, error.reason
        case _:
            return ReplyOutcome.REFUSED, error.reason
