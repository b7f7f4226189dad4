"""The audit chain, followed from the outside of its database.

With write access to the database, one can write another chain, in which every hash is right. So each worker
remembers where the chain ended, logs it every minute, and signs it if it has a key. It states nothing about a
chain that does not continue the one that it knows.
"""

from collections.abc import Sequence
from hashlib import sha256

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct

from coordinator.core.audit import AuditHead, AuditRecord, SignedHead, first_break, head_statement
from coordinator.engine.observer import Anomaly, Observer
from coordinator.ports.clock import Clock
from coordinator.ports.operator_log import OperatorLog

_PAGE = 1_000
# Statements with a wrong signature are skipped. More of them in a row than this are a finding.
_STATEMENTS_READ = 100
_KEY_ID_DIGITS = 16

logger = structlog.get_logger(__name__)


class ChainCheck(Struct, frozen=True, kw_only=True):
    """The result of following the chain. `problem` is empty if it is intact."""

    records: int
    head: AuditHead
    broken_at: int = 0
    problem: str = ""
    # A statement about this head, if it is intact and the coordinator has a key.
    signed: SignedHead | None = None


class HeadSigner:
    """Signs statements about the end of the chain."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public_key = key.public_key()
        self.key_id = sha256(self._public_key.public_bytes_raw()).hexdigest()[:_KEY_ID_DIGITS]

    def sign(self, head: AuditHead, at_us: int) -> SignedHead:
        signature = self._key.sign(head_statement(head, at_us))
        return SignedHead(head=head, at_us=at_us, key_id=self.key_id, signature=signature)

    def is_ours(self, signed: SignedHead) -> bool:
        """Return whether the statement has this key's signature."""
        try:
            self._public_key.verify(signed.signature, head_statement(signed.head, signed.at_us))
        except InvalidSignature:
            return False
        return True


def read_signer(pem: bytes) -> HeadSigner:
    """Return the signer with this key.

    Raises:
        ValueError: it is not an Ed25519 private key in PEM, without a password.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise ValueError("the key has a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("the key is not an Ed25519 key")  # noqa: TRY004 - a value, for its reader
    return HeadSigner(key)


class Auditor:
    """Follows the chain of one log. `signer`: None if the coordinator has no key."""

    def __init__(
        self,
        log: OperatorLog,
        signer: HeadSigner | None,
        *,
        clock: Clock,
        observer: Observer,
        cell: int = 0,
    ) -> None:
        # In lines of the log, if it is not the only one.
        self._place = {"cell": cell} if cell else {}
        self._log = log
        self._signer = signer
        self._clock = clock
        self._observer = observer
        # Where the chain ended when this process last followed it, and what it last stored.
        self._seen = AuditHead()
        self._stored = AuditHead()

    async def check(self) -> ChainCheck:
        """Follow the whole chain.

        Raises:
            LogUnavailable
        """
        known = await self._known()
        check = await self._follow(AuditHead(), known)
        if check.problem:
            return check
        self._seen = check.head
        if self._signer is None:
            return check
        return ChainCheck(
            records=check.records, head=check.head, signed=self._signer.sign(check.head, self._now_us())
        )

    async def state_head(self) -> None:
        """Log the end of the chain, if it continues what is known; store the statement if it is new.

        Raises:
            LogUnavailable
        """
        check = await self._continued(await self._known())
        if check.problem:
            broken = {**self._place, "record": check.broken_at, "problem": check.problem}
            logger.error("the audit chain is broken", **broken)
            self._observer.anomaly(Anomaly.AUDIT_BROKEN, **broken)
            return
        head, at_us = check.head, self._now_us()
        signed = self._signer.sign(head, at_us) if self._signer else SignedHead(head=head, at_us=at_us)
        self._seen = head
        logger.info(
            "audit head",
            **self._place,
            sequence=head.sequence,
            hash=head.hash.hex(),
            at_us=at_us,
            key_id=signed.key_id,
            signature=signed.signature.hex(),
        )
        if head not in {self._stored, AuditHead()}:
            await self._log.audit_head_append(signed)
            self._stored = head

    def _now_us(self) -> int:
        return round(self._clock.now() * 1e6)

    async def _known(self) -> list[AuditHead] | ChainCheck:
        """Return ends of the chain that are known, in order; a check that failed if none can be known."""
        key_id = self._signer.key_id if self._signer else ""
        stored = await self._log.audit_head_list(key_id, _STATEMENTS_READ)
        ours = [one.head for one in stored if self._signer is None or self._signer.is_ours(one)]
        if stored and not ours:
            problem = "no stored statement about the end of the chain has a valid signature"
            return ChainCheck(records=0, head=AuditHead(), broken_at=stored[0].head.sequence, problem=problem)
        return sorted((head for head in (*ours[:1], self._seen) if head.sequence), key=_sequence)

    async def _continued(self, known: list[AuditHead] | ChainCheck) -> ChainCheck:
        """Follow the chain from the first known end on."""
        if isinstance(known, ChainCheck) or not known:
            return await self._follow(AuditHead(), known)
        first = known[0]
        found = await self._log.audit_after(first.sequence - 1, 1)
        if [_head(record) for record in found] != [first]:
            return _broken(0, AuditHead(), first.sequence, f"record {first.sequence} {_REPLACED}")
        return await self._follow(first, known[1:])

    async def _follow(self, start: AuditHead, known: list[AuditHead] | ChainCheck) -> ChainCheck:
        """Follow the chain after `start` to its end. The `known` ends must lie on it."""
        if isinstance(known, ChainCheck):
            return known
        wanted = {head.sequence: head for head in known}
        end, count = start, 0
        while records := await self._log.audit_after(end.sequence, _PAGE):
            count += len(records)
            broken = first_break(end, records) or _replaced(records, wanted)
            if broken is not None:
                return _broken(count, end, *broken)
            end = _head(records[-1])
        if known and known[-1].sequence > end.sequence:
            missing = end.sequence + 1
            return _broken(count, end, missing, f"record {missing} is missing")
        return ChainCheck(records=count, head=end)


_REPLACED = "is not the record that was known"


def _sequence(head: AuditHead) -> int:
    return head.sequence


def _head(record: AuditRecord) -> AuditHead:
    return AuditHead(record.sequence, record.hash)


def _replaced(records: Sequence[AuditRecord], wanted: dict[int, AuditHead]) -> tuple[int, str] | None:
    for record in records:
        if wanted.get(record.sequence, _head(record)) != _head(record):
            return record.sequence, f"record {record.sequence} {_REPLACED}"
    return None


def _broken(count: int, end: AuditHead, sequence: int, problem: str) -> ChainCheck:
    return ChainCheck(records=count, head=end, broken_at=sequence, problem=problem)
