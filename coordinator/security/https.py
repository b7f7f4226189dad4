"""Requests over HTTPS to servers of others: verified, without redirects, and over in time."""

import ssl
import time
import urllib.request
from pathlib import Path
from typing import Any


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error."""

    def redirect_request(self, *_: object) -> None:
        """Follow none: it could lead to another host, or to plain text, and a POST would become a GET."""


class _BoundedSocket(ssl.SSLSocket):
    """A connection for one request: its reads end `timeout_s` after its handshake began."""

    timeout_s: float
    _ends_at: float

    def do_handshake(self, *arguments: Any, **options: Any) -> None:
        self._ends_at = time.monotonic() + self.timeout_s
        super().do_handshake(*arguments, **options)

    def read(self, *arguments: Any, **options: Any) -> Any:
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"no answer within {self.timeout_s:g} s")
        self.settimeout(left_s)
        return super().read(*arguments, **options)


def bounded_opener(timeout_s: float, ca_file: Path | None = None) -> urllib.request.OpenerDirector:
    """Return what opens URLs. Give it the same timeout, which finding and reaching the server may take, too.

    A timeout of each read alone would never end if the server sends a byte now and then.
    `ca_file`: the authorities to trust instead of the system's.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    context.sslsocket_class = type("_Socket", (_BoundedSocket,), {"timeout_s": timeout_s})
    return urllib.request.build_opener(NoRedirects, urllib.request.HTTPSHandler(context=context))
