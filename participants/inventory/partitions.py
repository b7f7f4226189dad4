"""Tier 2: partitions. Trys of one SKU wait together and share one database transaction.

A SKU always maps to the same partition, and a partition runs one transaction at a time.
So the Trys of a hot SKU never wait for its row lock one by one: all that wait while a
transaction is in flight become one batch, with one lock and one commit. SKUs in different
partitions do not wait for each other.
"""

from zlib import crc32

PARTITIONS = 64


def partition_of(sku: str) -> int:
    """Return the partition of a SKU, the same in every process (unlike `hash`)."""
    return crc32(sku.encode()) % PARTITIONS
