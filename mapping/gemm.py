"""Matrix products: choice of unit, tiles, loop order, and the records.

C [m, n] = A [m, k] · B [k, n] runs in blocks of C that stay in accumulators while k runs; each tile of B is streamed from DRAM
once where on-chip room allows it. A resident A or C is used in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..arch.systolic import gemm_cycles
from ..sim.dtypes import DType
from ..sim.errors import ConfigError
from ..sim.program import Segment, View
from ..workloads.operators import Gemm, Operator
from .storage import Blocked, storage_unit, whole_units
from .target import TILE_BYTES, Site
from .tiles import Operand, Tiler, accumulator_dtype, floor_to, must_dequantize, permute, tiles

#: Lane operations that unpacking one element takes; see ``arch.vector.FUNCTION_OPS``.
_DEQUANTIZE_OPS = 2
#: Columns of B that the lanes want at least in a tile before they split k: below, partial sums cost as much as products.
_LANE_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class WeightTile:
    """The unit that multiplies, and the tile of B [k, n] that it takes at a time."""

    unit: str
    k: int
    n: int


def check_format(dtype: DType, site: Site) -> None:
    """Refuse to multiply in a format that the arrays do not have."""
    target = site.target
    supported = tuple(name for name in target.array.dtypes if name in target.array.mac_energy_pj)
    if dtype.name not in supported:
        raise ConfigError(f"{target.machine}: the systolic array {target.mxu!r} cannot multiply {dtype.name}", key="dtype",
                          value=dtype.name, allowed=supported)


def choose_unit(m: int, k: int, n: int, batch: int, dtypes: tuple[DType, DType], site: Site) -> str:
    """The arrays or the lanes, whichever is sooner done; unpacking B occupies the lanes in either case."""
    target = site.target
    a_dtype, b_dtype = dtypes
    check_format(a_dtype, site)
    unpack_s = (_DEQUANTIZE_OPS * batch * k * n / target.lanes.peak_ops_per_s) if must_dequantize(b_dtype, a_dtype) else 0.0
    array_s = gemm_cycles(m, k, n, target.array, batch).total / target.array.clock_hz
    lanes_s = target.lanes.product_s(batch * m * k * n)
    return target.mxu if max(array_s, unpack_s) <= lanes_s + unpack_s else target.vpu


def choose_weight_tile(op: Gemm, dtypes: tuple[DType, DType], site: Site, room_bytes: int, row_major: bool) -> WeightTile:
    """The tile of B: 1 MiB or a quarter of *room_bytes*, whole folds on the arrays, whole columns where that keeps sums out of
    the accumulators.

    *row_major*: B lies in storage as rows of [n, k], so that whole rows make one range.
    """
    a_dtype, b_dtype = dtypes
    unit = choose_unit(op.m, op.k, op.n, op.batch, dtypes, site)
    elements = int(min(TILE_BYTES, room_bytes // 4) * 8 / b_dtype.bits_per_element)
    if must_dequantize(b_dtype, a_dtype):
        elements = min(elements, site.room.vector_bytes // 4 * 8 // a_dtype.bits)
    widest = max(1, min(op.n, site.room.vector_bytes // 16, _block_bytes(unit, site) // (4 * min(op.m, _rows_kept(unit, site)))))
    packed = storage_unit(b_dtype)[0]
    if unit == site.target.mxu and not (row_major and op.k * site.target.array.cols <= elements):
        array = site.target.array
        n = min(widest, array.cols * array.arrays)
        k = floor_to(max(1, elements // n), array.rows)
        if k >= op.k:
            return WeightTile(unit, op.k, max(n, min(widest, floor_to(elements // op.k, array.cols))))
        if k < array.rows:                             # a small scratchpad: one fold's rows, fewer columns
            k = min(op.k, array.rows, max(1, elements))
            n = min(n, max(1, elements // k))
    else:
        n = min(widest, max(_LANE_COLUMNS, elements // op.k))
        if op.k * n <= elements:
            return WeightTile(unit, op.k, n)
        k = max(1, elements // n)
        if k < packed:
            k, n = packed, max(1, elements // packed)
    return WeightTile(unit, min(op.k, max(packed, k // packed * packed)), n)


def _block_bytes(unit: str, site: Site) -> int:
    """Bytes of one block of C in accumulators: half of the arrays' own pool, a quarter of the lanes' only one."""
    return site.room.accumulator_bytes // 2 if unit == site.target.mxu else site.room.vector_bytes // 4


def _rows_kept(unit: str, site: Site) -> int:
    """Rows of C that a block should hold: enough to hide the shift-in of weights twice."""
    return 2 * site.target.array.rows if unit == site.target.mxu else 1


@dataclass(frozen=True, slots=True)
class GemmPlan:
    """Tile sizes and loop order. ``outer`` is the outer of the two loops over blocks of C; ``hold_a`` / ``hold_b``: whether
    the strip of A (of B) that the outer loop fixes stays on chip while the inner loop runs."""

    tile: WeightTile
    m_tile: int
    n_block: int
    outer: str
    hold_a: bool
    hold_b: bool
    dram_bytes: int                                    # of A and B, by these loops


def plan_gemm(op: Gemm, a: Operand, b: Operand, c: Operand, site: Site) -> GemmPlan:
    """Blocks as large as the accumulators allow, and the loop order that moves the fewest bytes from DRAM."""
    b_room = site.room.stream_bytes if b.is_streamed or b.resident else site.room.activation_bytes
    a_room = site.room.activation_bytes // (2 if b.is_streamed or b.resident else 4)
    tile = choose_weight_tile(op, (a.dtype, b.dtype), site, b_room, row_major=b.layout is None)
    block_elements = _block_bytes(tile.unit, site) // 4
    m_tile = max(1, min(op.m, block_elements // tile.n))
    if not a.resident:
        m_tile = max(1, min(m_tile, a_room * 8 // a.dtype.bits // tile.k))
    widest_row = block_elements // m_tile if c.resident else min(block_elements // m_tile, site.room.vector_bytes // 16)
    widest = tile.n * max(1, min(-(-op.n // tile.n), widest_row // tile.n))
    plans = [plan for n_block in dict.fromkeys((widest, tile.n))
             for plan in _plans(op, a, b, tile, m_tile, n_block, a_room, b_room)]
    return min(plans, key=lambda plan: plan.dram_bytes)


def _plans(
    op: Gemm, a: Operand, b: Operand, tile: WeightTile, m_tile: int, n_block: int, a_room: int, b_room: int,
) -> Iterator[GemmPlan]:
    """Both loop orders over blocks of m_tile × n_block, with what they can hold."""
    m_blocks, n_blocks = -(-op.m // m_tile), -(-op.n // n_block)
    a_bytes = 0 if a.resident else a.dtype.bytes_for(op.m * op.k)
    b_bytes = 0 if b.resident else b.dtype.bytes_for(op.k * op.n)
    hold_b = (m_blocks > 1 and b.dtype.bytes_for(op.k * n_block) <= b_room // 2
              and not must_dequantize(b.dtype, a.dtype))
    yield GemmPlan(tile, m_tile, n_block, "n", False, hold_b, b_bytes * (1 if hold_b else m_blocks) + a_bytes * n_blocks)
    hold_a = not a.resident and n_blocks > 1 and a.dtype.bytes_for(m_tile * op.k) <= a_room
    yield GemmPlan(tile, m_tile, n_block, "m", hold_a, False, b_bytes * m_blocks + a_bytes * (1 if hold_a else n_blocks))


def weight_layout(op: Operator, a: DType, b: DType, site: Site) -> Blocked:
    """The storage of a weight that only *op* reads: blocks in the order of its tiles."""
    assert isinstance(op, Gemm)
    tile = choose_weight_tile(op, (a, b), site, site.room.stream_bytes, row_major=False)
    return Blocked(op.batch, op.k, op.n, tile.k, tile.n, op.weight_transposed)


def lower_gemm(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """The records of a matrix product; operands: A, B, perhaps the bias, C."""
    assert isinstance(op, Gemm)
    inner_is_k = operands[1].layout is not None or op.weight_transposed
    whole_units(operands[1].dtype, op.k if inner_is_k else op.n, f"{op.name}: the second operand")
    return _GemmLowering(op, operands, site).lower()


class _GemmLowering:
    def __init__(self, op: Gemm, operands: tuple[Operand, ...], site: Site) -> None:
        self.op, self.site = op, site
        self.a, self.b, self.c = operands[0], operands[1], operands[-1]
        self.bias = operands[2] if op.has_bias else None
        self.plan = plan_gemm(op, self.a, self.b, self.c, site)
        self.tiler = Tiler(op.name, operands, site)
        self._a_tiles: dict[tuple[int, int], View] = {}
        self._b_tiles: dict[tuple[int, int], View] = {}
        self._bias_tile: tuple[int, View] | None = None
        self._pending: Callable[[], None] | None = None

    def lower(self) -> Segment:
        plan = self.plan
        for batch in range(self.op.batch):
            self._a_tiles.clear()
            self._b_tiles.clear()
            outer_before = -1
            for (m, rows), (n, columns) in self._blocks():
                outer = m if plan.outer == "m" else n
                if outer != outer_before:
                    (self._a_tiles if plan.outer == "m" else self._b_tiles).clear()
                    outer_before = outer
                self._block(batch, m, rows, n, columns)
        self._finish_pending()
        return self.tiler.build(unit=plan.tile.unit, m_tile=plan.m_tile, k_tile=plan.tile.k, n_tile=plan.tile.n,
                                n_block=plan.n_block, outer=plan.outer, dataflow=self._dataflow())

    def _dataflow(self) -> str:
        return self.site.target.array.dataflow if self.plan.tile.unit == self.site.target.mxu else "output_stationary"

    def _blocks(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """((m, rows), (n, columns)) of the blocks of C in loop order."""
        m_blocks, n_blocks = list(tiles(self.op.m, self.plan.m_tile)), list(tiles(self.op.n, self.plan.n_block))
        if self.plan.outer == "m":
            return ((m, n) for m in m_blocks for n in n_blocks)
        return ((m, n) for n in n_blocks for m in m_blocks)

    def _block(self, batch: int, m: int, rows: int, n: int, columns: int) -> None:
        """One block of C: all of k, then the epilogue.

        The arrays' epilogue is left until the next block has begun, so that lanes that unpack its weights are not kept
        waiting for this block's last product.
        """
        op, unit = self.op, self.plan.tile.unit
        total = self.tiler.temporary("sums", (rows, columns), accumulator_dtype(self.a.dtype), unit)
        for k, depth in tiles(op.k, self.plan.tile.k):
            a = self._a_tile(batch, m, rows, k, depth)
            for n_start, width in tiles(columns, self.plan.tile.n, n):
                b = self._b_tile(batch, k, depth, n_start, width)
                part = View((rows, width), (columns, 1), n_start - n, buffer=total.buffer)
                self.tiler.builder.compute(unit, "matmul", (a, b), (part,), accumulate=k > 0)
                if k == 0 and n_start == n:
                    self._finish_pending()
        self._pending = lambda: self._epilogue(batch, m, rows, n, columns, total)
        if unit != self.site.target.mxu:
            self._finish_pending()

    def _finish_pending(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending()

    def _epilogue(self, batch: int, m: int, rows: int, n: int, columns: int, total: View) -> None:
        """The sums in the output's format, the bias added, to where C lives."""
        bias = self._bias(n, columns)
        room = max(1, self.site.room.vector_bytes // 8 * 8 // self.c.dtype.bits // columns)
        for row, count in tiles(rows, rows if self.c.resident else min(rows, room)):
            source = View((count, columns), (columns, 1), row * columns, buffer=total.buffer)
            window = self.c.window((count, columns), (self.op.n, 1), (batch * self.op.m + m + row) * self.op.n + n)
            out = self.tiler.sink(window)
            if bias is None:
                self.tiler.lanes("copy", (source,), (out,))
            else:
                self.tiler.lanes("add", (source, bias), (out,))
            self.tiler.commit(window, out)

    def _bias(self, n: int, columns: int) -> View | None:
        if self.bias is None:
            return None
        if self._bias_tile is None or self._bias_tile[0] != n:
            self._bias_tile = n, self.tiler.read(self.bias.window((columns,), offset=n))
        return self._bias_tile[1]

    def _a_tile(self, batch: int, m: int, rows: int, k: int, depth: int) -> View:
        found = self._a_tiles.get((m, k))
        if found is None:
            found = self.tiler.read(self.a.window((rows, depth), (self.op.k, 1), (batch * self.op.m + m) * self.op.k + k))
            if self.plan.hold_a:
                self._a_tiles[m, k] = found
        return found

    def _b_tile(self, batch: int, k: int, depth: int, n: int, width: int) -> View:
        found = self._b_tiles.get((k, n))
        if found is None:
            found = self._read_b(batch, k, depth, n, width)
            if self.plan.hold_b:
                self._b_tiles[k, n] = found
        return found

    def _read_b(self, batch: int, k: int, depth: int, n: int, width: int) -> View:
        """B's tile as a view [depth, width], whatever order it is stored in."""
        op, b, start = self.op, self.b, batch * self.op.k * self.op.n
        if b.layout is not None:
            buffer = self.tiler.load(b, b.layout.block(batch, k, n, b.dtype), depth * width)
            stored = View((width, depth), (depth, 1), 0, buffer=buffer)
            return permute(self.tiler.converted(stored, b.dtype, self.a.dtype), 1, 0)
        if op.weight_transposed:
            stored = self.tiler.read(b.window((width, depth), (op.k, 1), start + n * op.k + k))
            return permute(self.tiler.converted(stored, b.dtype, self.a.dtype), 1, 0)
        stored = self.tiler.read(b.window((depth, width), (op.n, 1), start + k * op.n + n))
        return self.tiler.converted(stored, b.dtype, self.a.dtype)
