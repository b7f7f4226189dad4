import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tcc.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WaitFor(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_FOR_UNSPECIFIED: _ClassVar[WaitFor]
    WAIT_FOR_DECISION: _ClassVar[WaitFor]
    WAIT_FOR_COMPLETION: _ClassVar[WaitFor]
    WAIT_FOR_ACCEPTED: _ClassVar[WaitFor]
WAIT_FOR_UNSPECIFIED: WaitFor
WAIT_FOR_DECISION: WaitFor
WAIT_FOR_COMPLETION: WaitFor
WAIT_FOR_ACCEPTED: WaitFor

class BranchResult(_message.Message):
    __slots__ = ("branch_id", "result", "content_type")
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    branch_id: str
    result: bytes
    content_type: str
    def __init__(self, branch_id: _Optional[str] = ..., result: _Optional[bytes] = ..., content_type: _Optional[str] = ...) -> None: ...

class TransactionOutcome(_message.Message):
    __slots__ = ("gid", "state", "cancel_reason", "cancel_branch_id", "cancel_detail", "results", "heuristic", "mixed_outcome", "cancel_message")
    GID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REASON_FIELD_NUMBER: _ClassVar[int]
    CANCEL_BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    CANCEL_DETAIL_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    HEURISTIC_FIELD_NUMBER: _ClassVar[int]
    MIXED_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CANCEL_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    gid: str
    state: _common_pb2.TransactionState
    cancel_reason: _common_pb2.CancelReason
    cancel_branch_id: str
    cancel_detail: str
    results: _containers.RepeatedCompositeFieldContainer[BranchResult]
    heuristic: bool
    mixed_outcome: bool
    cancel_message: str
    def __init__(self, gid: _Optional[str] = ..., state: _Optional[_Union[_common_pb2.TransactionState, str]] = ..., cancel_reason: _Optional[_Union[_common_pb2.CancelReason, str]] = ..., cancel_branch_id: _Optional[str] = ..., cancel_detail: _Optional[str] = ..., results: _Optional[_Iterable[_Union[BranchResult, _Mapping]]] = ..., heuristic: bool = ..., mixed_outcome: bool = ..., cancel_message: _Optional[str] = ...) -> None: ...

class ExecuteTransactionRequest(_message.Message):
    __slots__ = ("gid", "branches", "expiry", "labels", "wait_for", "initiator", "traceparent", "tracestate")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    EXPIRY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_FIELD_NUMBER: _ClassVar[int]
    INITIATOR_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    gid: str
    branches: _containers.RepeatedCompositeFieldContainer[_common_pb2.BranchSpec]
    expiry: _duration_pb2.Duration
    labels: _containers.ScalarMap[str, str]
    wait_for: WaitFor
    initiator: str
    traceparent: str
    tracestate: str
    def __init__(self, gid: _Optional[str] = ..., branches: _Optional[_Iterable[_Union[_common_pb2.BranchSpec, _Mapping]]] = ..., expiry: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., wait_for: _Optional[_Union[WaitFor, str]] = ..., initiator: _Optional[str] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class ExecuteTransactionResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: TransactionOutcome
    def __init__(self, outcome: _Optional[_Union[TransactionOutcome, _Mapping]] = ...) -> None: ...

class ExecuteTransactionsRequest(_message.Message):
    __slots__ = ("transactions",)
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    transactions: _containers.RepeatedCompositeFieldContainer[ExecuteTransactionRequest]
    def __init__(self, transactions: _Optional[_Iterable[_Union[ExecuteTransactionRequest, _Mapping]]] = ...) -> None: ...

class ExecuteTransactionsResponse(_message.Message):
    __slots__ = ("replies",)
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[ExecuteTransactionsReply]
    def __init__(self, replies: _Optional[_Iterable[_Union[ExecuteTransactionsReply, _Mapping]]] = ...) -> None: ...

class ExecuteTransactionsReply(_message.Message):
    __slots__ = ("index", "outcome", "error")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    index: int
    outcome: TransactionOutcome
    error: _common_pb2.Error
    def __init__(self, index: _Optional[int] = ..., outcome: _Optional[_Union[TransactionOutcome, _Mapping]] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ...) -> None: ...

class StreamTransactionsRequest(_message.Message):
    __slots__ = ("items", "cancelled_ids")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_IDS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[StreamTransactionsItem]
    cancelled_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, items: _Optional[_Iterable[_Union[StreamTransactionsItem, _Mapping]]] = ..., cancelled_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamTransactionsItem(_message.Message):
    __slots__ = ("id", "timeout_ms", "transaction")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    id: int
    timeout_ms: int
    transaction: ExecuteTransactionRequest
    def __init__(self, id: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., transaction: _Optional[_Union[ExecuteTransactionRequest, _Mapping]] = ...) -> None: ...

class StreamTransactionsResponse(_message.Message):
    __slots__ = ("replies", "credit", "draining", "coordinator_id")
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[StreamTransactionsReply]
    credit: int
    draining: bool
    coordinator_id: str
    def __init__(self, replies: _Optional[_Iterable[_Union[StreamTransactionsReply, _Mapping]]] = ..., credit: _Optional[int] = ..., draining: bool = ..., coordinator_id: _Optional[str] = ...) -> None: ...

class StreamTransactionsReply(_message.Message):
    __slots__ = ("id", "outcome", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    outcome: TransactionOutcome
    error: _common_pb2.Error
    def __init__(self, id: _Optional[int] = ..., outcome: _Optional[_Union[TransactionOutcome, _Mapping]] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ...) -> None: ...

class BeginTransactionRequest(_message.Message):
    __slots__ = ("gid", "expiry", "labels", "initiator", "traceparent", "tracestate")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    GID_FIELD_NUMBER: _ClassVar[int]
    EXPIRY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INITIATOR_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    gid: str
    expiry: _duration_pb2.Duration
    labels: _containers.ScalarMap[str, str]
    initiator: str
    traceparent: str
    tracestate: str
    def __init__(self, gid: _Optional[str] = ..., expiry: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., initiator: _Optional[str] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class BeginTransactionResponse(_message.Message):
    __slots__ = ("gid", "expires_at")
    GID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    gid: str
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, gid: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TryBranchRequest(_message.Message):
    __slots__ = ("gid", "branch")
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    gid: str
    branch: _common_pb2.BranchSpec
    def __init__(self, gid: _Optional[str] = ..., branch: _Optional[_Union[_common_pb2.BranchSpec, _Mapping]] = ...) -> None: ...

class TryBranchResponse(_message.Message):
    __slots__ = ("state", "reason", "message", "result", "result_content_type")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RESULT_CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    state: _common_pb2.BranchState
    reason: str
    message: str
    result: bytes
    result_content_type: str
    def __init__(self, state: _Optional[_Union[_common_pb2.BranchState, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., result: _Optional[bytes] = ..., result_content_type: _Optional[str] = ...) -> None: ...

class RegisterBranchRequest(_message.Message):
    __slots__ = ("gid", "branch", "check_back", "messages")
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    CHECK_BACK_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    gid: str
    branch: _common_pb2.BranchSpec
    check_back: bool
    messages: _containers.RepeatedCompositeFieldContainer[_common_pb2.BranchSpec]
    def __init__(self, gid: _Optional[str] = ..., branch: _Optional[_Union[_common_pb2.BranchSpec, _Mapping]] = ..., check_back: bool = ..., messages: _Optional[_Iterable[_Union[_common_pb2.BranchSpec, _Mapping]]] = ...) -> None: ...

class RegisterBranchResponse(_message.Message):
    __slots__ = ("expires_at",)
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ConfirmTransactionRequest(_message.Message):
    __slots__ = ("gid", "wait_for", "messages")
    GID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    gid: str
    wait_for: WaitFor
    messages: _containers.RepeatedCompositeFieldContainer[_common_pb2.BranchSpec]
    def __init__(self, gid: _Optional[str] = ..., wait_for: _Optional[_Union[WaitFor, str]] = ..., messages: _Optional[_Iterable[_Union[_common_pb2.BranchSpec, _Mapping]]] = ...) -> None: ...

class ConfirmTransactionResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: TransactionOutcome
    def __init__(self, outcome: _Optional[_Union[TransactionOutcome, _Mapping]] = ...) -> None: ...

class CancelTransactionRequest(_message.Message):
    __slots__ = ("gid", "reason", "wait_for")
    GID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_FIELD_NUMBER: _ClassVar[int]
    gid: str
    reason: str
    wait_for: WaitFor
    def __init__(self, gid: _Optional[str] = ..., reason: _Optional[str] = ..., wait_for: _Optional[_Union[WaitFor, str]] = ...) -> None: ...

class CancelTransactionResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: TransactionOutcome
    def __init__(self, outcome: _Optional[_Union[TransactionOutcome, _Mapping]] = ...) -> None: ...

class GetTransactionRequest(_message.Message):
    __slots__ = ("gid",)
    GID_FIELD_NUMBER: _ClassVar[int]
    gid: str
    def __init__(self, gid: _Optional[str] = ...) -> None: ...

class GetTransactionResponse(_message.Message):
    __slots__ = ("transaction",)
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    transaction: _common_pb2.Transaction
    def __init__(self, transaction: _Optional[_Union[_common_pb2.Transaction, _Mapping]] = ...) -> None: ...

class ListTransactionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states", "participant", "labels", "initiator", "stuck", "created_after", "created_before")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INITIATOR_FIELD_NUMBER: _ClassVar[int]
    STUCK_FIELD_NUMBER: _ClassVar[int]
    CREATED_AFTER_FIELD_NUMBER: _ClassVar[int]
    CREATED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[_common_pb2.TransactionState]
    participant: str
    labels: _containers.ScalarMap[str, str]
    initiator: str
    stuck: bool
    created_after: _timestamp_pb2.Timestamp
    created_before: _timestamp_pb2.Timestamp
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_common_pb2.TransactionState, str]]] = ..., participant: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., initiator: _Optional[str] = ..., stuck: bool = ..., created_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListTransactionsResponse(_message.Message):
    __slots__ = ("transactions", "next_page_token")
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    transactions: _containers.RepeatedCompositeFieldContainer[_common_pb2.Transaction]
    next_page_token: str
    def __init__(self, transactions: _Optional[_Iterable[_Union[_common_pb2.Transaction, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WaitTransactionRequest(_message.Message):
    __slots__ = ("gid", "wait_for")
    GID_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_FIELD_NUMBER: _ClassVar[int]
    gid: str
    wait_for: WaitFor
    def __init__(self, gid: _Optional[str] = ..., wait_for: _Optional[_Union[WaitFor, str]] = ...) -> None: ...

class WaitTransactionResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: TransactionOutcome
    def __init__(self, outcome: _Optional[_Union[TransactionOutcome, _Mapping]] = ...) -> None: ...
