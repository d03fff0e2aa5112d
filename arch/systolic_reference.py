"""A systolic array stepped register by register: the proof of the closed forms in :mod:`.systolic_folds`.

Every PE's registers are stepped each cycle, for all arrays of a chip at once (state arrays are [array, row, column]). Operands
enter at the edges, skewed by one cycle a row and a column; weights shift in from the north. Nothing knows a formula: a fold
starts when the controller sees at PE(0,0) that it may, and every PE checks that it holds the weight that belongs to
its operand, that no weight is overwritten before its use, and that a result bus carries one value a cycle. Values and the
cycle of the last result come out. Small cases only: some 50 µs a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .systolic_folds import Dataflow

Matrix = npt.NDArray[np.int64]


class HazardError(AssertionError):
    """Registers or wires of the array were asked for two things at once: the schedule is not physical."""


@dataclass(frozen=True, slots=True)
class ReferenceRun:
    """The products [batch, m, n] as the array gave them, and the cycles until the last result was latched."""

    product: Matrix
    cycles: int


@dataclass(frozen=True, slots=True)
class _Fold:
    """A block in space (slices of the GEMM's two spatial extents) of one product of the batch."""

    product: int
    rows: slice
    cols: slice

    @property
    def r(self) -> int:
        return int(self.rows.stop - self.rows.start)

    @property
    def c(self) -> int:
        return int(self.cols.stop - self.cols.start)


def run_reference(
    a: Matrix, b: Matrix, *, rows: int, cols: int, dataflow: Dataflow, arrays: int = 1, double_buffered: bool = True,
    hurry_cycles: int = 0,
) -> ReferenceRun:
    """Multiply a [batch, m, k] by b [batch, k, n] on the array.

    *hurry_cycles* starts every fold but the first that much earlier than the controller would; a test of the checks.
    """
    if dataflow == "output_stationary":
        return _OutputStationary(a, b, rows, cols, arrays, hurry_cycles).run()
    if dataflow == "weight_stationary":
        return _Stationary(a, b, rows, cols, arrays, double_buffered, hurry_cycles).run()
    # Input stationary: Cᵀ = Bᵀ·Aᵀ, with Aᵀ [k, m] pinned and the columns of B streamed.
    swapped = _Stationary(b.transpose(0, 2, 1), a.transpose(0, 2, 1), rows, cols, arrays, double_buffered, hurry_cycles).run()
    return ReferenceRun(swapped.product.transpose(0, 2, 1), swapped.cycles)


def _rounds(batch: int, on_rows: int, on_cols: int, rows: int, cols: int, arrays: int) -> list[list[_Fold]]:
    """The folds, row folds first, dealt to the arrays."""
    folds = [_Fold(product, slice(i, min(i + rows, on_rows)), slice(j, min(j + cols, on_cols)))
             for product in range(batch) for j in range(0, on_cols, cols) for i in range(0, on_rows, rows)]
    return [folds[start: start + arrays] for start in range(0, len(folds), arrays)]


def _extents(rounds: list[list[_Fold]], arrays: int) -> tuple[Matrix, Matrix]:
    """The rows and the columns that each array uses in each round; index −1, for no round, gives none."""
    used = np.zeros((2, len(rounds) + 1, arrays), np.int64)
    for number, folds in enumerate(rounds):
        for array, fold in enumerate(folds):
            used[:, number, array] = fold.r, fold.c
    return used[0], used[1]


def _from_west(register: Matrix, west: Matrix) -> Matrix:
    """What reaches each PE from its west neighbour this cycle."""
    return np.concatenate((west[:, :, None], register[:, :, :-1]), axis=2)


def _from_north(register: Matrix, north: Matrix) -> Matrix:
    return np.concatenate((north[:, None, :], register[:, :-1, :]), axis=1)


class _Stationary:
    """A pinned operand w [batch, k, n] and a streamed one x [batch, t, k]; results fall out of the south edge.

    A weight moves down with a count of hops left and settles at 0. A tag ``round·T + t`` travels with each streamed operand.
    """

    def __init__(self, x: Matrix, w: Matrix, rows: int, cols: int, arrays: int, double_buffered: bool, hurry: int) -> None:
        self.x, self.w = x, w
        self.t, self.rows, self.cols = x.shape[1], rows, cols
        self.double, self.hurry = double_buffered, hurry
        self.rounds = _rounds(w.shape[0], w.shape[1], w.shape[2], rows, cols, arrays)
        shape = (arrays, rows, cols)
        self.streamed, self.tag, self.psum, self.weight = (np.zeros(shape, np.int64) for _ in range(4))
        self.tag -= 1
        self.next_weight, self.weight_round = np.zeros(shape, np.int64), np.full(shape, -1)
        self.hops = np.full(shape, -1)                    # of next_weight: −1 none, 0 settled, > 0 on its way down
        self.next_round = np.full(shape, -1)
        self.used_rows, self.used_cols = _extents(self.rounds, arrays)
        self.issued: list[int] = []                       # tag that entered row 0 at each cycle, −1 none
        self.loaded: list[tuple[int, int]] = []           # (round, row counted from the south) that entered column 0
        self.product = np.zeros((x.shape[0], self.t, w.shape[2]), np.int64)
        self.left = sum(self.t * fold.c for folds in self.rounds for fold in folds)

    def run(self) -> ReferenceRun:
        cycle = 0
        while self.left:
            self._step(cycle)
            cycle += 1
        return ReferenceRun(self.product, cycle)

    def _step(self, cycle: int) -> None:
        self.issued.append(self._issue())
        west, west_tag = self._west_edge(cycle)
        streamed, tag = _from_west(self.streamed, west), _from_west(self.tag, west_tag)
        self._take_weights(tag)
        self.psum = _from_north(self.psum, np.zeros_like(west[:, :1]).repeat(self.cols, axis=1)) + self.weight * streamed
        self.streamed, self.tag = streamed, tag
        self._collect()
        self.loaded.append(self._load(tag))
        self._shift_weights(cycle)

    def _issue(self) -> int:
        """The tag that enters row 0 now: rows of a fold without a gap; a new fold once PE(0,0) has its weight."""
        last = max(self.issued, default=-1)
        follows = last + 1
        if follows % self.t == 0 and follows >= self.t * len(self.rounds):
            return -1
        if follows % self.t == 0:
            number = follows // self.t
            settled = [self.hops[array, 0, 0] == 0 and self.next_round[array, 0, 0] == number
                       for array in range(len(self.rounds[number]))]
            if not all(settled) and not self._hurries(number):
                return -1
        return follows

    def _hurries(self, number: int) -> bool:
        """Whether a test asks to start *number* while its last *hurry* weight rows are still to enter."""
        return bool(self.hurry and number and self.loaded and self.loaded[-1][0] == number
                    and self.loaded[-1][1] <= self.hurry)

    def _west_edge(self, cycle: int) -> tuple[Matrix, Matrix]:
        """Row i sees what entered row 0 i cycles ago; rows that a fold does not use are fed zeros."""
        shape = self.tag.shape[:2]
        value, tag = np.zeros(shape, np.int64), np.full(shape, -1)
        for row in range(min(self.rows, cycle + 1)):
            found = self.issued[cycle - row]
            if found < 0:
                continue
            for array, fold in enumerate(self.rounds[found // self.t]):
                tag[array, row] = found
                if row < fold.r:
                    value[array, row] = self.x[fold.product, found % self.t, fold.rows.start + row]
        return value, tag

    def _take_weights(self, tag: Matrix) -> None:
        """The first operand of a fold makes each PE that it passes take the weight that waits there."""
        array, row, col = (np.arange(size).reshape([-1 if axis == at else 1 for at in range(3)])
                           for axis, size in enumerate(tag.shape))
        used = (row < self.used_rows[tag // self.t, array]) & (col < self.used_cols[tag // self.t, array])
        first = used & (tag % self.t == 0)
        if np.any(first & ((self.hops != 0) | (self.next_round != tag // self.t))):
            raise HazardError("a fold's first operand met a PE whose weight had not settled")
        self.weight = np.where(first, self.next_weight, self.weight)
        self.weight_round = np.where(first, self.next_round, self.weight_round)
        if self.double:
            self.hops = np.where(first, -1, self.hops)
        elif np.any(used & ((self.hops != 0) | (self.next_round != tag // self.t))):
            raise HazardError("a weight was overwritten before its last use")
        if np.any(used & (self.weight_round != tag // self.t)):
            raise HazardError("an operand met the weight of another fold")

    def _collect(self) -> None:
        """Results at the south edge go to the accumulators."""
        for array, col in np.argwhere(self.tag[:, -1, :] >= 0):
            number, t = divmod(int(self.tag[array, -1, col]), self.t)
            fold = self.rounds[number][array]
            if col < fold.c:
                self.product[fold.product, t, fold.cols.start + col] += self.psum[array, -1, col]
                self.left -= 1

    def _load(self, tag: Matrix) -> tuple[int, int]:
        """(round, weight row) that enters column 0 now; a new fold's rows follow once PE(0,0) can give up its register."""
        number, row = self.loaded[-1] if self.loaded else (-1, 0)
        if number >= 0 and row > 0:
            return number, row - 1
        done = max((entry[0] for entry in self.loaded), default=-1)
        if done + 1 == len(self.rounds):
            return -1, 0
        if done >= 0:
            if self.double and np.any(self.hops[:len(self.rounds[done]), 0, 0] == 0):
                return -1, 0
            if not self.double and tag[0, 0, 0] != done * self.t + self.t - 1:
                return -1, 0
        return done + 1, max(fold.r for fold in self.rounds[done + 1]) - 1

    def _shift_weights(self, cycle: int) -> None:
        shape = (self.tag.shape[0], self.cols)
        value, hops, number = np.zeros(shape, np.int64), np.full(shape, -1), np.full(shape, -1)
        for col in range(min(self.cols, cycle + 1)):
            round_, row = self.loaded[cycle - col]
            if round_ < 0:
                continue
            longest = max(fold.r for fold in self.rounds[round_])
            for array, fold in enumerate(self.rounds[round_]):
                own = fold.r - 1 - (longest - 1 - row)                 # folds of a round start to load together
                if own >= 0 and col < fold.c:
                    value[array, col] = self.w[fold.product, fold.rows.start + own, fold.cols.start + col]
                    hops[array, col], number[array, col] = own, round_
        arriving = _from_north(np.where(self.hops > 0, self.hops - 1, -1), hops)
        if self.double and np.any((arriving >= 0) & (self.hops == 0)):
            raise HazardError("a weight was overwritten before it was taken")
        self.next_weight = np.where(arriving >= 0, _from_north(self.next_weight, value), self.next_weight)
        self.next_round = np.where(arriving >= 0, _from_north(self.next_round, number), self.next_round)
        self.hops = np.where(arriving >= 0, arriving, np.where(self.hops > 0, -1, self.hops))


class _OutputStationary:
    """Sums stay in the PEs; a [batch, m, k] enters from the west, b [batch, k, n] from the north, results leave by column buses."""

    def __init__(self, a: Matrix, b: Matrix, rows: int, cols: int, arrays: int, hurry: int) -> None:
        self.a, self.b, self.t, self.hurry = a, b, a.shape[2], hurry
        self.rounds = _rounds(a.shape[0], a.shape[1], b.shape[2], rows, cols, arrays)
        shape = (arrays, rows, cols)
        self.west, self.west_tag, self.north, self.north_tag, self.sum = (np.zeros(shape, np.int64) for _ in range(5))
        self.west_tag -= 1
        self.north_tag -= 1
        self.issued: list[int] = []
        self.bus: set[tuple[int, int]] = set()            # (array, cycle) at which column 0's bus is promised
        self.product = np.zeros((a.shape[0], a.shape[1], b.shape[2]), np.int64)
        self.left = sum(fold.r * fold.c for folds in self.rounds for fold in folds)

    def run(self) -> ReferenceRun:
        cycle = 0
        while self.left:
            self._step(cycle)
            cycle += 1
        return ReferenceRun(self.product, cycle)

    def _step(self, cycle: int) -> None:
        self.issued.append(self._issue(cycle))
        west, west_tag = self._edge(cycle, from_west=True)
        north, north_tag = self._edge(cycle, from_west=False)
        self.west, self.west_tag = _from_west(self.west, west), _from_west(self.west_tag, west_tag)
        self.north, self.north_tag = _from_north(self.north, north), _from_north(self.north_tag, north_tag)
        meets = (self.west_tag >= 0) & (self.north_tag >= 0)
        if np.any(meets & (self.west_tag != self.north_tag)):
            raise HazardError("operands of different steps met in a PE")
        fresh = meets & (self.west_tag % self.t == 0)
        self.sum = np.where(fresh, 0, self.sum) + np.where(meets, self.west * self.north, 0)
        self._collect(meets & (self.west_tag % self.t == self.t - 1))

    def _issue(self, cycle: int) -> int:
        """Operands of a fold follow without a gap; a fold starts when column 0's bus will be free for all its results."""
        follows = max(self.issued, default=-1) + 1
        if follows % self.t:
            return follows
        if follows == self.t * len(self.rounds):
            return -1
        promised = {(array, cycle + self.t - 1 + row)
                    for array, fold in enumerate(self.rounds[follows // self.t]) for row in range(fold.r)}
        if promised & self.bus and not (self.hurry and follows):
            return -1
        self.bus |= promised
        return follows

    def _edge(self, cycle: int, *, from_west: bool) -> tuple[Matrix, Matrix]:
        """Row (column) i sees what entered row (column) 0 i cycles ago, as far as the fold uses it."""
        arrays, rows, cols = self.sum.shape
        lanes = rows if from_west else cols
        value, tag = np.zeros((arrays, lanes), np.int64), np.full((arrays, lanes), -1)
        for lane in range(min(lanes, cycle + 1)):
            found = self.issued[cycle - lane]
            if found < 0:
                continue
            number, step = divmod(found, self.t)
            for array, fold in enumerate(self.rounds[number]):
                if lane < (fold.r if from_west else fold.c):
                    tag[array, lane] = found
                    value[array, lane] = (self.a[fold.product, fold.rows.start + lane, step] if from_west
                                          else self.b[fold.product, step, fold.cols.start + lane])
        return value, tag

    def _collect(self, finished: npt.NDArray[np.bool_]) -> None:
        if np.any(finished.sum(axis=1) > 1):
            raise HazardError("two results met on a column's bus")
        for array, row, col in np.argwhere(finished):
            fold = self.rounds[int(self.west_tag[array, row, col]) // self.t][array]
            self.product[fold.product, fold.rows.start + row, fold.cols.start + col] += self.sum[array, row, col]
            self.left -= 1
