"""The other end of `children`: a process that executes commands, one a line."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

Command = dict[str, Any]


async def serve_commands(handle: Callable[[Command], Awaitable[Command]]) -> None:
    """Answer each command on standard input with a line on standard output, until the input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        print(json.dumps(await handle(json.loads(line))), flush=True)
