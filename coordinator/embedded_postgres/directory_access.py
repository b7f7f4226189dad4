"""Let one system user enter directories, without letting any other user in.

The permission is an entry of the directory's access control list (`acl(5)`), which only
that user has. Mode bits would let all users in.
"""

import errno
import os
import stat
import struct
from pathlib import Path

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_NO_ID = 0xFFFFFFFF
# The kinds of entries, in the order that the system requires.
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32

READ, ENTER = stat.S_IROTH, stat.S_IXOTH


class AccessNotGrantedError(Exception):
    """The file system has no access control lists, or the directory is not ours."""


def allow(path: Path, uid: int, permissions: int) -> None:
    """Give a user `READ`, `ENTER` or both, unless the user has them.

    Raises:
        AccessNotGrantedError
    """
    found = path.stat()
    others = found.st_mode & (READ | ENTER)
    if found.st_uid == uid or others & permissions == permissions:
        return
    entries = _entries(path, found.st_mode)
    # What the mask took from them, no entry gets back.
    mask = entries.pop((_MASK, _NO_ID), 7)
    limited = {
        (kind, number): granted & mask if kind in {_USER, _GROUP, _NAMED_GROUP} else granted
        for (kind, number), granted in entries.items()
    }
    limited[_USER, uid] = limited.get((_USER, uid), others) | permissions
    limited[_MASK, _NO_ID] = 0
    for (kind, _), granted in list(limited.items()):
        if kind in {_USER, _GROUP, _NAMED_GROUP}:
            limited[_MASK, _NO_ID] |= granted
    packed = [_ENTRY.pack(kind, granted, number) for (kind, number), granted in sorted(limited.items())]
    try:
        os.setxattr(path, _ATTRIBUTE, _VERSION + b"".join(packed))
    except OSError as error:
        raise AccessNotGrantedError(f"{path}: {error.strerror}") from error


def _entries(path: Path, mode: int) -> dict[tuple[int, int], int]:
    """Return the permissions by kind and id; those of the mode bits if there is no list."""
    try:
        stored = os.getxattr(path, _ATTRIBUTE)
    except OSError as error:
        if error.errno not in {errno.ENODATA, errno.ENOTSUP}:
            raise AccessNotGrantedError(f"{path}: {error.strerror}") from error
        return {
            (_OWNER, _NO_ID): mode >> 6 & 7,
            (_GROUP, _NO_ID): mode >> 3 & 7,
            (_OTHER, _NO_ID): mode & 7,
        }
    return {(kind, number): granted for kind, granted, number in _ENTRY.iter_unpack(stored[len(_VERSION) :])}
