"""The bearer token of a client, added to each call."""

from collections.abc import Callable
from typing import TypeAlias

import grpc

from tcc.client import arguments

Token: TypeAlias = str | Callable[[], str]


class _Bearer(grpc.AuthMetadataPlugin):
    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def __call__(self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        callback((("authorization", f"Bearer {self._token()}"),), None)


def with_token(
    credentials: grpc.ChannelCredentials | None, token: Token | None
) -> grpc.ChannelCredentials | None:
    """Return credentials that add a token to each call.

    Raises:
        ValueError: a token without TLS, which would show it to everybody on the way.
    """
    if token is None:
        return credentials
    if credentials is None:
        raise ValueError(
            "token requires credentials=grpc.ssl_channel_credentials(…): it is sent over TLS only"
        )
    if callable(token):
        get = token
    else:
        text = arguments.text("token", token, 'token="tcc_shop_…"')

        def get() -> str:
            return text

    return grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(_Bearer(get)))
