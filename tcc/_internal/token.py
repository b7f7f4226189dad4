"""A bearer token that each call of a channel shows."""

import logging
import os
import time
from collections.abc import Callable
from typing import Any, TypeAlias

logger = logging.getLogger("tcc.tls")

# The token itself, a file that holds it, or what returns it.
Token: TypeAlias = str | os.PathLike[str] | Callable[[], str]

# Modification times of two changes differ if they are further apart.
_SETTLED_AFTER_NS = 2_000_000_000


def token_source(token: Token) -> Callable[[], str]:
    """Return what returns the token of a call. A file may be replaced: it is checked each time."""
    if callable(token):
        return token
    if isinstance(token, str):
        return lambda: token
    return _TokenFile(os.fspath(token)).read


class _TokenFile:
    def __init__(self, path: str) -> None:
        self._path = path
        self._last = ""
        # Of the file that was read: its modification time, its number in the file system, and its size.
        self._read: tuple[int, int, int] | None = None

    def read(self) -> str:
        """Return the token of the file; while the file cannot be read, the last one.

        It is read again if it has changed, or has changed so lately that a further change may not show.
        """
        try:
            found = os.stat(self._path)  # noqa: PTH116 - twice as fast, and done for each call
            signature = found.st_mtime_ns, found.st_ino, found.st_size
            if signature != self._read:
                with open(self._path, encoding="ascii") as file:  # noqa: PTH123 - the path is a text
                    self._last = file.read().strip()
                is_settled = time.time_ns() - found.st_mtime_ns > _SETTLED_AFTER_NS
                self._read = signature if is_settled else None
        except OSError:
            self._read = None
            if not self._last:
                raise
            logger.warning("%s cannot be read: the last token is used", self._path, exc_info=True)
        return self._last


def token_metadata(token: str) -> tuple[tuple[str, str]]:
    """Return the metadata of a call that shows a token."""
    return (("authorization", f"Bearer {token}"),)


class TokenChannel:
    """A channel whose calls show a token: its methods that stubs use."""

    def __init__(self, channel: Any, token: Callable[[], str]) -> None:
        self._channel = channel
        self._token = token

    def unary_unary(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._shown(self._channel.unary_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._shown(self._channel.unary_stream(*arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        """Return a method without requests: they are written to its call. Other metadata may be given."""
        method = self._channel.stream_stream(*arguments, **options)

        def call(*requests: Any, **options: Any) -> Any:
            if "metadata" not in options:
                options["metadata"] = token_metadata(self._token())
            return method(*requests, **options)

        return call

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def _shown(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, **options: Any) -> Any:
            return method(request, metadata=token_metadata(self._token()), **options)

        return call
