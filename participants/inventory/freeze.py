"""What a Try of the inventory returns: the name of its reservation, as JSON.

Written and read as bytes, because one is made for each Try of a hot SKU.
"""

from tcc.payload import JSON, Encoded

_BEFORE, _AFTER = b'{"freeze_id":"', b'"}'


def freeze_result(freeze_id: str) -> Encoded:
    """`freeze_id` is a UUID as text."""
    return Encoded(_BEFORE + freeze_id.encode() + _AFTER, JSON)


def freeze_id_of(result: bytes) -> str:
    """Return the freeze id in what `freeze_result` made."""
    return result[len(_BEFORE) : -len(_AFTER)].decode()
