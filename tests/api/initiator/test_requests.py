"""Every rule for initiators' requests: the reason for each bad input, and the boundary values that pass."""

import base64
from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from msgspec import msgpack

from coordinator.api.initiator.requests import (
    TIME_MAX_S,
    RequestLimits,
    branch_spec,
    checked_gid,
    list_filter,
    list_position,
    milestone_of,
    new_interactive,
    new_transaction,
    page_size,
    page_token,
    state_of,
)
from coordinator.core.errors import Refused
from coordinator.core.model import BranchSpec, Transaction, TransactionState, TryState
from coordinator.engine.waiting import Milestone
from coordinator.ports.log import ListFilter, ListPosition
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb

LIMITS = RequestLimits(
    branches_max=3,
    payload_bytes_max=100,
    transaction_bytes_max=250,
    stage_max=2,
    labels_max=2,
    label_bytes_max=10,
    expiry_default_s=30.0,
    expiry_min_s=0.05,
    expiry_max_s=60.0,
)
NOW = 1_000.0


def _branch(branch_id: str = "1", **fields: object) -> common.BranchSpec:
    return common.BranchSpec(
        **{"branch_id": branch_id, "participant": "stock", "action": "reserve", **fields}
    )


def _request(**fields: object) -> pb.ExecuteTransactionRequest:
    return pb.ExecuteTransactionRequest(**{"gid": "g", "branches": [_branch()], **fields})


def _accept(request: pb.ExecuteTransactionRequest, *, time_left_s: float | None = None) -> Transaction:
    return new_transaction(
        request,
        gid="made",
        now=NOW,
        time_left_s=time_left_s,
        limits=LIMITS,
        cancel_in_stage_order=frozenset({"payment"}),
    )


def _seconds(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


# --- what is refused -------------------------------------------------------------------

REFUSED: dict[str, tuple[pb.ExecuteTransactionRequest, str, str]] = {
    "no branches": (_request(branches=[]), "NO_BRANCHES", "at least one branch"),
    "too many branches": (
        _request(branches=[_branch(str(number)) for number in range(4)]),
        "TOO_MANY_BRANCHES",
        "at most 3 branches",
    ),
    "duplicate branch ids": (
        _request(branches=[_branch("1"), _branch("2"), _branch("1", participant="coupon")]),
        "DUPLICATE_BRANCH_ID",
        "must differ",
    ),
    "payload too large": (
        _request(branches=[_branch(payload=b"x" * 101)]),
        "PAYLOAD_TOO_LARGE",
        "at most 100 bytes",
    ),
    "payloads too large together": (
        _request(branches=[_branch(str(number), payload=b"x" * 84) for number in range(3)]),
        "TRANSACTION_TOO_LARGE",
        "at most 250 bytes",
    ),
    "stage too high": (_request(branches=[_branch(stage=3)]), "INVALID_STAGE", "from 0 to 2"),
    "branch id empty": (_request(branches=[_branch("")]), "INVALID_BRANCH_ID", "branch_id must not be empty"),
    "branch id too long": (_request(branches=[_branch("x" * 129)]), "INVALID_BRANCH_ID", "at most 128 bytes"),
    "branch id too long in bytes": (
        _request(branches=[_branch("é" * 65)]),
        "INVALID_BRANCH_ID",
        "at most 128 bytes",
    ),
    "branch id not printable": (_request(branches=[_branch("a\0b")]), "INVALID_BRANCH_ID", "not printable"),
    "participant empty": (
        _request(branches=[_branch(participant="")]),
        "INVALID_PARTICIPANT",
        "participant must not be empty",
    ),
    "participant of two lines": (
        _request(branches=[_branch(participant="stock\ncoupon")]),
        "INVALID_PARTICIPANT",
        "not printable",
    ),
    "action empty": (_request(branches=[_branch(action="")]), "INVALID_ACTION", "action must not be empty"),
    "action too long": (
        _request(branches=[_branch(action="x" * 129)]),
        "INVALID_ACTION",
        "at most 128 bytes",
    ),
    "content type too long": (
        _request(branches=[_branch(content_type="x" * 256)]),
        "INVALID_CONTENT_TYPE",
        "at most 255 bytes",
    ),
    "content type not printable": (
        _request(branches=[_branch(content_type="text\r")]),
        "INVALID_CONTENT_TYPE",
        "not printable",
    ),
    "gid too long": (_request(gid="x" * 129), "INVALID_GID", "at most 128 bytes"),
    "gid too long in bytes": (_request(gid="é" * 65), "INVALID_GID", "at most 128 bytes"),
    "gid not printable": (_request(gid="a\x7f"), "INVALID_GID", "not printable"),
    "initiator too long": (_request(initiator="x" * 129), "INVALID_INITIATOR", "at most 128 bytes"),
    "initiator not printable": (_request(initiator="web\t1"), "INVALID_INITIATOR", "not printable"),
    "too many labels": (_request(labels={"a": "", "b": "", "c": ""}), "TOO_MANY_LABELS", "at most 2 labels"),
    "label without a key": (_request(labels={"": "x"}), "INVALID_LABEL", "needs a key"),
    "label too long": (_request(labels={"12345": "123456"}), "INVALID_LABEL", "at most 10 bytes"),
    "label too long in bytes": (_request(labels={"ééé": "ééé"}), "INVALID_LABEL", "at most 10 bytes"),
    "label not printable": (_request(labels={"a": "b\n"}), "INVALID_LABEL", "not printable"),
    "expiry zero": (_request(expiry=_seconds(0)), "INVALID_EXPIRY", "not 0"),
    "expiry negative": (_request(expiry=_seconds(-5)), "INVALID_EXPIRY", "not -5"),
    "expiry too short": (_request(expiry=_seconds(0.049)), "INVALID_EXPIRY", "0.05 to 60 seconds"),
    "expiry with nanos of another sign": (
        _request(expiry=Duration(seconds=2, nanos=-1)),
        "INVALID_EXPIRY",
        "not a valid google.protobuf.Duration",
    ),
    "expiry with more than a second of nanos": (
        _request(expiry=Duration(seconds=1, nanos=10**9)),
        "INVALID_EXPIRY",
        "not a valid google.protobuf.Duration",
    ),
    "expiry beyond all durations": (
        _request(expiry=Duration(seconds=315_576_000_001)),
        "INVALID_EXPIRY",
        "not a valid google.protobuf.Duration",
    ),
    "expiry too long": (_request(expiry=_seconds(60.001)), "INVALID_EXPIRY", "0.05 to 60 seconds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_has_its_own_reason(case: str) -> None:
    request, reason, message = REFUSED[case]
    with pytest.raises(Refused) as refusal:
        _accept(request)
    assert (refusal.value.code, refusal.value.reason) == ("INVALID_ARGUMENT", reason)
    assert message in refusal.value.message


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.BeginTransactionRequest(gid="x" * 129), "INVALID_GID"),
        (pb.BeginTransactionRequest(initiator="\0"), "INVALID_INITIATOR"),
        (pb.BeginTransactionRequest(labels={"": ""}), "INVALID_LABEL"),
        (pb.BeginTransactionRequest(expiry=_seconds(61)), "INVALID_EXPIRY"),
    ],
)
def test_bad_input_of_an_interactive_transaction_has_its_own_reason(
    request_: pb.BeginTransactionRequest, reason: str
) -> None:
    with pytest.raises(Refused) as refusal:
        new_interactive(request_, gid="made", now=NOW, limits=LIMITS)
    assert refusal.value.reason == reason


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda: checked_gid(""), "INVALID_GID"),
        (lambda: checked_gid("x" * 129), "INVALID_GID"),
        (lambda: checked_gid("a\nb"), "INVALID_GID"),
        (lambda: milestone_of(99), "INVALID_WAIT_FOR"),
        (lambda: state_of(common.TRANSACTION_STATE_UNSPECIFIED), "INVALID_STATE"),
        (lambda: state_of(99), "INVALID_STATE"),
        (lambda: branch_spec(_branch(stage=1), LIMITS, frozenset(), interactive=True), "INVALID_STAGE"),
    ],
)
def test_invalid_operator_text_has_its_own_reason(ask: Callable[[], object], reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        ask()
    assert (refusal.value.code, refusal.value.reason) == ("INVALID_ARGUMENT", reason)


def _list(**fields: object) -> pb.ListTransactionsRequest:
    return pb.ListTransactionsRequest(**fields)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (_list(states=[99]), "INVALID_STATE"),
        (_list(participant="a\0"), "INVALID_PARTICIPANT"),
        (_list(participant="x" * 129), "INVALID_PARTICIPANT"),
        (_list(initiator="a\n"), "INVALID_INITIATOR"),
        (_list(initiator="x" * 129), "INVALID_INITIATOR"),
        (_list(labels={"a": "\0"}), "INVALID_LABEL"),
        (_list(labels={"\x1b": "a"}), "INVALID_LABEL"),
        (_list(labels={"a": "x" * 10}), "INVALID_LABEL"),
        (_list(labels={"a": "", "b": "", "c": ""}), "TOO_MANY_LABELS"),
        (_list(created_after=Timestamp(seconds=10**17)), "INVALID_TIME"),
        (_list(created_after=Timestamp(seconds=TIME_MAX_S, nanos=10**9 - 1)), "INVALID_TIME"),
        (_list(created_before=Timestamp(seconds=-(10**12))), "INVALID_TIME"),
        (_list(created_before=Timestamp(nanos=-1)), "INVALID_TIME"),
        (_list(created_before=Timestamp(seconds=5, nanos=-1)), "INVALID_TIME"),
        (_list(created_after=Timestamp(seconds=5, nanos=10**9)), "INVALID_TIME"),
    ],
)
def test_a_bad_filter_has_its_own_reason(request_: pb.ListTransactionsRequest, reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        list_filter(request_, LIMITS)
    assert (refusal.value.code, refusal.value.reason) == ("INVALID_ARGUMENT", reason)


def _token(value: object) -> str:
    return base64.urlsafe_b64encode(msgpack.encode(value)).decode()


FORGED_TOKENS = {
    "rubbish": "rubbish",
    "not ASCII": "größe",
    "nothing in it": "====",
    "not a position": _token(17),
    "a field is missing": _token({"gid": "g"}),
    "far beyond time": _token({"created_at_us": 2**63, "gid": "g"}),
    "just beyond time": _token({"created_at_us": TIME_MAX_S * 10**6 + 1, "gid": "g"}),
    "before time": _token({"created_at_us": -1, "gid": "g"}),
    "no gid": _token({"created_at_us": 1, "gid": ""}),
    "a gid with NUL": _token({"created_at_us": 1, "gid": "g\0"}),
    "a gid that is too long": _token({"created_at_us": 1, "gid": "x" * 129}),
    "a gid that is not UTF-8": base64.urlsafe_b64encode(b"\x82\xadcreated_at_us\x01\xa3gid\xa1\xff").decode(),
    "nested without end": base64.urlsafe_b64encode(b"\x81\xa1x" + b"\x91" * 10**6).decode(),
}


@pytest.mark.parametrize("case", FORGED_TOKENS)
def test_a_forged_page_token_is_refused(case: str) -> None:
    with pytest.raises(Refused) as refusal:
        list_position(FORGED_TOKENS[case])
    assert (refusal.value.code, refusal.value.reason) == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")


def test_a_page_that_is_too_large_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        page_size(_list(page_size=1_001))
    assert refusal.value.reason == "INVALID_PAGE_SIZE"


# --- what is accepted ------------------------------------------------------------------


def test_the_limits_themselves_are_within_the_limits() -> None:
    tx = _accept(
        _request(
            gid="é" * 64,
            branches=[
                _branch("x" * 128, payload=b"x" * 100, stage=2),
                _branch("2", payload=b"x" * 100, action="x" * 128),
                _branch("3", payload=b"x" * 50, content_type="x" * 128),
            ],
            labels={"12345": "12345", "6": ""},
            initiator="x" * 128,
            expiry=_seconds(60),
        )
    )
    assert len(tx.branches) == 3
    assert tx.expires_at == NOW + 60.0
    assert _accept(_request(expiry=_seconds(0.05))).expires_at == NOW + 0.05


def test_a_request_becomes_a_transaction() -> None:
    tx = _accept(
        _request(
            gid="order 7 ☃",
            branches=[
                _branch("1", payload=b"p", content_type="application/json", stage=1),
                _branch("2", participant="payment", action="debit"),
            ],
            labels={"b": "2", "a": "1"},
            initiator="web",
        )
    )
    assert (tx.gid, tx.initiator, tx.interactive) == ("order 7 ☃", "web", False)
    assert tx.labels == (("a", "1"), ("b", "2"))
    assert (tx.state, tx.saved_state, tx.version) == (TransactionState.TRYING, None, 0)
    assert [branch.spec for branch in tx.branches] == [
        BranchSpec(
            branch_id="1",
            participant="stock",
            action="reserve",
            payload=b"p",
            content_type="application/json",
            stage=1,
        ),
        BranchSpec(branch_id="2", participant="payment", action="debit", cancel_in_stage_order=True),
    ]
    assert all(branch.tried is TryState.UNKNOWN for branch in tx.branches)


def test_a_gid_is_made_only_where_there_is_none() -> None:
    assert _accept(_request(gid="")).gid == "made"
    assert _accept(_request(gid="mine")).gid == "mine"


@pytest.mark.parametrize(
    ("time_left_s", "expiry_s"),
    [(None, 30.0), (1_000.0, 30.0), (5.0, 4.5), (1.0, 0.8), (0.01, 0.05), (-1.0, 0.05)],
    ids=["no deadline", "far deadline", "near deadline", "nearer", "hardly any time", "too late"],
)
def test_a_missing_expiry_is_the_default_or_just_before_the_deadline(
    time_left_s: float | None, expiry_s: float
) -> None:
    assert _accept(_request(), time_left_s=time_left_s).expires_at == NOW + expiry_s


def test_an_expiry_that_is_asked_for_may_outlive_the_call() -> None:
    assert _accept(_request(expiry=_seconds(20)), time_left_s=1.0).expires_at == NOW + 20.0


def test_an_interactive_transaction_begins_without_branches() -> None:
    tx = new_interactive(pb.BeginTransactionRequest(labels={"a": "1"}), gid="made", now=NOW, limits=LIMITS)
    assert (tx.gid, tx.branches, tx.interactive, tx.expires_at) == ("made", (), True, NOW + 30.0)


def test_a_branch_of_an_interactive_transaction() -> None:
    spec = branch_spec(_branch(), LIMITS, frozenset({"stock"}), interactive=True, tried_by_initiator=True)
    assert (spec.stage, spec.tried_by_initiator, spec.cancel_in_stage_order) == (0, True, True)


def test_what_can_be_waited_for() -> None:
    assert {number: milestone_of(number) for number in pb.WaitFor.values()} == {
        pb.WAIT_FOR_UNSPECIFIED: Milestone.DECIDED,
        pb.WAIT_FOR_DECISION: Milestone.DECIDED,
        pb.WAIT_FOR_COMPLETION: Milestone.COMPLETED,
        pb.WAIT_FOR_ACCEPTED: Milestone.ACCEPTED,
    }


def test_every_state_of_the_contract_can_be_filtered_by() -> None:
    names = {state_of(number).name for number in common.TransactionState.values() if number}
    assert names == {state.name for state in TransactionState}
    for state in TransactionState:
        assert common.TransactionState.Name(state) == f"TRANSACTION_STATE_{state.name}"


def test_a_list_may_be_narrowed_by_everything() -> None:
    request = _list(
        states=[
            common.TRANSACTION_STATE_CONFIRMED,
            common.TRANSACTION_STATE_TRYING,
            common.TRANSACTION_STATE_TRYING,
        ],
        participant="x" * 128,
        initiator="Läden",
        labels={"b": "2", "a": "1"},
        stuck=True,
        created_after=Timestamp(),
        created_before=Timestamp(seconds=TIME_MAX_S),
    )
    assert list_filter(request, LIMITS) == ListFilter(
        states=(TransactionState.TRYING, TransactionState.CONFIRMED),
        participant="x" * 128,
        initiator="Läden",
        labels=(("a", "1"), ("b", "2")),
        stuck=True,
        created_after=0.0,
        created_before=float(TIME_MAX_S),
    )
    assert list_filter(_list(), LIMITS) == ListFilter()


def test_a_page_has_a_size() -> None:
    assert [page_size(_list(page_size=size)) for size in (0, 1, 1_000)] == [100, 1, 1_000]


def test_a_page_token_leads_back_to_its_position() -> None:
    for position in (
        ListPosition(created_at_us=0, gid="g"),
        ListPosition(created_at_us=TIME_MAX_S * 10**6, gid="é" * 64),
    ):
        assert list_position(page_token(position)) == position
    assert list_position("") is None


# --- what makes two requests the same -----------------------------------------------------

SAME = {
    "as it is": _request(),
    "another expiry": _request(expiry=_seconds(7)),
    "waiting for something else": _request(wait_for=pb.WAIT_FOR_COMPLETION),
    "another initiator": _request(initiator="elsewhere"),
}
OTHER = {
    "another branch id": _request(branches=[_branch("2")]),
    "another participant": _request(branches=[_branch(participant="coupon")]),
    "another action": _request(branches=[_branch(action="hold")]),
    "another payload": _request(branches=[_branch(payload=b"1")]),
    "another content type": _request(branches=[_branch(content_type="text/plain")]),
    "another stage": _request(branches=[_branch(stage=1)]),
    "one branch more": _request(branches=[_branch(), _branch("2")]),
    "another label": _request(labels={"a": "1"}),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_content_has_the_same_fingerprint(case: str) -> None:
    assert _accept(SAME[case]).fingerprint == _accept(_request()).fingerprint


@pytest.mark.parametrize("case", OTHER)
def test_different_content_has_a_different_fingerprint(case: str) -> None:
    assert _accept(OTHER[case]).fingerprint != _accept(_request()).fingerprint


def test_the_fingerprint_ignores_the_order_of_labels_and_the_configuration() -> None:
    one = _request(labels={"a": "1", "b": "2"}, branches=[_branch(participant="payment")])
    other = _request(labels={"b": "2", "a": "1"}, branches=[_branch(participant="payment")])
    unordered = new_transaction(
        other,
        gid="",
        now=NOW + 99,
        time_left_s=None,
        limits=RequestLimits(),
        cancel_in_stage_order=frozenset(),
    )
    assert _accept(one).fingerprint == unordered.fingerprint


def test_fields_do_not_run_into_each_other() -> None:
    one = _request(branches=[_branch("1", participant="ab", action="c")])
    other = _request(branches=[_branch("1", participant="a", action="bc")])
    assert _accept(one).fingerprint != _accept(other).fingerprint


def test_whole_and_interactive_differ() -> None:
    interactive = new_interactive(pb.BeginTransactionRequest(gid="g"), gid="", now=NOW, limits=LIMITS)
    assert interactive.fingerprint != _accept(_request()).fingerprint
