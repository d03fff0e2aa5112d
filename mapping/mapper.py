"""From an operator graph and a machine to a tile program.

The road: bind operators to tensors, choose which activations stay on chip, share out the scratchpad, lay out the weights, place
everything in DRAM, lower each distinct operator once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields, replace

from ..arch.machine import MachineConfig
from ..arch.systolic import SystolicConfig
from ..arch.vector import VectorConfig
from ..memory.sram import SramConfig
from ..sim.errors import ConfigError
from ..sim.program import Segment, Step, TileProgram
from ..workloads.graph import OperatorGraph, program_order
from ..workloads.operators import Attention, Gemm, KvAppend, Operator
from ..workloads.tensors import Tensor
from .attention import lower_attention
from .attention_tiles import Heads
from .constraints import Constraints
from .exchange import lower_collective
from .gemm import choose_plan, lower_gemm, weight_layout
from .images import filter_layout, lower_conv, lower_pool
from .placement import Residents, Uses, choose_residents, place_tensors, refuse_too_large
from .rates import rates_of
from .recurrent import lower_lstm_cell
from .routing import lower_combine, lower_dispatch
from .search import EQUAL
from .storage import Blocked
from .target import SHARES, AttentionStyle, FixedShares, Objective, Site, Target, share_out
from .tiles import Operand
from .vector_ops import (
    lower_elementwise,
    lower_embedding,
    lower_kv_append,
    lower_norm,
    lower_rope,
    lower_select_last,
    lower_softmax,
)

Lowering = Callable[[Operator, tuple[Operand, ...], Site], Segment]

#: kind of operator → its lowering function. To add an operator, add one.
LOWERINGS: dict[str, Lowering] = {
    "gemm": lower_gemm,
    "attention": lower_attention,
    "kv_append": lower_kv_append,
    "norm": lower_norm,
    "elementwise": lower_elementwise,
    "rope": lower_rope,
    "softmax": lower_softmax,
    "embedding": lower_embedding,
    "select_last": lower_select_last,
    "conv": lower_conv,
    "pool": lower_pool,
    "lstm_cell": lower_lstm_cell,
    "collective": lower_collective,
    "dispatch": lower_dispatch,
    "combine": lower_combine,
}

#: kind of operator → the storage that its weight (the second input) gets when no other kind or shape of operator reads it.
LAYOUTS: dict[str, Callable[[Operator, tuple[Operand, ...], Site], Blocked | None]] = {"gemm": weight_layout, "conv": filter_layout}


def target_of(machine: MachineConfig, alignment_bytes: int) -> Target:
    """What the mapper must know of *machine*; a ConfigError when it has not exactly one part of each kind."""
    memory, dram = machine.main_memory()
    sram, scratchpad = machine.only(SramConfig, "sram")
    mxu, array = machine.only(SystolicConfig, "systolic")
    vpu, lanes = machine.only(VectorConfig, "vector")
    return Target(machine.name, memory, dram.capacity_bytes, alignment_bytes, sram, scratchpad.capacity_bytes, mxu, array, vpu,
                  lanes, FixedShares(scratchpad.accumulators_bytes, scratchpad.stream_bytes), scratchpad.widens, *rates_of(machine))


def map_graph(
    graph: OperatorGraph, machine: MachineConfig, *, attention: AttentionStyle = "auto",
    token_ids: Sequence[int] | None = None, alignment_bytes: int = 64 << 10, objective: Objective = "latency",
    constraints: Constraints | None = None,
) -> TileProgram:
    """The tile program that runs *graph* on *machine*.

    *attention*: flash (also auto's choice: it moves the fewest bytes) or unfused. *token_ids*: the token of each row, for the
    ranges of the gather; a fixed spread over the vocabulary without. *alignment_bytes*: every DRAM tensor begins at a multiple.
    *objective* is what the search makes small, within *constraints*.
    """
    return map_to_target(graph, target_of(machine, alignment_bytes), attention=attention, token_ids=token_ids, objective=objective,
                         constraints=constraints)


def map_to_target(
    graph: OperatorGraph, target: Target, *, attention: AttentionStyle = "auto", token_ids: Sequence[int] | None = None,
    objective: Objective = "latency", constraints: Constraints | None = None,
) -> TileProgram:
    """The tile program that runs *graph* on *target*."""
    ops = list(program_order(graph))
    if constraints is not None:
        constraints.check({"gemm": [op.name for op in ops if isinstance(op, Gemm)],
                           "attention": [op.name for op in ops if isinstance(op, Attention)]})
    _check_formats(ops, target)
    appends = appends_of(ops)
    uses = [_uses(op, appends, attention) for op in ops]
    refuse_too_large(uses, target)
    site = Site(target, share_out(target.sram_bytes, 0, False, target.shares), attention,
                None if token_ids is None else tuple(token_ids), objective, len(ops) > 1, constraints or Constraints())
    residents, site = _share_out(ops, uses, site)
    room = site.room
    layouts = _layouts(ops, uses, residents, site)
    places = place_tensors(uses, residents.lives, layouts, target)
    numbers = {name: index for index, name in enumerate(places)}
    segments: dict[Hashable, Segment] = {}
    steps: list[Step] = []
    after = _After()
    for index, (op, use) in enumerate(zip(ops, uses, strict=True)):
        operands = _operands(op, use, appends, residents, layouts)
        key = (op.signature, operands, repr(site.constraints.of(op.name)) if site.constraints.operators else "")
        if key not in segments:
            segments[key] = _lower(op, operands, site)
        steps.append(Step(
            operator=op.name, kind=op.kind, segment=segments[key], operands=tuple(numbers[t.name] for t in use.all),
            after=after.of(index, use, _split_caches(op, use)), layer=op.layer,
            produces=tuple(numbers[t.name] for t in (*use.scratch, *use.writes) if t.name in residents.lives),
            retires=tuple(numbers[name] for name in dict.fromkeys(t.name for t in use.all)
                          if name in residents.lives and residents.lives[name].dies == index)))
    return TileProgram(tuple(places.values()), room.pools(target.sram), {target.sram: room.resident_bytes}, tuple(steps),
                       target.widens)


def _check_formats(ops: Sequence[Operator], target: Target) -> None:
    """Refuse weights that are wider than the activations they meet and that nothing can multiply (a 16-bit head on int8 arrays)."""
    formats = tuple(name for name in target.array.dtypes if name in target.array.mac_energy_pj)
    for op in ops:
        if not isinstance(op, Gemm) or target.lanes.multiplies or op.inputs[0].dtype.name not in formats:
            continue
        weights = op.inputs[1]
        if weights.dtype.bits > op.inputs[0].dtype.bits and weights.dtype.name not in formats:
            option = "--embedding" if op.layer is None else "--weights"
            raise ConfigError(f"{op.name}: {weights.name} is {weights.dtype.name}; the systolic array {target.mxu!r} of "
                              f"{target.machine} cannot multiply that", key="dtype", value=weights.dtype.name, allowed=formats,
                              mend=f"add {option} {op.inputs[0].dtype.name}")


def _lower(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    lowering = LOWERINGS.get(op.kind)
    if lowering is None:
        raise ConfigError(f"operator {op.name}: no lowering for kind {op.kind!r}", key="kind", value=op.kind,
                          allowed=tuple(LOWERINGS))
    return lowering(op, operands, site)


def _uses(op: Operator, appends: Mapping[str, KvAppend], attention: AttentionStyle) -> Uses:
    """The step's tensors. Attention also reads the run's own keys and values where they are still activations."""
    if not isinstance(op, Attention):
        return Uses(op.inputs, op.outputs)
    reads: tuple[Tensor, ...] = op.inputs
    scratch: tuple[Tensor, ...] = ()
    append = own_rows(op, appends)
    if append is not None:
        reads = (*reads, *append.inputs)
    if attention == "unfused":
        h = Heads.of(op)
        shape = (h.batch, h.kv_heads, h.q_tokens * h.group, h.kv_tokens)
        scratch = tuple(Tensor(f"{op.name}.{what}", shape, op.inputs[0].dtype, "activation")
                        for what in ("scores", "probabilities"))
    return Uses(reads, op.outputs, scratch)


def appends_of(ops: Iterable[Operator]) -> dict[str, KvAppend]:
    """The append that writes each cache, by the cache's name."""
    return {tensor.name: op for op in ops if isinstance(op, KvAppend) for tensor in op.outputs}


def own_rows(op: Attention, appends: Mapping[str, KvAppend]) -> KvAppend | None:
    """The cache append of the very tokens that query; None when the whole cache must be read from DRAM."""
    key_append, value_append = (appends.get(tensor.name) for tensor in op.inputs[1:3])
    if key_append is None or key_append is not value_append:
        return None
    if (key_append.tokens, key_append.kv_tokens) != (op.q_tokens, op.kv_tokens) or key_append.outputs != op.inputs[1:3]:
        return None
    if op.q_tokens > 1 and key_append.slot != op.kv_tokens - op.q_tokens:
        return None
    return key_append


def _split_caches(op: Operator, use: Uses) -> frozenset[str]:
    """Caches of which the step reads only rows that were there before the run: no append has to be waited for."""
    return frozenset(t.name for t in op.inputs[1:3]) if isinstance(op, Attention) and len(use.reads) > 3 else frozenset()


def _operands(
    op: Operator, use: Uses, appends: Mapping[str, KvAppend], residents: Residents, layouts: Mapping[str, Blocked],
) -> tuple[Operand, ...]:
    own = own_rows(op, appends) if isinstance(op, Attention) else None
    return tuple(
        Operand(index, tensor.shape, tensor.dtype, tensor.role, tensor.name in residents.lives, layouts.get(tensor.name),
                own.slot if own is not None and index in (3, 4) else None)
        for index, tensor in enumerate(use.all))


def _share_out(ops: Sequence[Operator], uses: Sequence[Uses], site: Site) -> tuple[Residents, Site]:
    """What stays on chip and the room of each pool: of the shares that there are, those with the least predicted cost."""
    best: tuple[tuple[float, float], Residents, Site] | None = None
    for shares in SHARES:
        residents = choose_residents(uses, site.target.sram_bytes, site.target.shares, shares)
        room = share_out(site.target.sram_bytes, residents.nbytes, residents.spills, site.target.shares, shares)
        tried = replace(site, room=room)
        if not residents.spills:
            return residents, tried
        cost = _predicted(ops, uses, residents, replace(tried, rough=True))
        if best is None or cost[0] < best[0][0] * (1 - EQUAL) or (cost[0] < best[0][0] * (1 + EQUAL) and cost[1] < best[0][1]):
            best = cost, residents, tried
    assert best is not None
    return best[1], best[2]


def _predicted(ops: Sequence[Operator], uses: Sequence[Uses], residents: Residents, site: Site) -> tuple[float, float]:
    """What the choice of shares makes small: the objective's costs of products and of spilled activations elsewhere; of equals, the
    DRAM traffic of products."""
    rates = site.target.rates
    alike: dict[Hashable, list[int]] = {}
    for index, (op, use) in enumerate(zip(ops, uses, strict=True)):
        on_chip = tuple(t.name in residents.lives for t in use.all)
        alike.setdefault((op.signature, on_chip, op.name if site.constraints.operators else ""), []).append(index)
    seconds = joules = traffic = 0.0
    for indices in alike.values():
        op, use = ops[indices[0]], uses[indices[0]]
        if isinstance(op, Gemm):
            costs = choose_plan(op, _operands(op, use, {}, residents, {}), site, op.inputs[1].role == "weight").costs
            traffic += len(indices) * (costs["a_bytes"] + costs["b_bytes"] + costs["c_bytes"])
            seconds, joules = seconds + len(indices) * costs["seconds"], joules + len(indices) * costs["energy_j"]
        else:
            spilled = sum(t.nbytes for t in use.all if t.role == "activation" and t.name not in residents.lives)
            spill_s = len(indices) * 2 * spilled / rates.read_bytes_per_s
            seconds += spill_s
            joules += spill_s * rates.static_w + len(indices) * 2 * spilled * rates.dram_pj_per_byte * 1e-12
    return {"latency": seconds, "energy": joules, "edp": seconds * joules}[site.objective], traffic


def _layouts(ops: Sequence[Operator], uses: Sequence[Uses], residents: Residents, site: Site) -> dict[str, Blocked]:
    """Blocked storage for each weight that only products of one shape read; others (a tied embedding) stay in C order.

    Its tiles are those of the operator that most operators are like; the others that read it keep to them.
    """
    readers: dict[str, set[Hashable]] = {}
    alike: dict[Hashable, Counter[tuple[Operand, ...]]] = {}
    for op, use in zip(ops, uses, strict=True):
        for position, tensor in enumerate(op.inputs):
            readers.setdefault(tensor.name, set()).add((position, *_layout_key(op, site)))
        if op.kind in LAYOUTS:
            alike.setdefault(_layout_key(op, site), Counter())[_operands(op, use, {}, residents, {})] += 1
    known: dict[Hashable, Blocked | None] = {}
    layouts: dict[str, Blocked] = {}
    for op in ops:
        if op.kind in LAYOUTS and op.inputs[1].role == "weight" and len(readers[op.inputs[1].name]) == 1:
            key = _layout_key(op, site)
            if key not in known:
                known[key] = _common_layout(op, alike[key], site)
            layout = known[key]
            if layout is not None:
                layouts[op.inputs[1].name] = layout
    return layouts


def _layout_key(op: Operator, site: Site) -> tuple[Hashable, ...]:
    """Equal for operators whose weights are stored alike: all but names, whence the first input comes and where it lives."""
    if op.kind not in LAYOUTS:
        return (op.kind,)
    sizes = tuple(getattr(op, field.name) for field in fields(op) if field.type in ("int", "bool"))
    constrained = repr(site.constraints.of(op.name)) if site.constraints.operators else ""
    return (op.kind, sizes, op.inputs[0].dtype, op.inputs[1].dtype, op.inputs[1].role, constrained)


def _common_layout(op: Operator, readers: Counter[tuple[Operand, ...]], site: Site) -> Blocked | None:
    """The storage that suits most of *readers* and that all can keep to; None when there is none."""
    most = readers.most_common(1)[0][0]
    layout = LAYOUTS[op.kind](op, most, site)
    if layout is not None and isinstance(op, Gemm):
        for operands in readers:
            try:
                choose_plan(op, (operands[0], replace(operands[1], layout=layout), *operands[2:]), site, blocked=True)
            except ConfigError:
                return None
    return layout


class _After:
    """Which steps wrote each tensor so far."""

    def __init__(self) -> None:
        self._writers: dict[str, list[int]] = {}

    def of(self, step: int, use: Uses, free: frozenset[str]) -> tuple[tuple[int, ...], ...]:
        """``Step.after`` of *step*, whose reads of *free* tensors wait for nobody; records its writes."""
        reads = [() if tensor.name in free else tuple(self._writers.get(tensor.name, ())) for tensor in use.reads]
        for tensor in use.writes:
            self._writers.setdefault(tensor.name, []).append(step)
        return (*reads, *(() for _ in (*use.scratch, *use.writes)))
