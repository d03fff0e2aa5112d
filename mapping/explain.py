"""Why a mapping is as it is: the notes that a segment carries, and the text that ``--explain`` makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..sim.units import si_text
from .attention_explain import CASCADE_KEYS, attention_lines, cascade_line
from .gemm_space import GemmPlan, GemmTask
from .search import EQUAL, Choice
from .target import Site


def notes_of(choice: Choice, task: GemmTask, site: Site) -> dict[str, Any]:
    """The choice as plain data, for the report."""
    notes: dict[str, Any] = {**_plan_data(choice.plan), "dataflow": _dataflow(choice.plan, site),
                             "extents": {"batch": task.batch, "m": task.m, "k": task.k, "n": task.n},
                             "predicted": _costs_data(choice.costs, choice.plan, site),
                             "considered": choice.considered, "evaluated": choice.evaluated, "judged": choice.judged}
    if choice.runner_up is not None and choice.runner_up_costs is not None:
        notes["runner_up"] = {**_plan_data(choice.runner_up),
                              "predicted": _costs_data(choice.runner_up_costs, choice.runner_up, site),
                              "lost_because": _why(choice)}
    return notes


def _plan_data(plan: GemmPlan) -> dict[str, Any]:
    return {"unit": plan.unit, "m_tile": plan.m_tile, "k_tile": plan.k_tile, "n_tile": plan.n_tile, "n_block": plan.n_block,
            "outer": plan.outer, "hold": plan.hold, "stationary": plan.stationary, "split_k": plan.split_k}


def _dataflow(plan: GemmPlan, site: Site) -> str:
    return site.target.array.dataflow if plan.unit == site.target.mxu else "output_stationary"


def _costs_data(costs: Mapping[str, float], plan: GemmPlan, site: Site) -> dict[str, Any]:
    clock_hz = site.target.array.clock_hz if plan.unit == site.target.mxu else site.target.lanes.clock_hz
    cycles = round(costs["seconds"] * clock_hz) if costs["seconds"] < math.inf else None    # the tiler refuses what cannot run
    return {"cycles": cycles, "seconds": costs["seconds"], "energy_j": costs["energy_j"],
            "arrays_s": costs["arrays_s"], "lanes_s": costs["lanes_s"], "memory_s": costs["memory_s"], "fill_s": costs["fill_s"],
            "drain_s": costs["drain_s"], "records": int(costs["records"]),
            "dram_bytes": {"a": int(costs["a_bytes"]), "b": int(costs["b_bytes"]), "c": int(costs["c_bytes"])},
            "sram_bytes": int(costs["sram_bytes"])}


def _why(choice: Choice) -> str:
    """One sentence: what the runner-up costs more."""
    won, lost = choice.costs, choice.runner_up_costs
    assert lost is not None
    dram, other = (sum(costs[f"{x}_bytes"] for x in "abc") for costs in (won, lost))
    slower = f"{100 * (lost['seconds'] / won['seconds'] - 1):.1f} % slower"
    if lost["seconds"] > won["seconds"] * (1 + EQUAL):
        part = max(("arrays", "lanes", "memory"), key=lambda name: lost[f"{name}_s"] - won[f"{name}_s"])
        more = lost[f"{part}_s"] - won[f"{part}_s"]
        if more <= 0:
            return f"{slower}: its units wait longer for each other"
        return f"{slower}: {part} take{'' if part.endswith('s') else 's'} {si_text(more, 's')} more"
    parts = [f"{si_text(other, 'B')} of DRAM traffic against {si_text(dram, 'B')}" if other != dram else "",
             f"{lost['records']:.0f} records against {won['records']:.0f}" if lost["records"] != won["records"] else ""]
    return "equal in time; " + (", ".join(part for part in parts if part) or "the first that was found is taken")


def explain(name: str, notes: Mapping[str, Any]) -> str:
    """The text of one operator's mapping: loop nest, bytes by level, predicted cycles, the runner-up and why it lost."""
    if "extents" not in notes:
        plain = {key: value for key, value in notes.items() if key not in CASCADE_KEYS}
        text = f"{name}: " + ", ".join(f"{key} {value}" for key, value in plain.items())
        return f"{text}\n  {cascade_line(notes)}" if "cascade" in notes else text
    lines = attention_lines(notes) if "style" in notes else _lines(notes)
    return "\n".join([f"{name}:", *(f"  {line}" for line in lines)])


def _lines(notes: Mapping[str, Any]) -> Iterator[str]:
    yield from _nest(notes)
    cost = notes["predicted"]
    dram = cost["dram_bytes"]
    yield (f"bytes   DRAM: A {si_text(dram['a'], 'B')}, B {si_text(dram['b'], 'B')} read, C {si_text(dram['c'], 'B')} written; "
           f"scratchpad: {si_text(cost['sram_bytes'], 'B')}")
    yield (f"predicted {cost['cycles']:,} cycles ({si_text(cost['seconds'], 's')}): arrays {si_text(cost['arrays_s'], 's')}, "
           f"lanes {si_text(cost['lanes_s'], 's')}, memory {si_text(cost['memory_s'], 's')} overlap; "
           f"{si_text(cost['energy_j'], 'J')}; {cost['records']:,} records")
    excluded = " (the others excluded by their bound)" if notes["evaluated"] < notes["considered"] else ""
    yield (f"search  {notes['considered']:,} mappings fit, {notes['evaluated']:,} estimates{excluded}, "
           f"{notes['judged']:,} timed record by record")
    other = notes.get("runner_up")
    if other is not None:
        yield (f"runner-up {other['unit']}, outer {other['outer']}, holds {other['hold']}, {other['stationary']} stationary, split "
               f"k {other['split_k']}, tiles m {other['m_tile']} k {other['k_tile']} n {other['n_tile']}, "
               f"block {other['n_block']}: {other['predicted']['cycles']:,} cycles")
        yield f"  lost: {other['lost_because']}"
    else:
        yield "runner-up none: plans of other structures are this one by another name, or their estimates were far off"


def _nest(notes: Mapping[str, Any]) -> Iterator[str]:
    """The loops, outermost first."""
    extents, m, n = notes["extents"], ("m", notes["m_tile"]), ("n", notes["n_block"])
    held = {"none": "", "a": "   # strip of A stays on chip below", "b": "   # strip of B stays on chip below"}[notes["hold"]]
    loops = [("batch", extents["batch"], 1, "")] if extents["batch"] > 1 else []
    outer, inner = (m, n) if notes["outer"] == "m" else (n, m)
    loops += [(outer[0], extents[outer[0]], outer[1], held),
              (inner[0], extents[inner[0]], inner[1], "   # block of C in accumulators")]
    if notes["split_k"] > 1:
        loops.append(("k part", notes["split_k"], 1, "   # sums of its own, added at the end"))
    loops += [("k", extents["k"], notes["k_tile"], "   # tiles are double-buffered"),
              ("n in block", min(notes["n_block"], extents["n"]), notes["n_tile"], "")]
    for depth, (loop, extent, size, text) in enumerate(loops):
        yield f"{'  ' * depth}for {loop} in 0..{extent} step {min(size, extent)}{text}"
    yield (f"{'  ' * len(loops)}{notes['unit']}: [{min(notes['m_tile'], extents['m'])}, {notes['k_tile']}]·[{notes['k_tile']}, "
           f"{min(notes['n_tile'], extents['n'])}], {notes['dataflow']}"
           + (f", {notes['stationary'].upper()} stationary" if notes["dataflow"] == "weight_stationary" else ""))
