import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tcc.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BranchCall(_message.Message):
    __slots__ = ("gid", "branch_id", "operation", "action", "payload", "content_type", "try_result", "try_result_content_type", "expires_at_ms", "attempt", "traceparent", "tracestate", "tried_by_initiator", "kind")
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
    KIND_FIELD_NUMBER: _ClassVar[int]
    gid: str
    branch_id: str
    operation: _common_pb2.Operation
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
    kind: _common_pb2.BranchKind
    def __init__(self, gid: _Optional[str] = ..., branch_id: _Optional[str] = ..., operation: _Optional[_Union[_common_pb2.Operation, str]] = ..., action: _Optional[str] = ..., payload: _Optional[bytes] = ..., content_type: _Optional[str] = ..., try_result: _Optional[bytes] = ..., try_result_content_type: _Optional[str] = ..., expires_at_ms: _Optional[int] = ..., attempt: _Optional[int] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., tried_by_initiator: bool = ..., kind: _Optional[_Union[_common_pb2.BranchKind, str]] = ...) -> None: ...

class TryBranchRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: BranchCall
    def __init__(self, call: _Optional[_Union[BranchCall, _Mapping]] = ...) -> None: ...

class TryBranchResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: _common_pb2.CallResult
    def __init__(self, result: _Optional[_Union[_common_pb2.CallResult, _Mapping]] = ...) -> None: ...

class ConfirmBranchRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: BranchCall
    def __init__(self, call: _Optional[_Union[BranchCall, _Mapping]] = ...) -> None: ...

class ConfirmBranchResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: _common_pb2.CallResult
    def __init__(self, result: _Optional[_Union[_common_pb2.CallResult, _Mapping]] = ...) -> None: ...

class CancelBranchRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: BranchCall
    def __init__(self, call: _Optional[_Union[BranchCall, _Mapping]] = ...) -> None: ...

class CancelBranchResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: _common_pb2.CallResult
    def __init__(self, result: _Optional[_Union[_common_pb2.CallResult, _Mapping]] = ...) -> None: ...

class CheckBranchRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: BranchCall
    def __init__(self, call: _Optional[_Union[BranchCall, _Mapping]] = ...) -> None: ...

class CheckBranchResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: _common_pb2.CallResult
    def __init__(self, result: _Optional[_Union[_common_pb2.CallResult, _Mapping]] = ...) -> None: ...

class ExecuteBranchesRequest(_message.Message):
    __slots__ = ("calls",)
    CALLS_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[BranchCall]
    def __init__(self, calls: _Optional[_Iterable[_Union[BranchCall, _Mapping]]] = ...) -> None: ...

class ExecuteBranchesResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[_common_pb2.CallResult]
    def __init__(self, results: _Optional[_Iterable[_Union[_common_pb2.CallResult, _Mapping]]] = ...) -> None: ...

class StreamBranchesRequest(_message.Message):
    __slots__ = ("items", "cancelled_ids")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_IDS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[StreamBranchesItem]
    cancelled_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, items: _Optional[_Iterable[_Union[StreamBranchesItem, _Mapping]]] = ..., cancelled_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamBranchesItem(_message.Message):
    __slots__ = ("id", "timeout_ms", "call")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    id: int
    timeout_ms: int
    call: BranchCall
    def __init__(self, id: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., call: _Optional[_Union[BranchCall, _Mapping]] = ...) -> None: ...

class StreamBranchesResponse(_message.Message):
    __slots__ = ("results", "credit", "draining", "replica_id")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[StreamBranchesResult]
    credit: int
    draining: bool
    replica_id: str
    def __init__(self, results: _Optional[_Iterable[_Union[StreamBranchesResult, _Mapping]]] = ..., credit: _Optional[int] = ..., draining: bool = ..., replica_id: _Optional[str] = ...) -> None: ...

class StreamBranchesResult(_message.Message):
    __slots__ = ("id", "result")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    id: int
    result: _common_pb2.CallResult
    def __init__(self, id: _Optional[int] = ..., result: _Optional[_Union[_common_pb2.CallResult, _Mapping]] = ...) -> None: ...

class BranchKey(_message.Message):
    __slots__ = ("gid", "branch_id")
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    gid: str
    branch_id: str
    def __init__(self, gid: _Optional[str] = ..., branch_id: _Optional[str] = ...) -> None: ...

class BarrierRow(_message.Message):
    __slots__ = ("gid", "branch_id", "action", "state", "age_ms", "kind")
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    gid: str
    branch_id: str
    action: str
    state: _common_pb2.BarrierState
    age_ms: int
    kind: _common_pb2.BranchKind
    def __init__(self, gid: _Optional[str] = ..., branch_id: _Optional[str] = ..., action: _Optional[str] = ..., state: _Optional[_Union[_common_pb2.BarrierState, str]] = ..., age_ms: _Optional[int] = ..., kind: _Optional[_Union[_common_pb2.BranchKind, str]] = ...) -> None: ...

class ListBranchesRequest(_message.Message):
    __slots__ = ("states", "min_age_ms", "max_age_ms", "page_size", "page_token", "keys")
    STATES_FIELD_NUMBER: _ClassVar[int]
    MIN_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[_common_pb2.BarrierState]
    min_age_ms: int
    max_age_ms: int
    page_size: int
    page_token: str
    keys: _containers.RepeatedCompositeFieldContainer[BranchKey]
    def __init__(self, states: _Optional[_Iterable[_Union[_common_pb2.BarrierState, str]]] = ..., min_age_ms: _Optional[int] = ..., max_age_ms: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., keys: _Optional[_Iterable[_Union[BranchKey, _Mapping]]] = ...) -> None: ...

class ListBranchesResponse(_message.Message):
    __slots__ = ("rows", "next_page_token")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[BarrierRow]
    next_page_token: str
    def __init__(self, rows: _Optional[_Iterable[_Union[BarrierRow, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetParticipantInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetParticipantInfoResponse(_message.Message):
    __slots__ = ("participant", "sdk", "server_time", "actions")
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    SDK_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    participant: str
    sdk: str
    server_time: _timestamp_pb2.Timestamp
    actions: _containers.RepeatedCompositeFieldContainer[ActionInfo]
    def __init__(self, participant: _Optional[str] = ..., sdk: _Optional[str] = ..., server_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actions: _Optional[_Iterable[_Union[ActionInfo, _Mapping]]] = ...) -> None: ...

class ActionInfo(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...
