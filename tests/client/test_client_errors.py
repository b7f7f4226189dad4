"""One table for both ways of saying an error, and the rule for repeating."""

import pickle

import grpc
import pytest
from google.rpc.code_pb2 import Code

import tcc
from tcc import errors
from tcc.client.retry import BACKOFF_BASE_S, BACKOFF_CAP_S, pause_s
from tcc.common.v1 import common_pb2 as common
from tcc.errors import error_from_reply, error_from_rpc
from tests.client.scripted_service import status

CASES = [
    (Code.INVALID_ARGUMENT, "INVALID_GID", errors.InvalidRequest),
    (Code.INVALID_ARGUMENT, "UNKNOWN_PARTICIPANT", errors.UnknownParticipant),
    (Code.NOT_FOUND, "TRANSACTION_NOT_FOUND", errors.NotFound),
    (Code.ALREADY_EXISTS, "GID_CONFLICT", errors.GidConflict),
    (Code.ALREADY_EXISTS, "BRANCH_CONFLICT", errors.BranchConflict),
    (Code.ALREADY_EXISTS, "SOMETHING_NEW", errors.Conflict),
    (Code.FAILED_PRECONDITION, "DECISION_CONFLICT", errors.DecisionConflict),
    (Code.FAILED_PRECONDITION, "ALREADY_DECIDED", errors.AlreadyDecided),
    (Code.FAILED_PRECONDITION, "NOT_INTERACTIVE", errors.NotInteractive),
    (Code.FAILED_PRECONDITION, "SOMETHING_NEW", errors.PreconditionFailed),
    (Code.RESOURCE_EXHAUSTED, "OVERLOADED", errors.ResourceExhausted),
    (Code.UNAVAILABLE, "LOG_UNAVAILABLE", errors.Unavailable),
    (Code.CANCELLED, "", errors.Unavailable),
    (Code.DEADLINE_EXCEEDED, "", errors.DeadlineExceeded),
    (Code.UNAUTHENTICATED, "", errors.PermissionDenied),
    (Code.INTERNAL, "", errors.InternalError),
    (Code.UNIMPLEMENTED, "", tcc.TccError),
]


def rpc_error(details: str, code: int, trailing: bytes | None) -> grpc.aio.AioRpcError:
    by_number = {code.value[0]: code for code in grpc.StatusCode}
    metadata = grpc.aio.Metadata(*([("grpc-status-details-bin", trailing)] if trailing is not None else []))
    return grpc.aio.AioRpcError(by_number[code], grpc.aio.Metadata(), metadata, details=details)


@pytest.mark.parametrize(("code", "reason", "kind"), CASES)
def test_a_status_and_an_item_of_a_batch_make_the_same_error(code, reason, kind):
    said = status(code, reason, "words", retry_after_ms=1_500)
    from_call = error_from_rpc(rpc_error("words", code, said.SerializeToString()))
    from_item = error_from_reply(
        common.Error(code=code, reason=reason, message="words", retry_after_ms=1_500)
    )
    for error in (from_call, from_item):
        assert type(error) is kind
        assert error.code.value[0] == code
        assert error.reason == (reason or error.code.name)
        assert (error.message, error.retry_after_s) == ("words", 1.5)


def test_metadata_of_error_info_is_kept():
    said = status(Code.INVALID_ARGUMENT, "UNKNOWN_PARTICIPANT", participant="inventry")
    error = error_from_rpc(rpc_error("", Code.INVALID_ARGUMENT, said.SerializeToString()))
    assert error.metadata == {"participant": "inventry"}


@pytest.mark.parametrize("trailing", [None, b"\xff\xff", status(Code.INTERNAL, "X").SerializeToString()])
def test_missing_broken_or_contradicting_details_do_not_hide_the_status(trailing):
    error = error_from_rpc(rpc_error("socket closed", Code.UNAVAILABLE, trailing))
    assert isinstance(error, errors.Unavailable)
    assert (error.reason, error.message, error.retry_after_s) == ("UNAVAILABLE", "socket closed", 0.0)


def test_metadata_of_an_item_of_a_batch_is_kept():
    facts = {"branch_id": "stock", "last_error": "HANDLER_ERROR: KeyError: 'sku'"}
    error = error_from_reply(
        common.Error(code=Code.DEADLINE_EXCEEDED, reason="DEADLINE_EXCEEDED", metadata=facts)
    )
    assert isinstance(error, errors.DeadlineExceeded)
    assert error.metadata == facts


def test_one_except_catches_every_error():
    assert all(issubclass(kind, tcc.TccError) for _, _, kind in CASES)
    assert issubclass(tcc.TransactionCancelled, tcc.TccError)
    assert issubclass(tcc.TryTimedOut, tcc.TransactionCancelled)


def test_errors_travel_between_processes():
    outcome = tcc.Outcome(
        gid="g",
        state=tcc.TransactionState.CANCELLED,
        cancel_reason=tcc.CancelReason.EXPIRED,
        cancel_branch_id="stock",
        cancel_detail="HANDLER_ERROR",
        cancel_message="KeyError: 'sku'",
    )
    cancelled = [kind(outcome) for kind in (tcc.TransactionCancelled, tcc.TryTimedOut)]
    for error in (*cancelled, errors.GidConflict("taken")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.__dict__, str(copy)) == (type(error), error.__dict__, str(error))


# --- when to repeat ------------------------------------------------------------


def pause(error, attempt=0, time_left_s=60.0, jitter=0.999_999):
    return pause_s(error, attempt=attempt, time_left_s=time_left_s, jitter=jitter)


def test_the_backoff_doubles_up_to_its_cap_with_full_jitter():
    error = errors.Unavailable()
    longest = [pause(error, attempt) for attempt in (0, 1, 2, 100)]
    expected = [BACKOFF_BASE_S, 2 * BACKOFF_BASE_S, 4 * BACKOFF_BASE_S, BACKOFF_CAP_S]
    assert longest == pytest.approx(expected, rel=1e-3)
    assert pause(error, 100, jitter=0.0) == 0.0


def test_a_hint_is_waited_for_on_top():
    error = errors.ResourceExhausted(retry_after_s=3.0)
    assert 3.0 <= pause(error, jitter=0.0) <= pause(error) <= 3.0 + BACKOFF_BASE_S


def test_a_pause_ends_before_the_callers_time():
    assert pause(errors.Unavailable(), attempt=9, time_left_s=0.5) < 0.5
    assert pause(errors.Unavailable(), time_left_s=0.01) is None
    assert pause(errors.Unavailable(retry_after_s=5.0), time_left_s=4.0) is None


@pytest.mark.parametrize(
    "error",
    [errors.DeadlineExceeded(), errors.GidConflict(), errors.InternalError(), errors.ResourceExhausted()],
)
def test_what_would_only_come_again_is_not_repeated(error):
    assert pause(error) is None
