"""Which addresses only this machine can reach."""

import pytest

from tcc._internal.local_address import is_local


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:0", True),
        ("127.8.9.1:1", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("dns:///localhost:50050", True),
        ("dns:localhost:50050", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("unix:/run/tcc.sock", True),
        ("0.0.0.0:50051", False),
        ("[::]:50051", False),
        (":50051", False),
        ("*:50051", False),
        ("10.0.0.1:50051", False),
        ("tcc.example:50050", False),
        ("dns:///tcc:50050", False),
        ("dns://127.0.0.1/tcc:50050", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("localhost.example:1", False),
        ("xds:///tcc", False),
    ],
)
def test_only_loopback_and_unix_sockets_are_local(address: str, expected: object) -> None:
    assert is_local(address) is expected
