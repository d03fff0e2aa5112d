"""The capacity laws: in program order, the tiles that are owned at once fit into their pools, and residents into their share.

Each pool is allocated by one unit in program order and each tile's last record stands at a known place; so if the owned bytes fit
at every record *in program order*, no run of the program can deadlock on room, however far units run ahead of each other.
"""

from __future__ import annotations

import numpy as np

from ..sim.dtypes import DType
from ..sim.errors import ConfigError
from ..sim.program import Segment, TileProgram
from .target import Site


def owned_bytes(segment: Segment) -> dict[str, int]:
    """The most bytes of each pool that the segment owns at once, in program order."""
    first, last = np.array(segment.first_use, np.int64), np.array(segment.last_use, np.int64)
    sizes: dict[tuple[int, DType], int] = {}
    pools: dict[str, int] = {}
    nbytes, pool = np.empty(len(first), np.int64), np.empty(len(first), np.int64)
    for index, (_, name, elements, dtype) in enumerate(segment.buffers):
        size = sizes.get((elements, dtype))
        if size is None:
            size = sizes[elements, dtype] = dtype.bytes_for(elements)
        nbytes[index], pool[index] = size, pools.setdefault(name, len(pools))
    most: dict[str, int] = {}
    for name, number in pools.items():
        mine = (pool == number) & (first >= 0)
        if mine.any():
            # A record's buffers are all owned before those that end with it are given back.
            change = np.zeros(len(segment.records) + 1, np.int64)
            np.add.at(change, first[mine], nbytes[mine])
            np.subtract.at(change, last[mine] + 1, nbytes[mine])
            most[name] = int(change.cumsum().max())
    return most


def check_room(segment: Segment, site: Site) -> None:
    """Refuse a segment whose tiles do not fit."""
    for pool, wanted in owned_bytes(segment).items():
        have = site.room.of(pool)
        if wanted > have:
            fixed = site.target.shares.key_of(pool)
            if fixed is not None:
                raise ConfigError(f"{segment.name}: its smallest tiles want {wanted} bytes of {site.target.sram!r} as {fixed}; "
                                  f"there are {have}", key=f"parts.{site.target.sram}.{fixed}", value=have,
                                  mend=f"set parts.{site.target.sram}.{fixed} to at least {wanted} B")
            fits = site.target.sram_bytes + (wanted - have) * site.room.shares.of(pool)
            raise ConfigError(
                f"{segment.name}: its smallest tiles want {wanted} bytes of the {pool} share of {site.target.sram!r}; "
                f"there are {have}", key=f"parts.{site.target.sram}.capacity", value=site.target.sram_bytes,
                mend=f"set parts.{site.target.sram}.capacity to at least {fits} B (it is {site.target.sram_bytes} B)")


def most_resident_bytes(program: TileProgram) -> int:
    """The most bytes of resident tensors alive in one step, in program order."""
    born: dict[int, int] = {}
    dies: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        for tensor in step.produces:
            born[tensor] = index
        for tensor in step.operands:
            dies[tensor] = index
    change = [0] * (len(program.steps) + 1)
    for tensor, birth in born.items():
        change[birth] += program.tensors[tensor].nbytes
        change[max(birth, dies.get(tensor, birth)) + 1] -= program.tensors[tensor].nbytes
    most = now = 0
    for delta in change:
        now += delta
        most = max(most, now)
    return most


def allocating_units(program: TileProgram) -> dict[str, set[str]]:
    """Which units allocate from each pool: one each, or waiting for room could deadlock."""
    units: dict[str, set[str]] = {}
    for segment in {id(step.segment): step.segment for step in program.steps}.values():
        for buffer, first in zip(segment.buffers, segment.first_use, strict=True):
            if first >= 0:
                units.setdefault(buffer.pool, set()).add(segment.records[first].unit)
    return units


def broken_capacity_laws(program: TileProgram, sram_bytes: int) -> list[str]:
    """What the program breaks; empty for one that is right."""
    broken = []
    capacity = {pool.name: pool.capacity_bytes for pool in program.pools}
    for segment in {id(step.segment): step.segment for step in program.steps}.values():
        broken += [f"{segment.name} owns {wanted} bytes of {pool}, which has {capacity.get(pool, 0)}"
                   for pool, wanted in owned_bytes(segment).items() if wanted > capacity.get(pool, 0)]
    broken += [f"{', '.join(sorted(units))} all allocate from {pool}" for pool, units in allocating_units(program).items()
               if len(units) > 1]
    set_aside = sum(program.resident_bytes.values())
    if most_resident_bytes(program) > set_aside:
        broken.append(f"{most_resident_bytes(program)} bytes of residents live at once; {set_aside} are set aside")
    if sum(capacity.values()) + set_aside > sram_bytes:
        broken.append(f"pools and residents take {sum(capacity.values()) + set_aside} of {sram_bytes} bytes")
    return broken
