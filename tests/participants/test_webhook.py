"""Events as HTTP POSTs to a real server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from participants.events.brokers import BrokerError, open_broker
from participants.events.envelope import CONTENT_TYPE, Event, structured
from tests.support.ports import free_port

EVENT = Event("g/b", "orders", "g", structured({"id": "g/b", "source": "/s", "type": "t"}, {"n": 1}))


class Receiver(ThreadingHTTPServer):
    """A server that answers with a status."""

    status = 204

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, self.headers["Content-Type"], body))
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    yield server
    server.shutdown()
    serving.join()
    server.server_close()


async def test_a_webhook_gets_each_event_as_a_structured_cloud_event(receiver: Receiver) -> None:
    assert await open_broker(receiver.url, stream_entries_max=1).publish([EVENT]) == ()
    [(path, content_type, body)] = receiver.seen
    assert (path, content_type) == ("/hook", CONTENT_TYPE)
    assert json.loads(body)["data"] == {"n": 1}


@pytest.mark.parametrize("status", [302, 303, 400, 500])
async def test_an_answer_that_is_no_success_fails_the_publication(receiver: Receiver, status: int) -> None:
    receiver.status = status
    with pytest.raises(BrokerError, match=str(status)):
        await open_broker(receiver.url, stream_entries_max=1).publish([EVENT])


async def test_a_webhook_that_is_unavailable_fails_the_publication() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(BrokerError, match="refused"):
        await open_broker(url, stream_entries_max=1).publish([EVENT])
