"""The audit chain: its canonical form is fixed, and every way of tampering shows."""

from hashlib import sha256

import pytest
from msgspec.structs import replace

from coordinator.core.audit import (
    NO_HASH,
    AuditEntry,
    AuditHead,
    AuditRecord,
    canonical,
    chained,
    first_break,
)

ENTRY = AuditEntry(operator="ann", action="transaction.hold", target="transaction/g", reason="why not")


def chain(count: int) -> list[AuditRecord]:
    head, records = AuditHead(), []
    for number in range(count):
        records.append(chained(head, replace(ENTRY, reason=f"reason {number}"), 1_000_000 + number))
        head = AuditHead(records[-1].sequence, records[-1].hash)
    return records


def test_the_canonical_form_is_the_one_of_the_contract() -> None:
    entry = AuditEntry(
        operator="Zoë", action="a", target='t"\\', reason="line\nbell\x07", detail='{"version":3}'
    )
    expected = '[7,1700000000000001,"Zoë","a","t\\"\\\\","line\\nbell\\u0007","{\\"version\\":3}"]'
    assert canonical(7, 1_700_000_000_000_001, entry) == expected.encode()


def test_what_is_known_of_the_caller_follows_and_its_role_comes_last() -> None:
    """So the records of versions without a role, or without callers, keep their hashes."""
    known = replace(ENTRY, on_behalf_of="bo", method="token", peer="ipv4:1", credential="c")
    without = b'[1,5,"ann","transaction.hold","transaction/g","why not","{}"'
    caller = b',"bo","token","ipv4:1","c"'
    assert canonical(1, 5, ENTRY) == without + b"]"
    assert canonical(1, 5, known) == without + caller + b"]"
    assert canonical(1, 5, replace(known, role="admin")) == without + caller + b',"admin"]'
    assert canonical(1, 5, replace(ENTRY, role="admin")) == without + b',"","","","","admin"]'


def test_a_hash_is_that_of_the_previous_hash_and_the_canonical_form() -> None:
    first, second = chain(2)
    assert first.previous_hash == NO_HASH
    assert second.previous_hash == first.hash
    assert second.hash == sha256(first.hash + canonical(2, second.at_us, second.entry)).digest()


def test_a_whole_chain_is_intact() -> None:
    assert first_break(AuditHead(), chain(5)) is None
    assert first_break(AuditHead(2, chain(2)[1].hash), chain(5)[2:]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"at_us": 5},
        {"entry": replace(ENTRY, operator="eve")},
        {"entry": replace(ENTRY, reason="another")},
        {"entry": replace(ENTRY, role="read")},
        {"entry": replace(ENTRY, detail='{"version":9}')},
        {"hash": NO_HASH},
        {"previous_hash": NO_HASH},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_record_is_found(change: dict[str, object]) -> None:
    records = chain(4)
    records[2] = replace(records[2], **change)
    broken = first_break(AuditHead(), records)
    assert broken is not None
    assert broken[0] == 3


def test_a_missing_record_is_found() -> None:
    records = chain(4)
    del records[1]
    assert first_break(AuditHead(), records) == (2, "record 2 is missing")


def test_a_rewritten_record_breaks_the_next_one() -> None:
    records = chain(4)
    head = AuditHead(1, records[0].hash)
    records[1] = chained(head, replace(ENTRY, operator="eve"), records[1].at_us)
    assert first_break(AuditHead(), records) == (3, "record 3 does not follow from record 2")
