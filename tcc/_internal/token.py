"""A bearer token that each call of a channel shows."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

# The token itself, a file that holds it, or what returns it.
Token: TypeAlias = str | os.PathLike[str] | Callable[[], str]


def token_source(token: Token) -> Callable[[], str]:
    """Return what returns the token of a call. A file is read each time: it may be replaced."""
    if callable(token):
        return token
    if isinstance(token, str):
        return lambda: token
    path = Path(token)
    return lambda: path.read_text(encoding="ascii").strip()


class TokenChannel:
    """A channel whose calls show a token: its methods that stubs use."""

    def __init__(self, channel: Any, token: Callable[[], str]) -> None:
        self._channel = channel
        self._token = token

    def unary_unary(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._shown(self._channel.unary_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._shown(self._channel.unary_stream(*arguments, **options))

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def _shown(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, **options: Any) -> Any:
            return method(request, metadata=(("authorization", f"Bearer {self._token()}"),), **options)

        return call
