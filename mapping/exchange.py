"""Exchanges between devices as records: each tile of rows goes through the lanes' collective, which sums while links carry it."""

from __future__ import annotations

from ..sim.program import Segment
from ..workloads.collective import Collective
from ..workloads.operators import Operator
from .storage import whole_units
from .target import Site
from .tiles import Operand, Tiler, tiles
from .vector_ops import rows_in_room


def lower_collective(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: what a device holds, what it gets. Resident ones are exchanged whole, spilled ones in tiles of rows."""
    assert isinstance(op, Collective)
    held, got = operands
    held_cols, got_cols = op.columns(True), op.columns(False)
    tiler = Tiler(op.name, operands, site)
    for operand, cols in ((held, held_cols), (got, got_cols)):
        whole_units(operand.dtype, cols, f"{op.name}: a row")
    tile_rows = rows_in_room(site, max(held.dtype.bytes_for(held_cols), got.dtype.bytes_for(got_cols)), (held,), got, op.rows)
    for first, count in tiles(op.rows, tile_rows):
        window = got.window((count, got_cols), offset=first * got_cols)
        sink = tiler.sink(window)
        tiler.lanes(op.function, (tiler.read(held.window((count, held_cols), offset=first * held_cols)),), (sink,), ranks=op.ranks)
        tiler.commit(window, sink)
    return tiler.build(unit=site.target.vpu, rows_tile=tile_rows, devices=op.ranks)
