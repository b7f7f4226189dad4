"""Requests of initiators as messages of the contract. Pure functions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tcc import payload as payloads
from tcc._internal.uuid7 import uuid7
from tcc.branch import LOCAL_ACTION
from tcc.client import arguments
from tcc.client.outcome import WaitFor, wait_for_number
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb

#: What is called on a branch, and when: "tcc" (Try, then Confirm or Cancel), "saga" (Try does the work;
#: Cancel compensates) or "message" (Confirm alone, after the decision).
Kind: TypeAlias = Literal["tcc", "saga", "message"]
#: The kinds that have a Try.
TriedKind: TypeAlias = Literal["tcc", "saga"]

_KINDS = {
    "tcc": common.BRANCH_KIND_TCC,
    "saga": common.BRANCH_KIND_SAGA,
    "message": common.BRANCH_KIND_MESSAGE,
}
_BRANCH_FORM = 'tcc.BranchRequest("inventory", "reserve_stock", payload)'


@dataclass(frozen=True, slots=True)
class BranchRequest:
    """A branch to be added to a transaction.

    Args:
        participant: The participant's name in the coordinator's configuration, not an address.
        action: The name of the participant's action.
        payload: The argument of all its calls: a protobuf message, a pydantic model,
            a msgspec Struct, a dataclass, a dict or list (JSON), bytes (unchanged) or None. Equal
            payloads are sent as equal bytes (see tcc.payload).
        branch_id: The branch's id, unique within the transaction. By default the participant's
            name, `name-2` for its second branch, and so on in the order of the branches.
        stage: The Trys of stage n+1 are called only after every Try of stage n has succeeded. A
            message has none.
        kind: "tcc", "saga" or "message", as the participant has declared the action (docs/CHOOSING.md).
        not_before: For a message: the time before which it is not delivered, with a time zone. It is
            part of the transaction's content: a repeated request must have the same.
    """

    participant: str
    action: str
    payload: object = None
    branch_id: str = field(default="", kw_only=True)
    stage: int = field(default=0, kw_only=True)
    kind: Kind = field(default="tcc", kw_only=True)
    not_before: datetime | None = field(default=None, kw_only=True)


class BranchIds:
    """Chooses the ids of branches without one. The same order of branches gives the same ids."""

    def __init__(self, taken: Iterable[str] = (), *, prefix: str = "") -> None:
        self._taken = set(taken)
        self._prefix = prefix

    def choose(self, participant: str, branch_id: str = "") -> str:
        """Return `branch_id` if given, otherwise the participant's name, numbered from its second branch."""
        chosen = branch_id or self._prefix + participant
        number = 1
        while not branch_id and chosen in self._taken:
            number += 1
            chosen = f"{self._prefix}{participant}-{number}"
        self._taken.add(chosen)
        return chosen


def execute_request(
    branches: Iterable[BranchRequest],
    *,
    gid: str | None,
    expiry_s: float | None,
    labels: Mapping[str, str] | None,
    wait_for: WaitFor,
    initiator: str,
    codec: payloads.PayloadCodec | None = None,
) -> pb.ExecuteTransactionRequest:
    """Return the request for a whole transaction.

    Raises TypeError or ValueError for what cannot be sent.
    """
    listed = arguments.items("branches", branches, BranchRequest, _BRANCH_FORM)
    ids = BranchIds([_branch_id(branch.branch_id) for branch in listed if branch.branch_id])
    request = pb.ExecuteTransactionRequest(
        gid=uuid7() if gid is None else arguments.gid(gid),
        expiry=duration(expiry_s),
        labels=arguments.labels(labels),
        wait_for=wait_for_number(wait_for),
        initiator=initiator,
    )
    for branch in listed:
        branch_spec(
            branch.participant,
            branch.action,
            branch.payload,
            branch.branch_id,
            branch.stage,
            kind=branch.kind,
            not_before=branch.not_before,
            ids=ids,
            make=request.branches.add,
            gid=request.gid,
            codec=codec,
        )
    return request


def branch_spec(
    participant: str,
    action: str,
    payload: object,
    branch_id: str,
    stage: int = 0,
    *,
    kind: Kind = "tcc",
    not_before: datetime | None = None,
    ids: BranchIds,
    make: Callable[..., common.BranchSpec] = common.BranchSpec,
    gid: str = "",
    codec: payloads.PayloadCodec | None = None,
) -> common.BranchSpec:
    """Return a branch. `make` may create it inside a request, which saves a copy.

    Raises TypeError or ValueError for a field that cannot be sent. Then `ids` has chosen no id.
    """
    if not arguments.text("participant", participant, _BRANCH_FORM):
        # The coordinator would only find that there is no id, which is made of the name.
        raise ValueError(f"participant is empty; give its name, as in {_BRANCH_FORM}")
    arguments.text("action", action, _BRANCH_FORM)
    _branch_id(branch_id)
    arguments.whole_number("stage", stage, least=0)
    if kind != "tcc" or not_before is not None:
        _check_kind(kind, stage, not_before)
    if action == LOCAL_ACTION:
        raise ValueError(
            f"the action {LOCAL_ACTION!r} is an initiator's own branch, which is checked back; "
            "write: async with tx.local(participant) as db"
        )
    encoded = payloads.encode(payload)
    chosen = ids.choose(participant, branch_id)
    if codec is not None:
        encoded = codec.seal(encoded, payloads.payload_place(gid, chosen, participant, action))
    spec = make(
        branch_id=chosen,
        participant=participant,
        action=action,
        payload=encoded.data,
        content_type=encoded.content_type,
        stage=stage,
    )
    if kind != "tcc":
        spec.kind = _KINDS[kind]
    if not_before is not None:
        spec.not_before.FromDatetime(not_before.astimezone(UTC))
    return spec


def _check_kind(kind: object, stage: int, not_before: datetime | None) -> None:
    arguments.one_of("kind", kind, tuple(_KINDS))
    if kind == "message":
        arguments.moment("not_before", not_before)
        if stage:
            raise ValueError("a message has no stage: it is delivered after the decision; leave stage out")
    elif not_before is not None:
        raise ValueError('only a message has not_before: give kind="message", or leave not_before out')


def tried_kind(kind: object) -> None:
    """Check the kind of a branch with a Try. Raises ValueError."""
    if kind == "message":
        raise ValueError('a message has no Try; write: tx.message("mail", "send_receipt", payload)')
    arguments.one_of("kind", kind, ("tcc", "saga"))


def _branch_id(value: object) -> str:
    return arguments.text("branch_id", value, 'branch_id="stock"')


def duration(expiry_s: float | None) -> Duration | None:
    if arguments.optional_seconds("expiry_s", expiry_s) is None:
        return None
    assert expiry_s is not None
    message = Duration()
    message.FromNanoseconds(round(expiry_s * 1e9))
    return message


def timestamp(name: str, moment: datetime | None) -> Timestamp | None:
    """Return the point in time of an argument as a Timestamp."""
    if arguments.moment(name, moment) is None:
        return None
    assert moment is not None
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC))
    return message
