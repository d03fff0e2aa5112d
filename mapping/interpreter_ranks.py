"""The interpreter for several devices: each runs one program on its own values, record by record, and they meet to exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..sim.program import Compute, TileProgram
from ..workloads.parallel import Shard, Sharded
from .dram_image import identity_places
from .functions import Array
from .interpreter import DeviceRun, Order, program_order


def exchange(function: str, held: Sequence[Array]) -> list[Array]:
    """What each device gets of a collective from what all of them held [rows, cols]."""
    if function == "allgather":
        return [np.concatenate(held, axis=-1)] * len(held)
    total = np.sum(held, axis=0)
    return [total] * len(held) if function == "allreduce" else np.split(total, len(held), axis=-1)


def interpret_ranks(
    program: TileProgram, values: Sequence[Mapping[str, npt.ArrayLike]], *, order: Order | None = None, burst_bytes: int = 64,
) -> list[dict[str, Array]]:
    """Run *program* on every device, *values* by device; gives every device's tensors. Faults as ``interpret`` does."""
    runs = [DeviceRun(program, identity_places, burst_bytes) for _ in values]
    for run, own in zip(runs, values, strict=True):
        run.fill(own)
    for index, number in program_order(program) if order is None else order:
        record = program.steps[index].segment.records[number]
        if isinstance(record, Compute) and "ranks" in record.params:
            held = [run.read(index, record.reads[0]) for run in runs]
            for run, got in zip(runs, exchange(record.function, held), strict=True):
                run.exchanged = got[..., :record.writes[0].shape[-1]]          # without padding
        for run in runs:
            run.execute(index, number)
    return [run.finish() for run in runs]


def values_of(sharded: Sharded, values: Mapping[str, npt.ArrayLike], ranks: int) -> list[dict[str, Array]]:
    """Each device's weights, caches and inputs from the model's."""
    whole = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
    return [whole | {name: _slice(shard, whole[shard.whole.name], rank, ranks) for name, shard in sharded.shards.items()
                     if shard.whole.name in whole} for rank in range(ranks)]


def _slice(shard: Shard, value: Array, rank: int, ranks: int) -> Array:
    if shard.axis is None:
        return value / ranks
    padding = [(0, 0)] * value.ndim
    padding[shard.axis] = (0, -value.shape[shard.axis] % ranks)
    return np.split(np.pad(value, padding), ranks, axis=shard.axis)[rank]
