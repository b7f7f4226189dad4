"""Read the HTTP port of a worker."""

import asyncio
from collections.abc import Callable, Mapping

from prometheus_client.parser import text_string_to_metric_families

Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


async def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Return status and body, once the port is open."""
    async with asyncio.timeout(120):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
    return int(head.split()[1]), body


async def scrape(port: int) -> Samples:
    """Return the value of each sample, by name and labels."""
    status, body = await get(port, "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


async def until_scraped(port: int, condition: Callable[[Samples], bool]) -> Samples:
    async with asyncio.timeout(120):
        while not condition(samples := await scrape(port)):  # noqa: ASYNC110 - it is asked, and sets no event
            await asyncio.sleep(0.02)
    return samples
