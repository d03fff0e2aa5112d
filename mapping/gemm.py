"""Matrix products: the records of a plan that the search has chosen.

C [m, n] = A [m, k] · B [k, n] runs in blocks of C that stay in accumulators while k runs; each tile of B is streamed from DRAM
once where on-chip room allows it. A resident A or C is used in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..sim.errors import ConfigError
from ..sim.program import Segment, View
from ..sim.units import ceil_div
from ..workloads.operators import Gemm, Operator
from .constraints import GemmConstraints
from .explain import notes_of
from .gemm_space import GemmTask
from .search import Choice, choose_gemm
from .storage import Blocked, whole_units
from .target import Site
from .tiles import Operand, Tiler, accumulator_dtype, permute, tiles


def choose_plan(op: Gemm, operands: tuple[Operand, ...], site: Site, blocked: bool) -> Choice:
    """The plan of *op* on *operands*, and what it won against; *blocked*: whether B is stored as its tiles want it.

    A B that is stored already in the tiles of a like operator, whose other operands live elsewhere, is taken in those.
    """
    task = GemmTask.of(op, operands, blocked, site.target)
    constraints, layout = site.constraints.of(op.name).gemm, operands[1].layout
    try:
        choice = choose_gemm(task, site, constraints)
    except ConfigError as error:
        if constraints == GemmConstraints():
            raise
        raise site.constraints.blamed(error, op.name, "gemm") from None
    if layout is None or (choice.plan.k_tile, choice.plan.n_tile, choice.plan.n_block) == (
            layout.k_tile, layout.n_tile, layout.n_block):
        return choice
    tiles = {"k_tile": layout.k_tile, "n_tile": layout.n_tile, "n_block": layout.n_block}
    return choose_gemm(task, site, constraints.model_copy(update={"search": "pruned", **tiles}))


def weight_layout(op: Operator, operands: tuple[Operand, ...], site: Site) -> Blocked:
    """The storage of a weight that only products like *op* read: tiles in the order in which they are loaded."""
    assert isinstance(op, Gemm)
    plan = choose_plan(op, operands, site, blocked=True).plan
    return Blocked(op.batch, op.k, op.n, plan.k_tile, plan.n_tile, plan.n_block, op.weight_transposed)


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
        self.choice = choose_plan(op, operands, site, self.b.layout is not None)
        self.plan = self.choice.plan
        self.tiler = Tiler(op.name, operands, site)
        self._depths = list(tiles(op.k, self.plan.k_tile))
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
        task = GemmTask.of(self.op, self.tiler.operands, self.b.layout is not None, self.site.target)
        return self.tiler.build(**notes_of(self.choice, task, self.site))

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
        op, plan = self.op, self.plan
        parts = [self.tiler.temporary("sums", (rows, columns), accumulator_dtype(self.a.dtype), plan.unit)
                 for _ in range(plan.split_k)]
        depth_of_part = ceil_div(ceil_div(op.k, plan.k_tile), plan.split_k) * plan.k_tile
        parts = parts[:ceil_div(op.k, depth_of_part)]
        strips = list(tiles(columns, plan.n_tile, n))
        sums = [[self._placed(View((rows, width), (columns, 1), start - n, buffer=part.buffer)) for start, width in strips]
                for part in parts]
        for k, depth in self._depths:
            a = self._a_tile(batch, m, rows, k, depth)
            is_added = k % depth_of_part > 0
            for (n_start, width), c in zip(strips, sums[k // depth_of_part], strict=True):
                self._multiply(a, self._b_tile(batch, k, depth, n_start, width), c, is_added)
                if k == 0 and n_start == n:
                    self._finish_pending()
        self._pending = lambda: self._epilogue(batch, m, rows, n, columns, parts)
        if plan.unit != self.site.target.mxu:
            self._finish_pending()

    def _placed(self, tile: View) -> View:
        """A tile as products want it: with A stationary they are done as Cᵀ = Bᵀ Aᵀ."""
        return permute(tile, 1, 0) if self.plan.stationary == "a" else tile

    def _multiply(self, a: View, b: View, c: View, is_added: bool) -> None:
        """One tile product, all three ``_placed``."""
        if self.plan.stationary == "a":
            a, b = b, a
        self.tiler.builder.multiply(self.plan.unit, a, b, c, accumulate=is_added)

    def _finish_pending(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending()

    def _epilogue(self, batch: int, m: int, rows: int, n: int, columns: int, parts: list[View]) -> None:
        """The sums of all parts of k in the output's format, the bias added, to where C lives."""
        bias = self._bias(n, columns)
        for other in parts[1:]:
            self.tiler.lanes("add", (parts[0], other), (parts[0],))
        room = max(1, self.site.room.vector_bytes // 8 * 8 // self.c.dtype.bits // columns)
        for row, count in tiles(rows, rows if self.c.resident else min(rows, room)):
            source = View((count, columns), (columns, 1), row * columns, buffer=parts[0].buffer)
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
            window = self.a.window((rows, depth), (self.op.k, 1), (batch * self.op.m + m) * self.op.k + k)
            found = self._placed(self.tiler.read(window))
            if self.plan.hold == "a":
                self._a_tiles[m, k] = found
        return found

    def _b_tile(self, batch: int, k: int, depth: int, n: int, width: int) -> View:
        found = self._b_tiles.get((k, n))
        if found is None:
            found = self._placed(self._read_b(batch, k, depth, n, width))
            if self.plan.hold == "b":
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
