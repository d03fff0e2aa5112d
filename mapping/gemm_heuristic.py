"""The fixed rule for matrix products: tiles of 1 MiB of B, the largest blocks that accumulators hold, the order that moves less.

The search starts from its plan and replaces it only by a better one; see ``search``.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..arch.systolic import gemm_cycles
from ..sim.dtypes import DType
from ..sim.errors import ConfigError
from .gemm_estimate import DEQUANTIZE_OPS
from .gemm_space import GemmPlan, GemmTask
from .storage import storage_unit
from .target import TILE_BYTES, Site
from .tiles import floor_to

#: Columns of B that the lanes want at least in a tile before they split k: below, partial sums cost as much as products.
_LANE_COLUMNS = 8


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
    unpack_s = (DEQUANTIZE_OPS * batch * k * n / target.lanes.peak_ops_per_s) if target.must_dequantize(b_dtype, a_dtype) else 0.0
    array_s = gemm_cycles(m, k, n, target.array, batch).total / target.array.clock_hz
    lanes_s = target.lanes.product_s(batch * m * k * n)
    return target.mxu if max(array_s, unpack_s) <= lanes_s + unpack_s else target.vpu


def heuristic_plan(task: GemmTask, site: Site) -> GemmPlan:
    """The fixed rule's plan: of both loop orders over its blocks, with what they can hold, the one that moves the fewest bytes."""
    return rule_plans(task, site)[0]


def rule_plans(task: GemmTask, site: Site) -> list[GemmPlan]:
    """The plans of fixed rules, that of the fewest bytes first: wide blocks or narrow ones, either loop outside."""
    b_room = site.room.stream_bytes if task.b_streams else site.room.activation_bytes
    a_room = site.room.activation_bytes // (2 if task.b_streams else 4)
    unit, k_tile, n_tile = _weight_tile(task, site, b_room)
    block_elements = _block_bytes(unit, site) // 4
    m_tile = max(1, min(task.m, block_elements // n_tile))
    if not task.a_resident:
        m_tile = max(1, min(m_tile, a_room * 8 // task.a.bits // k_tile))
    widest_row = block_elements // m_tile if task.c_resident else min(block_elements // m_tile, site.room.vector_bytes // 16)
    widest = n_tile * max(1, min(-(-task.n // n_tile), widest_row // n_tile))
    plans = [plan for n_block in dict.fromkeys((widest, n_tile))
             for plan in _orders(task, unit, m_tile, k_tile, n_tile, n_block, a_room, b_room)]
    return [plan for _, plan in sorted(plans, key=lambda plan: plan[0])]


def _orders(
    task: GemmTask, unit: str, m_tile: int, k_tile: int, n_tile: int, n_block: int, a_room: int, b_room: int,
) -> Iterator[tuple[int, GemmPlan]]:
    """(bytes of A and B from DRAM, plan) of both loop orders over blocks of m_tile × n_block."""
    m_blocks, n_blocks = -(-task.m // m_tile), -(-task.n // n_block)
    a_bytes = 0 if task.a_resident else task.a.bytes_for(task.m * task.k)
    b_bytes = 0 if task.b_resident else task.b.bytes_for(task.k * task.n)
    hold_b = (not task.b_resident and m_blocks > 1 and task.b.bytes_for(task.k * n_block) <= b_room // 2 and not task.unpacks)
    yield (b_bytes * (1 if hold_b else m_blocks) + a_bytes * n_blocks,
           GemmPlan(unit, m_tile, k_tile, n_tile, n_block, "n", "b" if hold_b else "none"))
    hold_a = not task.a_resident and n_blocks > 1 and task.a.bytes_for(m_tile * task.k) <= a_room
    yield (b_bytes * m_blocks + a_bytes * (1 if hold_a else n_blocks),
           GemmPlan(unit, m_tile, k_tile, n_tile, n_block, "m", "a" if hold_a else "none"))


def _weight_tile(task: GemmTask, site: Site, room_bytes: int) -> tuple[str, int, int]:
    """The unit and the tile of B: 1 MiB or a quarter of *room_bytes*, whole folds on the arrays, whole columns where that keeps
    sums out of the accumulators."""
    unit = choose_unit(task.m, task.k, task.n, task.batch, (task.a, task.b), site)
    elements = int(min(TILE_BYTES, room_bytes // 4) * 8 / task.b.bits_per_element)
    if task.unpacks:
        elements = min(elements, site.room.vector_bytes // 4 * 8 // task.a.bits)
    widest = max(1, min(task.n, site.room.vector_bytes // 16,
                        _block_bytes(unit, site) // (4 * min(task.m, _rows_kept(unit, site)))))
    packed = storage_unit(task.b)[0]
    if unit == site.target.mxu and not (not task.b_blocked and task.k * site.target.array.cols <= elements):
        array = site.target.array
        n = min(widest, array.cols * array.arrays)
        k = floor_to(max(1, elements // n), array.rows)
        if k >= task.k:
            return unit, task.k, max(n, min(widest, floor_to(elements // task.k, array.cols)))
        if k < array.rows:                             # a small scratchpad: one fold's rows, fewer columns
            k = min(task.k, array.rows, max(1, elements))
            n = min(n, max(1, elements // k))
    else:
        n = min(widest, max(_LANE_COLUMNS, elements // task.k))
        if task.k * n <= elements:
            return unit, task.k, n
        k = max(1, elements // n)
        if k < packed:
            k, n = packed, max(1, elements // packed)
    return unit, min(task.k, max(packed, k // packed * packed)), n


def _block_bytes(unit: str, site: Site) -> int:
    """Bytes of one block of C in accumulators: half of the arrays' own pool, a quarter of the lanes' only one."""
    return site.room.accumulator_bytes // 2 if unit == site.target.mxu else site.room.vector_bytes // 4


def _rows_kept(unit: str, site: Site) -> int:
    """Rows of C that a block should hold: enough to hide the shift-in of weights twice."""
    return 2 * site.target.array.rows if unit == site.target.mxu else 1
