"""The SDK for initiators and participants."""

from typing import TYPE_CHECKING, Any

from tcc import errors
from tcc._internal.tls import Tls
from tcc.branch import Branch, Postponed, Rejected
from tcc.client.client import Client
from tcc.client.outcome import CancelReason, Outcome, TransactionState, TryResult
from tcc.client.requests import BranchRequest
from tcc.client.sync_client import SyncClient
from tcc.context import TransactionContext
from tcc.errors import TccError, TransactionCancelled, TryTimedOut

if TYPE_CHECKING:
    from tcc.encryption import AesGcmCodec
    from tcc.participant.participant import Participant

    __version__: str

__all__ = [
    "AesGcmCodec",
    "Branch",
    "BranchRequest",
    "CancelReason",
    "Client",
    "Outcome",
    "Participant",
    "Postponed",
    "Rejected",
    "SyncClient",
    "TccError",
    "Tls",
    "TransactionCancelled",
    "TransactionContext",
    "TransactionState",
    "TryResult",
    "TryTimedOut",
    "__version__",
    "errors",
]


def __getattr__(name: str) -> Any:
    # A participant needs the extra [sql]; initiators do not.
    if name == "Participant":
        from tcc.participant.participant import Participant  # noqa: PLC0415 - imported on first use

        return Participant
    if name == "AesGcmCodec":
        from tcc.encryption import AesGcmCodec  # noqa: PLC0415 - the extra [encryption]

        return AesGcmCodec
    if name == "__version__":
        from importlib import metadata  # noqa: PLC0415 - an import of the SDK need not parse metadata

        return metadata.version("tcc")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
