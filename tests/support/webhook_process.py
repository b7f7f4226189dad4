"""A webhook that stores the ids of events: `python -m tests.support.webhook_process PORT FILE`."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

STORED = Path(sys.argv[2]) if __name__ == "__main__" else Path()


class Store(BaseHTTPRequestHandler):
    """Answers when the ids are in the file."""

    def do_POST(self) -> None:
        events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with STORED.open("a") as file:
            file.writelines(f"{event['id']}\n" for event in events)
            file.flush()
            os.fsync(file.fileno())
        self.send_response(204)
        self.end_headers()


if __name__ == "__main__":
    with HTTPServer(("127.0.0.1", int(sys.argv[1])), Store) as server:
        print("storing events", flush=True)
        server.serve_forever()
