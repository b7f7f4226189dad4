from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_UNSPECIFIED: _ClassVar[Operation]
    OPERATION_TRY: _ClassVar[Operation]
    OPERATION_CONFIRM: _ClassVar[Operation]
    OPERATION_CANCEL: _ClassVar[Operation]

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
OPERATION_UNSPECIFIED: Operation
OPERATION_TRY: Operation
OPERATION_CONFIRM: Operation
OPERATION_CANCEL: Operation
OUTCOME_CODE_UNSPECIFIED: OutcomeCode
OUTCOME_CODE_SUCCEEDED: OutcomeCode
OUTCOME_CODE_REJECTED: OutcomeCode
OUTCOME_CODE_FAILED: OutcomeCode
BARRIER_STATE_UNSPECIFIED: BarrierState
BARRIER_STATE_TRIED: BarrierState
BARRIER_STATE_CONFIRMED: BarrierState
BARRIER_STATE_CANCELLED: BarrierState

class BranchCall(_message.Message):
    __slots__ = ("gid", "branch_id", "operation", "action", "payload", "content_type", "try_result", "try_result_content_type", "expires_at_ms", "attempt", "traceparent", "tracestate", "tried_by_initiator")
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    TRY_RESULT_FIELD_NUMBER: _ClassVar[int]
    TRY_RESULT_CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    TRIED_BY_INITIATOR_FIELD_NUMBER: _ClassVar[int]
    gid: str
    branch_id: str
    operation: Operation
    action: str
    payload: bytes
    content_type: str
    try_result: bytes
    try_result_content_type: str
    expires_at_ms: int
    attempt: int
    traceparent: str
    tracestate: str
    tried_by_initiator: bool
    def __init__(self, gid: _Optional[str] = ..., branch_id: _Optional[str] = ..., operation: _Optional[_Union[Operation, str]] = ..., action: _Optional[str] = ..., payload: _Optional[bytes] = ..., content_type: _Optional[str] = ..., try_result: _Optional[bytes] = ..., try_result_content_type: _Optional[str] = ..., expires_at_ms: _Optional[int] = ..., attempt: _Optional[int] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., tried_by_initiator: _Optional[bool] = ...) -> None: ...

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
    def __init__(self, index: _Optional[int] = ..., code: _Optional[_Union[OutcomeCode, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., result: _Optional[bytes] = ..., content_type: _Optional[str] = ..., permanent: _Optional[bool] = ...) -> None: ...

class ParticipantServiceTryBranchRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: BranchCall
    def __init__(self, call: _Optional[_Union[BranchCall, _Mapping]] = ...) -> None: ...

class ParticipantServiceTryBranchResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: CallResult
    def __init__(self, result: _Optional[_Union[CallResult, _Mapping]] = ...) -> None: ...

class ConfirmBranchRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: BranchCall
    def __init__(self, call: _Optional[_Union[BranchCall, _Mapping]] = ...) -> None: ...

class ConfirmBranchResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: CallResult
    def __init__(self, result: _Optional[_Union[CallResult, _Mapping]] = ...) -> None: ...

class CancelBranchRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: BranchCall
    def __init__(self, call: _Optional[_Union[BranchCall, _Mapping]] = ...) -> None: ...

class CancelBranchResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: CallResult
    def __init__(self, result: _Optional[_Union[CallResult, _Mapping]] = ...) -> None: ...

class ExecuteBranchesRequest(_message.Message):
    __slots__ = ("calls",)
    CALLS_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[BranchCall]
    def __init__(self, calls: _Optional[_Iterable[_Union[BranchCall, _Mapping]]] = ...) -> None: ...

class ExecuteBranchesResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[CallResult]
    def __init__(self, results: _Optional[_Iterable[_Union[CallResult, _Mapping]]] = ...) -> None: ...

class BranchKey(_message.Message):
    __slots__ = ("gid", "branch_id")
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    gid: str
    branch_id: str
    def __init__(self, gid: _Optional[str] = ..., branch_id: _Optional[str] = ...) -> None: ...

class BarrierRow(_message.Message):
    __slots__ = ("gid", "branch_id", "action", "state", "age_ms")
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    gid: str
    branch_id: str
    action: str
    state: BarrierState
    age_ms: int
    def __init__(self, gid: _Optional[str] = ..., branch_id: _Optional[str] = ..., action: _Optional[str] = ..., state: _Optional[_Union[BarrierState, str]] = ..., age_ms: _Optional[int] = ...) -> None: ...

class ListBranchesRequest(_message.Message):
    __slots__ = ("states", "min_age_ms", "max_age_ms", "page_size", "page_token", "keys")
    STATES_FIELD_NUMBER: _ClassVar[int]
    MIN_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[BarrierState]
    min_age_ms: int
    max_age_ms: int
    page_size: int
    page_token: str
    keys: _containers.RepeatedCompositeFieldContainer[BranchKey]
    def __init__(self, states: _Optional[_Iterable[_Union[BarrierState, str]]] = ..., min_age_ms: _Optional[int] = ..., max_age_ms: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., keys: _Optional[_Iterable[_Union[BranchKey, _Mapping]]] = ...) -> None: ...

class ListBranchesResponse(_message.Message):
    __slots__ = ("rows", "next_page_token")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[BarrierRow]
    next_page_token: str
    def __init__(self, rows: _Optional[_Iterable[_Union[BarrierRow, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
