"""The public keys of an issuer of tokens, from a file or an https URL, refreshed in the background.

No call waits for a refresh. If one fails, the last good keys stay. The start waits for the first one: so it
ends in time, also if the server sends a byte now and then.
"""

import asyncio
import http.client
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from coordinator.security.https import bounded_opener

logger = structlog.get_logger(__name__)

REFRESH_EVERY_S = 300.0
# A token with an unknown key asks for a refresh, at most this often.
REFRESH_WANTED_EVERY_S = 30.0
# For all of it.
_FETCH_TIMEOUT_S = 10.0
_BYTES_MAX = 2**20


def fetch(location: str) -> bytes:
    """Read a key set from an https URL, or from a file.

    Raises:
        OSError
    """
    with _opened(location) as reply:
        try:
            content: bytes = reply.read(_BYTES_MAX + 1)
        except http.client.HTTPException as error:
            raise _no_http(error) from error
    if len(content) > _BYTES_MAX:
        raise OSError(f"more than {_BYTES_MAX} bytes")
    return content


def _opened(location: str) -> Any:
    if not location.startswith("https://"):
        return Path(location).open("rb")
    opener = bounded_opener(_FETCH_TIMEOUT_S)
    try:
        return opener.open(location, timeout=_FETCH_TIMEOUT_S)
    except http.client.HTTPException as error:
        raise _no_http(error) from error


def _no_http(error: http.client.HTTPException) -> OSError:
    return OSError(f"the server does not speak HTTP: {type(error).__name__}")


def _too_slow() -> TimeoutError:
    return TimeoutError(f"the keys did not arrive within {_FETCH_TIMEOUT_S:g} s")


class KeySource:
    """The keys of one issuer."""

    def __init__(
        self, location: str, *, monotonic: Callable[[], float], read: Callable[[str], bytes] = fetch
    ) -> None:
        """`monotonic`: a clock that never goes back. `read`: reads the location, and may block."""
        self.keys: KeySet | None = None
        self.location = location
        self._monotonic = monotonic
        self._read = read
        self._wanted = asyncio.Event()
        self._wanted_at = -REFRESH_WANTED_EVERY_S

    def want_refresh(self) -> None:
        """Ask for a refresh: a token has a key that is not in the set."""
        now = self._monotonic()
        if now - self._wanted_at >= REFRESH_WANTED_EVERY_S:
            self._wanted_at = now
            self._wanted.set()

    async def run(self) -> None:
        """Refresh the keys until cancelled."""
        while True:
            await self.refresh()
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_EVERY_S):
                    await self._wanted.wait()
            self._wanted.clear()

    async def refresh(self) -> None:
        """Read the keys. If that fails, log why, and keep those that are known."""
        try:
            content = await self._content()
            self.keys = KeySet.import_key_set(json.loads(content))
        # What a key set contains is another's: it may have any type where another is expected.
        except (OSError, JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            logger.error(  # noqa: TRY400 - no bug of ours
                "the keys of an issuer of tokens cannot be read", location=self.location, error=str(error)
            )

    async def _content(self) -> bytes:
        try:
            # The thread ends by its own limits: finding and reaching the server may take it longer.
            async with asyncio.timeout(_FETCH_TIMEOUT_S):
                return await asyncio.to_thread(self._read, self.location)
        except TimeoutError:
            raise _too_slow() from None
