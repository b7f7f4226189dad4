"""Coupons as a participant: Try freezes, Confirm uses, Cancel unfreezes."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from participants.coupon import store
from participants.coupon.coupon import Verb, check_held, freeze_all
from participants.coupon.requests import UseCoupon
from tcc import Branch, Participant

Items = Sequence[tuple[Branch, UseCoupon]]


class Use:
    """The action `use_coupon`. Every handler locks, calls the pure functions, and writes."""

    async def try_batch(self, items: Items, db: AsyncConnection) -> list[Any]:
        wanted = [request.coupon_id for _, request in items]
        answers = freeze_all(wanted, await store.coupon_lock(db, wanted))
        frozen = [
            (request.coupon_id, branch.key)
            for (branch, request), answer in zip(items, answers, strict=True)
            if answer is None
        ]
        if frozen:
            await store.coupon_freeze(db, frozen)
        return list(answers)

    async def confirm_batch(self, items: Items, db: AsyncConnection) -> None:
        await store.coupon_use(db, await self._held(Verb.USE, items, db))

    async def cancel_batch(self, items: Items, db: AsyncConnection) -> None:
        await store.coupon_unfreeze(db, await self._held(Verb.UNFREEZE, items, db))

    async def _held(self, verb: Verb, items: Items, db: AsyncConnection) -> list[str]:
        """Lock the coupons that these branches hold."""
        held = [(branch.key, request.coupon_id) for branch, request in items]
        coupon_ids = [coupon_id for _, coupon_id in held]
        check_held(held, await store.coupon_lock(db, coupon_ids), verb)
        return coupon_ids


def coupon(database: AsyncEngine) -> Participant:
    """Return the participant over its database, whose schema must exist."""
    participant = Participant("coupon", database=database)
    participant.action("use_coupon", UseCoupon)(Use)
    return participant
