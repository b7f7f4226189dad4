"""The audit chain, verified locally, for operators who do not trust the coordinator.

A record's hash is SHA-256 over the previous hash and the record's canonical form. The form is
defined at AuditRecord in `protos/tcc/admin/v1/admin.proto`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tcc.admin.v1.admin_pb2 import AuditRecord, SignedAuditHead

_FIRST_PREVIOUS = bytes(32)
_KEY_ID_DIGITS = 16


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


class BadSignature(Exception):  # noqa: N818 - what it is
    """A statement about the end of the chain was not signed with the expected key."""


class PublicKey:
    """The key with which coordinators sign the end of the chain."""

    def __init__(self, pem: bytes) -> None:
        """Raise ValueError if it is not an Ed25519 public key in PEM."""
        key = load_pem_public_key(pem)
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("the key is not an Ed25519 key")  # noqa: TRY004 - a value, for its reader
        self._key = key
        self.key_id = sha256(key.public_bytes_raw()).hexdigest()[:_KEY_ID_DIGITS]

    def verified(self, signed: SignedAuditHead) -> Head:
        """Return the end of the chain that a statement names. Raise BadSignature."""
        at_us = signed.at.seconds * 1_000_000 + signed.at.nanos // 1_000
        fields = ["tcc audit head", signed.sequence, signed.hash.hex(), at_us]
        try:
            self._key.verify(signed.signature, json.dumps(fields, separators=(",", ":")).encode())
        except InvalidSignature:
            raise BadSignature(f"the signature of head {signed.sequence} is wrong") from None
        return Head(signed.sequence, signed.hash)


def logged_heads(lines: Iterable[str], key: PublicKey | None, cell: int = 0) -> Iterator[Head]:
    """Yield the ends of the chain of a cell in the log output of coordinators.

    With a key, statements by other keys, or by none, are skipped. Raise BadSignature for a forged one.
    """
    for line in lines:
        if '"audit head"' not in line:
            continue
        entry = json.loads(line)
        if entry.get("event") != "audit head" or entry.get("cell", 0) != cell:
            continue
        if key is None:
            yield Head(entry["sequence"], bytes.fromhex(entry["hash"]))
        elif entry["key_id"] == key.key_id:
            signed = SignedAuditHead(
                sequence=entry["sequence"],
                hash=bytes.fromhex(entry["hash"]),
                signature=bytes.fromhex(entry["signature"]),
            )
            signed.at.FromMicroseconds(entry["at_us"])
            yield key.verified(signed)


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
    caller = [record.on_behalf_of, record.method, record.peer, record.credential]
    if any((*caller, record.role)):
        fields += caller
    if record.role:
        fields.append(record.role)
    canonical = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return sha256(record.previous_hash + canonical).digest()


class ChainVerifier:
    """Follows a chain from its end to its beginning. All `kept` heads must lie on it."""

    def __init__(self, kept: Sequence[Head] = ()) -> None:
        self._missing: dict[int, set[bytes]] = {}
        for one in kept:
            self._missing.setdefault(one.sequence, set()).add(one.hash)
        self._missing.pop(0, None)
        self._count = 0
        self._head: Head | None = None
        self._wanted: Head | None = None
        self.broken: ChainCheck | None = None

    def follow(self, record: AuditRecord) -> None:
        """Check the next older record."""
        if self.broken is not None:
            return
        self._count += 1
        self._head = self._head or Head(record.sequence, record.hash)
        problem = _problem(record, self._wanted)
        if not problem and self._missing.pop(record.sequence, {record.hash}) != {record.hash}:
            problem = "differs from the given head"
        if problem:
            self.broken = self._check(record.sequence, f"record {record.sequence} {problem}")
        self._wanted = Head(record.sequence - 1, record.previous_hash)

    def result(self) -> ChainCheck:
        """Return the result, after all records."""
        if self.broken is not None:
            return self.broken
        lost = max(self._missing, default=0)
        if self._wanted is not None and self._wanted != Head(0, _FIRST_PREVIOUS):
            lost = self._wanted.sequence
        return self._check(lost, f"record {lost} is missing") if lost else self._check()

    def _check(self, broken_at: int = 0, problem: str = "") -> ChainCheck:
        return ChainCheck(records=self._count, head=self._head, broken_at=broken_at, problem=problem)


def verify(newest_first: Iterable[AuditRecord], kept: Sequence[Head] = ()) -> ChainCheck:
    """Follow the chain from its end to its beginning. All `kept` heads must lie on it."""
    (check,) = verify_all(newest_first, {0: kept}, lambda _: 0).values()
    return check


def verify_all(
    newest_first: Iterable[AuditRecord],
    kept: Mapping[int, Sequence[Head]],
    cell_of: Callable[[AuditRecord], int] = lambda record: record.cell,
) -> dict[int, ChainCheck]:
    """Follow the chain of each cell, and at least those of `kept`, whose heads must lie on them."""
    chains = {cell: ChainVerifier(heads) for cell, heads in kept.items()}
    for record in newest_first:
        chains.setdefault(cell_of(record), ChainVerifier()).follow(record)
        if all(chain.broken for chain in chains.values()):
            break
    return {cell: chain.result() for cell, chain in sorted(chains.items())}


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
