"""Rows of trials that are not in the archive yet, made as sealing will make them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property

import pyarrow as pa

from staffa import rows
from staffa.campaign.plan import Group
from staffa.errors import WorkspaceError
from staffa.storage.books import Books, fold
from staffa.storage.ledger import history
from staffa.storage.tables import ArchiveLayout
from staffa.views.standing import Place, Standing


class Unsealed:
    """What a state of the campaign holds in its hot stores only."""

    def __init__(self, standing: Standing, layout: ArchiveLayout) -> None:
        self.standing, self.layout = standing, layout

    def tables(self, name: str, place: Place, columns: Collection[str] | None = None) -> Iterator[pa.Table]:
        """The rows of a part's trials that are not sealed, batch by batch, in the columns of the archive's files.

        Arguments:
        - `name`: the table.
        - `columns`: what is wanted; others may be null.
        """
        group = self.standing.plan.groups[place.part.group]
        store = self.standing.store(place.part.group)
        for batch, lanes in place.hot.items():
            wanted = self._outputs(name, columns)
            pieces = [
                rows.read(store, group, batch, segment, lanes.tolist(), outputs=wanted, checked=False)
                for segment in range(store.layout.segments)
            ]
            if any(piece.block is None for piece in pieces):
                continue  # its mark was taken back meanwhile: it is done anew
            if store.gone(batch)[lanes].any():
                raise WorkspaceError(
                    f"'{store.path}': batch {batch} was sealed and pruned after it was looked at",
                    "ask anew: it is read from the archive then",
                )
            tries = rows.tries_of(self._books, store, (place.part.group, batch)) if name == "trials" else rows.Tries()
            made = rows.made(self.layout, pieces, name, tries)
            yield made if name == "trials" else self._partitioned(made, group)

    @cached_property
    def _books(self) -> Books:
        return fold(history(self.standing.workspace))

    def _outputs(self, name: str, columns: Collection[str] | None) -> set[str]:
        """Outputs that have to be read for some columns of a table."""
        outputs = {output.name: output for output in self.layout.outputs}
        if columns is None:
            return set(outputs)
        if name != "trials":
            lengths = {output.length for output in outputs.values() if output.table == name}
            return lengths | (outputs.keys() & set(columns))
        read = {output for output in outputs for column in columns if column.startswith(f"{output}.")}
        for extract in self.layout.extracts:
            if extract.name in columns:
                read |= {extract.output, extract.by or extract.output}
        return read

    def _partitioned(self, table: pa.Table, group: Group) -> pa.Table:
        """With the columns that stand in the path of a sealed file."""
        types = {field.name: field.type for field in self.layout.trials()}
        for column in self.layout.partition_by:
            value = pa.repeat(pa.scalar(group.partition[column], types[column]), table.num_rows)
            table = table.append_column(pa.field(column, types[column]), value)
        return table
