"""The chain of audit records: each holds the hash of the one before, so that none can be changed alone.

`hash` is SHA-256 over the previous hash and the canonical form of the record. That
form is part of the contract (`protos/tcc/admin/v1/admin.proto`, AuditRecord): any reader can
compute it again. A person who can write all records can compute all hashes again, too. So the end of the
chain is also stated outside the database, signed (`head_statement`). Pure: times are arguments, in
microseconds since the Unix epoch.
"""

import json
from collections.abc import Iterable
from hashlib import sha256

from msgspec import Struct

NO_HASH = bytes(32)


class AuditEntry(Struct, frozen=True, kw_only=True):
    """An action of an operator, before it has its place in the chain."""

    operator: str
    # For example "transaction.hold".
    action: str
    # For example "transaction/order-17".
    target: str
    reason: str
    # More about it, as JSON.
    detail: str = "{}"
    # For whom the operator says to act.
    on_behalf_of: str = ""
    # How the operator was authenticated: "jwt", "token", "certificate"; empty: not at all.
    method: str = ""
    # The address that the request came from.
    peer: str = ""
    # The SHA-256 of the certificate, or the id of the token.
    credential: str = ""
    # The role that the operator had: "read", "operate" or "admin"; empty: callers are not authenticated.
    role: str = ""


class AuditHead(Struct, frozen=True):
    """The end of the chain."""

    sequence: int = 0
    hash: bytes = NO_HASH


class AuditRecord(Struct, frozen=True, kw_only=True):
    """An entry in its place."""

    sequence: int
    at_us: int
    entry: AuditEntry
    previous_hash: bytes
    hash: bytes
    # The cell of the log whose chain it is in. It is no part of what is hashed.
    cell: int = 0


def chained(head: AuditHead, entry: AuditEntry, at_us: int) -> AuditRecord:
    """Return the record that `entry` becomes after `head`."""
    sequence = head.sequence + 1
    return AuditRecord(
        sequence=sequence,
        at_us=at_us,
        entry=entry,
        previous_hash=head.hash,
        hash=_hash(head.hash, sequence, at_us, entry),
    )


class SignedHead(Struct, frozen=True, kw_only=True):
    """A statement about the end of the chain. Without a key, `key_id` and `signature` are empty."""

    head: AuditHead
    at_us: int
    key_id: str = ""
    signature: bytes = b""


def head_statement(head: AuditHead, at_us: int) -> bytes:
    """Return the bytes that are signed: that the chain ended in `head` at this time."""
    return json.dumps(
        ["tcc audit head", head.sequence, head.hash.hex(), at_us], separators=(",", ":")
    ).encode()


def canonical(sequence: int, at_us: int, entry: AuditEntry) -> bytes:
    """Return the bytes that are hashed.

    The caller is among them if anything is known of it, and its role if that is known: older records keep
    their hashes.
    """
    fields = [sequence, at_us, entry.operator, entry.action, entry.target, entry.reason, entry.detail]
    caller = [entry.on_behalf_of, entry.method, entry.peer, entry.credential]
    if any((*caller, entry.role)):
        fields += caller
    if entry.role:
        fields.append(entry.role)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def first_break(head: AuditHead, records: Iterable[AuditRecord]) -> tuple[int, str] | None:
    """Return the first of `records` that is wrong or missing after `head`, and why."""
    for record in records:
        expected = head.sequence + 1
        if record.sequence != expected:
            return expected, f"record {expected} is missing"
        if record.previous_hash != head.hash:
            return expected, f"record {expected} does not follow from record {head.sequence}"
        if record.hash != _hash(head.hash, record.sequence, record.at_us, record.entry):
            return expected, f"record {expected} was changed"
        head = AuditHead(record.sequence, record.hash)
    return None


def _hash(previous: bytes, sequence: int, at_us: int, entry: AuditEntry) -> bytes:
    return sha256(previous + canonical(sequence, at_us, entry)).digest()
