"""Where the cells of the log are, and the log that a coordinator opens there."""

import asyncio
from collections.abc import Callable, Sequence

from coordinator.config.settings import LogSettings
from coordinator.log.cells import CellsLog, CellsOperatorLog, LogServers
from coordinator.log.migration import CellPlace, check_cells
from coordinator.log.operator_store import PostgresOperatorLog
from coordinator.log.requirements import LogUrlError
from coordinator.log.store import PostgresLog


def cell_places(settings: LogSettings, url: str) -> list[CellPlace]:
    """Return the place of each cell. `url`: where those are that no server of the configuration has."""
    at = {number: server for server in settings.servers for number in server.numbers()}
    return [
        CellPlace(
            number=number,
            count=settings.cells,
            url=at[number].url.get_secret_value() if number in at else url,
            owner_url=at[number].owner() if number in at else settings.owner(),
        )
        for number in range(settings.cells)
    ]


class OpenLog:
    """The log of one coordinator, for initiators and for operators."""

    def __init__(
        self,
        places: Sequence[CellPlace],
        *,
        owner: str,
        name: str,
        connections: int,
        on_quarantine: Callable[[str, str], None],
    ) -> None:
        self._places = list(places)
        # Of cells that this process has followed.
        self._generations: dict[int, int] = {}
        self._servers = LogServers(connections=connections, cells=len(places))
        self._cells: list[PostgresLog] = []
        self.operator_cells: list[PostgresOperatorLog] = []
        for place in places:
            pool, operator_pool = self._servers.at(place.url)
            self._cells.append(
                PostgresLog(pool, owner=owner, name=name, on_quarantine=on_quarantine, cell=place.number)
            )
            self.operator_cells.append(PostgresOperatorLog(operator_pool, owner=owner, cell=place.number))
        is_one = len(places) == 1
        self.log = self._cells[0] if is_one else CellsLog(self._cells)
        self.operator_log = self.operator_cells[0] if is_one else CellsOperatorLog(self.operator_cells)

    def moving_to(self, places: Sequence[CellPlace]) -> list[int]:
        """Return the cells that other places have than those in use."""
        return [new.number for old, new in zip(self._places, places, strict=True) if old.url != new.url]

    async def move(self, places: Sequence[CellPlace]) -> list[int]:
        """Follow cells to other servers. Return those that were moved. See `close_unused`.

        Raises:
            LogUnavailable: a server cannot be reached. Nothing has changed.
            LogUrlError: a cell is not there, or the copy there is an older one. Nothing has changed.
        """
        moved = self.moving_to(places)
        if not moved:
            return []
        found = await asyncio.to_thread(check_cells, places, moved)
        for number, record in found.items():
            if record.generation < self._generations.get(number, 0):
                raise LogUrlError(
                    f"log.servers: cell {number} was seen at generation {self._generations[number]}, and the "
                    f"copy where the configuration has it is of generation {record.generation}"
                )
        self._generations |= {number: record.generation for number, record in found.items()}
        for number in moved:
            pool, operator_pool = self._servers.at(places[number].url)
            self._cells[number].use(pool)
            self.operator_cells[number].use(operator_pool)
        self._places = list(places)
        return moved

    async def close_unused(self) -> None:
        """Close the connections to servers that cells have left."""
        await self._servers.close(keep={place.url for place in self._places})

    async def close(self) -> None:
        await self._servers.close()
