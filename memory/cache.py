"""A set-associative cache with sectors: what hits, what must come from below, what is written back, and the energy of all that.

The kernel takes a stream of byte addresses and gives what happened to each; its source uncompiled is its reference. Misses and
write-backs come out as requests in order, ready for the memory below (:func:`tilesim.memory.replay.serve`).

Writes are kept under byte masks, as a GPU's second level keeps them: a write fetches nothing, whether or not it covers its sector.
A sector is valid once its bytes have all been written or fetched; the first read before that fetches it and merges. A sector that
leaves dirty is one masked write below, however few of its bytes were written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from numba import njit
from pydantic import Field, model_validator

from ..sim.config import Config
from ..sim.units import BITS_PER_BYTE, Bytes
from .patterns import BoolArray, Requests
from .sram_table import sram_macro

Int64Array = npt.NDArray[np.int64]
#: What became of an access.
HIT, SECTOR_MISS, LINE_MISS = 0, 1, 2
#: Physical addresses in tags; state bits beside them: dirty and valid of each sector are counted apart.
ADDRESS_BITS = 48
#: Parts of a sector that its write mask tells apart: single bytes of a sector of up to so many.
MASK_PARTS = 32


class CacheConfig(Config):
    """A write-back, write-allocate cache with LRU replacement; a line is fetched sector by sector, as GPUs' second level does."""

    type: Literal["cache"]
    capacity_bytes: Annotated[Bytes, Field(gt=0)]
    line_bytes: Annotated[Bytes, Field(gt=0)] = 128
    sector_bytes: Annotated[Bytes, Field(gt=0)] = 32
    ways: Annotated[int, Field(ge=1, le=1024)] = 16
    hashed_sets: bool = True             # the set is drawn from all address bits, so that powers of two do not collide
    banks: Annotated[int, Field(ge=1)] = 1       # macros that the data array is built from
    tech_nm: int = 22                    # of the SRAM table that gives its energy
    cell: Literal["hp", "lstp"] = "hp"

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        if self.line_bytes % self.sector_bytes or self.line_bytes // self.sector_bytes > 62:
            raise ValueError(f"a line of {self.line_bytes} B does not hold up to 62 whole sectors of {self.sector_bytes} B")
        if self.capacity_bytes % (self.line_bytes * self.ways):
            raise ValueError(f"{self.capacity_bytes} B are no whole number of sets of {self.ways} lines of {self.line_bytes} B")
        return self

    @property
    def sets(self) -> int:
        return self.capacity_bytes // (self.line_bytes * self.ways)

    @property
    def tag_bits(self) -> int:
        """Bits of one line's entry: its tag, and valid and dirty of each sector."""
        index_bits = int(math.log2(self.sets * self.line_bytes)) if not self.hashed_sets else int(math.log2(self.line_bytes))
        return ADDRESS_BITS - index_bits + 2 * (self.line_bytes // self.sector_bytes)


@dataclass(frozen=True, slots=True)
class CacheRun:
    """What a stream of accesses did."""

    kind: npt.NDArray[np.int8]           # of each access: HIT, SECTOR_MISS or LINE_MISS
    below: Requests                      # sectors fetched and written back, in order; tick = index of the access that caused it
    written: int                         # accesses that wrote

    @property
    def hits(self) -> int:
        return int((self.kind == HIT).sum())

    @property
    def hit_rate(self) -> float:
        return self.hits / len(self.kind) if len(self.kind) else 0.0


class Cache:
    """A cache with contents: streams served one after another find what earlier ones left."""

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        shape = (config.sets, config.ways)
        self._line = np.full(shape, -1, np.int64)
        self._used = np.zeros(shape, np.int64)
        self._valid, self._dirty = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._part_bytes = -(-config.sector_bytes // MASK_PARTS)
        self._whole = (1 << -(-config.sector_bytes // self._part_bytes)) - 1
        self._written = np.zeros((*shape, config.line_bytes // config.sector_bytes), np.int64)       # masks, one bit a part
        self._clock = np.zeros(1, np.int64)
        self.counts: dict[str, int] = {"lookup": 0, "read sector": 0, "write sector": 0}

    def access(self, address: Int64Array, write: BoolArray, nbytes: Int64Array | None = None) -> CacheRun:
        """Serve accesses in order: of *nbytes* each from *address* on within one sector, or (left out) of the whole sector."""
        config = self.config
        covered = self._masks(address, nbytes)
        sectors = config.line_bytes // config.sector_bytes
        kind = np.zeros(len(address), np.int8)
        below = np.zeros((len(address) * (1 + sectors), 3), np.int64)
        count = touch(self._line, self._used, self._valid, self._dirty, self._written, self._clock, address // config.sector_bytes,
                      write.astype(np.int64), covered, self._whole, sectors, config.hashed_sets, kind, below)
        below = below[:count]
        written, fetched = int(write.sum()), int((below[:, 1] == 0).sum())
        self.counts["lookup"] += len(address)
        self.counts["read sector"] += len(address) - written + count - fetched       # write-backs read what they send
        self.counts["write sector"] += written + fetched
        requests = Requests(below[:, 0] * config.sector_bytes, below[:, 1].astype(bool), below[:, 2].copy())
        return CacheRun(kind, requests, written)

    def _masks(self, address: Int64Array, nbytes: Int64Array | None) -> Int64Array:
        """The parts of its sector that each access covers whole, as bits."""
        size, part = self.config.sector_bytes, self._part_bytes
        if nbytes is None:
            return np.full(len(address), self._whole, np.int64)
        begin, end = address % size, address % size + nbytes
        if len(nbytes) and (int(nbytes.min()) < 1 or int(end.max()) > size):
            raise ValueError(f"an access must be of 1 byte or more and stay in one sector of {size} B")
        low, high = -(-begin // part), np.where(end == size, self._whole.bit_length(), end // part)
        return np.where(high > low, (np.int64(1) << high) - (np.int64(1) << np.minimum(low, high)), 0)

    def energy_actions(self) -> dict[str, tuple[int, float]]:
        """(count, picojoules each) of what was accessed so far, from the SRAM table."""
        read_pj, write_pj, tag_pj = cache_energy_pj(self.config)
        prices = {"lookup": tag_pj, "read sector": read_pj, "write sector": write_pj}
        return {action: (count, prices[action]) for action, count in self.counts.items()}


def cache_energy_pj(config: CacheConfig) -> tuple[float, float, float]:
    """(sector read, sector write, lookup of a set's tags) of a cache built from *banks* macros; wires between them not included."""
    data = sram_macro(config.tech_nm, config.capacity_bytes / config.banks, config.sector_bytes * BITS_PER_BYTE, config.cell)
    tag_bits = config.ways * config.tag_bits
    macros = max(1, math.ceil(tag_bits / 512))                       # the table's widest macro has 512 bits
    tag_bytes = max(4096.0, config.sets * tag_bits / BITS_PER_BYTE / (config.banks * macros))
    tags = sram_macro(config.tech_nm, tag_bytes, max(64.0, tag_bits / macros), config.cell)
    return data.read_pj, data.write_pj, tags.read_pj * macros


@njit(cache=True)
def touch(
    line: Int64Array, used: Int64Array, valid: Int64Array, dirty: Int64Array, written: Int64Array, clock: Int64Array,
    sector: Int64Array, write: Int64Array, covered: Int64Array, whole: int, sectors: int, hashed: bool,
    kind: npt.NDArray[np.int8], below: Int64Array,
) -> int:
    """Serve accesses to *sector* numbers; gives how many requests (sector, is write, access) went below.

    *covered* has a bit for each part of its sector that an access covers; *whole* has those of all its parts.
    """
    sets, ways = line.shape
    out, now = 0, clock[0]
    for i in range(len(sector)):
        wanted = sector[i] // sectors
        bit = 1 << (sector[i] % sectors)
        index = wanted
        if hashed:
            # Fold the upper bits in, multiplying by an odd constant (Fibonacci hashing: Knuth, TAOCP vol. 3, 6.4).
            index = ((wanted ^ (wanted >> 13)) * 2654435769) & 0x7FFFFFFFFFFF
            index = index >> 8
        chosen = index % sets
        way = -1
        oldest = 0
        for w in range(ways):
            if line[chosen, w] == wanted:
                way = w
            if used[chosen, w] < used[chosen, oldest]:
                oldest = w
        now += 1
        if way < 0:
            way = oldest
            kind[i] = 2
            for k in range(sectors):
                if dirty[chosen, way] & (1 << k):
                    below[out, 0], below[out, 1], below[out, 2] = line[chosen, way] * sectors + k, 1, i
                    out += 1
            line[chosen, way], valid[chosen, way], dirty[chosen, way] = wanted, 0, 0
            written[chosen, way] = 0
        elif valid[chosen, way] & bit == 0:
            kind[i] = 1
        else:
            kind[i] = 0
        if write[i]:
            dirty[chosen, way] |= bit
            written[chosen, way, sector[i] % sectors] |= covered[i]
            if written[chosen, way, sector[i] % sectors] == whole:
                valid[chosen, way] |= bit
        elif kind[i] != 0:
            valid[chosen, way] |= bit
            below[out, 0], below[out, 1], below[out, 2] = sector[i], 0, i
            out += 1
        used[chosen, way] = now
    clock[0] = now
    return out
