"""The audit chain, computed anew on this side: whoever trusts no coordinator trusts this.

A record's hash is SHA-256 over the hash before it and its canonical form, as
`protos/tcc/admin/v1/admin.proto` says at AuditRecord.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from tcc.admin.v1.admin_pb2 import AuditRecord

_FIRST_PREVIOUS = bytes(32)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain, as somebody has kept it elsewhere."""

    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainCheck:
    """What was found: `problem` is empty for a chain in order."""

    records: int
    head: Head | None
    broken_at: int = 0
    problem: str = ""


def record_hash(record: AuditRecord) -> bytes:
    """Return what the record's hash has to be, given the previous one that it names."""
    at_us = record.at.seconds * 1_000_000 + record.at.nanos // 1_000
    fields = [
        record.sequence,
        at_us,
        record.operator,
        record.action,
        record.target,
        record.reason,
        record.detail,
    ]
    canonical = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return sha256(record.previous_hash + canonical).digest()


def verify(newest_first: Iterable[AuditRecord], kept: Head | None = None) -> ChainCheck:
    """Follows the chain from its end to its beginning; `kept` must lie on it."""
    count, head, wanted = 0, None, None
    seen_kept = kept is None
    for record in newest_first:
        count += 1
        head = head or Head(record.sequence, record.hash)
        problem = _problem(record, wanted)
        if kept is not None and record.sequence == kept.sequence:
            seen_kept = True
            problem = problem or ("" if record.hash == kept.hash else "is not the one that was kept")
        if problem:
            return ChainCheck(
                records=count,
                head=head,
                broken_at=record.sequence,
                problem=f"record {record.sequence} {problem}",
            )
        wanted = Head(record.sequence - 1, record.previous_hash)
    if wanted is not None and wanted != Head(0, _FIRST_PREVIOUS):
        return ChainCheck(
            records=count,
            head=head,
            broken_at=wanted.sequence,
            problem=f"record {wanted.sequence} is missing",
        )
    if kept is not None and not seen_kept:
        return ChainCheck(
            records=count, head=head, broken_at=kept.sequence, problem=f"record {kept.sequence} is missing"
        )
    return ChainCheck(records=count, head=head)


def _problem(record: AuditRecord, wanted: Head | None) -> str:
    """Return what is wrong with a record that ought to be `wanted`; empty for nothing."""
    if record.hash != record_hash(record):
        return "was changed"
    if wanted is None:
        return ""
    if record.sequence != wanted.sequence:
        return f"stands where record {wanted.sequence} is missing"
    return "" if record.hash == wanted.hash else f"is not what record {record.sequence + 1} follows"
