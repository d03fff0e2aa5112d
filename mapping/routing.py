"""Rows to experts and back, on the lanes: the dispatch lays them out expert by expert, the sum takes each row's results together.

Rows that stand a period of the routing apart take the same experts at places a constant step apart, so a record moves all of them
(as many as there is room for, where they pass through).
"""

from __future__ import annotations

from ..sim.program import Segment, View
from ..workloads.operators import Operator
from ..workloads.routing import Combine, Dispatch, Routing
from .storage import whole_units
from .target import Site
from .tiles import Operand, Tiler, tiles
from .vector_ops import rows_in_room


def lower_dispatch(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: x, scores, perhaps unread weights, the shares, the groups' rows."""
    assert isinstance(op, Dispatch)
    routing, num_groups = op.routing, len(op.routing.groups)
    x, scores, shares, grouped = operands[0], operands[1], operands[-1 - num_groups], operands[-num_groups:]
    tiler = Tiler(op.name, operands, site)
    for operand, cols in ((x, op.hidden), (scores, op.experts), (shares, op.top_k), *((rows, op.hidden) for rows in grouped)):
        whole_units(operand.dtype, cols, f"{op.name}: a row")
    row_bytes = max(scores.dtype.bytes_for(op.experts), shares.dtype.bytes_for(op.top_k))
    for first, count in tiles(op.rows, rows_in_room(site, row_bytes, (scores,), shares, op.rows)):
        read = tiler.read(scores.window((count, op.experts), offset=first * op.experts))
        window = shares.window((count, op.top_k), offset=first * op.top_k)
        sink = tiler.sink(window)
        tiler.lanes("route", (read,), (sink,), row=first, top_k=op.top_k, active=op.active)
        tiler.commit(window, sink)
    for start in range(min(routing.period, op.rows)):
        for choice in range(op.top_k):
            target = grouped[routing.place(start, choice)[0]]
            alike = -(-(op.rows - start) // routing.period)
            for first, count in tiles(alike, rows_in_room(site, x.dtype.bytes_for(op.hidden), (x,), target, alike)):
                read = tiler.read(_every(x, routing.period, start + first * routing.period, count, op.hidden))
                window = _places(routing, target, start + first * routing.period, choice, count, op.hidden)
                sink = tiler.sink(window)
                tiler.lanes("copy", (read,), (sink,))
                tiler.commit(window, sink)
    return tiler.build(unit=site.target.vpu, active_experts=op.active)


def lower_combine(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: shares, the groups' results, the output."""
    assert isinstance(op, Combine)
    routing, shares, results, out = op.routing, operands[0], operands[1:-1], operands[-1]
    tiler = Tiler(op.name, operands, site)
    for operand, cols in ((shares, op.top_k), *((rows, op.hidden) for rows in operands[1:])):
        whole_units(operand.dtype, cols, f"{op.name}: a row")
    for start in range(min(routing.period, op.rows)):
        sources = tuple(results[routing.place(start, choice)[0]] for choice in range(op.top_k))
        alike = -(-(op.rows - start) // routing.period)
        tile_rows = rows_in_room(site, out.dtype.bytes_for(op.hidden), (shares, *sources), out, alike)
        for first, count in tiles(alike, tile_rows):
            row = start + first * routing.period
            reads = [tiler.read(_every(shares, routing.period, row, count, op.top_k))]
            reads += [tiler.read(_places(routing, source, row, choice, count, op.hidden)) for choice, source in enumerate(sources)]
            window = _every(out, routing.period, row, count, op.hidden)
            sink = tiler.sink(window)
            tiler.lanes("combine", tuple(reads), (sink,))
            tiler.commit(window, sink)
    return tiler.build(unit=site.target.vpu)


def _every(operand: Operand, period: int, row: int, count: int, cols: int) -> View:
    """*count* rows of [rows, cols], a period apart, from *row* on."""
    return operand.window((count, cols), (period * cols, 1), row * cols)


def _places(routing: Routing, operand: Operand, row: int, choice: int, count: int, cols: int) -> View:
    """Where the choice of those rows lies in its group."""
    return operand.window((count, cols), (routing.places_a_period * cols, 1), routing.place(row, choice)[1] * cols)
