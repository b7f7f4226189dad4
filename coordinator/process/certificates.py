"""The dates of certificates in PEM, read without a library for X.509.

Source: RFC 5280, section 4.1, and the DER of ITU-T X.690.
"""

import re
import ssl
from datetime import UTC, datetime
from typing import NamedTuple

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_EXPLICIT_VERSION = 0xA0
_UTC_TIME = 0x17


class Validity(NamedTuple):
    """When a certificate begins and ceases to be valid."""

    begins: datetime
    ends: datetime


class _Element(NamedTuple):
    tag: int
    content: bytes
    rest: bytes


def certificates(pem: bytes) -> list[bytes]:
    """Return the certificates of a file, in DER, in its order."""
    return [ssl.PEM_cert_to_DER_cert(block) for block in _PEM.findall(pem.decode(errors="replace"))]


def validity(der: bytes) -> Validity:
    """Return the dates of a certificate."""
    rest = _element(_element(der).content).content
    if rest[0] == _EXPLICIT_VERSION:
        rest = _element(rest).rest
    for _ in ("serial number", "signature algorithm", "issuer"):
        rest = _element(rest).rest
    begins = _element(_element(rest).content)
    return Validity(_time(begins), _time(_element(begins.rest)))


def _element(data: bytes) -> _Element:
    """Return the first element of DER data."""
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
    return _Element(data[0], data[start : start + length], data[start + length :])


def _time(element: _Element) -> datetime:
    text = element.content.decode("ascii")
    if element.tag == _UTC_TIME:  # its years are of two digits, 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
