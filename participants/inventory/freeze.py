"""The result of a Try of the inventory: the id of its reservation, as JSON.

It is encoded and decoded by hand, because one is made for each Try of a hot SKU.
"""

from tcc.payload import JSON, Encoded

_BEFORE, _AFTER = b'{"freeze_id":"', b'"}'


def freeze_result(freeze_id: str) -> Encoded:
    """Return the result with a freeze id, a UUID as text."""
    return Encoded(_BEFORE + freeze_id.encode() + _AFTER, JSON)


def freeze_id_of(result: bytes) -> str:
    """Return the freeze id in a result of `freeze_result`."""
    return result[len(_BEFORE) : -len(_AFTER)].decode()
