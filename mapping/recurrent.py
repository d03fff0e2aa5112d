"""The LSTM cell on the lanes: tiles of whole rows, two results."""

from __future__ import annotations

from ..sim.program import Segment
from ..workloads.operators import Operator
from ..workloads.recurrent import GATES, LstmCell
from .storage import whole_units
from .target import Site
from .tiles import Operand, Tiler, tiles
from .vector_ops import rows_in_room


def lower_lstm_cell(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: gates' sums of x and of h, c, and the results h and c."""
    assert isinstance(op, LstmCell)
    tiler, streams, (h, c) = Tiler(op.name, operands, site), operands[:3], operands[3:]
    widths = (GATES * op.hidden, GATES * op.hidden, op.hidden)
    for operand, width in zip(operands, (*widths, op.hidden, op.hidden), strict=True):
        whole_units(operand.dtype, width, f"{op.name}: a row")
    # Both results share the lanes' pool: a row of each is as much as one of the gates at most.
    row_bytes = max(o.dtype.bytes_for(GATES * op.hidden) for o in operands)
    results = h if not h.resident else c
    tile_rows = rows_in_room(site, row_bytes, streams, results, op.batch)
    for first, count in tiles(op.batch, tile_rows):
        reads = tuple(tiler.read(o.window((count, width), offset=first * width)) for o, width in zip(streams, widths, strict=True))
        windows = tuple(o.window((count, op.hidden), offset=first * op.hidden) for o in (h, c))
        sinks = tuple(tiler.sink(window) for window in windows)
        tiler.lanes("lstm_cell", reads, sinks)
        for window, sink in zip(windows, sinks, strict=True):
            tiler.commit(window, sink)
    return tiler.build(unit=site.target.vpu, rows_tile=tile_rows)
