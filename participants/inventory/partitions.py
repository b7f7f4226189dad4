"""Tier 2: lanes. Trys of one SKU wait together and share one database transaction.

A SKU always maps to the same lane, and a lane runs one transaction at a time, so
the Trys of a hot SKU never queue for its row lock one by one: whatever waits
while a transaction is in flight is one batch, one lock and one commit. SKUs in
different lanes do not wait for each other.
"""

from zlib import crc32

PARTITIONS = 64


def partition_of(sku: str) -> int:
    """Return the partition of a SKU, the same in every process (unlike `hash`)."""
    return crc32(sku.encode()) % PARTITIONS
