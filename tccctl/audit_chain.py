"""The audit chain, verified locally, for operators who do not trust the coordinator.

A record's hash is SHA-256 over the previous hash and the record's canonical form. The form is
defined at AuditRecord in `protos/tcc/admin/v1/admin.proto`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from tcc.admin.v1.admin_pb2 import AuditRecord

_FIRST_PREVIOUS = bytes(32)


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain, as stored outside the coordinator."""

    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainCheck:
    """The result of a check. `problem` is empty if the chain is intact."""

    records: int
    head: Head | None
    broken_at: int = 0
    problem: str = ""


def record_hash(record: AuditRecord) -> bytes:
    """Return the hash that the record must have, given the previous hash that it names."""
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
    """Follow the chain from its end to its beginning. `kept` must lie on it."""
    count, head, wanted = 0, None, None
    seen_kept = kept is None
    for record in newest_first:
        count += 1
        head = head or Head(record.sequence, record.hash)
        problem = _problem(record, wanted)
        if kept is not None and record.sequence == kept.sequence:
            seen_kept = True
            problem = problem or ("" if record.hash == kept.hash else "differs from the given head")
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
    """Return what is wrong with a record where `wanted` is expected; empty if nothing is."""
    if record.hash != record_hash(record):
        return "was modified"
    if wanted is None:
        return ""
    if record.sequence != wanted.sequence:
        return f"was found in place of record {wanted.sequence}"
    return (
        ""
        if record.hash == wanted.hash
        else f"does not match the previous hash in record {record.sequence + 1}"
    )
