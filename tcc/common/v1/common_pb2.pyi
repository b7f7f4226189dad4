import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TransactionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSACTION_STATE_UNSPECIFIED: _ClassVar[TransactionState]
    TRANSACTION_STATE_TRYING: _ClassVar[TransactionState]
    TRANSACTION_STATE_CONFIRMING: _ClassVar[TransactionState]
    TRANSACTION_STATE_CANCELLING: _ClassVar[TransactionState]
    TRANSACTION_STATE_CONFIRMED: _ClassVar[TransactionState]
    TRANSACTION_STATE_CANCELLED: _ClassVar[TransactionState]

class CancelReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANCEL_REASON_UNSPECIFIED: _ClassVar[CancelReason]
    CANCEL_REASON_REJECTED: _ClassVar[CancelReason]
    CANCEL_REASON_EXPIRED: _ClassVar[CancelReason]
    CANCEL_REASON_REQUESTED: _ClassVar[CancelReason]
    CANCEL_REASON_TRY_FAILED: _ClassVar[CancelReason]

class BranchState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BRANCH_STATE_UNSPECIFIED: _ClassVar[BranchState]
    BRANCH_STATE_TRYING: _ClassVar[BranchState]
    BRANCH_STATE_TRIED: _ClassVar[BranchState]
    BRANCH_STATE_REJECTED: _ClassVar[BranchState]
    BRANCH_STATE_FAILED: _ClassVar[BranchState]
    BRANCH_STATE_CONFIRMED: _ClassVar[BranchState]
    BRANCH_STATE_CANCELLED: _ClassVar[BranchState]
    BRANCH_STATE_PENDING: _ClassVar[BranchState]

class HeuristicOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEURISTIC_OUTCOME_UNSPECIFIED: _ClassVar[HeuristicOutcome]
    HEURISTIC_OUTCOME_CONFIRMED: _ClassVar[HeuristicOutcome]
    HEURISTIC_OUTCOME_CANCELLED: _ClassVar[HeuristicOutcome]

class BranchKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BRANCH_KIND_UNSPECIFIED: _ClassVar[BranchKind]
    BRANCH_KIND_TCC: _ClassVar[BranchKind]
    BRANCH_KIND_SAGA: _ClassVar[BranchKind]
    BRANCH_KIND_MESSAGE: _ClassVar[BranchKind]

class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_UNSPECIFIED: _ClassVar[Operation]
    OPERATION_TRY: _ClassVar[Operation]
    OPERATION_CONFIRM: _ClassVar[Operation]
    OPERATION_CANCEL: _ClassVar[Operation]
    OPERATION_CHECK: _ClassVar[Operation]

class OutcomeCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_CODE_UNSPECIFIED: _ClassVar[OutcomeCode]
    OUTCOME_CODE_SUCCEEDED: _ClassVar[OutcomeCode]
    OUTCOME_CODE_REJECTED: _ClassVar[OutcomeCode]
    OUTCOME_CODE_FAILED: _ClassVar[OutcomeCode]

class BarrierState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BARRIER_STATE_UNSPECIFIED: _ClassVar[BarrierState]
    BARRIER_STATE_TRIED: _ClassVar[BarrierState]
    BARRIER_STATE_CONFIRMED: _ClassVar[BarrierState]
    BARRIER_STATE_CANCELLED: _ClassVar[BarrierState]
TRANSACTION_STATE_UNSPECIFIED: TransactionState
TRANSACTION_STATE_TRYING: TransactionState
TRANSACTION_STATE_CONFIRMING: TransactionState
TRANSACTION_STATE_CANCELLING: TransactionState
TRANSACTION_STATE_CONFIRMED: TransactionState
TRANSACTION_STATE_CANCELLED: TransactionState
CANCEL_REASON_UNSPECIFIED: CancelReason
CANCEL_REASON_REJECTED: CancelReason
CANCEL_REASON_EXPIRED: CancelReason
CANCEL_REASON_REQUESTED: CancelReason
CANCEL_REASON_TRY_FAILED: CancelReason
BRANCH_STATE_UNSPECIFIED: BranchState
BRANCH_STATE_TRYING: BranchState
BRANCH_STATE_TRIED: BranchState
BRANCH_STATE_REJECTED: BranchState
BRANCH_STATE_FAILED: BranchState
BRANCH_STATE_CONFIRMED: BranchState
BRANCH_STATE_CANCELLED: BranchState
BRANCH_STATE_PENDING: BranchState
HEURISTIC_OUTCOME_UNSPECIFIED: HeuristicOutcome
HEURISTIC_OUTCOME_CONFIRMED: HeuristicOutcome
HEURISTIC_OUTCOME_CANCELLED: HeuristicOutcome
BRANCH_KIND_UNSPECIFIED: BranchKind
BRANCH_KIND_TCC: BranchKind
BRANCH_KIND_SAGA: BranchKind
BRANCH_KIND_MESSAGE: BranchKind
OPERATION_UNSPECIFIED: Operation
OPERATION_TRY: Operation
OPERATION_CONFIRM: Operation
OPERATION_CANCEL: Operation
OPERATION_CHECK: Operation
OUTCOME_CODE_UNSPECIFIED: OutcomeCode
OUTCOME_CODE_SUCCEEDED: OutcomeCode
OUTCOME_CODE_REJECTED: OutcomeCode
OUTCOME_CODE_FAILED: OutcomeCode
BARRIER_STATE_UNSPECIFIED: BarrierState
BARRIER_STATE_TRIED: BarrierState
BARRIER_STATE_CONFIRMED: BarrierState
BARRIER_STATE_CANCELLED: BarrierState

class BranchSpec(_message.Message):
    __slots__ = ("branch_id", "participant", "action", "payload", "content_type", "stage", "kind", "not_before")
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    branch_id: str
    participant: str
    action: str
    payload: bytes
    content_type: str
    stage: int
    kind: BranchKind
    not_before: _timestamp_pb2.Timestamp
    def __init__(self, branch_id: _Optional[str] = ..., participant: _Optional[str] = ..., action: _Optional[str] = ..., payload: _Optional[bytes] = ..., content_type: _Optional[str] = ..., stage: _Optional[int] = ..., kind: _Optional[_Union[BranchKind, str]] = ..., not_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "reason", "message", "retry_after_ms", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    retry_after_ms: int
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Transaction(_message.Message):
    __slots__ = ("gid", "state", "initiator", "labels", "created_at", "expires_at", "decided_at", "ended_at", "cancel_reason", "cancel_branch_id", "cancel_detail", "stuck", "owner", "version", "branches", "held", "heuristic", "mixed_outcome", "trace_id", "cancel_message", "quarantine_reason")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    GID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INITIATOR_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REASON_FIELD_NUMBER: _ClassVar[int]
    CANCEL_BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    CANCEL_DETAIL_FIELD_NUMBER: _ClassVar[int]
    STUCK_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    HEURISTIC_FIELD_NUMBER: _ClassVar[int]
    MIXED_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    CANCEL_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    QUARANTINE_REASON_FIELD_NUMBER: _ClassVar[int]
    gid: str
    state: TransactionState
    initiator: str
    labels: _containers.ScalarMap[str, str]
    created_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    decided_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    cancel_reason: CancelReason
    cancel_branch_id: str
    cancel_detail: str
    stuck: bool
    owner: str
    version: int
    branches: _containers.RepeatedCompositeFieldContainer[Branch]
    held: bool
    heuristic: bool
    mixed_outcome: bool
    trace_id: str
    cancel_message: str
    quarantine_reason: str
    def __init__(self, gid: _Optional[str] = ..., state: _Optional[_Union[TransactionState, str]] = ..., initiator: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., decided_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cancel_reason: _Optional[_Union[CancelReason, str]] = ..., cancel_branch_id: _Optional[str] = ..., cancel_detail: _Optional[str] = ..., stuck: bool = ..., owner: _Optional[str] = ..., version: _Optional[int] = ..., branches: _Optional[_Iterable[_Union[Branch, _Mapping]]] = ..., held: bool = ..., heuristic: bool = ..., mixed_outcome: bool = ..., trace_id: _Optional[str] = ..., cancel_message: _Optional[str] = ..., quarantine_reason: _Optional[str] = ...) -> None: ...

class Branch(_message.Message):
    __slots__ = ("spec", "state", "tried_by_initiator", "result", "result_content_type", "attempts", "last_error", "next_attempt_at", "heuristic_outcome", "heuristic_reason", "check_back")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TRIED_BY_INITIATOR_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RESULT_CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_AT_FIELD_NUMBER: _ClassVar[int]
    HEURISTIC_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    HEURISTIC_REASON_FIELD_NUMBER: _ClassVar[int]
    CHECK_BACK_FIELD_NUMBER: _ClassVar[int]
    spec: BranchSpec
    state: BranchState
    tried_by_initiator: bool
    result: bytes
    result_content_type: str
    attempts: int
    last_error: str
    next_attempt_at: _timestamp_pb2.Timestamp
    heuristic_outcome: HeuristicOutcome
    heuristic_reason: str
    check_back: bool
    def __init__(self, spec: _Optional[_Union[BranchSpec, _Mapping]] = ..., state: _Optional[_Union[BranchState, str]] = ..., tried_by_initiator: bool = ..., result: _Optional[bytes] = ..., result_content_type: _Optional[str] = ..., attempts: _Optional[int] = ..., last_error: _Optional[str] = ..., next_attempt_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., heuristic_outcome: _Optional[_Union[HeuristicOutcome, str]] = ..., heuristic_reason: _Optional[str] = ..., check_back: bool = ...) -> None: ...

class CallResult(_message.Message):
    __slots__ = ("index", "code", "reason", "message", "result", "content_type", "permanent")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    PERMANENT_FIELD_NUMBER: _ClassVar[int]
    index: int
    code: OutcomeCode
    reason: str
    message: str
    result: bytes
    content_type: str
    permanent: bool
    def __init__(self, index: _Optional[int] = ..., code: _Optional[_Union[OutcomeCode, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., result: _Optional[bytes] = ..., content_type: _Optional[str] = ..., permanent: bool = ...) -> None: ...
