import hashlib

from tcc.admin.v1.admin_pb2 import AuditRecord
from tccctl.audit_chain import Head, record_hash, verify


def chain(length: int) -> list[AuditRecord]:
    """Newest first."""
    records: list[AuditRecord] = []
    previous = bytes(32)
    for sequence in range(1, length + 1):
        record = AuditRecord(
            sequence=sequence,
            operator="ana",
            action="transaction.hold",
            target=f"transaction/order-{sequence}",
            reason='"größe"\n',
            detail='{"version":3}',
            previous_hash=previous,
        )
        record.at.FromMicroseconds(1_700_000_000_000_000 + sequence)
        record.hash = previous = record_hash(record)
        records.insert(0, record)
    return records


def test_the_hash_follows_the_contract() -> None:
    canonical = (
        r'[1,1700000000000001,"ana","transaction.hold","transaction/order-1",'
        r'"\"größe\"\n","{\"version\":3}"]'
    )
    assert chain(1)[0].hash == hashlib.sha256(bytes(32) + canonical.encode()).digest()


def test_the_hash_covers_the_caller_and_its_role() -> None:
    (record,) = chain(1)
    without = '[1,1700000000000001,"ana","transaction.hold","transaction/order-1",'
    without += r'"\"größe\"\n","{\"version\":3}"'
    record.method, record.credential = "token", "c"
    by_former_versions = f'{without},"","token","","c"]'
    assert record_hash(record) == hashlib.sha256(bytes(32) + by_former_versions.encode()).digest()
    record.role = "admin"
    with_role = f'{without},"","token","","c","admin"]'
    assert record_hash(record) == hashlib.sha256(bytes(32) + with_role.encode()).digest()


def test_a_chain_in_order_is_found_intact() -> None:
    records = chain(5)
    check = verify(records)
    assert (check.records, check.problem) == (5, "")
    assert check.head == Head(5, records[0].hash)
    assert verify([]).head is None
    assert verify([]).problem == ""


def test_a_changed_record_is_found() -> None:
    records = chain(5)
    records[2].reason = "another one"
    assert verify(records).problem == "record 3 was modified"


def test_a_changed_record_with_a_matching_hash_is_found_by_its_successor() -> None:
    records = chain(5)
    records[2].reason = "another one"
    records[2].hash = record_hash(records[2])
    assert verify(records).problem == "record 3 does not match the previous hash in record 4"


def test_a_missing_record_is_found_wherever_it_was() -> None:
    middle, first = chain(5), chain(5)
    del middle[2]
    del first[-1]
    assert verify(middle).problem == "record 2 was found in place of record 3"
    assert verify(first).problem == "record 1 is missing"


def test_a_rewritten_or_truncated_chain_is_found_by_a_kept_head() -> None:
    kept = Head(4, chain(5)[1].hash)
    assert verify(chain(5), [kept]).problem == ""
    assert verify(chain(3), [kept]).problem == "record 4 is missing"
    rewritten = chain(5)
    previous = bytes(32)
    for record in reversed(rewritten):
        record.operator = "eve"
        record.previous_hash = previous
        record.hash = previous = record_hash(record)
    assert verify(rewritten).problem == ""
    assert verify(rewritten, [kept]).problem == "record 4 differs from the given head"
    assert verify([], [kept]).problem == "record 4 is missing"
