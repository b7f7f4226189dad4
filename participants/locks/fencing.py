"""Refuse a change by a holder whose lock has passed on: the resource remembers the newest token.

Put this table into the database of the resource, and call `check_token` in its Try, in the transaction
of the change.
"""

from sqlalchemy import BigInteger, Column, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from participants.locks import store
from tcc import Rejected

metadata = MetaData()
lock_fence = Table(
    "lock_fence",
    metadata,
    Column("name", store.name_type, primary_key=True),
    Column("token", BigInteger, nullable=False),
)


async def check_token(db: AsyncConnection, name: str, token: int) -> None:
    """Remember the token of a key. Only for exclusive locks: shared holders have several at once.

    Raises:
        Rejected: OLD_TOKEN: a later holder was here before.
    """
    insert = store.upsert(lock_fence, db.dialect.name).values(name=name, token=token)
    newest = insert.on_conflict_do_update(
        index_elements=["name"],
        set_={"token": insert.excluded.token},
        where=lock_fence.c.token <= insert.excluded.token,
    ).returning(lock_fence.c.token)
    if (await db.execute(newest)).one_or_none() is None:
        raise Rejected("OLD_TOKEN", f"{name!r} was locked again after token {token}")
