"""The map space of a matrix product: what a plan says, which plans fit on chip, and which ones the search looks at.

C [m, n] = A [m, k] · B [k, n] is cut into blocks of C of m_tile × n_block that stay in accumulators while k runs; a block takes
B in tiles of k_tile × n_tile. The nest, from the outside: the two loops over blocks (``outer`` first), split_k parts of k, tiles
of k, tiles of n in the block, and in space one tile product on the arrays (folds over all of them) or on the lanes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..sim.dtypes import DType
from ..sim.errors import ConfigError
from ..workloads.operators import Gemm
from .storage import storage_unit
from .target import Site, Target
from .tiles import Operand

Ints = npt.NDArray[np.int64]
Hold = Literal["none", "a", "b"]
#: Up to here every even cut of an extent is looked at.
_SMALL_EXTENT = 32
_TINY_EXTENT = 12
#: Tilings of an exhaustive search: a few minutes.
_MOST_TILINGS = 50_000
#: Share of a pool that a strip takes at most: the rest is for the tile that is loaded beside it, and a bias.
_STRIP_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class GemmTask:
    """All that the choice of a plan depends on: equal tasks on one site get equal plans."""

    m: int
    k: int
    n: int
    batch: int
    a: DType
    b: DType
    c: DType
    a_resident: bool
    b_resident: bool
    c_resident: bool
    b_streams: bool                                    # through the stream pool, or through that of activations
    b_blocked: bool                                    # stored in the order of its tiles, whatever they are
    transposed: bool
    has_bias: bool
    unpacks: bool = False                              # the lanes unpack B before it is multiplied

    @classmethod
    def of(cls, op: Gemm, operands: tuple[Operand, ...], blocked: bool, target: Target) -> GemmTask:
        """The task of *op* on *operands*; *blocked*: whether B may be stored as its tiles want it."""
        a, b, c = operands[0], operands[1], operands[-1]
        return cls(op.m, op.k, op.n, op.batch, a.dtype, b.dtype, c.dtype, a.resident, b.resident, c.resident,
                   b.is_streamed or b.resident, blocked, op.weight_transposed, op.has_bias,
                   target.must_dequantize(b.dtype, a.dtype))

    @property
    def packs_n(self) -> bool:
        """Whether units of B's storage run along n, not k."""
        return not self.b_blocked and not self.transposed


@dataclass(frozen=True, slots=True)
class GemmPlan:
    """One point of the map space. ``hold``: the operand whose strip, which the outer loop fixes, stays on chip while the inner loop
    runs; ``stationary``: the operand that lies in the arrays' stationary place; ``split_k``: parts of k that are summed apart."""

    unit: str
    m_tile: int
    k_tile: int
    n_tile: int
    n_block: int
    outer: Literal["m", "n"]
    hold: Hold = "none"
    stationary: Literal["a", "b"] = "b"
    split_k: int = 1

    @property
    def structure(self) -> tuple[Any, ...]:
        """The plan but for its tile sizes."""
        return self.unit, self.outer, self.hold, self.stationary, self.split_k


@dataclass(frozen=True, slots=True)
class Plans:
    """Many plans as arrays of one length; flags are 0 or 1."""

    on_arrays: Ints
    m_tile: Ints
    k_tile: Ints
    n_tile: Ints
    n_block: Ints
    outer_m: Ints
    hold_a: Ints
    hold_b: Ints
    swap: Ints
    split_k: Ints

    def __len__(self) -> int:
        return len(self.m_tile)

    @classmethod
    def joined(cls, parts: Sequence[Plans]) -> Plans:
        """Several, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def take(self, chosen: npt.NDArray[Any]) -> Plans:
        """The plans at *chosen*."""
        return Plans(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def plan(self, index: int, site: Site) -> GemmPlan:
        """Plan number *index*."""
        at = {field.name: int(getattr(self, field.name)[index]) for field in fields(self)}
        return GemmPlan(site.target.mxu if at["on_arrays"] else site.target.vpu, at["m_tile"], at["k_tile"], at["n_tile"],
                        at["n_block"], "m" if at["outer_m"] else "n", "a" if at["hold_a"] else "b" if at["hold_b"] else "none",
                        "a" if at["swap"] else "b", at["split_k"])


def plans_of(rows: npt.ArrayLike) -> Plans:
    """Plans from rows of their fields, in the order of :class:`Plans`."""
    table = np.asarray(rows, dtype=np.int64).reshape(-1, len(fields(Plans)))
    return Plans(*(np.ascontiguousarray(column) for column in table.T))


def one_plan(plan: GemmPlan, site: Site) -> Plans:
    """*plan* alone, as arrays."""
    return plans_of([[plan.unit == site.target.mxu, plan.m_tile, plan.k_tile, plan.n_tile, plan.n_block, plan.outer == "m",
                      plan.hold == "a", plan.hold == "b", plan.stationary == "a", plan.split_k]])


def fits(plans: Plans, task: GemmTask, site: Site) -> npt.NDArray[np.bool_]:
    """Which plans the pools can hold, and whose tiles split no storage unit.

    A tile, or a strip that is held, must have room with one tile more beside it, so that loads overlap products; the arrays keep
    two blocks of sums.
    """
    room, p = site.room, plans
    block = 4 * p.m_tile * p.n_block * p.split_k
    blocks = -(-task.m // p.m_tile) * -(-task.n // p.n_block) * task.batch
    ok = np.where(p.on_arrays > 0, np.minimum(blocks, 2) * block <= room.accumulator_bytes, block <= room.vector_bytes // 4)
    if not task.c_resident:
        ok &= p.n_block * max(2, task.c.bits // 8) <= max(1, room.vector_bytes // 8)
    b_tile = p.k_tile * p.n_tile * task.b.bits_per_element.numerator // (8 * task.b.bits_per_element.denominator)
    if task.unpacks:
        ok &= (p.k_tile * p.n_tile * task.a.bits // 8 <= room.vector_bytes // 4) & (p.hold_b == 0)
    b_room = room.stream_bytes if task.b_streams else room.activation_bytes // 2
    a_room = room.activation_bytes if task.b_streams else room.activation_bytes // 2
    spare = b_room - (8 * p.n_block if task.has_bias else 0) - b_room // 64
    if not task.b_resident:
        tiles_held = np.where(p.hold_b > 0, -(-task.k // p.k_tile) * (p.n_block // p.n_tile), 1)
        ok &= (tiles_held + 1) * b_tile <= spare
    if not task.a_resident:
        tiles_held = np.where(p.hold_a > 0, -(-task.k // p.k_tile), 1)
        ok &= (tiles_held + 1) * (p.m_tile * p.k_tile * task.a.bits // 8) <= a_room
    return np.asarray(ok & _legal(p, task))


def _legal(p: Plans, task: GemmTask) -> npt.NDArray[np.bool_]:
    """Whether tiles are whole storage units, blocks whole tiles, and flags sensible."""
    packed, packed_a = storage_unit(task.b)[0], storage_unit(task.a)[0]
    along = p.n_tile if task.packs_n else p.k_tile
    whole = task.n if task.packs_n else task.k
    ok = (along % packed == 0) | (along >= whole)
    ok &= (p.k_tile % packed_a == 0) | (p.k_tile >= task.k)
    ok &= (p.n_block % p.n_tile == 0) & (p.m_tile <= task.m) & (p.k_tile <= task.k)
    ok &= (p.hold_a <= p.outer_m) & (p.hold_b <= 1 - p.outer_m)
    m_blocks, n_blocks = -(-task.m // p.m_tile), -(-task.n // p.n_block)
    ok &= (p.hold_a == 0) | ((not task.a_resident) & (n_blocks > 1))
    ok &= (p.hold_b == 0) | ((not task.b_resident) & (m_blocks > 1))
    ok &= (p.split_k == 1) | (p.split_k <= -(-task.k // p.k_tile))
    return np.asarray(ok & (p.swap <= p.on_arrays))


def neighbours(plan: Plans, task: GemmTask, site: Site, given: Mapping[str, int | str]) -> Plans:
    """Plans of the same structure as the one in *plan* with tile sizes around its own: of a small extent all even cuts."""
    def near(name: str, extent: int, size: int) -> list[int]:
        if name in given:
            return [size]
        if extent <= _SMALL_EXTENT:
            return sorted({-(-extent // parts) for parts in range(1, extent + 1)})
        return sorted({min(extent, max(1, size * up // down)) for up, down in ((1, 2), (2, 3), (1, 1), (3, 2), (2, 1))})

    at = {field.name: int(getattr(plan, field.name)[0]) for field in fields(plan)}
    n_tiles = near("n_tile", task.n, at["n_tile"])
    grid = _grid(at["on_arrays"], near("m_tile", task.m, at["m_tile"]), near("k_tile", task.k, at["k_tile"]), n_tiles, task, site,
                 [(at["outer_m"], at["hold_a"], at["hold_b"])], [at["swap"]], [at["split_k"]], given,
                 every=task.n <= _SMALL_EXTENT)
    plans = plans_of(grid)
    return plans.take(fits(plans, task, site))


def structures(plans: Plans) -> Ints:
    """A number for the structure of each plan: equal for plans that differ in tile sizes alone."""
    code = plans.on_arrays
    for part in (plans.outer_m, plans.hold_a, plans.hold_b, plans.swap):
        code = 2 * code + part
    return 16 * code + np.minimum(plans.split_k, 15)


def sizes(extent: int, granule: int, levels: int, powers: int = 0) -> list[int]:
    """Sizes of tiles: *extent*, its halves rounded up to *granule*, *levels* of them at most, and the first *powers* powers of two
    times *granule*.

    Of a tiny extent: all even cuts, and multiples of *granule*.
    """
    if extent <= _TINY_EXTENT:
        return sorted({-(-extent // parts) for parts in range(1, extent + 1)} | set(range(granule, extent, granule)))
    found, size = {extent}, extent
    while size > max(granule, extent >> levels):
        size = -(-size // 2)
        found.add(min(extent, -(-size // granule) * granule))
    found.update(granule << power for power in range(powers) if granule << power < extent)
    return sorted(found)


def candidates(task: GemmTask, site: Site, given: Mapping[str, int | str], units: tuple[str, ...] = ("arrays", "lanes")) -> Plans:
    """The plans on *units* that the pruned search looks at, those that do not fit left out.

    Tiles are halves of the extents and powers of two of the arrays' sides. Of the blocks' widths, powers of two of tiles and all.
    """
    array = site.target.array
    arrays = [int(unit == "arrays") for unit in units if given.get("unit", unit) == unit
              and (unit == "arrays" or site.target.lanes.multiplies)]
    packed = storage_unit(task.b)[0]
    parts = []
    for on_arrays in arrays:
        rows, cols = (array.rows, array.cols) if on_arrays else (8, 8)
        strips_m, strips_n = _held(task, site, rows if on_arrays else 1, cols)
        k_tiles = _of(given, "k_tile", [-(-size // packed) * packed if size < task.k else size for size in sizes(task.k, rows, 4)])
        wide = {size for size in (array.cols * array.arrays,) if size < task.n and not task.packs_n}
        n_tiles = _of(given, "n_tile", [*sizes(task.n, cols if not task.packs_n else max(cols, packed), 6, 5), *wide, *strips_n])
        m_tiles = _of(given, "m_tile", [*sizes(task.m, rows if on_arrays else 1, 5, 2), *strips_m])
        swaps = _of(given, "swap", [0, 1] if on_arrays else [0])
        splits = _of(given, "split_k", [1, 2, 3] if task.k <= _SMALL_EXTENT or task.k >= 4 * max(task.m, task.n) else [1])
        parts += [_grid(on_arrays, m_tiles, k_tiles, n_tiles, task, site, _structures(given), swaps, splits, given)]
    plans = plans_of(np.concatenate(parts) if parts else [])
    # With one block along m or n and nothing held, both loop orders are one.
    single = (-(-task.m // plans.m_tile) == 1) | (-(-task.n // plans.n_block) == 1)
    twin = (plans.outer_m > 0) & (plans.hold_a == 0) & single & ("outer" not in given)
    return plans.take(fits(plans, task, site) & ~twin)


def _held(task: GemmTask, site: Site, rows: int, cols: int) -> tuple[list[int], list[int]]:
    """The largest strips of A (rows) and of B (columns) that stay on chip whole, in sides of the arrays, where not all fits."""
    a_row_bytes, b_column_bytes = task.k * task.a.bits / 8, task.k * float(task.b.bits_per_element) / 8
    found = []
    b_cannot = task.b_resident or task.unpacks or (task.packs_n and storage_unit(task.b)[0] > 1)
    for resident, room, one, granule, extent in (
        (task.a_resident, site.room.activation_bytes, a_row_bytes, rows, task.m),
        (b_cannot, site.room.stream_bytes, b_column_bytes, cols, task.n)):
        size = int(_STRIP_SHARE * room / one) // granule * granule
        found.append([size] if not resident and 0 < size < extent else [])
    return found[0], found[1]


def every_plan(task: GemmTask, site: Site, given: Mapping[str, int | str]) -> Plans:
    """The whole map space, every tile size there is: for small products only."""
    tiles = [[int(given[name])] if name in given else list(range(1, extent + 1))
             for name, extent in (("m_tile", task.m), ("k_tile", task.k), ("n_tile", task.n))]
    most = math.prod(len(sizes) for sizes in tiles) * (1 if "n_block" in given else len(tiles[2]))
    if most > _MOST_TILINGS:
        raise ConfigError(f"an exhaustive search of [{task.m}, {task.k}]·[{task.k}, {task.n}] would look at {most:,} tilings; "
                          f"{_MOST_TILINGS:,} are the most", key="gemm.search", value="exhaustive", allowed=("pruned", "heuristic"),
                          mend="give it some of the tile sizes")
    rows = []
    for on_arrays in (1, 0) if site.target.lanes.multiplies else (1,):
        if given.get("unit", ("lanes", "arrays")[on_arrays]) == ("lanes", "arrays")[on_arrays]:
            swaps = _of(given, "swap", [0, 1] if on_arrays else [0])
            rows.append(_grid(on_arrays, tiles[0], tiles[1], tiles[2], task, site, _structures(given), swaps,
                              _of(given, "split_k", [1, 2, 3]), given, every=True))
    plans = plans_of(np.concatenate(rows) if rows else [])
    return plans.take(fits(plans, task, site))


def _of(given: Mapping[str, int | str], name: str, otherwise: list[int]) -> list[int]:
    if name == "swap" and "stationary" in given:
        return [int(given["stationary"] == "a")]
    return [int(given[name])] if name in given else sorted(set(otherwise))


def _structures(given: Mapping[str, int | str]) -> list[tuple[int, int, int]]:
    """(outer_m, hold_a, hold_b) that are allowed."""
    every = {("n", "none"): (0, 0, 0), ("n", "b"): (0, 0, 1), ("m", "none"): (1, 0, 0), ("m", "a"): (1, 1, 0)}
    return [flags for (outer, hold), flags in every.items()
            if given.get("outer", outer) == outer and given.get("hold", hold) == hold]


def _grid(
    on_arrays: int, m_tiles: list[int], k_tiles: list[int], n_tiles: list[int], task: GemmTask, site: Site,
    structures: list[tuple[int, int, int]], swaps: list[int], splits: list[int], given: Mapping[str, int | str],
    every: bool = False,
) -> Ints:
    """Rows of all combinations whose tiles fit, in order."""
    widths = [(n, n * times) for n in n_tiles for times in _block_widths(task.n, n, every)
              if given.get("n_block", n * times) == n * times]
    tilings = np.array([(m, k, *width) for m, k in product(m_tiles, k_tiles) for width in widths], dtype=np.int64).reshape(-1, 4)
    # What does not fit with nothing held and one part of k fits in no structure.
    one = np.ones((len(tilings), 1), dtype=np.int64)
    plain = plans_of(np.concatenate((on_arrays * one, tilings, np.repeat(0 * one, 4, axis=1), one), axis=1))
    tilings = tilings[fits(plain, task, site)]
    tails = np.array([(*flags, swap, split) for flags in structures for swap in swaps for split in splits],
                     dtype=np.int64).reshape(-1, 5)
    left, right = np.repeat(tilings, len(tails), axis=0), np.tile(tails, (len(tilings), 1))
    return np.concatenate((np.full((len(left), 1), on_arrays, dtype=np.int64), left, right), axis=1)


def _block_widths(n: int, n_tile: int, every: bool) -> list[int]:
    """Tiles in a block: powers of two and all (or every number)."""
    most = -(-n // n_tile)
    if every:
        return list(range(1, most + 1))
    return sorted({most, *(1 << power for power in range(most.bit_length()) if 1 << power <= most)})
