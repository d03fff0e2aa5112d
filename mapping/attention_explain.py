"""Why attention is tiled as it is: the notes that its segment carries, and the text that ``--explain`` makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..sim.units import si_text
from ..workloads.passes import Passes
from .attention_search import AttentionChoice
from .attention_space import AttentionTask
from .attention_tiles import AttentionTile
from .search import EQUAL

#: What notes say of the cascade; the last one of designs on two arrays alone.
CASCADE_KEYS = frozenset({"cascade", "key_passes", "carried", "cascade_least_bytes"})


def cascade_notes(passes: Passes) -> dict[str, Any]:
    """What is computed, how often it passes over the keys, and what it carries from pass to pass for each of them."""
    return {"cascade": passes.cascade.name, "key_passes": passes.count, "carried": list(passes.carried)}


def cascade_line(notes: Mapping[str, Any]) -> str:
    """The notes of :func:`cascade_notes` in words."""
    times = "1 pass" if notes["key_passes"] == 1 else f"{notes['key_passes']} passes"
    kept = f"{' and '.join(notes['carried'])} live as whole rows" if notes["carried"] else "a tile of scores is all that is live"
    least = f"; it moves {si_text(notes['cascade_least_bytes'], 'B')} or more" if "cascade_least_bytes" in notes else ""
    return f"cascade {notes['cascade']}: {times} over the keys, {kept}{least}"


def attention_notes(choice: AttentionChoice, task: AttentionTask) -> dict[str, Any]:
    """The choice as plain data, for the report."""
    h = task.heads
    extents = {"sequences": h.batch, "kv_heads": h.kv_heads, "queries": h.q_tokens, "keys": h.kv_tokens, "head_dim": h.head_dim}
    notes: dict[str, Any] = {
        "extents": extents, "predicted": _costs_data(choice.costs), "considered": choice.considered, "judged": choice.judged}
    if choice.runner_up is not None and choice.runner_up_costs is not None:
        notes["runner_up"] = {**_tile_data(choice.runner_up), "predicted": _costs_data(choice.runner_up_costs),
                              "lost_because": _why(choice.costs, choice.runner_up_costs)}
    return notes


def _tile_data(tile: AttentionTile) -> dict[str, Any]:
    return {"unit": tile.unit, "heads_tile": tile.heads, "q_tile": tile.q_tokens, "kv_tile": tile.kv_tokens, "ways": tile.ways}


def _costs_data(costs: Mapping[str, float]) -> dict[str, Any]:
    return {**{key: costs[key] for key in ("seconds", "energy_j", "arrays_s", "lanes_s", "memory_s", "chain_s")},
            "records": round(costs["records"]),
            "dram_bytes": {"q": round(costs["q_bytes"]), "kv": round(costs["kv_bytes"]), "out": round(costs["out_bytes"])},
            "sram_bytes": round(costs["sram_bytes"])}


def _why(won: Mapping[str, float], lost: Mapping[str, float]) -> str:
    """One sentence: what the runner-up costs more."""
    dram, other = (costs["q_bytes"] + costs["kv_bytes"] + costs["out_bytes"] for costs in (won, lost))
    if lost["seconds"] > won["seconds"] * (1 + EQUAL):
        slower = f"{100 * (lost['seconds'] / won['seconds'] - 1):.1f} % slower"
        said = {"arrays": "arrays take", "lanes": "lanes take", "memory": "memory takes",
                "chain": "softmax and product one after the other take"}
        part = max(said, key=lambda name: lost[f"{name}_s"] - won[f"{name}_s"])
        more = lost[f"{part}_s"] - won[f"{part}_s"]
        return f"{slower}: " + (f"{said[part]} {si_text(more, 's')} more" if more > 0 else "its units wait longer for each other")
    records, others = round(won["records"]), round(lost["records"])
    parts = [f"{si_text(other, 'B')} of DRAM traffic against {si_text(dram, 'B')}" if round(other) != round(dram) else "",
             f"{others:,} records against {records:,}" if others != records else ""]
    return "equal in time; " + (", ".join(part for part in parts if part) or "the first that was found is taken")


def attention_lines(notes: Mapping[str, Any]) -> Iterator[str]:
    """Loop nest, bytes by level, predicted time, the runner-up and why it lost."""
    extents, cost = notes["extents"], notes["predicted"]
    dram = cost["dram_bytes"]
    turns = f"   # {notes['ways']} tiles take turns" if notes["ways"] > 1 else ""
    loops = [("sequence", extents["sequences"], 1, "")] if extents["sequences"] > 1 else []
    loops += [("KV head", extents["kv_heads"], notes["heads_tile"], ""),
              ("query", extents["queries"], notes["q_tile"], turns or "   # output, running maximum and sum stay on chip"),
              ("key", extents["keys"], notes["kv_tile"], "   # those that a query of the tile sees; tiles are double-buffered")]
    for depth, (loop, extent, size, text) in enumerate(loops):
        yield f"{'  ' * depth}for {loop} in 0..{extent} step {min(size, extent)}{text}"
    m, keys, width = notes["group"] * notes["q_tile"], notes["kv_tile"], extents["head_dim"]
    heads = notes["heads_tile"]
    yield (f"{'  ' * len(loops)}{notes['unit']}: {heads} × [{m}, {width}]·[{width}, {keys}], online softmax on the lanes, "
           f"{heads} × [{m}, {keys}]·[{keys}, {width}]")
    yield cascade_line(notes)
    yield (f"bytes   DRAM: q {si_text(dram['q'], 'B')}, K and V {si_text(dram['kv'], 'B')} read, out {si_text(dram['out'], 'B')} "
           f"written; scratchpad: {si_text(cost['sram_bytes'], 'B')}")
    yield (f"predicted {si_text(cost['seconds'], 's')}: arrays {si_text(cost['arrays_s'], 's')}, "
           f"lanes {si_text(cost['lanes_s'], 's')}, memory {si_text(cost['memory_s'], 's')} overlap; "
           f"{si_text(cost['energy_j'], 'J')}; {cost['records']:,} records")
    yield f"search  {notes['considered']:,} tiles fit, {notes['judged']:,} timed record by record"
    other = notes.get("runner_up")
    if other is None:
        yield "runner-up none: no other tile fits"
        return
    yield (f"runner-up {other['unit']}, {other['heads_tile']} heads, {other['q_tile']} queries, {other['kv_tile']} keys, "
           f"{other['ways']} in turn: {si_text(other['predicted']['seconds'], 's')}")
    yield f"  lost: {other['lost_because']}"
