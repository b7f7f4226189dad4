"""What an initiator asks for, as messages of the contract. Pure functions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tcc import payload as payloads
from tcc._internal.uuid7 import uuid7
from tcc.client.outcome import WaitFor, wait_for_number
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb


@dataclass(frozen=True, slots=True)
class BranchRequest:
    """One participant's share of a transaction, as the initiator describes it.

    - `participant`: the name that the coordinator's configuration knows, never an address.
    - `action`: which of the participant's actions to call.
    - `payload`: the argument of Try, Confirm and Cancel: a protobuf message, a pydantic model,
      a msgspec Struct, a dataclass, a dict or list (JSON), bytes as they are, or None. Equal
      payloads travel as equal bytes (see tcc.payload).
    - `branch_id`: unique within the transaction. By default the participant's name, for its
      second branch `name-2`, and so on in the order of the branches.
    - `stage`: stage n+1 is tried only after every Try of stage n succeeded.
    """

    participant: str
    action: str
    payload: object = None
    branch_id: str = field(default="", kw_only=True)
    stage: int = field(default=0, kw_only=True)


class BranchIds:
    """Names the branches of one transaction that were given no id, the same way each time."""

    def __init__(self, taken: Iterable[str] = (), *, prefix: str = "") -> None:
        self._taken = set(taken)
        self._prefix = prefix

    def choose(self, participant: str, branch_id: str = "") -> str:
        """`branch_id` if there is one; else the participant's name, numbered from its second branch."""
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
    gid: str,
    expiry_s: float | None,
    labels: Mapping[str, str] | None,
    wait_for: WaitFor,
    initiator: str,
) -> pb.ExecuteTransactionRequest:
    """Return a whole transaction.

    Raises TypeError for a payload that cannot be encoded, ValueError for `wait_for`.
    """
    branches = list(branches)
    ids = BranchIds([branch.branch_id for branch in branches if branch.branch_id])
    request = pb.ExecuteTransactionRequest(
        gid=gid or uuid7(),
        expiry=duration(expiry_s),
        labels=labels,
        wait_for=wait_for_number(wait_for),
        initiator=initiator,
    )
    for branch in branches:
        branch_spec(
            branch.participant,
            branch.action,
            branch.payload,
            ids.choose(branch.participant, branch.branch_id),
            branch.stage,
            make=request.branches.add,
        )
    return request


def branch_spec(
    participant: str,
    action: str,
    payload: object,
    branch_id: str,
    stage: int = 0,
    *,
    make: Callable[..., common.BranchSpec] = common.BranchSpec,
) -> common.BranchSpec:
    """One branch. `make` may add it to a request in place, which saves a copy."""
    data, content_type = payloads.encode(payload)
    return make(
        branch_id=branch_id,
        participant=participant,
        action=action,
        payload=data,
        content_type=content_type,
        stage=stage,
    )


def duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Return a moment with a time zone. Raises ValueError for one without: it would be ambiguous."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError("a moment needs a time zone")
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC))
    return message
