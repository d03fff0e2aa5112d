"""SCALE-Sim's double-buffered scratchpads: the cycles that an array stands still for its operands at a finite rate of memory.

What SCALE-Sim 3.0.0 does in its USER mode (scalesim/memory/read_buffer.py, write_buffer.py, MIT), oddities included:

- Words of an operand are fetched in one order, fixed beforehand: all folds one below the other, a streamed operand by diagonals (as
  the skewed array asks for them), a stationary one by rows. The order is cut into sets of a hundredth of the buffer, in a ring.
- A read buffer shows a window of half its size on that ring. A word outside moves the window on by the other half, which takes as
  long as that many words at the rate, and one cycle, from the end of the fetch before; until then the array stands still.
- The fetch runs ahead by half a buffer, however large the operand is: one a little larger than half the buffer is fetched over
  again in every fold that comes back to it. That is where most of its stalls come from.
- A wait is added twice (``offset += stall; if stall > 0: offset += stall``), and a fetch that ended early is subtracted, as far as
  no other buffer waits. Without the second addition stalls would be about half of what upstream prints.
- A write buffer starts to drain half of itself once it holds more than half, one line a cycle, and stalls only when it is full.

Of the three buffers' waits of one cycle the longest counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from ..sim.errors import ConfigError
from .systolic_folds import Dataflow, spatial_and_temporal

Addresses = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
#: Words of an operand that are worth a table of their places in the fetch order (some 20 bytes each while it is made).
MOST_WORDS = 2**27
_SETS = 100                                            # of a buffer (read_buffer.py, elems_per_set)


@dataclass(frozen=True, slots=True)
class Scratchpads:
    """Words that each of the three SRAMs holds, and words a cycle between it and memory."""

    ifmap_words: int
    filter_words: int
    ofmap_words: int
    ifmap_words_per_cycle: int
    filter_words_per_cycle: int
    ofmap_words_per_cycle: int


@dataclass(frozen=True, slots=True)
class StalledRun:
    """*total* is what upstream prints (the index of the last cycle); words fetched are whole windows, as upstream counts them."""

    total: int
    stalls: int
    ifmap_fetched_words: int
    filter_fetched_words: int


def stalled_run(
    m: int, k: int, n: int, *, rows: int, cols: int, dataflow: Dataflow, pads: Scratchpads, ifmap: Addresses | None = None,
) -> StalledRun:
    """One GEMM [m, k]·[k, n] on an R×C array fed through *pads*.

    *ifmap*: the address of each element of the [m, k] operand, −1 where there is none (padding); in a convolution several elements
    share one. Without it all differ. Raises ConfigError for operands too large for tables of their words.
    """
    if max(m * k, k * n) > MOST_WORDS:
        raise ConfigError(f"an operand of {max(m * k, k * n):,} words is too large for SCALE-Sim's stalls; {MOST_WORDS:,} are "
                          "the most", key="InterfaceBandwidth", value="USER",
                          mend="run it stall-free (InterfaceBandwidth: CALC), or on a chip of parts, which tiles what does not fit")
    a = np.arange(m * k, dtype=np.int32).reshape(m, k) if ifmap is None else ifmap
    b = np.arange(k * n, dtype=np.int32).reshape(k, n)
    into_a, into_b = (pads.ifmap_words, pads.ifmap_words_per_cycle), (pads.filter_words, pads.filter_words_per_cycle)
    if dataflow == "weight_stationary":
        inputs, filters = _Fetch(a, rows, True, *into_a), _Fetch(b, cols, False, *into_b)
    elif dataflow == "input_stationary":
        inputs, filters = _Fetch(a.T, cols, False, *into_a), _Fetch(b.T, rows, True, *into_b)
    else:
        inputs, filters = _Fetch(a.T, rows, True, *into_a), _Fetch(b, cols, True, *into_b)
    on_rows, on_cols, stream = spatial_and_temporal(m, k, n, dataflow)
    words = on_rows * on_cols if dataflow == "output_stationary" else m * n * -(-on_rows // rows)
    # A line of the write buffer's is filled, or closed early by a drain; each drain takes half a buffer.
    half = pads.ofmap_words - -(-pads.ofmap_words // 2)
    lines = np.zeros(words // pads.ofmap_words_per_cycle + words // max(1, half) + 16, dtype=np.int32)
    total, stalls, ifmap_moves, filter_moves = _run(
        inputs.addresses, inputs.first, inputs.sets, inputs.window,
        filters.addresses, filters.first, filters.sets, filters.window,
        np.array([pads.ofmap_words, half, pads.ofmap_words_per_cycle], dtype=np.int64), lines,
        rows, cols, on_rows, on_cols, stream, {"weight_stationary": 0, "input_stationary": 1, "output_stationary": 2}[dataflow])
    return StalledRun(total, stalls, inputs.fetched_words(ifmap_moves), filters.fetched_words(filter_moves))


class _Fetch:
    """The order in which an operand's words are fetched: ``sets[first[a]:first[a + 1]]`` of the ring hold the address *a*.

    ``window``: sets of the ring, sets that the buffer shows, sets that it moves on by, and cycles that a move takes.
    """

    def __init__(self, matrix: Addresses, width: int, by_diagonals: bool, words: int, words_per_cycle: int) -> None:
        self.addresses = np.ascontiguousarray(matrix)
        depth, extent = matrix.shape
        folds = -(-extent // width)
        stacked = np.full((folds, depth, width), -1, dtype=np.int32)
        for fold in range(folds):
            columns = matrix[:, fold * width:(fold + 1) * width]
            stacked[fold, :, :columns.shape[1]] = columns
        order = stacked.reshape(folds * depth, width)
        fetched = (_by_diagonals(order) if by_diagonals else order.ravel())
        fetched = fetched[fetched >= 0]
        set_words = -(-words // _SETS)
        in_order = np.argsort(fetched, kind="stable")
        self.sets = (in_order // set_words).astype(np.int32)
        self.first = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(np.bincount(fetched, minlength=1))))
        num_sets, shown = fetched.size // set_words + 1, -(-words // 2)
        showing = min(-(-shown // set_words), num_sets)
        ahead_cycles = -(-(words - shown) // words_per_cycle)
        self.window = np.array([num_sets, showing, min(-(-(words - shown) // set_words), num_sets - showing), ahead_cycles + 1])
        # Upstream's first fetch is half the buffer, or all of the operand with its gaps where that is less; in whole cycles.
        self._first_words = min(-(-shown // words_per_cycle), -(-order.size // words_per_cycle)) * words_per_cycle
        self._move_words = ahead_cycles * words_per_cycle

    def fetched_words(self, moves: int) -> int:
        """Words from memory after so many moves, whole windows, as upstream counts them."""
        return self._first_words + moves * self._move_words


def _by_diagonals(matrix: Addresses) -> Addresses:
    """The elements by r + c, those of one diagonal from the lowest row up."""
    rows, cols = matrix.shape
    diagonal = np.add.outer(np.arange(rows - 1, -1, -1, dtype=np.int32), np.arange(cols, dtype=np.int32)).ravel()
    return np.asarray(matrix[::-1].ravel()[np.argsort(diagonal, kind="stable")])


def _compiled(function: FunctionT) -> FunctionT:
    return cast(FunctionT, njit(cache=True)(function))


@_compiled
def _wait(address: int, first: Ints, sets: Addresses, window: Ints, state: Ints, cycle: int, offset: int) -> int:
    """Move the window on until it shows *address*; the offset by which this cycle's words are late.

    state: [start of the window, end of the last fetch, moves].
    """
    while True:
        for place in range(first[address], first[address + 1]):
            if (sets[place] - state[0]) % window[0] < window[1]:
                return offset
        state[0] = (state[0] + window[2]) % window[0]
        state[1] += window[3]
        state[2] += 1
        late = state[1] - (cycle + offset)
        offset += late
        if late > 0:
            offset += late


@_compiled
def _streamed(
    addresses: Addresses, first: Ints, sets: Addresses, window: Ints, state: Ints, cycle: int, at: int, left: int, width: int,
) -> int:
    """Words of a skewed operand in line *at* after its first: column c asks for step *at* − c."""
    offset = 1
    depth, extent = addresses.shape
    for c in range(max(0, at - depth + 1), min(width, at + 1, extent - left)):
        address = addresses[at - c, left + c]
        if address >= 0:
            offset = _wait(address, first, sets, window, state, cycle, offset)
    return offset - 1


@_compiled
def _stationary(
    addresses: Addresses, first: Ints, sets: Addresses, window: Ints, state: Ints, cycle: int, row: int, left: int, width: int,
) -> int:
    """Words of one row of a stationary block."""
    offset = 1
    if row < addresses.shape[0]:
        for c in range(min(width, addresses.shape[1] - left)):
            address = addresses[row, left + c]
            if address >= 0:
                offset = _wait(address, first, sets, window, state, cycle, offset)
    return offset - 1


@_compiled
def _written(count: int, cycle: int, pad: Ints, state: Ints, filled: Addresses) -> int:
    """*count* words into the write buffer; the cycle in which they are in. pad: [words, words of a drain, words a cycle];
    state: [free words, end of the drain, words in the open line, closed lines, lines drained]."""
    words, half, per_cycle = pad
    now = cycle
    for _ in range(count):
        state[2] += 1
        state[0] -= 1
        if state[2] == per_cycle:
            filled[state[3]] = per_cycle
            state[3] += 1
            state[2] = 0
        if now < state[1]:
            if state[0] <= 0:
                now = state[1]
        elif state[0] < words - half:
            if state[2]:
                filled[state[3]] = state[2]
                state[3] += 1
                state[2] = 0
            end = min(state[4] + (half + per_cycle - 1) // per_cycle, state[3])
            drained = end - state[4]
            state[0] += drained * per_cycle - (per_cycle - filled[end - 1])
            state[1] = now + drained - 1
            state[4] = end
    return now


@_compiled
def _run(
    a: Addresses, a_first: Ints, a_sets: Addresses, a_window: Ints, b: Addresses, b_first: Ints, b_sets: Addresses, b_window: Ints,
    pad: Ints, filled: Addresses, rows: int, cols: int, on_rows: int, on_cols: int, stream: int, dataflow: int,
) -> tuple[int, int, int, int]:
    """Line by line of all folds; dataflow 0 ws, 1 is, 2 os. (total, stalls, moves of the ifmap's window, of the filter's)."""
    a_state, b_state = np.array([0, -1, 0]), np.array([0, -1, 0])
    write = np.array([pad[0], 0, 0, 0, 0])
    line = stalls = total = 0
    length = rows + cols + stream - 2 + (rows if dataflow < 2 else 0)
    for left in range(0, on_cols, cols):
        for top in range(0, on_rows, rows):
            for at in range(length):
                cycle = line + stalls
                if dataflow == 0:
                    late_a = _streamed(a, a_first, a_sets, a_window, a_state, cycle, at - rows, top, rows) if at >= rows else 0
                    late_b = _stationary(b, b_first, b_sets, b_window, b_state, cycle, top + rows - 1 - at, left, cols) \
                        if at < rows else 0
                elif dataflow == 1:
                    late_a = _stationary(a, a_first, a_sets, a_window, a_state, cycle, top + rows - 1 - at, left, cols) \
                        if at < rows else 0
                    late_b = _streamed(b, b_first, b_sets, b_window, b_state, cycle, at - rows, top, rows) if at >= rows else 0
                else:
                    late_a = _streamed(a, a_first, a_sets, a_window, a_state, cycle, at, top, rows)
                    late_b = _streamed(b, b_first, b_sets, b_window, b_state, cycle, at, left, cols)
                # Results: line *out* of the skewed block, from the last row up where outputs stayed in the array.
                depth = rows if dataflow == 2 else stream
                out = at - (stream - 1 if dataflow == 2 else 2 * rows - 1)
                words = 0
                for c in range(max(0, out - depth + 1), min(cols, out + 1, on_cols - left)):
                    if dataflow < 2 or top + depth - 1 - (out - c) < on_rows:
                        words += 1
                written = _written(words, cycle, pad, write, filled)
                total = max(total, written)
                stalls += max(late_a, late_b, written - cycle)
                line += 1
    return total, stalls, a_state[2], b_state[2]
