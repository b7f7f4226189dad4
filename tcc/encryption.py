"""Encryption of payloads and Try results between initiators and participants.

    codec = tcc.AesGcmCodec({"2026-11": key}, current="2026-11")
    tcc.Client("dns:///tcc:50050", payload_codec=codec)
    tcc.Participant("inventory", database=engine, payload_codec=codec)

Coordinators, their log and operators see ciphertext only. It is AES-256-GCM. A payload can only be opened for
the transaction, branch, participant and action that it was sealed for, and a result for its transaction and
branch. Equal content of one branch has equal ciphertext, because a repeated gid must not conflict: the nonce
is derived from the content (HMAC-SHA-256, with a key of its own).
"""

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256

from tcc._internal.extras import missing_extra
from tcc.payload import ENCRYPTED, Encoded, InvalidPayloadError

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
except ModuleNotFoundError as error:
    raise missing_extra("encryption of payloads", "encryption", error) from error

KEY_BYTES = 32
KEY_ID_BYTES_MAX = 64
_NONCE_BYTES = 12


class AesGcmCodec:
    """Seals with the current key, and opens with each of the keys.

    Args:
        keys: Random keys of 32 bytes, by an id of at most 64 printable ASCII bytes, without `;`.
        current: The id of the key that seals. Rotate in three steps: add the new key everywhere, make it
            current, and remove the old one once no transaction with it is left.
        accept_plain: Accept payloads that are not encrypted, until all initiators encrypt.
    """

    def __init__(self, keys: Mapping[str, bytes], *, current: str, accept_plain: bool = False) -> None:
        if current not in keys:
            raise ValueError(f"there is no key {current!r}")
        self._keys = {key_id: _Key(key_id, key) for key_id, key in keys.items()}
        self._current = self._keys[current]
        self.accept_plain = accept_plain

    def seal(self, encoded: Encoded, place: Sequence[str]) -> Encoded:
        """Return the ciphertext for this place."""
        return self._current.seal(encoded, _associated_data(place))

    def open(self, sealed: Encoded, place: Sequence[str]) -> Encoded:
        """Return what was sealed for this place. Raises InvalidPayloadError."""
        if not sealed.content_type.startswith(ENCRYPTED):
            if self.accept_plain:
                return sealed
            raise InvalidPayloadError("it is not encrypted")
        key_id = sealed.content_type.removeprefix(f"{ENCRYPTED}; key=")
        if key_id not in self._keys:
            raise InvalidPayloadError(f"it is encrypted with the key {key_id!r}, which is not known here")
        return self._keys[key_id].open(sealed.data, _associated_data(place))


class _Key:
    """One key, from which two are derived: to encrypt, and to choose nonces."""

    def __init__(self, key_id: str, key: bytes) -> None:
        if not (0 < len(key_id) <= KEY_ID_BYTES_MAX and key_id.isascii() and key_id.isprintable()):
            raise ValueError(f"the id of a key has 1 to {KEY_ID_BYTES_MAX} printable ASCII characters")
        if ";" in key_id or len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, and its id no ';'")
        self._content_type = f"{ENCRYPTED}; key={key_id}"
        self._cipher = AESGCM(_derived(key, b"tcc payload encryption"))
        self._nonce_key = _derived(key, b"tcc payload nonce")

    def seal(self, encoded: Encoded, associated_data: bytes) -> Encoded:
        content_type = encoded.content_type.encode()
        content = bytes([len(content_type)]) + content_type + encoded.data
        unique = len(associated_data).to_bytes(4) + associated_data + content
        nonce = hmac.digest(self._nonce_key, unique, sha256)[:_NONCE_BYTES]
        return Encoded(nonce + self._cipher.encrypt(nonce, content, associated_data), self._content_type)

    def open(self, data: bytes, associated_data: bytes) -> Encoded:
        try:
            content = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], associated_data)
        except (InvalidTag, ValueError):
            raise InvalidPayloadError("it was changed, or belongs to another branch or participant") from None
        size = content[0] + 1
        return Encoded(content[size:], content[1:size].decode())


def _derived(key: bytes, purpose: bytes) -> bytes:
    return HKDFExpand(algorithm=SHA256(), length=KEY_BYTES, info=purpose).derive(key)


def _associated_data(place: Sequence[str]) -> bytes:
    """Return the place as bytes. Ids have no NUL, so that different places differ."""
    return "\0".join(place).encode()
