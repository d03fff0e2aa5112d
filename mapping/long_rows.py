"""Rows too long for the scratchpad, in pieces: pointwise functions piece by piece; softmax and norms in two readings of the
row, one that gathers its statistics (online, as pieces pass) and one that normalises with them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from ..sim.dtypes import DTYPES
from ..sim.program import Segment, View
from ..workloads.cascades import LAYER_NORM_ONLINE, RMS_NORM, SOFTMAX_ONLINE, passes_of
from .storage import storage_unit
from .target import ACTIVATION, STREAM, VECTOR, Site
from .tiles import Operand, Tiler, tiles

FP32 = DTYPES["fp32"]
#: Statistics of a row, by function: softmax's running maximum and sum of exponentials (Milakov and Gimelshein, 2018,
#: arXiv:1805.02867, algorithm 3), rmsnorm's sum of squares, layernorm's mean and centred sum of squares (pieces are joined as by
#: Chan, Golub and LeVeque, 1979).
STATISTICS = {"softmax": ("maximum", "total"), "rmsnorm": ("squares",), "layernorm": ("mean", "squares")}
#: What each computes, as a cascade: how often a row is read follows from it.
CASCADES = {"softmax": SOFTMAX_ONLINE, "rmsnorm": RMS_NORM, "layernorm": LAYER_NORM_ONLINE}
READINGS = {function: passes_of(cascade).visits("X") for function, cascade in CASCADES.items()}


def row_fits(site: Site, reads: tuple[Operand, ...], out: Operand, cols: int) -> bool:
    """Whether one row of *cols* of each operand that passes through the scratchpad fits into the pools."""
    wanted = Counter[str]()
    for operand in reads:
        if not operand.resident:
            wanted[STREAM if operand.is_streamed else ACTIVATION] += operand.dtype.bytes_for(cols)
    if not out.resident:
        wanted[VECTOR] += out.dtype.bytes_for(cols)
    return all(nbytes <= site.room.of(pool) for pool, nbytes in wanted.items())


def _piece(site: Site, reads: tuple[Operand, ...], out: Operand, cols: int) -> int:
    """Elements of a piece: two pieces of every operand fit into its pool, in whole units of storage."""
    bits, unit = Counter[str](), math.lcm(*(storage_unit(operand.dtype)[0] for operand in (*reads, out)))
    for operand in reads:
        if not operand.resident:
            bits[STREAM if operand.is_streamed else ACTIVATION] += 8 * storage_unit(operand.dtype)[1] * unit // storage_unit(
                operand.dtype)[0]
    if not out.resident:
        bits[VECTOR] += 8 * storage_unit(out.dtype)[1] * unit // storage_unit(out.dtype)[0]
    # Beside the pieces the lanes' pool holds the row's statistics, twice: the next row begins before this one has ended.
    aside = 2 * len(STATISTICS["softmax"]) * FP32.bits
    units = min((8 * site.room.of(pool) - (aside if pool == VECTOR else 0)) // (2 * each) for pool, each in bits.items())
    return min(cols, max(1, units) * unit)


def lower_long_rows(
    name: str, operands: tuple[Operand, ...], site: Site, rows: int, cols: int, function: str, streams: int,
) -> Segment:
    """*function* of *streams* operands of [rows, cols] (and constants of [cols]) by pieces of rows."""
    tiler, reads, out = Tiler(name, operands, site), operands[:-1], operands[-1]
    size = _piece(site, reads, out, cols)

    def pieces(row: int) -> Iterator[tuple[View, int, int]]:
        for first, count in tiles(cols, size):
            yield out.window((1, count), offset=row * cols + first), first, count

    for row in range(rows):
        statistics: tuple[View, ...] = ()
        if function in STATISTICS:
            statistics = _gather(tiler, operands[0], row, cols, size, function)
        for window, first, count in pieces(row):
            found = tuple(tiler.read(o.window((1, count), offset=row * cols + first)) for o in operands[:streams])
            constants = tuple(tiler.read(o.window((count,), offset=first)) for o in operands[streams:-1])
            sink = tiler.sink(window)
            if statistics:
                tiler.lanes(f"{function}_normalize", (*found, *statistics, *constants), (sink,), cols=cols)
            else:
                tiler.lanes(function, (*found, *constants), (sink,))
            tiler.commit(window, sink)
    return tiler.build(unit=site.target.vpu, cols_tile=size, readings=READINGS.get(function, 1))


def _gather(tiler: Tiler, x: Operand, row: int, cols: int, size: int, function: str) -> tuple[View, ...]:
    """The first reading of *row*: its statistics, in fp32."""
    statistics = tuple(tiler.temporary(what, (1,), FP32, tiler.site.target.vpu) for what in STATISTICS[function])
    for first, count in tiles(cols, size):
        found = tiler.read(x.window((1, count), offset=row * cols + first))
        tiler.lanes(f"{function}_statistics", (found, *(statistics if first else ())), statistics, seen=first)
    return statistics
