"""A tenant that floods, as a program: `python -m tests.soak.flooding HOST:PORT CA_FILE TOKEN`.

It keeps as many transactions in flight as it can. What is refused is repeated.
"""

import asyncio
import contextlib
import sys

import tcc
from tcc._internal.uuid7 import uuid7
from tests.support.identities import SERVER_NAME

IN_FLIGHT = 1_000


async def flood(client: tcc.Client) -> None:
    while True:
        with contextlib.suppress(tcc.TccError):
            await client.execute([tcc.BranchRequest("stock", "reserve")], gid=f"flood-{uuid7()}")


async def main(address: str, ca_file: str, token: str) -> None:
    tls = tcc.Tls(ca=ca_file, server_name=SERVER_NAME)
    async with tcc.Client(address, tls=tls, token=token) as client:
        print("flooding", flush=True)
        await asyncio.gather(*(flood(client) for _ in range(IN_FLIGHT)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
