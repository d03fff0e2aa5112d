"""Tensor placement: which activations stay in the scratchpad, and at which DRAM address everything else lies."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from ..sim.errors import ConfigError
from ..sim.program import TensorPlace
from ..workloads.tensors import Tensor
from .storage import Blocked, stored_bytes
from .target import FREE, SHARES, FixedShares, Shares, Target, resident_limit_bytes


@dataclass(frozen=True, slots=True)
class Uses:
    """The tensors that a step reads and writes, in the order of its operands."""

    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    scratch: tuple[Tensor, ...] = ()                 # written and read inside the step

    @property
    def all(self) -> tuple[Tensor, ...]:
        """The step's operands."""
        return (*self.reads, *self.scratch, *self.writes)


@dataclass(frozen=True, slots=True)
class Life:
    """The steps between which an activation must be kept: from the one that writes it to its last reader."""

    tensor: Tensor
    born: int
    dies: int
    reads: int

    @property
    def nbytes(self) -> int:
        return stored_bytes(self.tensor.dtype, self.tensor.elements)


@dataclass(frozen=True, slots=True)
class Residents:
    """The activations that stay on chip, the most bytes of them alive at once, and whether any other has to be read back."""

    lives: Mapping[str, Life]
    nbytes: int
    spills: bool


def lives(uses: Sequence[Uses]) -> list[Life]:
    """The lives of all activations, in order of birth."""
    born: dict[str, int] = {}
    dies: dict[str, int] = {}
    reads: dict[str, int] = {}
    known: dict[str, Tensor] = {}
    for step, use in enumerate(uses):
        for tensor in (*use.writes, *use.scratch):
            if tensor.role == "activation":
                born[tensor.name], known[tensor.name] = step, tensor
        for tensor in dict.fromkeys(use.all):
            dies[tensor.name] = step
        for tensor in (*use.reads, *use.scratch):
            reads[tensor.name] = reads.get(tensor.name, 0) + 1
    return [Life(tensor, born[name], dies[name], reads.get(name, 0)) for name, tensor in known.items()]


def choose_residents(
    uses: Sequence[Uses], sram_bytes: int, fixed: FixedShares = FREE, shares: Shares = SHARES[0],
) -> Residents:
    """Keep on chip what saves the most DRAM traffic for the room and the time that it takes.

    An activation saves one write and each of its reads, and occupies its bytes from birth to death: the bytes cancel, so
    those with the most uses per step of life come first, and of equals the earlier. Streams from the host count as spilled.
    """
    known = lives(uses)
    reads_inputs = any(t.role in ("input", "output") and t.dtype.name != "int32" for use in uses for t in use.reads)
    for spills in ((True,) if reads_inputs else (False, True)):
        kept, most = _fill(known, len(uses), resident_limit_bytes(sram_bytes, spills, fixed, shares))
        if spills or len(kept) == len(known):
            return Residents(kept, most, spills)
    raise AssertionError("the second share always answers")


def _fill(known: list[Life], steps: int, limit_bytes: int) -> tuple[dict[str, Life], int]:
    """The lives that fit below the limit at every step, chosen greedily, and the most bytes alive at once."""
    alive = [0] * steps
    kept: dict[str, Life] = {}
    for life in sorted(known, key=lambda one: (-(one.reads + 1) / (one.dies - one.born + 1), one.born)):
        span = range(life.born, life.dies + 1)
        if all(alive[step] + life.nbytes <= limit_bytes for step in span):
            kept[life.tensor.name] = life
            for step in span:
                alive[step] += life.nbytes
    return kept, max(alive, default=0)


def place_tensors(
    uses: Sequence[Uses], residents: Container[str], layouts: Mapping[str, Blocked], target: Target,
) -> dict[str, TensorPlace]:
    """Every tensor's place, in order of first use: residents in the scratchpad, the rest one after the other in DRAM.

    Each DRAM tensor begins at a multiple of ``alignment_bytes`` (a stripe over all channels), so that equal tensors meet equal
    channels. Spilled activations keep their own addresses for the whole run.
    """
    places: dict[str, TensorPlace] = {}
    next_address = 0
    for tensor in (tensor for use in uses for tensor in use.all):
        if tensor.name in places:
            continue
        nbytes = stored_bytes(tensor.dtype, tensor.elements)
        if tensor.name in residents:
            places[tensor.name] = TensorPlace(tensor.name, tensor.shape, tensor.dtype, tensor.role, target.sram, 0, nbytes,
                                              resident=True)
            continue
        layout = layouts.get(tensor.name)
        places[tensor.name] = TensorPlace(tensor.name, tensor.shape, tensor.dtype, tensor.role, target.memory, next_address,
                                          nbytes, order=layout.order if layout is not None else None)
        next_address += -(-nbytes // target.alignment_bytes) * target.alignment_bytes
    if next_address > target.memory_bytes:
        _refuse(places, next_address, target)
    return places


def refuse_too_large(uses: Sequence[Uses], target: Target) -> None:
    """A ConfigError where what cannot stay on chip is more than the DRAM holds: said before any search of mappings."""
    place_tensors(uses, {t.name for use in uses for t in use.all if t.role == "activation"}, {}, target)


def _refuse(places: Mapping[str, TensorPlace], wanted_bytes: int, target: Target) -> None:
    by_role: dict[str, int] = {}
    for place in places.values():
        if not place.resident:
            by_role[place.role] = by_role.get(place.role, 0) + place.nbytes
    parts = ", ".join(f"{role} {nbytes}" for role, nbytes in sorted(by_role.items(), key=lambda item: -item[1]))
    raise ConfigError(
        f"the run wants {wanted_bytes} bytes of {target.memory!r} ({parts}); {target.machine!r} has {target.memory_bytes} there",
        key=f"parts.{target.memory}", value=target.memory_bytes,
        mend=f"take a memory of at least {wanted_bytes} B, a narrower weight or KV format, a smaller batch or context, or a "
             "smaller model")
