from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, duration_pb2, timestamp_pb2

from tcc.common.v1 import common_pb2
from tcc.participant.v1 import participant_pb2
from tcc.transaction.v1 import transaction_pb2
from tccctl.failures import UsageFailure
from tccctl.payloads import PayloadReader, payload_reader

CALL = "tcc.participant.v1.BranchCall"


@pytest.fixture
def descriptor_set(tmp_path: Path) -> Path:
    """The contract's own files, as protoc would write them."""
    files = descriptor_pb2.FileDescriptorSet()
    for module in (duration_pb2, timestamp_pb2, common_pb2, participant_pb2, transaction_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    path = tmp_path / "contract.binpb"
    path.write_bytes(files.SerializeToString())
    return path


def reader(*paths: Path, redact: tuple[str, ...] = (), **messages: str) -> PayloadReader:
    return payload_reader(paths, {name.replace("__", "/"): kind for name, kind in messages.items()}, redact)


def test_json_is_decoded_with_any_content_type() -> None:
    assert reader().read(b'{"sku": "A"}', "application/json", key="") == {"sku": "A"}
    assert reader().read(b'{"sku": "A"}', "", key="") == {"sku": "A"}
    assert reader().read(b"", "application/json", key="") is None


def test_a_protobuf_message_is_decoded_as_configured_for_its_action(descriptor_set: Path) -> None:
    data = participant_pb2.BranchCall(gid="order-1", branch_id="stock").SerializeToString()
    known = reader(descriptor_set, shop__reserve=CALL)
    assert known.read(data, "application/x-protobuf", key="shop/reserve") == {
        "gid": "order-1",
        "branch_id": "stock",
    }
    assert known.read(data, "application/x-protobuf", key="shop/other")["bytes"] == len(data)


def test_a_protobuf_message_is_decoded_by_its_content_type(descriptor_set: Path) -> None:
    data = participant_pb2.BranchCall(gid="order-1").SerializeToString()
    kind = f'application/x-protobuf; type="{CALL}"'
    assert reader(descriptor_set).read(data, kind, key="") == {"gid": "order-1"}


def test_what_cannot_be_decoded_is_shown_as_it_is() -> None:
    assert reader().read(b"\xff\x00", "application/octet-stream", key="") == {
        "content_type": "application/octet-stream",
        "bytes": 2,
        "base64": "/wA=",
    }
    deep = b"[" * 100_000
    assert reader().read(deep, "application/json", key="")["bytes"] == len(deep)


def test_an_undecodable_payload_is_hidden_where_fields_are_redacted() -> None:
    hidden = reader(redact=("card.number",)).read(b'{"card": {"number": 4111}', "application/json", key="")
    assert hidden == {"content_type": "application/json", "bytes": 25}


def test_a_decoded_message_is_redacted(descriptor_set: Path) -> None:
    data = participant_pb2.BranchCall(gid="order-1", branch_id="stock").SerializeToString()
    known = reader(descriptor_set, redact=("gid",), shop__reserve=CALL)
    assert known.read(data, "application/x-protobuf", key="shop/reserve")["gid"] == "[redacted]"


def test_an_unknown_message_and_a_bad_descriptor_set_are_refused(descriptor_set: Path) -> None:
    with pytest.raises(UsageFailure, match=r"shop\.v1\.Nothing"):
        reader(descriptor_set, shop__reserve="shop.v1.Nothing")
    descriptor_set.write_bytes(b"\xff\xff")
    with pytest.raises(UsageFailure, match="is not a descriptor set"):
        reader(descriptor_set)
    with pytest.raises(UsageFailure, match="is not a descriptor set"):
        reader(Path("/nonexistent"))
