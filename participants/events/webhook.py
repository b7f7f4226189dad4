"""Events as HTTP POSTs to one address, each a structured CloudEvent."""

import asyncio
import http.client
from collections.abc import Sequence
from typing import Any
from urllib.error import URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from participants.events.brokers import BrokerError
from participants.events.envelope import CONTENT_TYPE, Event

_TIMEOUT_S = 10.0


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would become a GET without a body, and would look like a success."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Webhook:
    """A server that answers 2xx when it has stored an event. It gets the events of all topics."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = build_opener(_NoRedirect)

    async def start(self) -> None:
        """Each event has a connection of its own."""

    async def publish(self, events: Sequence[Event]) -> Sequence[str]:
        await asyncio.gather(*(asyncio.to_thread(self._post, event) for event in events))
        return ()

    async def close(self) -> None:
        """There is nothing to close."""

    def _post(self, event: Event) -> None:
        request = Request(self._url, event.body, {"Content-Type": CONTENT_TYPE}, method="POST")  # noqa: S310 - `open_broker` takes http and https alone
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S):
                pass
        except (URLError, OSError, http.client.HTTPException) as error:
            raise BrokerError(f"webhook: {error}") from error
