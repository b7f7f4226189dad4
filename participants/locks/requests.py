"""The payloads of this participant."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

KEYS_MAX = 64
WAIT_MS_MAX = 600_000


class Mode(StrEnum):
    """Shared holders exclude exclusive ones only."""

    EXCLUSIVE = "exclusive"
    SHARED = "shared"


class Acquire(BaseModel):
    """Hold all of these keys until the transaction ends, or refuse after `wait_ms`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: Annotated[
        frozenset[Annotated[str, Field(min_length=1, max_length=128)]],
        Field(min_length=1, max_length=KEYS_MAX),
    ]
    mode: Mode = Mode.EXCLUSIVE
    wait_ms: Annotated[int, Field(ge=0, le=WAIT_MS_MAX)] = 0
