"""A timeline of one operator: its records as arrays, run through the rules of the engine, compiled.

The search judges its finalists by it. Units take their records in order, DMA queues keep transfers in flight, pools are finite, the
arrays overlap the shift-in of the next weights with the stream, arrays and lanes share the scratchpad's ports: as in
``arch.engine``, whose times it gives on an ideal memory (``tests/mapping/test_timeline.py``). The memory is a rate and a latency,
served in order, and pauses for refresh.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .compiled import compiled

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Units, in the order in which they are served.
STREAM, ACTIVATION, STORE, ARRAYS, LANES = range(5)
UNITS = 5
#: Pools.
P_STREAM, P_ACTIVATION, P_ACCUMULATORS, P_VECTOR = range(4)
POOLS = 4
#: Columns of integers: unit, earlier records that it waits for, whether it waits for all of the operator before (as its input), the
#: pool and bytes that it acquires, and up to four (pool, bytes) that its end gives back.
I_UNIT, I_DEP_0, I_DEP_1, I_AFTER, I_POOL, I_BYTES, I_FREE = range(7)
FREES = 4
I_SIZE = I_FREE + 2 * FREES
#: Columns of floats: picoseconds of shift-in, from the first to the last stream of the folds, of the last stream, of draining (for
#: the lanes: nothing, nothing, all, nothing; for transfers: nothing, as long as it takes alone, its share of the memory's time,
#: nothing); bytes read and written at the scratchpad; picoseconds from the last stream's begin to that of the next product's first
#: stream, and to that of its shift-in, at least.
F_PRELOAD, F_FOLDS, F_STREAM, F_DRAIN, F_READ, F_WRITTEN, F_NEXT_STREAM, F_NEXT_PRELOAD = range(8)
F_SIZE = 8
#: The machine: picoseconds of a read's latency and of issue; bytes a picosecond of the ports; transfers in flight in a queue;
#: picoseconds of a pause of the memory, and from one to the next; bytes of each pool.
M_LATENCY, M_ISSUE, M_PORTS, M_IN_FLIGHT, M_PAUSE, M_EVERY, M_POOL = range(7)
M_SIZE = M_POOL + POOLS


@compiled
def new_record(records: Ints, at: int, unit: int) -> None:
    """Clear record *at*, of *unit*: it waits for nothing, takes nothing and gives nothing back."""
    records[at, :] = -1
    records[at, I_UNIT], records[at, I_AFTER] = unit, 0


@compiled
def gives(records: Ints, at: int, pool: int, nbytes: int) -> None:
    """Record *at* gives *nbytes* of *pool* back."""
    for i in range(FREES):
        if records[at, I_FREE + 2 * i] < 0:
            records[at, I_FREE + 2 * i], records[at, I_FREE + 2 * i + 1] = pool, nbytes
            return


@compiled
def copy_cost(costs: Floats, at: int, cost: Floats) -> None:
    """Record *at* costs *cost*. By element: a row at once would compile the text of numpy's error about shapes."""
    for column in range(F_SIZE):
        costs[at, column] = cost[column]


@compiled
def _moved(start: float, nbytes: float, at_least: float, ports: float, other_end: float, other_rate: float) -> float:
    """When *nbytes* from *start* on have moved through ports of which another unit uses *other_rate* until *other_end*."""
    if nbytes <= 0:
        return start + at_least
    most = min(ports, nbytes / at_least) if at_least > 0 else ports
    if start < other_end:
        beside = min(most, max(0.0, ports - other_rate))
        if beside * (other_end - start) >= nbytes:
            return max(start + at_least, start + nbytes / beside)
        return max(start + at_least, other_end + (nbytes - beside * (other_end - start)) / most)
    return max(start + at_least, start + nbytes / most)


@compiled
def _blocked(record: Ints, ended: npt.NDArray[np.uint8], must_follow: bool, free: Floats) -> bool:
    """Whether a record must wait for data or for room."""
    for column in (I_DEP_0, I_DEP_1):
        if record[column] >= 0 and ended[record[column]] == 0:
            return True
    if must_follow and record[I_AFTER] > 0:
        return True
    return bool(record[I_POOL] >= 0 and record[I_BYTES] > free[record[I_POOL]])


@compiled
def run_timeline(
    records: Ints, costs: Floats, count: int, before: int, machine: Floats, ended_ps: Floats,
) -> tuple[float, float]:
    """(end of the first *before* records, end of all *count*), in picoseconds; −1 when they wait for ever.

    The first *before* records are the operator before, if there is one. *ended_ps*: filled with the end of each record.
    """
    order, first = np.empty(count, np.int64), np.zeros(UNITS + 1, np.int64)
    for i in range(count):
        first[records[i, I_UNIT] + 1] += 1
    for unit in range(UNITS):
        first[unit + 1] += first[unit]
    at = first[:UNITS].copy()
    for i in range(count):
        unit = records[i, I_UNIT]
        order[at[unit]] = i
        at[unit] += 1
    at = first[:UNITS].copy()
    over = at.copy()                                                   # of each unit, the first of its records that has not ended
    ended, free = np.zeros(count, np.uint8), machine[M_POOL:M_POOL + POOLS].copy()
    wake, ends = np.zeros(UNITS), np.zeros(count)
    # The latest use of the ports by arrays and lanes: end and bytes a picosecond, read and written.
    ports = np.zeros((2, 3))
    now, done, done_before, end_before = 0.0, 0, 0, 0.0
    memory_free = stream_free = shadow_free = 0.0
    pause = machine[M_EVERY] / 2                                       # ASSUMED: nobody knows where in an interval a run begins
    while done < count:
        started = True
        while started:
            started = False
            for unit in range(UNITS):
                if at[unit] == first[unit + 1] or wake[unit] > now:
                    continue
                if unit <= STORE and at[unit] - over[unit] >= machine[M_IN_FLIGHT]:
                    continue
                i = order[at[unit]]
                if _blocked(records[i], ended, i >= before > done_before, free):
                    continue
                cost = costs[i]
                if unit <= STORE:
                    begin = now + machine[M_ISSUE]
                    wake[unit] = begin
                    memory_free = max(memory_free, begin)
                    while pause < memory_free:
                        pause += machine[M_EVERY]
                    memory_free += cost[F_STREAM]
                    while pause < memory_free:
                        pause += machine[M_EVERY]
                        memory_free += machine[M_PAUSE]
                    end = max(memory_free, begin + cost[F_FOLDS]) + (0.0 if unit == STORE else machine[M_LATENCY])
                elif unit == ARRAYS:
                    begin = max(stream_free, max(now, shadow_free) + cost[F_PRELOAD])
                    at_least = cost[F_FOLDS] + cost[F_STREAM]
                    streamed = max(_moved(begin, cost[F_READ], at_least, machine[M_PORTS], ports[1, 0], ports[1, 1]),
                                   _moved(begin, cost[F_WRITTEN], at_least, machine[M_PORTS], ports[1, 0], ports[1, 2]))
                    taken = max(1.0, streamed - begin)
                    ports[0, 0], ports[0, 1], ports[0, 2] = streamed, cost[F_READ] / taken, cost[F_WRITTEN] / taken
                    last_fold = streamed - cost[F_STREAM]
                    stream_free, shadow_free = last_fold + cost[F_NEXT_STREAM], last_fold + cost[F_NEXT_PRELOAD]
                    end = streamed + cost[F_DRAIN]
                    wake[unit] = shadow_free
                else:
                    end = max(_moved(now, cost[F_READ], cost[F_STREAM], machine[M_PORTS], ports[0, 0], ports[0, 1]),
                              _moved(now, cost[F_WRITTEN], cost[F_STREAM], machine[M_PORTS], ports[0, 0], ports[0, 2]))
                    taken = max(1.0, end - now)
                    ports[1, 0], ports[1, 1], ports[1, 2] = end, cost[F_READ] / taken, cost[F_WRITTEN] / taken
                    wake[unit] = end
                if records[i, I_POOL] >= 0:
                    free[records[i, I_POOL]] -= records[i, I_BYTES]
                # Records of a unit end in order.
                ends[at[unit]] = max(end, ends[at[unit] - 1]) if at[unit] > first[unit] else end
                at[unit] += 1
                started = True
        after = np.inf
        for unit in range(UNITS):
            if over[unit] < at[unit]:
                after = min(after, ends[over[unit]])
            if at[unit] < first[unit + 1] and wake[unit] > now:
                after = min(after, wake[unit])
        if after == np.inf:
            return -1.0, -1.0
        now = after
        for unit in range(UNITS):
            while over[unit] < at[unit] and ends[over[unit]] <= now:
                i = order[over[unit]]
                over[unit] += 1
                ended[i] = 1
                ended_ps[i] = now
                done += 1
                for column in range(I_FREE, I_SIZE, 2):
                    if records[i, column] >= 0:
                        free[records[i, column]] += records[i, column + 1]
                if i < before:
                    done_before += 1
                    if done_before == before:
                        end_before = now
    return end_before, now
