"""The traffic of the Mess method: dependent random reads measure latency while a paced stream sets the load.

The generator follows "Cleaning up the Mess" (arXiv 2510.15744; the public generator of its authors): every memory clock it does one
thing, and turns between two roles. As *stream* it sends the next of its strided requests in one of *nop* turns and is idle in the
others; as *probe* it sends the next random read once the one before has been served. A request that finds its queue full is tried
again, and its role keeps the turn. All channels are sent the same requests, so that one channel stands for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from numba import njit

from ..memory import layout as at
from ..memory.address import parse_mapping
from ..memory.controller import PRESETS, tables_for
from ..memory.kernel import run_ready
from ..memory.standard import Memory
from ..sim.compiling import FunctionT

Int64Array = npt.NDArray[np.int64]
#: Columns of each row that the stream reads before it moves on (the generator's num_columns).
STREAM_COLUMNS = 8
#: Rows of the transfer table: the stream never ends, a probe does.
_STREAM, _PROBE = 0, 1


@dataclass(frozen=True, slots=True)
class MessPoint:
    """One load: what all channels moved together, and what a random read took on the way."""

    gb_per_s: float
    latency_ns: float
    probes: int


def _jitted(function: FunctionT) -> FunctionT:
    """*function* compiled by numba; not cached, for it holds the compiled kernel, which may change under it."""
    return cast(FunctionT, njit(function))


@_jitted
def _drive(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, segments: Int64Array, desc: Int64Array,
    transfers: Int64Array, log: Int64Array, stream: Int64Array, is_write: Int64Array, probe: Int64Array, nop: int, until: int,
) -> tuple[int, int, int]:
    """Run until the last probe is served (or cycle *until*); gives (cycles, probes served, sum of their latencies)."""
    as_probe, turn, served, latency = False, 0, 0, 0
    sent_stream, sent_probe, waiting = 0, 0, -1
    for now in range(until):
        idle = not as_probe and turn != 0
        if not as_probe:
            turn = (turn + 1) % nop
        if idle:
            as_probe = True
            continue
        run_ready(s, p, rules, first, segments, desc, transfers, log, now, 0)
        if as_probe and waiting >= 0:
            if desc[waiting, at.D_LEFT] > 0:
                as_probe = False
                continue
            latency += desc[waiting, at.D_FINISH] - desc[waiting, at.D_TICK]
            served += 1
            waiting = -1
            if served == len(probe):
                return now, served, latency
        write = 0 if as_probe else is_write[sent_stream]
        if s[at.S_READS + write] >= p[at.P_READ_DEPTH + write]:
            continue                                    # full: the same again at the next clock
        d = s[at.S_DESC_TAIL]
        if d == len(desc) or (not as_probe and sent_stream + 1 == len(stream)):
            return now, served, latency
        desc[d, at.D_START] = probe[sent_probe] if as_probe else stream[sent_stream]
        desc[d, at.D_COUNT], desc[d, at.D_LEFT] = 1, 1
        desc[d, at.D_TICK], desc[d, at.D_WRITE] = now, write
        desc[d, at.D_TRANSFER] = 1 if as_probe else 0
        s[at.S_DESC_TAIL] = d + 1
        if as_probe:
            sent_probe += 1
            waiting = d
        else:
            sent_stream += 1
        as_probe = not as_probe
    return until, served, latency


def mess_point(
    memory: Memory, channels: int, read_share: float, nop: int, *, probes: int = 2000, seed: int = 342,
) -> MessPoint:
    """The point of *memory* with *channels* equal channels at one load; *nop* turns of the stream hold one request."""
    mapping = parse_mapping(memory.address_mapping, memory.organisation, 1)
    tables = tables_for(memory.standard, memory.organisation, memory.ticks, mapping, PRESETS["ramulator"])
    random = np.random.default_rng(seed)
    stream = mapping.encode(*_stream_places(memory, probes * 600))
    probe = random.integers(0, memory.organisation.channel_bytes // memory.organisation.bytes_per_burst, probes)
    is_write = (random.random(len(stream)) >= read_share).astype(np.int64)
    state, desc = tables.new_states(1)[0], np.zeros((len(stream) + probes, at.D_SIZE), np.int64)
    transfers = np.full((2, at.X_SIZE), 1 << 60, np.int64)
    cycles, served, latency = _drive(
        state, tables.params, tables.rules, tables.first_rule, tables.segments, desc, transfers,
        np.zeros((0, at.L_SIZE), np.int64), stream, is_write, probe, nop, 1 << 40)
    moved = int(state[at.S_DESC_TAIL]) * memory.organisation.bytes_per_burst * channels
    return MessPoint(moved / (cycles / memory.tick_hz) / 1e9, latency / served / memory.tick_hz * 1e9, served)


def _stream_places(memory: Memory, count: int) -> tuple[Int64Array, Int64Array, Int64Array]:
    """(flat bank, row, column) of the stream: bank groups innermost, then banks, then the columns of a row, then rows."""
    organisation = memory.organisation
    groups, banks = organisation.bank_groups, organisation.banks_per_group
    i, group = np.divmod(np.arange(count, dtype=np.int64), groups)
    i, bank = np.divmod(i, banks)
    row, column = np.divmod(i, STREAM_COLUMNS)
    return group * banks + bank, row % organisation.rows, column
