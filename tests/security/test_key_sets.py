"""The keys of an issuer over https: from its server alone, and never an unbounded amount."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from structlog.testing import capture_logs

from coordinator.security import key_sets
from coordinator.security.authentication import Authenticator, Policy
from coordinator.security.jwt import Issuer as TrustedIssuer
from coordinator.security.key_sets import KeySource
from tests.support.identities import AUDIENCE, ISSUER, Authority, Issuer

HOST = "localhost"
OK = "200 OK"
Respond = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The one authority that this process trusts, as `SSL_CERT_FILE` sets it."""
    made = Authority()
    path = tmp_path / "authorities.pem"
    path.write_bytes(made.own.certificate_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setenv("no_proxy", "*")
    return made


@asynccontextmanager
async def serving(
    authority: Authority,
    directory: Path,
    body: bytes,
    *,
    status: str = OK,
    name: str = HOST,
    respond: Respond | None = None,
) -> AsyncIterator[str]:
    """Serve one response to every request over https. Return the URL. `respond`: sends another one."""
    pair = authority.issue(name, client=False)
    path = directory / "server.pem"
    path.write_bytes(pair.certificate_pem + pair.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        )
        writer.write(body)
        writer.close()

    async with await asyncio.start_server(respond or send, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://{HOST}:{server.sockets[0].getsockname()[1]}/jwks.json"


async def keys_of(url: str) -> object:
    source = KeySource(url, monotonic=time.monotonic)
    await source.refresh()
    return source.keys


async def test_a_token_is_verified_with_keys_from_an_https_url(authority: Authority, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    async with serving(authority, tmp_path, json.dumps(issuer.key_set()).encode()) as url:
        trusted = TrustedIssuer(
            name="corp", issuer=ISSUER, audience=AUDIENCE, jwks=url, algorithms=("ES256",)
        )
        authenticator = Authenticator(Policy(issuers=(trusted,)), now=time.time, monotonic=time.monotonic)
        await authenticator.refresh()
    header = f"Bearer {issuer.token()}"
    caller = authenticator.authenticate([("authorization", header)], dict, uses_tls=True).caller
    assert caller.principal == "jwt:corp:sub:shop"


async def test_a_server_that_proves_nothing_gives_no_keys(authority: Authority, tmp_path: Path) -> None:
    body = json.dumps(Issuer(tmp_path).key_set()).encode()
    async with serving(Authority(), tmp_path, body) as url:
        assert await keys_of(url) is None
    async with serving(authority, tmp_path, body, name="other.example") as url:
        assert await keys_of(url) is None


async def test_a_redirect_is_not_followed(authority: Authority, tmp_path: Path) -> None:
    body = json.dumps(Issuer(tmp_path).key_set()).encode()
    async with serving(authority, tmp_path, body) as other:
        status = f"302 Found\r\nLocation: {other}"
        async with serving(authority, tmp_path, b"", status=status) as url:
            assert await keys_of(url) is None


async def test_a_key_set_without_end_is_not_read(authority: Authority, tmp_path: Path) -> None:
    keys = json.dumps(Issuer(tmp_path).key_set())
    async with serving(authority, tmp_path, f"{keys}{' ' * 2**20}".encode()) as url:
        assert await keys_of(url) is None


@pytest.mark.parametrize(
    "begin", ["HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"]
)
async def test_a_server_that_drips_ends_with_the_time_of_a_fetch(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    """No read of it takes long; all of them together would never end. The connection ends as well."""
    monkeypatch.setattr(key_sets, "_FETCH_TIMEOUT_S", 0.3)
    has_ended = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begin.encode())
        while not reader.at_eof():
            writer.write(b" ")
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(0.02):
                    await reader.read(1)
        writer.close()
        has_ended.set()

    async with serving(authority, tmp_path, b"", respond=drip) as url, asyncio.timeout(30):
        with capture_logs() as logged:
            assert await keys_of(url) is None
        await has_ended.wait()
    assert "the keys did not arrive within 0.3 s" in logged[0]["error"]


async def test_a_file_without_end_is_not_read() -> None:
    with capture_logs() as logged:
        assert await keys_of("/dev/zero") is None
    assert logged[0]["error"] == f"more than {2**20} bytes"


async def test_a_server_that_fails_takes_no_keys_away(authority: Authority, tmp_path: Path) -> None:
    body = json.dumps(Issuer(tmp_path).key_set()).encode()
    async with serving(authority, tmp_path, body) as url:
        source = KeySource(url, monotonic=time.monotonic)
        await source.refresh()
        known = source.keys
    async with serving(authority, tmp_path, body, status="503 Service Unavailable") as failing:
        source.location = failing
        await source.refresh()
    assert known is not None
    assert source.keys is known


async def test_a_server_that_speaks_no_http_ends_no_refresh(authority: Authority, tmp_path: Path) -> None:
    chunked = "200 OK\r\nTransfer-Encoding: chunked"
    for status in ("no status", chunked):
        async with serving(authority, tmp_path, b"no chunk", status=status) as url:
            assert await keys_of(url) is None


_MEMBERS = ("kty", "crv", "x", "y", "n", "e", "k", "kid", "use", "alg", "key_ops", "x5c")
_VALUES = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=8),
    st.sampled_from(["EC", "RSA", "OKP", "oct", "P-256", "Ed25519", "AQAB"]),
    st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)
_KEYS = st.dictionaries(st.sampled_from(_MEMBERS), _VALUES)


@settings(max_examples=60)
@given(
    st.one_of(
        st.binary(max_size=40),
        _VALUES.map(lambda value: json.dumps(value).encode()),
        st.lists(_KEYS | _VALUES, max_size=2).map(lambda keys: json.dumps({"keys": keys}).encode()),
        st.just(b"[" * 2_000),
    )
)
def test_no_content_of_a_key_set_ends_the_refresh(content: bytes) -> None:
    asyncio.run(KeySource("keys", monotonic=time.monotonic, read=lambda _: content).refresh())
