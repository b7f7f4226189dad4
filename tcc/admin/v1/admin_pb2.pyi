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

class HistoryKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HISTORY_KIND_UNSPECIFIED: _ClassVar[HistoryKind]
    HISTORY_KIND_BEGUN: _ClassVar[HistoryKind]
    HISTORY_KIND_DECIDED: _ClassVar[HistoryKind]
    HISTORY_KIND_ENDED: _ClassVar[HistoryKind]
    HISTORY_KIND_CALL_FAILED: _ClassVar[HistoryKind]
    HISTORY_KIND_STUCK: _ClassVar[HistoryKind]
    HISTORY_KIND_ADOPTED: _ClassVar[HistoryKind]
    HISTORY_KIND_OPERATOR: _ClassVar[HistoryKind]
    HISTORY_KIND_OMITTED: _ClassVar[HistoryKind]

class BulkAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BULK_ACTION_UNSPECIFIED: _ClassVar[BulkAction]
    BULK_ACTION_RETRY: _ClassVar[BulkAction]
    BULK_ACTION_HOLD: _ClassVar[BulkAction]
    BULK_ACTION_RELEASE: _ClassVar[BulkAction]
    BULK_ACTION_CANCEL: _ClassVar[BulkAction]

class BreakerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BREAKER_STATE_UNSPECIFIED: _ClassVar[BreakerState]
    BREAKER_STATE_CLOSED: _ClassVar[BreakerState]
    BREAKER_STATE_OPEN: _ClassVar[BreakerState]
    BREAKER_STATE_HALF_OPEN: _ClassVar[BreakerState]

class ReconciliationOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECONCILIATION_OUTCOME_UNSPECIFIED: _ClassVar[ReconciliationOutcome]
    RECONCILIATION_OUTCOME_COMPARED: _ClassVar[ReconciliationOutcome]
    RECONCILIATION_OUTCOME_UNSUPPORTED: _ClassVar[ReconciliationOutcome]
    RECONCILIATION_OUTCOME_PAUSED: _ClassVar[ReconciliationOutcome]
    RECONCILIATION_OUTCOME_UNREACHABLE: _ClassVar[ReconciliationOutcome]

class FindingKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINDING_KIND_UNSPECIFIED: _ClassVar[FindingKind]
    FINDING_KIND_ORPHAN: _ClassVar[FindingKind]
    FINDING_KIND_LEAK: _ClassVar[FindingKind]
    FINDING_KIND_MIXED: _ClassVar[FindingKind]
HISTORY_KIND_UNSPECIFIED: HistoryKind
HISTORY_KIND_BEGUN: HistoryKind
HISTORY_KIND_DECIDED: HistoryKind
HISTORY_KIND_ENDED: HistoryKind
HISTORY_KIND_CALL_FAILED: HistoryKind
HISTORY_KIND_STUCK: HistoryKind
HISTORY_KIND_ADOPTED: HistoryKind
HISTORY_KIND_OPERATOR: HistoryKind
HISTORY_KIND_OMITTED: HistoryKind
BULK_ACTION_UNSPECIFIED: BulkAction
BULK_ACTION_RETRY: BulkAction
BULK_ACTION_HOLD: BulkAction
BULK_ACTION_RELEASE: BulkAction
BULK_ACTION_CANCEL: BulkAction
BREAKER_STATE_UNSPECIFIED: BreakerState
BREAKER_STATE_CLOSED: BreakerState
BREAKER_STATE_OPEN: BreakerState
BREAKER_STATE_HALF_OPEN: BreakerState
RECONCILIATION_OUTCOME_UNSPECIFIED: ReconciliationOutcome
RECONCILIATION_OUTCOME_COMPARED: ReconciliationOutcome
RECONCILIATION_OUTCOME_UNSUPPORTED: ReconciliationOutcome
RECONCILIATION_OUTCOME_PAUSED: ReconciliationOutcome
RECONCILIATION_OUTCOME_UNREACHABLE: ReconciliationOutcome
FINDING_KIND_UNSPECIFIED: FindingKind
FINDING_KIND_ORPHAN: FindingKind
FINDING_KIND_LEAK: FindingKind
FINDING_KIND_MIXED: FindingKind

class WhoAmIRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WhoAmIResponse(_message.Message):
    __slots__ = ("authenticated", "principal", "method", "client", "gid_prefixes", "calls", "operator", "role", "tenants", "payloads", "methods")
    AUTHENTICATED_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    GID_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    authenticated: bool
    principal: str
    method: str
    client: str
    gid_prefixes: _containers.RepeatedScalarFieldContainer[str]
    calls: _containers.RepeatedScalarFieldContainer[str]
    operator: str
    role: str
    tenants: _containers.RepeatedScalarFieldContainer[str]
    payloads: bool
    methods: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, authenticated: bool = ..., principal: _Optional[str] = ..., method: _Optional[str] = ..., client: _Optional[str] = ..., gid_prefixes: _Optional[_Iterable[str]] = ..., calls: _Optional[_Iterable[str]] = ..., operator: _Optional[str] = ..., role: _Optional[str] = ..., tenants: _Optional[_Iterable[str]] = ..., payloads: bool = ..., methods: _Optional[_Iterable[str]] = ...) -> None: ...

class OperatorContext(_message.Message):
    __slots__ = ("operator", "reason", "version")
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    operator: str
    reason: str
    version: int
    def __init__(self, operator: _Optional[str] = ..., reason: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class SearchTransactionsRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: str
    page_size: int
    page_token: str
    def __init__(self, filter: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class SearchTransactionsResponse(_message.Message):
    __slots__ = ("transactions", "next_page_token")
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    transactions: _containers.RepeatedCompositeFieldContainer[_common_pb2.Transaction]
    next_page_token: str
    def __init__(self, transactions: _Optional[_Iterable[_Union[_common_pb2.Transaction, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class InspectTransactionRequest(_message.Message):
    __slots__ = ("gid",)
    GID_FIELD_NUMBER: _ClassVar[int]
    gid: str
    def __init__(self, gid: _Optional[str] = ...) -> None: ...

class InspectTransactionResponse(_message.Message):
    __slots__ = ("transaction", "history", "owner_name")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    OWNER_NAME_FIELD_NUMBER: _ClassVar[int]
    transaction: _common_pb2.Transaction
    history: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    owner_name: str
    def __init__(self, transaction: _Optional[_Union[_common_pb2.Transaction, _Mapping]] = ..., history: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ..., owner_name: _Optional[str] = ...) -> None: ...

class HistoryEntry(_message.Message):
    __slots__ = ("at", "kind", "branch_id", "participant", "operation", "detail", "actor", "count", "last_at")
    AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    LAST_AT_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    kind: HistoryKind
    branch_id: str
    participant: str
    operation: str
    detail: str
    actor: str
    count: int
    last_at: _timestamp_pb2.Timestamp
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[_Union[HistoryKind, str]] = ..., branch_id: _Optional[str] = ..., participant: _Optional[str] = ..., operation: _Optional[str] = ..., detail: _Optional[str] = ..., actor: _Optional[str] = ..., count: _Optional[int] = ..., last_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ExplainTransactionRequest(_message.Message):
    __slots__ = ("gid",)
    GID_FIELD_NUMBER: _ClassVar[int]
    gid: str
    def __init__(self, gid: _Optional[str] = ...) -> None: ...

class ExplainTransactionResponse(_message.Message):
    __slots__ = ("gid", "state", "version", "summary", "advice", "branches", "owner", "owner_name", "owner_alive", "next_attempt_at", "stuck", "held")
    GID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ADVICE_FIELD_NUMBER: _ClassVar[int]
    BRANCHES_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    OWNER_NAME_FIELD_NUMBER: _ClassVar[int]
    OWNER_ALIVE_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_AT_FIELD_NUMBER: _ClassVar[int]
    STUCK_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    gid: str
    state: _common_pb2.TransactionState
    version: int
    summary: str
    advice: _containers.RepeatedScalarFieldContainer[str]
    branches: _containers.RepeatedCompositeFieldContainer[BranchExplanation]
    owner: str
    owner_name: str
    owner_alive: bool
    next_attempt_at: _timestamp_pb2.Timestamp
    stuck: bool
    held: bool
    def __init__(self, gid: _Optional[str] = ..., state: _Optional[_Union[_common_pb2.TransactionState, str]] = ..., version: _Optional[int] = ..., summary: _Optional[str] = ..., advice: _Optional[_Iterable[str]] = ..., branches: _Optional[_Iterable[_Union[BranchExplanation, _Mapping]]] = ..., owner: _Optional[str] = ..., owner_name: _Optional[str] = ..., owner_alive: bool = ..., next_attempt_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stuck: bool = ..., held: bool = ...) -> None: ...

class BranchExplanation(_message.Message):
    __slots__ = ("branch_id", "participant", "action", "operation", "attempts", "last_error", "next_attempt_at", "reports", "paused", "configured", "summary")
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_AT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    branch_id: str
    participant: str
    action: str
    operation: str
    attempts: int
    last_error: str
    next_attempt_at: _timestamp_pb2.Timestamp
    reports: _containers.RepeatedCompositeFieldContainer[ParticipantReport]
    paused: bool
    configured: bool
    summary: str
    def __init__(self, branch_id: _Optional[str] = ..., participant: _Optional[str] = ..., action: _Optional[str] = ..., operation: _Optional[str] = ..., attempts: _Optional[int] = ..., last_error: _Optional[str] = ..., next_attempt_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reports: _Optional[_Iterable[_Union[ParticipantReport, _Mapping]]] = ..., paused: bool = ..., configured: bool = ..., summary: _Optional[str] = ...) -> None: ...

class RetryTransactionRequest(_message.Message):
    __slots__ = ("gid", "operator_context")
    GID_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    gid: str
    operator_context: OperatorContext
    def __init__(self, gid: _Optional[str] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ...) -> None: ...

class RetryTransactionResponse(_message.Message):
    __slots__ = ("transaction", "audit_record")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    AUDIT_RECORD_FIELD_NUMBER: _ClassVar[int]
    transaction: _common_pb2.Transaction
    audit_record: AuditRecord
    def __init__(self, transaction: _Optional[_Union[_common_pb2.Transaction, _Mapping]] = ..., audit_record: _Optional[_Union[AuditRecord, _Mapping]] = ...) -> None: ...

class HoldTransactionRequest(_message.Message):
    __slots__ = ("gid", "operator_context")
    GID_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    gid: str
    operator_context: OperatorContext
    def __init__(self, gid: _Optional[str] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ...) -> None: ...

class HoldTransactionResponse(_message.Message):
    __slots__ = ("transaction", "audit_record")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    AUDIT_RECORD_FIELD_NUMBER: _ClassVar[int]
    transaction: _common_pb2.Transaction
    audit_record: AuditRecord
    def __init__(self, transaction: _Optional[_Union[_common_pb2.Transaction, _Mapping]] = ..., audit_record: _Optional[_Union[AuditRecord, _Mapping]] = ...) -> None: ...

class ReleaseTransactionRequest(_message.Message):
    __slots__ = ("gid", "operator_context")
    GID_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    gid: str
    operator_context: OperatorContext
    def __init__(self, gid: _Optional[str] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ...) -> None: ...

class ReleaseTransactionResponse(_message.Message):
    __slots__ = ("transaction", "audit_record")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    AUDIT_RECORD_FIELD_NUMBER: _ClassVar[int]
    transaction: _common_pb2.Transaction
    audit_record: AuditRecord
    def __init__(self, transaction: _Optional[_Union[_common_pb2.Transaction, _Mapping]] = ..., audit_record: _Optional[_Union[AuditRecord, _Mapping]] = ...) -> None: ...

class CancelTransactionRequest(_message.Message):
    __slots__ = ("gid", "operator_context")
    GID_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    gid: str
    operator_context: OperatorContext
    def __init__(self, gid: _Optional[str] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ...) -> None: ...

class CancelTransactionResponse(_message.Message):
    __slots__ = ("transaction", "audit_record")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    AUDIT_RECORD_FIELD_NUMBER: _ClassVar[int]
    transaction: _common_pb2.Transaction
    audit_record: AuditRecord
    def __init__(self, transaction: _Optional[_Union[_common_pb2.Transaction, _Mapping]] = ..., audit_record: _Optional[_Union[AuditRecord, _Mapping]] = ...) -> None: ...

class ResolveBranchRequest(_message.Message):
    __slots__ = ("gid", "branch_id", "outcome", "operator_context")
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    gid: str
    branch_id: str
    outcome: _common_pb2.HeuristicOutcome
    operator_context: OperatorContext
    def __init__(self, gid: _Optional[str] = ..., branch_id: _Optional[str] = ..., outcome: _Optional[_Union[_common_pb2.HeuristicOutcome, str]] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ...) -> None: ...

class ResolveBranchResponse(_message.Message):
    __slots__ = ("transaction", "audit_record")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    AUDIT_RECORD_FIELD_NUMBER: _ClassVar[int]
    transaction: _common_pb2.Transaction
    audit_record: AuditRecord
    def __init__(self, transaction: _Optional[_Union[_common_pb2.Transaction, _Mapping]] = ..., audit_record: _Optional[_Union[AuditRecord, _Mapping]] = ...) -> None: ...

class RunBulkActionRequest(_message.Message):
    __slots__ = ("filter", "action", "operator_context", "confirmation_token")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filter: str
    action: BulkAction
    operator_context: OperatorContext
    confirmation_token: str
    def __init__(self, filter: _Optional[str] = ..., action: _Optional[_Union[BulkAction, str]] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ..., confirmation_token: _Optional[str] = ...) -> None: ...

class RunBulkActionResponse(_message.Message):
    __slots__ = ("dry_run", "matched", "succeeded", "failed", "failures", "sample_gids", "confirmation_token", "finished")
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_GIDS_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    matched: int
    succeeded: int
    failed: int
    failures: _containers.RepeatedCompositeFieldContainer[BulkFailure]
    sample_gids: _containers.RepeatedScalarFieldContainer[str]
    confirmation_token: str
    finished: bool
    def __init__(self, dry_run: bool = ..., matched: _Optional[int] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., failures: _Optional[_Iterable[_Union[BulkFailure, _Mapping]]] = ..., sample_gids: _Optional[_Iterable[str]] = ..., confirmation_token: _Optional[str] = ..., finished: bool = ...) -> None: ...

class BulkFailure(_message.Message):
    __slots__ = ("gid", "error")
    GID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    gid: str
    error: _common_pb2.Error
    def __init__(self, gid: _Optional[str] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ...) -> None: ...

class ParticipantReport(_message.Message):
    __slots__ = ("coordinator_id", "coordinator_name", "reported_at", "breaker", "probe_at", "consecutive_failures", "backlog", "in_flight", "live_branches", "calls_completed", "calls_failed", "last_error", "last_error_at", "target", "paused")
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_NAME_FIELD_NUMBER: _ClassVar[int]
    REPORTED_AT_FIELD_NUMBER: _ClassVar[int]
    BREAKER_FIELD_NUMBER: _ClassVar[int]
    PROBE_AT_FIELD_NUMBER: _ClassVar[int]
    CONSECUTIVE_FAILURES_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    LIVE_BRANCHES_FIELD_NUMBER: _ClassVar[int]
    CALLS_COMPLETED_FIELD_NUMBER: _ClassVar[int]
    CALLS_FAILED_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_AT_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    coordinator_id: str
    coordinator_name: str
    reported_at: _timestamp_pb2.Timestamp
    breaker: BreakerState
    probe_at: _timestamp_pb2.Timestamp
    consecutive_failures: int
    backlog: int
    in_flight: int
    live_branches: int
    calls_completed: int
    calls_failed: int
    last_error: str
    last_error_at: _timestamp_pb2.Timestamp
    target: str
    paused: bool
    def __init__(self, coordinator_id: _Optional[str] = ..., coordinator_name: _Optional[str] = ..., reported_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., breaker: _Optional[_Union[BreakerState, str]] = ..., probe_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., consecutive_failures: _Optional[int] = ..., backlog: _Optional[int] = ..., in_flight: _Optional[int] = ..., live_branches: _Optional[int] = ..., calls_completed: _Optional[int] = ..., calls_failed: _Optional[int] = ..., last_error: _Optional[str] = ..., last_error_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., target: _Optional[str] = ..., paused: bool = ...) -> None: ...

class ParticipantStatus(_message.Message):
    __slots__ = ("name", "paused", "version", "operator", "reason", "changed_at", "waiting", "reports", "waiting_capped")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_CAPPED_FIELD_NUMBER: _ClassVar[int]
    name: str
    paused: bool
    version: int
    operator: str
    reason: str
    changed_at: _timestamp_pb2.Timestamp
    waiting: int
    reports: _containers.RepeatedCompositeFieldContainer[ParticipantReport]
    waiting_capped: bool
    def __init__(self, name: _Optional[str] = ..., paused: bool = ..., version: _Optional[int] = ..., operator: _Optional[str] = ..., reason: _Optional[str] = ..., changed_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., waiting: _Optional[int] = ..., reports: _Optional[_Iterable[_Union[ParticipantReport, _Mapping]]] = ..., waiting_capped: bool = ...) -> None: ...

class ListParticipantsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListParticipantsResponse(_message.Message):
    __slots__ = ("participants",)
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    participants: _containers.RepeatedCompositeFieldContainer[ParticipantStatus]
    def __init__(self, participants: _Optional[_Iterable[_Union[ParticipantStatus, _Mapping]]] = ...) -> None: ...

class PauseParticipantRequest(_message.Message):
    __slots__ = ("participant", "operator_context")
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    participant: str
    operator_context: OperatorContext
    def __init__(self, participant: _Optional[str] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ...) -> None: ...

class PauseParticipantResponse(_message.Message):
    __slots__ = ("participant", "audit_record")
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    AUDIT_RECORD_FIELD_NUMBER: _ClassVar[int]
    participant: ParticipantStatus
    audit_record: AuditRecord
    def __init__(self, participant: _Optional[_Union[ParticipantStatus, _Mapping]] = ..., audit_record: _Optional[_Union[AuditRecord, _Mapping]] = ...) -> None: ...

class ResumeParticipantRequest(_message.Message):
    __slots__ = ("participant", "operator_context")
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    participant: str
    operator_context: OperatorContext
    def __init__(self, participant: _Optional[str] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ...) -> None: ...

class ResumeParticipantResponse(_message.Message):
    __slots__ = ("participant", "audit_record")
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    AUDIT_RECORD_FIELD_NUMBER: _ClassVar[int]
    participant: ParticipantStatus
    audit_record: AuditRecord
    def __init__(self, participant: _Optional[_Union[ParticipantStatus, _Mapping]] = ..., audit_record: _Optional[_Union[AuditRecord, _Mapping]] = ...) -> None: ...

class ResetBreakerRequest(_message.Message):
    __slots__ = ("participant", "operator_context")
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    participant: str
    operator_context: OperatorContext
    def __init__(self, participant: _Optional[str] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ...) -> None: ...

class ResetBreakerResponse(_message.Message):
    __slots__ = ("participant", "audit_record")
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    AUDIT_RECORD_FIELD_NUMBER: _ClassVar[int]
    participant: ParticipantStatus
    audit_record: AuditRecord
    def __init__(self, participant: _Optional[_Union[ParticipantStatus, _Mapping]] = ..., audit_record: _Optional[_Union[AuditRecord, _Mapping]] = ...) -> None: ...

class ReconcileRequest(_message.Message):
    __slots__ = ("participants", "min_age", "ended_within")
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    MIN_AGE_FIELD_NUMBER: _ClassVar[int]
    ENDED_WITHIN_FIELD_NUMBER: _ClassVar[int]
    participants: _containers.RepeatedScalarFieldContainer[str]
    min_age: _duration_pb2.Duration
    ended_within: _duration_pb2.Duration
    def __init__(self, participants: _Optional[_Iterable[str]] = ..., min_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., ended_within: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ReconcileResponse(_message.Message):
    __slots__ = ("findings", "ended")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    ended: ParticipantReconciliation
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., ended: _Optional[_Union[ParticipantReconciliation, _Mapping]] = ...) -> None: ...

class ParticipantReconciliation(_message.Message):
    __slots__ = ("participant", "outcome", "detail", "rows", "findings")
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    participant: str
    outcome: ReconciliationOutcome
    detail: str
    rows: int
    findings: int
    def __init__(self, participant: _Optional[str] = ..., outcome: _Optional[_Union[ReconciliationOutcome, str]] = ..., detail: _Optional[str] = ..., rows: _Optional[int] = ..., findings: _Optional[int] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("participant", "gid", "branch_id", "action", "kind", "barrier_state", "transaction_state", "age", "explanation", "repair")
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BARRIER_STATE_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_STATE_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    participant: str
    gid: str
    branch_id: str
    action: str
    kind: FindingKind
    barrier_state: _common_pb2.BarrierState
    transaction_state: _common_pb2.TransactionState
    age: _duration_pb2.Duration
    explanation: str
    repair: _common_pb2.Operation
    def __init__(self, participant: _Optional[str] = ..., gid: _Optional[str] = ..., branch_id: _Optional[str] = ..., action: _Optional[str] = ..., kind: _Optional[_Union[FindingKind, str]] = ..., barrier_state: _Optional[_Union[_common_pb2.BarrierState, str]] = ..., transaction_state: _Optional[_Union[_common_pb2.TransactionState, str]] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., explanation: _Optional[str] = ..., repair: _Optional[_Union[_common_pb2.Operation, str]] = ...) -> None: ...

class RepairBranchRequest(_message.Message):
    __slots__ = ("participant", "gid", "branch_id", "operation", "payload", "content_type", "operator_context")
    PARTICIPANT_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_ID_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    participant: str
    gid: str
    branch_id: str
    operation: _common_pb2.Operation
    payload: bytes
    content_type: str
    operator_context: OperatorContext
    def __init__(self, participant: _Optional[str] = ..., gid: _Optional[str] = ..., branch_id: _Optional[str] = ..., operation: _Optional[_Union[_common_pb2.Operation, str]] = ..., payload: _Optional[bytes] = ..., content_type: _Optional[str] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ...) -> None: ...

class RepairBranchResponse(_message.Message):
    __slots__ = ("finding", "result", "audit_record")
    FINDING_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    AUDIT_RECORD_FIELD_NUMBER: _ClassVar[int]
    finding: Finding
    result: _common_pb2.CallResult
    audit_record: AuditRecord
    def __init__(self, finding: _Optional[_Union[Finding, _Mapping]] = ..., result: _Optional[_Union[_common_pb2.CallResult, _Mapping]] = ..., audit_record: _Optional[_Union[AuditRecord, _Mapping]] = ...) -> None: ...

class Coordinator(_message.Message):
    __slots__ = ("id", "name", "started_at", "lease_until", "alive", "drain_requested_at", "owned", "reported_at", "live", "log_backlog", "version")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    LEASE_UNTIL_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_REQUESTED_AT_FIELD_NUMBER: _ClassVar[int]
    OWNED_FIELD_NUMBER: _ClassVar[int]
    REPORTED_AT_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    LOG_BACKLOG_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    started_at: _timestamp_pb2.Timestamp
    lease_until: _timestamp_pb2.Timestamp
    alive: bool
    drain_requested_at: _timestamp_pb2.Timestamp
    owned: int
    reported_at: _timestamp_pb2.Timestamp
    live: int
    log_backlog: int
    version: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lease_until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., alive: bool = ..., drain_requested_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., owned: _Optional[int] = ..., reported_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., live: _Optional[int] = ..., log_backlog: _Optional[int] = ..., version: _Optional[str] = ...) -> None: ...

class ListCoordinatorsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCoordinatorsResponse(_message.Message):
    __slots__ = ("coordinators", "responder_id")
    COORDINATORS_FIELD_NUMBER: _ClassVar[int]
    RESPONDER_ID_FIELD_NUMBER: _ClassVar[int]
    coordinators: _containers.RepeatedCompositeFieldContainer[Coordinator]
    responder_id: str
    def __init__(self, coordinators: _Optional[_Iterable[_Union[Coordinator, _Mapping]]] = ..., responder_id: _Optional[str] = ...) -> None: ...

class DrainCoordinatorRequest(_message.Message):
    __slots__ = ("coordinator_id", "operator_context")
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    coordinator_id: str
    operator_context: OperatorContext
    def __init__(self, coordinator_id: _Optional[str] = ..., operator_context: _Optional[_Union[OperatorContext, _Mapping]] = ...) -> None: ...

class DrainCoordinatorResponse(_message.Message):
    __slots__ = ("coordinator", "audit_record")
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    AUDIT_RECORD_FIELD_NUMBER: _ClassVar[int]
    coordinator: Coordinator
    audit_record: AuditRecord
    def __init__(self, coordinator: _Optional[_Union[Coordinator, _Mapping]] = ..., audit_record: _Optional[_Union[AuditRecord, _Mapping]] = ...) -> None: ...

class AuditRecord(_message.Message):
    __slots__ = ("sequence", "at", "operator", "action", "target", "reason", "detail", "previous_hash", "hash", "on_behalf_of", "method", "peer", "credential", "role", "cell")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HASH_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    ON_BEHALF_OF_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    at: _timestamp_pb2.Timestamp
    operator: str
    action: str
    target: str
    reason: str
    detail: str
    previous_hash: bytes
    hash: bytes
    on_behalf_of: str
    method: str
    peer: str
    credential: str
    role: str
    cell: int
    def __init__(self, sequence: _Optional[int] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., operator: _Optional[str] = ..., action: _Optional[str] = ..., target: _Optional[str] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ..., previous_hash: _Optional[bytes] = ..., hash: _Optional[bytes] = ..., on_behalf_of: _Optional[str] = ..., method: _Optional[str] = ..., peer: _Optional[str] = ..., credential: _Optional[str] = ..., role: _Optional[str] = ..., cell: _Optional[int] = ...) -> None: ...

class ListAuditRecordsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "operator", "target", "action", "cell")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    operator: str
    target: str
    action: str
    cell: int
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., operator: _Optional[str] = ..., target: _Optional[str] = ..., action: _Optional[str] = ..., cell: _Optional[int] = ...) -> None: ...

class ListAuditRecordsResponse(_message.Message):
    __slots__ = ("records", "next_page_token")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[AuditRecord]
    next_page_token: str
    def __init__(self, records: _Optional[_Iterable[_Union[AuditRecord, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class VerifyAuditChainRequest(_message.Message):
    __slots__ = ("cell",)
    CELL_FIELD_NUMBER: _ClassVar[int]
    cell: int
    def __init__(self, cell: _Optional[int] = ...) -> None: ...

class VerifyAuditChainResponse(_message.Message):
    __slots__ = ("intact", "records", "broken_at_sequence", "problem", "head_sequence", "head_hash", "signed_head", "cells")
    INTACT_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    BROKEN_AT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    HEAD_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HEAD_HASH_FIELD_NUMBER: _ClassVar[int]
    SIGNED_HEAD_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    intact: bool
    records: int
    broken_at_sequence: int
    problem: str
    head_sequence: int
    head_hash: bytes
    signed_head: SignedAuditHead
    cells: int
    def __init__(self, intact: bool = ..., records: _Optional[int] = ..., broken_at_sequence: _Optional[int] = ..., problem: _Optional[str] = ..., head_sequence: _Optional[int] = ..., head_hash: _Optional[bytes] = ..., signed_head: _Optional[_Union[SignedAuditHead, _Mapping]] = ..., cells: _Optional[int] = ...) -> None: ...

class SignedAuditHead(_message.Message):
    __slots__ = ("sequence", "hash", "at", "key_id", "signature")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    hash: bytes
    at: _timestamp_pb2.Timestamp
    key_id: str
    signature: bytes
    def __init__(self, sequence: _Optional[int] = ..., hash: _Optional[bytes] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., key_id: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("at", "trying", "confirming", "cancelling", "parked", "stuck", "held", "oldest_unfinished_gid", "oldest_unfinished_age", "begun_per_s", "confirmed_per_s", "cancelled_per_s", "calls_per_s", "failed_calls_per_s", "participants", "coordinators", "responder_id", "count_max", "capped")
    AT_FIELD_NUMBER: _ClassVar[int]
    TRYING_FIELD_NUMBER: _ClassVar[int]
    CONFIRMING_FIELD_NUMBER: _ClassVar[int]
    CANCELLING_FIELD_NUMBER: _ClassVar[int]
    PARKED_FIELD_NUMBER: _ClassVar[int]
    STUCK_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    OLDEST_UNFINISHED_GID_FIELD_NUMBER: _ClassVar[int]
    OLDEST_UNFINISHED_AGE_FIELD_NUMBER: _ClassVar[int]
    BEGUN_PER_S_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_PER_S_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_PER_S_FIELD_NUMBER: _ClassVar[int]
    CALLS_PER_S_FIELD_NUMBER: _ClassVar[int]
    FAILED_CALLS_PER_S_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    COORDINATORS_FIELD_NUMBER: _ClassVar[int]
    RESPONDER_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_MAX_FIELD_NUMBER: _ClassVar[int]
    CAPPED_FIELD_NUMBER: _ClassVar[int]
    at: _timestamp_pb2.Timestamp
    trying: int
    confirming: int
    cancelling: int
    parked: int
    stuck: int
    held: int
    oldest_unfinished_gid: str
    oldest_unfinished_age: _duration_pb2.Duration
    begun_per_s: float
    confirmed_per_s: float
    cancelled_per_s: float
    calls_per_s: float
    failed_calls_per_s: float
    participants: _containers.RepeatedCompositeFieldContainer[ParticipantStatus]
    coordinators: _containers.RepeatedCompositeFieldContainer[Coordinator]
    responder_id: str
    count_max: int
    capped: bool
    def __init__(self, at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trying: _Optional[int] = ..., confirming: _Optional[int] = ..., cancelling: _Optional[int] = ..., parked: _Optional[int] = ..., stuck: _Optional[int] = ..., held: _Optional[int] = ..., oldest_unfinished_gid: _Optional[str] = ..., oldest_unfinished_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., begun_per_s: _Optional[float] = ..., confirmed_per_s: _Optional[float] = ..., cancelled_per_s: _Optional[float] = ..., calls_per_s: _Optional[float] = ..., failed_calls_per_s: _Optional[float] = ..., participants: _Optional[_Iterable[_Union[ParticipantStatus, _Mapping]]] = ..., coordinators: _Optional[_Iterable[_Union[Coordinator, _Mapping]]] = ..., responder_id: _Optional[str] = ..., count_max: _Optional[int] = ..., capped: bool = ...) -> None: ...
