"""What initiators ask for, checked and turned into the core's values."""

import base64
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import MsgspecError, Struct, msgpack

from coordinator.core.errors import InvalidRequest, TooManyBranches, TransactionTooLarge
from coordinator.core.model import Branch, BranchSpec, TraceContext, Transaction, TransactionState
from coordinator.engine.waiting import Milestone
from coordinator.ports.log import ListFilter, ListPosition
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb

ID_BYTES_MAX = 128
REASON_CHARACTERS_MAX = 1_000
# By how much of the caller's time, and by how much at most, an expiry that follows from
# the deadline of the call comes before it.
EXPIRY_MARGIN = 0.2
EXPIRY_MARGIN_MAX_S = 0.5
PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1_000
# The longest of ours has 212, and none is nested.
PAGE_TOKEN_CHARACTERS_MAX = 400
# The end of the year 9999, the last that our values can hold.
TIME_MAX_S = 253_402_300_799

_MILESTONES: dict[int, Milestone] = {
    pb.WAIT_FOR_UNSPECIFIED: Milestone.DECIDED,
    pb.WAIT_FOR_DECISION: Milestone.DECIDED,
    pb.WAIT_FOR_COMPLETION: Milestone.COMPLETED,
    pb.WAIT_FOR_ACCEPTED: Milestone.ACCEPTED,
}
_STATES = {state.value: state for state in TransactionState}


class RequestLimits(Struct, frozen=True, kw_only=True):
    """How much one request may ask for."""

    branches_max: int = 64
    payload_bytes_max: int = 256 * 1024
    transaction_bytes_max: int = 1024 * 1024
    stage_max: int = 15
    labels_max: int = 16
    label_bytes_max: int = 256
    batch_max: int = 1_024
    # How long a call without a deadline may take.
    call_max_s: float = 300.0
    expiry_default_s: float = 30.0
    expiry_min_s: float = 0.05
    expiry_max_s: float = 3_600.0


def milestone_of(wait_for: int) -> Milestone:
    """Return what a request waits for.

    Raises:
        InvalidRequest
    """
    milestone = _MILESTONES.get(wait_for)
    if milestone is None:
        raise InvalidRequest("INVALID_WAIT_FOR", f"wait_for {wait_for} is not known")
    return milestone


def state_of(number: int) -> TransactionState:
    """Return the state that a filter names.

    Raises:
        InvalidRequest
    """
    state = _STATES.get(number)
    if state is None:
        raise InvalidRequest("INVALID_STATE", f"state {number} is not known")
    return state


def checked_gid(gid: str) -> str:
    """Return a gid that may be looked up.

    Raises:
        InvalidRequest
    """
    return _checked_id("GID", "gid", gid)


def new_transaction(
    request: pb.ExecuteTransactionRequest,
    *,
    gid: str,
    now: float,
    time_left_s: float | None,
    limits: RequestLimits,
    cancel_in_stage_order: frozenset[str],
    trace: TraceContext | None = None,
) -> Transaction:
    """Return a whole transaction, as an initiator asked for it.

    `gid` stands where the request has none; `time_left_s` is what the caller's
    deadline leaves, and bounds an expiry that the request does not set;
    `cancel_in_stage_order` names the participants that ask for that; `trace` is
    what `trace_contexts` has found.

    Raises:
        InvalidRequest, TooManyBranches, TransactionTooLarge
    """
    if not request.branches:
        raise InvalidRequest("NO_BRANCHES", "a transaction needs at least one branch")
    if len(request.branches) > limits.branches_max:
        raise TooManyBranches(f"at most {limits.branches_max} branches")
    specs = [branch_spec(branch, limits, cancel_in_stage_order) for branch in request.branches]
    if len({spec.branch_id for spec in specs}) < len(specs):
        raise InvalidRequest("DUPLICATE_BRANCH_ID", "branch ids must differ within a transaction")
    if sum(len(spec.payload) for spec in specs) > limits.transaction_bytes_max:
        raise TransactionTooLarge(
            f"payloads of a transaction may hold at most {limits.transaction_bytes_max} bytes"
        )
    return _transaction(
        request,
        specs,
        gid=gid,
        now=now,
        time_left_s=time_left_s,
        limits=limits,
        interactive=False,
        trace=trace,
    )


def new_interactive(
    request: pb.BeginTransactionRequest,
    *,
    gid: str,
    now: float,
    limits: RequestLimits,
    trace: TraceContext | None = None,
) -> Transaction:
    """Return an interactive transaction without branches yet.

    Raises:
        InvalidRequest
    """
    return _transaction(
        request, [], gid=gid, now=now, time_left_s=None, limits=limits, interactive=True, trace=trace
    )


def branch_spec(
    branch: common.BranchSpec,
    limits: RequestLimits,
    cancel_in_stage_order: frozenset[str],
    *,
    interactive: bool = False,
    tried_by_initiator: bool = False,
) -> BranchSpec:
    """One branch, as an initiator described it.

    Raises:
        InvalidRequest
    """
    payload = branch.payload
    if len(payload) > limits.payload_bytes_max:
        raise InvalidRequest(
            "PAYLOAD_TOO_LARGE", f"a payload may hold at most {limits.payload_bytes_max} bytes"
        )
    stage = branch.stage
    if stage > (0 if interactive else limits.stage_max):
        raise InvalidRequest(
            "INVALID_STAGE",
            "stages are for whole transactions; interactive steps come in the order they are asked for"
            if interactive
            else f"stages go from 0 to {limits.stage_max}",
        )
    branch_id, participant, action, content_type = _checked_names(
        branch.branch_id, branch.participant, branch.action, branch.content_type
    )
    return BranchSpec(
        branch_id=branch_id,
        participant=participant,
        action=action,
        payload=payload,
        content_type=content_type,
        stage=stage,
        tried_by_initiator=tried_by_initiator,
        cancel_in_stage_order=participant in cancel_in_stage_order,
    )


def list_filter(request: pb.ListTransactionsRequest, limits: RequestLimits) -> ListFilter:
    """Which transactions a list is to hold.

    Raises:
        InvalidRequest
    """
    return ListFilter(
        states=tuple(sorted({state_of(number) for number in request.states})),
        participant=_checked_text("PARTICIPANT", "participant", request.participant),
        labels=_checked_labels(request.labels, limits),
        initiator=_checked_text("INITIATOR", "initiator", request.initiator),
        stuck=request.stuck or None,
        created_after=_moment_s(request, "created_after"),
        created_before=_moment_s(request, "created_before"),
    )


def page_size(request: pb.ListTransactionsRequest) -> int:
    """How many transactions a page is to hold.

    Raises:
        InvalidRequest
    """
    if request.page_size > PAGE_SIZE_MAX:
        raise InvalidRequest("INVALID_PAGE_SIZE", f"a page holds at most {PAGE_SIZE_MAX}")
    return request.page_size or PAGE_SIZE_DEFAULT


def page_token(position: ListPosition) -> str:
    """How a caller names where the next page starts."""
    return base64.urlsafe_b64encode(msgpack.encode(position)).decode()


def list_position(token: str) -> ListPosition | None:
    """Where a page starts; None: at the newest. The token may be anybody's invention.

    Raises:
        InvalidRequest
    """
    if not token:
        return None
    if len(token) > PAGE_TOKEN_CHARACTERS_MAX:
        raise InvalidRequest("INVALID_PAGE_TOKEN", "the page token is longer than any of ours")
    try:
        position = msgpack.decode(base64.urlsafe_b64decode(token), type=ListPosition)
    except (MsgspecError, ValueError) as error:
        raise InvalidRequest("INVALID_PAGE_TOKEN", "the page token is not one of ours") from error
    if not 0 <= position.created_at_us <= TIME_MAX_S * 1_000_000:
        raise InvalidRequest("INVALID_PAGE_TOKEN", "the page token names a time that never was")
    _checked_id("PAGE_TOKEN", "the gid in the page token", position.gid)
    return position


@lru_cache(maxsize=4_096)
def _checked_names(
    branch_id: str, participant: str, action: str, content_type: str
) -> tuple[str, str, str, str]:
    """Return the names, interned: live transactions share them.

    The same few come again and again; a raise is not remembered.

    Raises:
        InvalidRequest
    """
    return (
        _checked_id("BRANCH_ID", "branch_id", branch_id),
        _checked_id("PARTICIPANT", "participant", participant),
        _checked_id("ACTION", "action", action),
        _checked_text("CONTENT_TYPE", "content_type", content_type),
    )


def _moment_s(request: pb.ListTransactionsRequest, field: str) -> float | None:
    if not request.HasField(field):
        return None
    moment: Timestamp = getattr(request, field)
    moment_s = moment.seconds + moment.nanos / 1e9
    if not 0 <= moment_s <= TIME_MAX_S:
        raise InvalidRequest("INVALID_TIME", f"{field} lies in the years 1970 to 9999")
    return moment_s


def _transaction(
    request: pb.ExecuteTransactionRequest | pb.BeginTransactionRequest,
    specs: list[BranchSpec],
    *,
    gid: str,
    now: float,
    time_left_s: float | None,
    limits: RequestLimits,
    interactive: bool,
    trace: TraceContext | None,
) -> Transaction:
    labels = _checked_labels(request.labels, limits)
    return Transaction(
        gid=checked_gid(request.gid or gid),
        branches=tuple([Branch(spec=spec) for spec in specs]),
        expires_at=now + _expiry_s(request, time_left_s, limits),
        interactive=interactive,
        initiator=_checked_text("INITIATOR", "initiator", request.initiator),
        labels=labels,
        fingerprint=_fingerprint(specs, labels, interactive=interactive),
        trace=trace,
    )


def _expiry_s(
    request: pb.ExecuteTransactionRequest | pb.BeginTransactionRequest,
    time_left_s: float | None,
    limits: RequestLimits,
) -> float:
    if not request.HasField("expiry"):
        default_s = limits.expiry_default_s
        if time_left_s is None:
            return default_s
        # The caller is still there when the transaction is cancelled, and hears why.
        before_deadline_s = time_left_s - min(EXPIRY_MARGIN_MAX_S, time_left_s * EXPIRY_MARGIN)
        return max(limits.expiry_min_s, min(default_s, before_deadline_s))
    expiry_s = request.expiry.seconds + request.expiry.nanos / 1e9
    if not limits.expiry_min_s <= expiry_s <= limits.expiry_max_s:
        raise InvalidRequest(
            "INVALID_EXPIRY",
            f"an expiry is {limits.expiry_min_s:g} to {limits.expiry_max_s:g} seconds, not {expiry_s:g}",
        )
    return expiry_s


def _fingerprint(
    specs: Iterable[BranchSpec], labels: tuple[tuple[str, str], ...], *, interactive: bool
) -> bytes:
    """Return a fingerprint of a request's content. Its expiry and its milestone may differ."""
    content = [(s.branch_id, s.participant, s.action, s.payload, s.content_type, s.stage) for s in specs]
    return blake2b(msgpack.encode((content, labels, interactive)), digest_size=16).digest()


def _checked_labels(labels: Mapping[str, str], limits: RequestLimits) -> tuple[tuple[str, str], ...]:
    if not labels:
        return ()
    if len(labels) > limits.labels_max:
        raise InvalidRequest("TOO_MANY_LABELS", f"at most {limits.labels_max} labels")
    for key, value in labels.items():
        if not key or len((key + value).encode()) > limits.label_bytes_max:
            raise InvalidRequest(
                "INVALID_LABEL",
                f"a label has a key, and at most {limits.label_bytes_max} bytes with its value",
            )
        _check_printable("LABEL", "label", key + value)
    return tuple(sorted(labels.items()))


def _checked_id(reason: str, field: str, value: str) -> str:
    if not value:
        raise InvalidRequest(f"INVALID_{reason}", f"{field} must not be empty")
    return _checked_text(reason, field, value)


def _checked_text(reason: str, field: str, value: str) -> str:
    if len(value) > ID_BYTES_MAX or len(value.encode()) > ID_BYTES_MAX:
        raise InvalidRequest(f"INVALID_{reason}", f"{field} may hold at most {ID_BYTES_MAX} bytes of UTF-8")
    _check_printable(reason, field, value)
    return value


def _check_printable(reason: str, field: str, value: str) -> None:
    if not value.isprintable():
        raise InvalidRequest(f"INVALID_{reason}", f"{field} holds a character that is not printable")
