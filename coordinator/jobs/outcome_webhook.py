"""Outcomes as HTTP POSTs of CloudEvents in structured mode, to one URL."""

import asyncio
import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from coordinator.jobs.outcome_events import BATCH_CONTENT_TYPE, CONTENT_TYPE, batch_json, event_json
from coordinator.ports.outcomes import Outcome, PublishError
from coordinator.security.https import bounded_opener

TIMEOUT_S = 10.0


class OutcomeWebhook:
    """A server that answers 2xx when it has stored the events of a POST."""

    name = "webhook"

    def __init__(
        self,
        url: str,
        *,
        source: str,
        is_batched: bool = True,
        token_file: Path | None = None,
        ca_file: Path | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """`is_batched`: post batches of events. `token_file`, `ca_file`: read for each POST."""
        self._url = url
        self._source = source
        self._is_batched = is_batched
        self._token_file = token_file
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        # Of the last POST, and the content of `ca_file` then.
        self._opener: urllib.request.OpenerDirector | None = None
        self._authorities: bytes | None = None
        # Cells share the server. However long it hangs, it has one thread.
        self._posting = asyncio.Lock()

    async def publish(self, outcomes: Sequence[Outcome]) -> None:
        """See `ports.OutcomeTarget`."""
        if self._is_batched:
            await self._send(batch_json(outcomes, source=self._source), BATCH_CONTENT_TYPE)
            return
        for outcome in outcomes:
            await self._send(event_json(outcome, source=self._source), CONTENT_TYPE)

    async def _send(self, body: bytes, content_type: str) -> None:
        """Post once.

        Raises:
            PublishError
        """
        async with self._posting:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await asyncio.to_thread(self._post, body, content_type)
            except TimeoutError:
                raise PublishError(f"the webhook did not answer within {self._timeout_s:g} s") from None

    def _post(self, body: bytes, content_type: str) -> None:
        """Post. Errors are without the URL, which may contain a secret."""
        headers = {"Content-Type": content_type, "User-Agent": "tccd"}
        try:
            if self._token_file is not None:
                headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"
            request = urllib.request.Request(self._url, body, headers)  # noqa: S310 - settings allow http(s) only
            with self._kept_opener().open(request, timeout=self._timeout_s):
                pass
        except urllib.error.HTTPError as error:
            with error:
                raise PublishError(f"the webhook answered {error.code}") from None
        except urllib.error.URLError as error:
            raise PublishError(f"the webhook cannot be reached: {error.reason}") from None
        # A header may not hold what a token file or another server has.
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PublishError(f"the webhook failed: {type(error).__name__}") from None

    def _kept_opener(self) -> urllib.request.OpenerDirector:
        """Return the opener of the last POST, or a new one if `ca_file` has changed.

        To make one takes tens of milliseconds: it reads all authorities.
        """
        authorities = None if self._ca_file is None else self._ca_file.read_bytes()
        if self._opener is None or authorities != self._authorities:
            self._opener, self._authorities = bounded_opener(self._timeout_s, self._ca_file), authorities
        return self._opener
