"""The payloads of this participant."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

QUANTITY_MAX = 1_000_000


class ReserveStock(BaseModel):
    """Hold a quantity of one SKU for a transaction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sku: Annotated[str, Field(min_length=1, max_length=64)]
    quantity: Annotated[int, Field(gt=0, le=QUANTITY_MAX)]
