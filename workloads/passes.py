"""How often a cascade of Einsums must pass over its data, derived from what each Einsum needs.

A cascade is a list of extended Einsums (Odemuyiwa et al., "EDGE", 2024; Nayak et al., "FuseMax", MICRO 2024, section III): each
computes one tensor from others point by point over the ranks that they hold, and reduces the ranks that its output lacks. A
*pass* over a fibre (the elements along a rank, such as all keys of one query) ends where something that was reduced over the whole
fibre is needed to go on with its elements: they must be visited again once all have been visited. Within a pass the fibre streams
by, and no more than one element (one tile, where the rank is split) has to be live; what crosses from one pass to the next must be
kept on chip as a whole fibre, or spilled, or computed again.

Nothing here reassociates: that dividing each weight and dividing their sum give the same is algebra, and another cascade.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, product
from math import prod


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor as an Einsum names it: `ranks` index it.

    `before` is a running rank, of which the coordinate before is meant (the tensor's initial value at the first one); `last` is one
    of which the last coordinate alone is meant, which then does not index.
    """

    tensor: str
    ranks: tuple[str, ...]
    before: str | None = None
    last: str | None = None


@dataclass(frozen=True, slots=True)
class Einsum:
    """output = reduction over the ranks that it lacks of `function` of the inputs. `initial`: where it runs along a rank."""

    output: Ref
    function: str
    inputs: tuple[Ref, ...]
    reduction: str | None = None
    initial: float | None = None

    @property
    def name(self) -> str:
        return self.output.tensor

    @property
    def ranks(self) -> tuple[str, ...]:
        """Its iteration space, each rank once."""
        return tuple(dict.fromkeys(rank for ref in (self.output, *self.inputs) for rank in ref.ranks))


@dataclass(frozen=True, slots=True)
class Cascade:
    """Einsums in any order, and the ranks whose fibre the passes are counted over: one, or the outer and inner one of a split."""

    name: str
    einsums: tuple[Einsum, ...]
    fibre: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """The tensors that no Einsum computes, and their ranks."""
        made = {einsum.name for einsum in self.einsums}
        return {ref.tensor: ref.ranks for einsum in self.einsums for ref in einsum.inputs if ref.tensor not in made}

    @property
    def ranks_of(self) -> dict[str, tuple[str, ...]]:
        """The ranks of every tensor."""
        return self.inputs | {einsum.name: einsum.output.ranks for einsum in self.einsums}

    def in_order(self) -> list[Einsum]:
        """The Einsums so that each comes after those whose results it takes at the same coordinate."""
        by_name = {einsum.name: einsum for einsum in self.einsums}
        if len(by_name) < len(self.einsums):
            raise ValueError(f"{self.name}: two Einsums compute one tensor")
        needs = {einsum.name: sorted({ref.tensor for ref in einsum.inputs if ref.before is None} & by_name.keys())
                 for einsum in self.einsums}
        try:
            return [by_name[name] for name in TopologicalSorter(needs).static_order()]
        except CycleError as error:
            raise ValueError(f"{self.name}: {' needs '.join(reversed(error.args[1]))}") from None


@dataclass(frozen=True, slots=True)
class _Life:
    """A tensor on chip: its ranks but the fibre's outer one, whether it holds that one, and the moments at which it is used."""

    tensor: str
    others: tuple[str, ...]
    is_fibre: bool
    moments: frozenset[int]
    is_carried: bool
    takes_turns: bool


@dataclass(frozen=True)
class Passes:
    """What :func:`analyse` found. Passes count from 1.

    `of_einsum`: the pass in which an Einsum runs, as its elements stream by; None when it runs after a pass, over statistics.
    `after`: the pass after which an Einsum of no pass runs, 0 when it needs none.
    """

    cascade: Cascade
    of_einsum: Mapping[str, int | None]
    after: Mapping[str, int]

    @property
    def count(self) -> int:
        """Passes over the fibre."""
        return max((number for number in self.of_einsum.values() if number is not None), default=0)

    def of(self, tensor: str) -> tuple[int, ...]:
        """The passes in which *tensor* is computed or used, in order; those of statistics that are used between passes not."""
        return tuple(sorted({number for einsum in self.cascade.einsums if (number := self.of_einsum[einsum.name]) is not None
                             and tensor in {ref.tensor for ref in (einsum.output, *einsum.inputs)}}))

    def visits(self, tensor: str) -> int:
        """How often the fibres of *tensor* pass by."""
        return len(self.of(tensor))

    def is_carried(self, tensor: str) -> bool:
        """Whether elements along the fibre of *tensor* outlive the pass that computes them: used in a later one, or between."""
        outer, ranks = self.cascade.fibre[0], self.cascade.ranks_of[tensor]
        if outer not in ranks or tensor in self.cascade.inputs or tensor in self.cascade.outputs:
            return False
        return any(self._when(user.name) > self._when(tensor) for user in self.users(tensor))

    def users(self, tensor: str) -> list[Einsum]:
        """The Einsums that take elements of *tensor* along its fibre."""
        return [einsum for einsum in self.cascade.einsums
                if any(ref.tensor == tensor and ref.last is None for ref in einsum.inputs)]

    def _when(self, einsum: str) -> int:
        """Order of moments: 2 d while pass d streams, 2 d + 1 after it."""
        number = self.of_einsum[einsum]
        return 2 * number if number is not None else 2 * self.after[einsum] + 1

    @property
    def carried(self) -> tuple[str, ...]:
        """The tensors that must be kept or spilled as whole fibres between passes, in order of their Einsums."""
        return tuple(einsum.name for einsum in self.cascade.in_order() if self.is_carried(einsum.name))

    @cached_property
    def _tensors(self) -> tuple[_Life, ...]:
        """When each tensor is on chip."""
        outer, lives = self.cascade.fibre[0], []
        running = {ref.tensor for einsum in self.cascade.einsums for ref in einsum.inputs if ref.before == outer}
        for tensor, ranks in self.cascade.ranks_of.items():
            moments = frozenset(self._when(einsum.name) for einsum in self.cascade.einsums
                                if tensor in {ref.tensor for ref in (einsum.output, *einsum.inputs)})
            lives.append(_Life(tensor, tuple(rank for rank in ranks if rank != outer), outer in ranks, moments,
                               is_carried=self.is_carried(tensor),
                               takes_turns=tensor not in running and tensor not in self.cascade.inputs))
        return tuple(lives)

    def live_elements(
        self, extents: Mapping[str, int], in_turn: str | None = None, spilled: Iterable[str] = (), held: Iterable[str] = (),
    ) -> int:
        """Elements that must be on chip at once, at most, for the *extents* of all ranks.

        Of each tensor a tile along the fibre (one coordinate of its outer rank), whole fibres of what is carried and not *spilled*
        and of inputs that are *held*, and results that are still to be used. Where the last pass over one carried tensor makes
        another, tile by tile the one makes room for the other. Ranks other than the fibre's have the extents given: those of the
        queries that are on chip, not of all. Those of rank *in_turn* meet a tile one after the other: what is computed on the way
        and does not run along the fibre has one coordinate of it at a time.
        """
        left_out, resident, tiles = set(spilled), set(held), extents[self.cascade.fibre[0]]

        def live(moment: int) -> int:
            at_hand = ending = starting = 0
            for one in self._tensors:
                elements = prod(extents[rank] for rank in one.others)
                first, last = min(one.moments, default=0), max(one.moments, default=-1)
                if one.is_fibre and one.tensor in resident:
                    at_hand += elements * tiles
                elif one.is_fibre and (not one.is_carried or one.tensor in left_out):                # streams by
                    turns = extents[in_turn] if in_turn in one.others and one.takes_turns else 1
                    at_hand += elements // turns if moment in one.moments else 0
                elif not first <= moment <= last:
                    continue
                elif one.is_fibre and moment == last and moment % 2 == 0:
                    ending += elements
                elif one.is_fibre and moment == first and moment % 2 == 0:
                    starting += elements
                else:
                    at_hand += elements * (tiles if one.is_fibre else 1)
            return at_hand + max(tiles * ending + starting, ending + tiles * starting)

        return max(live(moment) for moment in range(2, 2 * self.count + 2))

    def moved_elements(
        self, extents: Mapping[str, int], blocks: int = 1, spilled: Iterable[str] = (), held: Iterable[str] = (),
    ) -> int:
        """Elements that pass between chip and memory for the *extents* of all ranks, the other ranks worked on in *blocks*.

        Inputs along the fibre come in once for each pass over them and each block, once at all where they are *held*; other inputs
        and results move once; what is *spilled* is written once and read whenever it is used later.
        """
        ranks_of, resident, outer = self.cascade.ranks_of, set(held), self.cascade.fibre[0]
        moved = 0
        for tensor, ranks in self.cascade.inputs.items():
            size = prod(extents[rank] for rank in ranks)
            moved += size * (self.visits(tensor) * blocks if outer in ranks and tensor not in resident else 1)
        moved += sum(prod(extents[rank] for rank in ranks_of[tensor]) for tensor in self.cascade.outputs)
        for tensor in spilled:
            made = self._when(tensor)
            later = {self._when(user.name) for user in self.users(tensor)} - {made}
            moved += prod(extents[rank] for rank in ranks_of[tensor]) * (1 + len(later))
        return moved

    def least_moved_elements(self, extents: Mapping[str, int], on_chip_elements: int, blocked: str) -> int | None:
        """The least that this cascade moves with *on_chip_elements* while rank *blocked* (the queries) is worked on in blocks.

        What is carried is kept, or spilled all of it; each input along the fibre is held, or streams by for each block. None when
        not one coordinate of *blocked* fits in any of these ways.
        """
        along = [tensor for tensor, ranks in self.cascade.inputs.items() if self.cascade.fibre[0] in ranks]
        choices = [held for count in range(len(along) + 1) for held in combinations(along, count)]
        found = []
        for spilled, held in product({(), self.carried}, choices):
            rows = self._rows_that_fit(extents, on_chip_elements, blocked, spilled, held)
            if rows:
                found.append(self.moved_elements(extents, -(-extents[blocked] // rows), spilled, held))
        return min(found, default=None)

    def _rows_that_fit(
        self, extents: Mapping[str, int], on_chip_elements: int, blocked: str, spilled: tuple[str, ...], held: tuple[str, ...],
    ) -> int:
        """The most coordinates of *blocked* whose live elements fit; 0 when not one's do."""
        return bisect_right(range(1, extents[blocked] + 1), on_chip_elements,
                            key=lambda rows: self.live_elements({**extents, blocked: rows}, blocked, spilled, held))


def analyse(cascade: Cascade) -> Passes:
    """The least passes in which *cascade* can be computed, and when each Einsum runs.

    A moment is 2 d while pass d streams by and 2 d + 1 after it; what is given is there at 1. An Einsum over the whole fibre runs
    in the first pass at whose start all that it needs of whole fibres is complete. One that holds the outer rank alone (statistics
    of tiles) goes along where its inputs stream, and needs no pass of its own where they are complete.
    """
    outer, order = cascade.fibre[0], cascade.in_order()
    ready = dict.fromkeys(cascade.ranks_of, 1)
    of_einsum: dict[str, int | None] = {}
    after: dict[str, int] = {}
    is_settled = False
    while not is_settled:
        is_settled = True
        for einsum in order:
            start = max((ready[ref.tensor] | (ref.last == outer) for ref in einsum.inputs), default=1)
            if set(cascade.fibre) <= set(einsum.ranks):
                number: int | None = (start + 1) // 2
            else:
                number = start // 2 if start % 2 == 0 and outer in einsum.ranks else None
            now = start if number is None else 2 * number + (outer not in einsum.output.ranks)
            of_einsum[einsum.name], after[einsum.name] = number, start // 2
            is_settled &= now == ready[einsum.name]
            ready[einsum.name] = now
            if now > 2 * len(order) + 1:
                raise ValueError(f"{cascade.name}: {einsum.name} waits for itself")
    return Passes(cascade, of_einsum, after)


@dataclass(frozen=True, slots=True)
class Crossings:
    """Fibres of elements that one unit reads from, and writes to, the memory that it shares with the others."""

    reads: int
    writes: int

    @property
    def total(self) -> int:
        return self.reads + self.writes


def crossings(passes: Passes, unit_of: Mapping[str, str], *, keeps_fibre: bool) -> dict[str, Crossings]:
    """How often the intermediate fibres of a cascade go between units that share a memory, for each element of the fibre.

    *unit_of* says which unit computes each Einsum over the fibre. In one pass of one unit, an element that was just computed or
    read is at hand for all its Einsums. A unit that *keeps the fibre* has it at hand from pass to pass as well.
    """
    whole = set(passes.cascade.fibre)
    reads, writes = dict.fromkeys(unit_of.values(), 0), dict.fromkeys(unit_of.values(), 0)

    def place(einsum: str) -> tuple[str, int | None]:
        return unit_of[einsum], None if keeps_fibre else passes.of_einsum[einsum]

    for einsum in passes.cascade.einsums:
        if not whole <= set(einsum.output.ranks):
            continue
        elsewhere = {place(user.name) for user in passes.users(einsum.name)} - {place(einsum.name)}
        for unit, _ in elsewhere:
            reads[unit] += 1
        writes[unit_of[einsum.name]] += bool(elsewhere)
    return {unit: Crossings(reads[unit], writes[unit]) for unit in reads}
