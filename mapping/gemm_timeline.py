"""The records of a plan of a matrix product as the arrays of ``timeline``: what ``gemm.lower_gemm`` writes, without the bytes.

``judge`` gives the time of each of some plans, alone or between operators like itself. Of long loops it walks a few iterations and
the last: the others take what those in the middle take.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..arch.systolic import SystolicConfig, gemm_accesses, gemm_times
from ..arch.systolic_folds import spatial_and_temporal
from ..sim.units import PS_PER_S
from .compiled import compiled
from .gemm_estimate import COLD, bound_seconds, shares
from .gemm_space import GemmTask, Ints, Plans
from .target import Site
from .timeline import (
    ACTIVATION,
    ARRAYS,
    F_DRAIN,
    F_FOLDS,
    F_NEXT_PRELOAD,
    F_NEXT_STREAM,
    F_PRELOAD,
    F_READ,
    F_SIZE,
    F_STREAM,
    F_WRITTEN,
    I_AFTER,
    I_BYTES,
    I_DEP_0,
    I_DEP_1,
    I_POOL,
    I_SIZE,
    I_UNIT,
    LANES,
    M_EVERY,
    M_IN_FLIGHT,
    M_ISSUE,
    M_LATENCY,
    M_PAUSE,
    M_POOL,
    M_PORTS,
    M_SIZE,
    P_ACCUMULATORS,
    P_ACTIVATION,
    P_STREAM,
    P_VECTOR,
    STORE,
    STREAM,
    copy_cost,
    gives,
    new_record,
    run_timeline,
)

Floats = npt.NDArray[np.float64]
#: Bytes of a partial sum.
SUM_BYTES = 4
DEQUANTIZE_OPS = 2
# Columns of a plan.
(_M, _K, _N, _BATCH, _M_TILE, _K_TILE, _N_TILE, _N_BLOCK, _OUTER_M, _HOLD_A, _HOLD_B, _SPLIT, _ON_ARRAYS, _A_HERE, _B_HERE,
 _C_HERE, _B_STREAMS, _UNPACKS, _VECTOR_BYTES, _C_BITS, _BATCHES, _OUTERS, _INNERS,
 _FILLED) = range(24)
# Columns of the iterations that are left out: of outer loops, of inner loops, of batches.
_MORE_OUTERS, _MORE_INNERS, _MORE_BATCHES = range(3)
# Records whose ends are a period apart: of outer loops, inner loops, batches.
_MARKS = 6
#: Iterations of a long loop that fill the pipeline; refresh intervals and iterations at least over which the period of the others
#: is measured; how many iterations there must be for it not to count what the ragged last one takes.
_FILLING, _PAUSES, _LEAST, _MANY = 2, 16, 2, 8
#: Plans of no more records are walked to their end: loads that run ahead may last as long as they do.
_SHORT = 400
# Columns of rates: bytes of an element of A and B; picoseconds of a cycle of the lanes; lanes; latency; picoseconds of a byte of
# A, B and C at the memory, and of A and B where a load is alone.
_A_BYTE, _B_BYTE, _LANE_PS, _LANE_COUNT, _LATENCY, _A_PS, _B_PS, _C_PS, _A_ALONE_PS, _B_ALONE_PS = range(10)


@compiled
def _new(records: Ints, costs: Floats, at: int, unit: int) -> None:
    """Clear record *at*, of *unit*, and its costs."""
    new_record(records, at, unit)
    costs[at, :] = 0.0


@compiled
def _lanes(costs: Floats, at: int, ops: float, read: float, written: float, f: Floats) -> None:
    """The cost of *ops* on the lanes."""
    costs[at, F_STREAM] = (np.ceil(ops / f[_LANE_COUNT]) + f[_LATENCY]) * f[_LANE_PS]
    costs[at, F_READ], costs[at, F_WRITTEN] = read, written


@compiled
def _load(
    records: Ints, costs: Floats, at: int, queue: int, after: int, pool: int, nbytes: int, byte_ps: float, alone_ps: float,
) -> int:
    """A tile's load into *pool*; gives the next record's number."""
    _new(records, costs, at, queue)
    records[at, I_AFTER], records[at, I_POOL], records[at, I_BYTES] = after, pool, nbytes
    costs[at, F_STREAM], costs[at, F_FOLDS] = nbytes * byte_ps, nbytes * alone_ps
    return at + 1


@compiled
def _product(
    costs: Floats, at: int, p: Ints, f: Floats, tile: Floats, rows: int, depth: int, width: int, accumulates: bool,
) -> None:
    """The cost of one tile product."""
    if p[_ON_ARRAYS]:
        short_m, short_k, short_n = int(rows < p[_M_TILE]), int(depth < p[_K_TILE]), int(width < p[_N_TILE])
        copy_cost(costs, at, tile[short_m, short_k, short_n])
    else:
        b_byte = f[_A_BYTE] if p[_UNPACKS] else f[_B_BYTE]
        _lanes(costs, at, float(rows) * depth * width, rows * depth * f[_A_BYTE] + depth * width * b_byte,
               float(SUM_BYTES * rows * width), f)
    if accumulates:
        costs[at, F_READ] += SUM_BYTES * rows * width


@compiled
def _mark(marks: Ints, p: Ints, outer_step: int, inner_step: int, last: int) -> None:
    """Note the product *last* of a block where a period is measured from or to."""
    if inner_step == p[_INNERS] - 1:
        if outer_step == _FILLING - 1:
            marks[0] = last
        if outer_step == p[_OUTERS] - 2:
            marks[1] = last
        if outer_step == p[_OUTERS] - 1:
            marks[4], marks[5] = marks[5], last
    if outer_step == (_FILLING - 1 if p[_OUTERS] > _FILLING else 0):
        if inner_step == p[_FILLED] - 1:
            marks[2] = last
        if inner_step == p[_INNERS] - 2:
            marks[3] = last


@compiled
def _epilogue(
    records: Ints, costs: Floats, at: int, p: Ints, f: Floats, rows: int, columns: int, parts: int, last: int, sums_pool: int,
) -> int:
    """The output of a block, behind the product *last*; gives the next record's number."""
    elements, block = rows * columns, SUM_BYTES * rows * columns
    for _ in range(parts - 1):
        _new(records, costs, at, LANES)
        records[at, I_DEP_0] = last
        _lanes(costs, at, float(elements), 2.0 * block, float(block), f)
        gives(records, at, sums_pool, block)
        at += 1
    room = rows if p[_C_HERE] else min(rows, max(1, p[_VECTOR_BYTES] // 8 * 8 // p[_C_BITS] // columns))
    row = 0
    while row < rows:
        count = min(room, rows - row)
        out = count * columns * p[_C_BITS] // 8
        _new(records, costs, at, LANES)
        records[at, I_DEP_0] = last
        _lanes(costs, at, float(count * columns), float(SUM_BYTES * count * columns), float(out), f)
        if not p[_C_HERE]:
            records[at, I_POOL], records[at, I_BYTES] = P_VECTOR, out
        if row + count >= rows:
            gives(records, at, sums_pool, block)
        at += 1
        if not p[_C_HERE]:
            _new(records, costs, at, STORE)
            records[at, I_DEP_0] = at - 1
            costs[at, F_STREAM] = out * f[_C_PS]
            gives(records, at, P_VECTOR, out)
            at += 1
        row += count
    return at


@compiled
def _write(records: Ints, costs: Floats, at: int, p: Ints, f: Floats, tile: Floats, marks: Ints) -> int:
    """The walked records of the plan *p* from number *at* on; gives the next number.

    *tile* [2, 2, 2, F_SIZE]: the product of full (0) or ragged (1) tiles in m, k and n on the arrays. *marks*: filled with the
    numbers of the last products of the last filling and of the last full iteration of outer loops, inner loops, and batches.
    """
    m_blocks, n_blocks = -(-p[_M] // p[_M_TILE]), -(-p[_N] // p[_N_BLOCK])
    k_tiles = -(-p[_K] // p[_K_TILE])
    in_block = -(-p[_N_BLOCK] // p[_N_TILE])
    on_arrays = p[_ON_ARRAYS] > 0
    unit = ARRAYS if on_arrays else LANES
    sums_pool = P_ACCUMULATORS if on_arrays else P_VECTOR
    b_queue, b_pool = (STREAM, P_STREAM) if p[_B_STREAMS] else (ACTIVATION, P_ACTIVATION)
    a_loads, b_loads = np.full(k_tiles, -1, np.int64), np.full(k_tiles * in_block, -1, np.int64)
    deep = -(-k_tiles // p[_SPLIT])
    parts = -(-k_tiles // deep)
    pending_rows = pending_columns = pending_last = 0
    outer_blocks, inner_blocks = (m_blocks, n_blocks) if p[_OUTER_M] else (n_blocks, m_blocks)
    for _batch in range(p[_BATCHES]):
        for outer_step in range(p[_OUTERS]):
            outer = outer_blocks - 1 if 1 < p[_OUTERS] == outer_step + 1 else outer_step
            a_loads[:], b_loads[:] = -1, -1
            for inner_step in range(p[_INNERS]):
                inner = inner_blocks - 1 if inner_step == p[_INNERS] - 1 else inner_step
                m_block, n_block = (outer, inner) if p[_OUTER_M] else (inner, outer)
                rows = min(p[_M_TILE], p[_M] - m_block * p[_M_TILE])
                columns = min(p[_N_BLOCK], p[_N] - n_block * p[_N_BLOCK])
                n_tiles, last = -(-columns // p[_N_TILE]), -1
                for k in range(k_tiles):
                    depth = min(p[_K_TILE], p[_K] - k * p[_K_TILE])
                    a_bytes = int(np.ceil(rows * depth * f[_A_BYTE]))
                    a = a_loads[k]
                    if a < 0 and not p[_A_HERE]:
                        a = at
                        at = _load(records, costs, at, ACTIVATION, 1, P_ACTIVATION, a_bytes, f[_A_PS], f[_A_ALONE_PS])
                        if p[_HOLD_A]:
                            a_loads[k] = a
                    for j in range(n_tiles):
                        width = min(p[_N_TILE], columns - j * p[_N_TILE])
                        b_bytes = int(np.ceil(depth * width * f[_B_BYTE]))
                        b = b_loads[k * in_block + j]
                        if b < 0 and not p[_B_HERE]:
                            b = at
                            at = _load(records, costs, at, b_queue, 1 - p[_B_STREAMS], b_pool, b_bytes, f[_B_PS], f[_B_ALONE_PS])
                            if p[_HOLD_B]:
                                b_loads[k * in_block + j] = b
                        plain = int(np.ceil(depth * width * f[_A_BYTE]))
                        if p[_UNPACKS]:
                            _new(records, costs, at, LANES)
                            records[at, I_DEP_0] = b
                            records[at, I_POOL], records[at, I_BYTES] = P_VECTOR, plain
                            _lanes(costs, at, float(DEQUANTIZE_OPS * depth * width), float(b_bytes), float(plain), f)
                            if not p[_B_HERE]:
                                gives(records, at, b_pool, b_bytes)
                            b = at
                            at += 1
                        _new(records, costs, at, unit)
                        records[at, I_DEP_0], records[at, I_DEP_1] = a, b
                        records[at, I_AFTER] = 1 if p[_A_HERE] or not p[_B_STREAMS] else 0
                        if k % deep == 0 and j == 0:
                            records[at, I_POOL], records[at, I_BYTES] = sums_pool, SUM_BYTES * rows * columns
                        _product(costs, at, p, f, tile, rows, depth, width, k % deep > 0)
                        if p[_UNPACKS]:
                            gives(records, at, P_VECTOR, plain)
                        elif not p[_B_HERE] and (not p[_HOLD_B] or inner == inner_blocks - 1):
                            gives(records, at, b_pool, b_bytes)
                        if not p[_A_HERE] and j == n_tiles - 1 and (not p[_HOLD_A] or inner == inner_blocks - 1):
                            gives(records, at, P_ACTIVATION, a_bytes)
                        last = at
                        at += 1
                        if k == 0 and j == 0 and pending_rows > 0:
                            at = _epilogue(records, costs, at, p, f, pending_rows, pending_columns, parts, pending_last, sums_pool)
                            pending_rows = 0
                _mark(marks, p, outer_step, inner_step, last)
                if on_arrays:
                    pending_rows, pending_columns, pending_last = rows, columns, last
                else:
                    at = _epilogue(records, costs, at, p, f, rows, columns, parts, last, sums_pool)
    if pending_rows > 0:
        at = _epilogue(records, costs, at, p, f, pending_rows, pending_columns, parts, pending_last, sums_pool)
    return at


@compiled
def _memory_ps(records: Ints, costs: Floats, begin: int, end: int, machine: Floats) -> float:
    """Picoseconds that the memory works for records [begin, end), its pauses included."""
    busy = 0.0
    for i in range(begin, end):
        if records[i, I_UNIT] <= STORE:
            busy += costs[i, F_STREAM]
    return float(busy / (1.0 - machine[M_PAUSE] / machine[M_EVERY]))


@compiled
def _judge(
    plans: Ints, f: Floats, tiles: Floats, more: Floats, machine: Floats, most: Ints, twice: bool, found: Floats,
) -> None:
    """Picoseconds of each plan; *most*: an upper bound of its records."""
    longest = 0
    for i in range(len(plans)):
        longest = max(longest, most[i])
    records, costs = np.empty((2 * longest, I_SIZE), np.int64), np.empty((2 * longest, F_SIZE))
    ended, marks = np.empty(2 * longest), np.zeros(_MARKS, np.int64)
    for i in range(len(plans)):
        marks[:] = 0
        count = before = _write(records, costs, 0, plans[i], f[i], tiles[i], marks)
        if twice:
            count = _write(records, costs, count, plans[i], f[i], tiles[i], marks)
        first, end = run_timeline(records, costs, count, before if twice else 0, machine, ended)
        rest = 0.0
        for level in range(3):
            if more[i, level] > 0:
                begin, last = marks[2 * level], marks[2 * level + 1]
                # What was loaded ahead is used up some day: no period is shorter than the memory works in it.
                rest += more[i, level] * max(ended[last] - ended[begin], _memory_ps(records, costs, begin + 1, last + 1, machine))
        if end < 0:
            found[i] = -1.0
        else:
            found[i] = (1.0 - COLD) * (end - first) + COLD * first + rest if twice else end + rest


def judge(p: Plans, task: GemmTask, site: Site, whole: bool = False) -> Floats:
    """Seconds of each plan by the timeline; infinite for one that cannot run. *whole*: every iteration is walked.

    Where the site is contended (other operators before and after), the mean of a run of operators alike of which a share of
    ``COLD`` begins cold: the others' weights come while the one before works, as far as there is room, and what that still stores
    delays them.
    """
    walked, more = _walked(p, task, site, not whole)
    plans, most = _rows(p, task, site, walked), _records(p, task, site, walked)
    found = np.empty(len(p))
    _judge(plans, _rates(p, task, site), _tile_costs(p, task, site.target.array), more, machine_of(site),
           most, site.contended, found)
    # Loads that ran ahead in the operator before are no gain in the mean of many.
    return np.where(found < 0, np.inf, np.maximum(found / PS_PER_S, bound_seconds(p, task, site)))


def _walked(p: Plans, task: GemmTask, site: Site, may_skip: bool) -> tuple[tuple[Ints, ...], Floats]:
    """(batches, outer iterations, inner iterations that are walked; those before the period is measured), and for how many periods
    the outer loop, the inner loop and batches go on [plans, 3].

    A ragged last iteration counts as its share of a full one.
    """
    one = np.ones(len(p), dtype=np.int64)
    parts_m, parts_n = task.m / np.minimum(p.m_tile, task.m), task.n / np.minimum(p.n_block, task.n)
    outer, inner = np.where(p.outer_m > 0, parts_m, parts_n), np.where(p.outer_m > 0, parts_n, parts_m)
    outers, inners = np.ceil(outer).astype(np.int64), np.ceil(inner).astype(np.int64)
    more = np.zeros((len(p), 3))
    everything = task.batch * one, outers, inners, one
    short = _records(p, task, site, everything) <= _SHORT
    if not may_skip or short.all():
        return everything, more
    holds = (p.hold_a + p.hold_b) > 0
    a_s, b_s = (rows * (task.k * bits / 8 / site.target.rates.read_bytes_per_s)
                for rows, bits in ((p.m_tile, task.a.bits), (p.n_block, float(task.b.bits_per_element))))
    outer_s, inner_s = np.where(p.outer_m > 0, a_s, b_s), np.where(p.outer_m > 0, b_s, a_s)
    block_s = np.maximum(p.m_tile * p.n_block * (task.k / site.target.array.peak_macs_per_s), inner_s)
    # A held strip is loaded beside the first blocks under it: those are no steady state.
    filled = _FILLING + np.where(holds, np.ceil(2 * outer_s / block_s), 0.0).astype(np.int64)
    measured_s = _PAUSES * site.target.rates.pause_every_s * (site.target.rates.pause_s > 0)
    inner_window = np.maximum(_LEAST, np.ceil(measured_s / block_s)).astype(np.int64)
    walked_i = np.minimum(inners, filled + inner_window + 1)
    # With nothing held all blocks are alike, whichever loop they are in.
    ragged_o, ragged_i = outer - outers + 1, inner - inners + 1
    walked_i = np.where(short, inners, walked_i)
    flat = ~holds & (walked_i < inners) & ((ragged_o == 1) | (outers >= _MANY))
    outer_window = np.maximum(_LEAST, np.ceil(measured_s / (block_s * walked_i))).astype(np.int64)
    walked_o = np.where(flat, 1, np.minimum(outers, _FILLING + outer_window + 1))
    walked_o, walked_b = np.where(short, outers, walked_o), np.where(short, task.batch, np.minimum(task.batch, _FILLING + 1))
    left_o = np.where(walked_o < outers, outer - (walked_o - 1) - ragged_o, 0.0) / outer_window
    left_i = np.where(walked_i < inners, inner - (walked_i - 1) - ragged_i, 0.0)
    left_i = np.where(flat, outer * inner - (inner - left_i), outer * left_i) / inner_window
    more[:, _MORE_OUTERS] = np.where(flat, 0.0, left_o) * task.batch
    more[:, _MORE_INNERS] = left_i * task.batch
    more[:, _MORE_BATCHES] = task.batch - walked_b
    return (walked_b, walked_o, walked_i, filled), more


def records_at_most(p: Plans, task: GemmTask, site: Site) -> Ints:
    """A bound of the records of each plan that ``judge`` walks."""
    return _records(p, task, site, _walked(p, task, site, True)[0])


def _records(p: Plans, task: GemmTask, site: Site, walked: tuple[Ints, ...]) -> Ints:
    k_tiles = -(-task.k // p.k_tile)
    blocks = walked[0] * walked[1] * walked[2]
    rows_at_once = np.maximum(1, site.room.vector_bytes // 8 * 8 // task.c.bits // np.minimum(p.n_block, task.n))
    chunks = 1 if task.c_resident else -(-np.minimum(p.m_tile, task.m) // rows_at_once)
    products = blocks * k_tiles * -(-np.minimum(p.n_block, task.n) // p.n_tile)
    return np.asarray((3 if task.unpacks else 2) * products + blocks * (k_tiles + 2 * chunks + p.split_k), dtype=np.int64)


def _rows(p: Plans, task: GemmTask, site: Site, walked: tuple[Ints, ...]) -> Ints:
    one = np.ones(len(p), dtype=np.int64)
    columns = (task.m * one, task.k * one, task.n * one, task.batch * one, p.m_tile, p.k_tile, p.n_tile, p.n_block, p.outer_m,
               p.hold_a, p.hold_b, p.split_k, p.on_arrays, task.a_resident * one, task.b_resident * one, task.c_resident * one,
               task.b_streams * one, task.unpacks * one, site.room.vector_bytes * one, task.c.bits * one, *walked)
    return np.ascontiguousarray(np.stack(columns, axis=1))


def _rates(p: Plans, task: GemmTask, site: Site) -> Floats:
    lanes, rates = site.target.lanes, site.target.rates
    found = np.empty((len(p), 10))
    found[:, _A_BYTE], found[:, _B_BYTE] = task.a.bits / 8, float(task.b.bits_per_element) / 8
    found[:, _LANE_PS], found[:, _LANE_COUNT], found[:, _LATENCY] = PS_PER_S / lanes.clock_hz, lanes.lanes, lanes.latency_cycles
    between_pauses = 1 - rates.pause_s / rates.pause_every_s
    per_byte = between_pauses * PS_PER_S / np.array([rates.read_bytes_per_s, rates.read_bytes_per_s, rates.write_bytes_per_s])
    found[:, _A_PS:_C_PS + 1] = per_byte / shares(p, task, site)
    found[:, _A_ALONE_PS:_B_ALONE_PS + 1] = per_byte[:2] / shares(p, task, site, alone=True)[:, :2]
    return found


def machine_of(site: Site) -> Floats:
    """The machine as ``timeline`` wants it."""
    rates, room = site.target.rates, site.room
    found = np.empty(M_SIZE)
    found[M_LATENCY], found[M_ISSUE] = rates.latency_s * PS_PER_S, rates.issue_s * PS_PER_S
    found[M_PORTS], found[M_IN_FLIGHT] = rates.port_bytes_per_s / PS_PER_S, rates.max_in_flight
    found[M_PAUSE], found[M_EVERY] = rates.pause_s * PS_PER_S, rates.pause_every_s * PS_PER_S
    found[M_POOL:] = room.stream_bytes, room.activation_bytes, room.accumulator_bytes, room.vector_bytes
    return found


def _tile_costs(p: Plans, task: GemmTask, array: SystolicConfig) -> Floats:
    """[plans, 2, 2, 2, F_SIZE]: products of full and ragged tiles on the arrays."""
    found = np.zeros((len(p), 2, 2, 2, F_SIZE))
    cycle_ps = PS_PER_S / array.clock_hz
    b_bits = float(task.a.bits if task.unpacks else task.b.bits_per_element)
    extents = [(np.minimum(size, whole), whole - (whole - 1) // size * size)
               for whole, size in ((task.m, p.m_tile), (task.k, p.k_tile), (task.n, p.n_tile))]
    for at in np.ndindex(2, 2, 2):
        m, k, n = (extents[axis][kind] for axis, kind in enumerate(at))
        left, right = np.where(p.swap > 0, n, m), np.where(p.swap > 0, m, n)
        times = gemm_times(left, k, right, array)
        stream = spatial_and_temporal(left, k, right, array.dataflow)[2]
        words = gemm_accesses(left, k, right, rows=array.rows, cols=array.cols, dataflow=array.dataflow)
        cell = found[:, at[0], at[1], at[2]]
        cell[:, F_PRELOAD], cell[:, F_FOLDS] = times.first_start * cycle_ps, (times.last_start - times.first_start) * cycle_ps
        cell[:, F_STREAM], cell[:, F_DRAIN] = stream * cycle_ps, (times.end - times.last_start - stream) * cycle_ps
        cell[:, F_NEXT_STREAM], cell[:, F_NEXT_PRELOAD] = times.next_stream * cycle_ps, times.next_preload * cycle_ps
        left_bits, right_bits = np.where(p.swap > 0, b_bits, task.a.bits), np.where(p.swap > 0, task.a.bits, b_bits)
        cell[:, F_READ] = (words.input_reads * left_bits + words.weight_reads * right_bits) / 8 + SUM_BYTES * words.output_reads
        cell[:, F_WRITTEN] = SUM_BYTES * words.output_writes
    return found
