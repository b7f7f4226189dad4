"""Items of a stream's messages, found without decoding them."""

from hypothesis import given, strategies

from tcc._internal.frames import item_id, split_items
from tcc.transaction.v1 import transaction_pb2 as pb

# The id 150, as the first field of an item.
ID = b"\x08\x96\x01"


def test_an_id_is_found_before_what_cannot_be_read() -> None:
    assert item_id(b"\x10\x05" + ID + b"\xff") == item_id(ID + b"\x1a\x05") == 150
    assert item_id(b"\x10\x05") is item_id(b"\xff") is item_id(b"\x08\x96") is item_id(b"") is None


def test_the_last_id_counts_as_in_an_item_that_can_be_decoded() -> None:
    assert item_id(b"\x08\x07" + ID) == 150


def test_a_truncated_item_keeps_its_id() -> None:
    truncated, illegible = ID + b"\x1a\x05", b"\xff"
    message = pb.StreamTransactionsRequest(cancelled_ids=[1]).SerializeToString()
    for item in (truncated, illegible):
        message += bytes([0x0A, len(item)]) + item
    assert list(split_items(message)) == [(150, truncated)]


@given(strategies.integers(1, 2**64 - 1), strategies.binary(max_size=20), strategies.integers(0, 40))
def test_an_id_is_found_wherever_its_item_was_cut(number: int, gid: bytes, cut: int) -> None:
    transaction = pb.ExecuteTransactionRequest(gid=gid.hex())
    item = pb.StreamTransactionsItem(id=number, transaction=transaction).SerializeToString()
    id_size = len(pb.StreamTransactionsItem(id=number).SerializeToString())
    assert item_id(item[: id_size + cut]) == number
    assert item_id(item[: id_size - 1]) is None


@given(strategies.lists(strategies.integers(0, 2**64 - 1)), strategies.lists(strategies.integers(0, 9)))
def test_items_are_split_as_they_were_put_together(ids: list[int], cancelled: list[int]) -> None:
    items = [pb.StreamTransactionsItem(id=each, timeout_ms=7) for each in ids]
    message = pb.StreamTransactionsRequest(items=items, cancelled_ids=cancelled).SerializeToString()
    expected = [(each.id, each.SerializeToString()) for each in items if each.id]
    assert list(split_items(message)) == expected
