"""Suite `fusemax`: FuseMax, its ablations and FLAT against the authors' artifact (Nayak et al., MICRO 2024).

The artifact's memory is flat: a rate. FLAT runs under the mappings that the artifact took from FLAT's own tool; what our search
finds (never more traffic) is in :func:`flat_search`. Arithmetic means over 4 models and 6 lengths are the paper's headline;
geometric means stand beside them in :func:`headline`. Rows may have other lengths (``2K``, ``2M``, ``2097152``) and a column
``batch``; where the artifact has no mapping of FLAT's tool, our search's is run and the row says so. A row that names no model,
length or design that there is is skipped with its reason; the others count.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Literal

from ..arch.einsum_arrays import BUFFER_LINE_WORDS, FLAT, FUSEMAX, WORD_BYTES, EinsumMachine
from ..mapping.cascade import Design, run
from ..mapping.cascade_energy import Actions, cascade_actions, energy_pj, flat_actions, linear_actions, unfused_actions
from ..mapping.flat import AttentionShape, FlatMapping, best_mapping, traffic
from ..mapping.flat_run import CHUNK_ROWS, SOFTMAX_OPS, AttentionRun, run_flat, run_unfused
from .contract import Row, ValidationResult, skip, summarise
from .fusemax_hbm import KEY_PROBE, chunk_ends, chunk_probe, fits_the_loop, layout_ends, streamed_memory
from .tables import compared, find_tables, number, records, whole
from .timeloop_elision import cascade_excess, flat_excess, softmax_excess

COLUMNS = ("model", "seq_len", "design", "attn_latency_s")
DESIGNS = ("unfused", "FLAT", "+cascade", "+architecture", "+binding(FuseMax)")
QUANTITIES = {"attn_latency_s": "latency", "attn_energy_pJ": "energy", "attn_dram_bytes": "bytes", "util_2d": "util",
              "util_1d": "util", "linear_layers_latency_s": "latency:linear", "linear_layers_energy_pJ": "energy:linear"}
#: The artifact's flat memory; HBM simulated by command, as the rate at which it carries a design's stream or in the loop.
MemoryKind = Literal["ideal", "hbm", "loop"]
#: What a row's memory is, said beside it.
LABELS = {"ideal": "flat: a rate", "hbm": "HBM by command, as the rate of its stream", "loop": "HBM by command, in the loop"}
TOLERANCE_PCT: dict[MemoryKind, float] = {"ideal": 1.0, "hbm": 10.0, "loop": 10.0}
#: Writes among a design's DRAM bytes: FuseMax's cascade stores one tensor of four; FLAT and unfused write scores and weights.
WRITE_SHARE = {"unfused": 0.5, "FLAT": 0.5, "+cascade": 0.25, "+architecture": 0.25, "+binding(FuseMax)": 0.25}
DATA = Path(__file__).parent / "data"
BATCH = 64
LENGTHS = {"1K": 2**10, "4K": 2**12, "16K": 2**14, "64K": 2**16, "256K": 2**18, "1M": 2**20}
_CASCADES: dict[str, Design] = {"+cascade": "cascade", "+architecture": "architecture", "+binding(FuseMax)": "binding"}


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder layer of the paper: width d, heads, width of a head, width of the feed-forward layer."""

    d: int
    heads: int
    e: int
    s: int

    def attention(self, tokens: int, batch: int = BATCH) -> AttentionShape:
        return AttentionShape(batch * self.heads, tokens, tokens, self.e, self.e)


#: The artifact's four models (flat_validation.csv: D, H, E = F, S).
MODELS = {"BERT": Encoder(768, 12, 64, 3072), "TrXL": Encoder(1024, 16, 64, 4096), "T5": Encoder(512, 8, 64, 2048),
          "XLM": Encoder(2048, 16, 128, 8192)}


@dataclass(frozen=True, slots=True)
class Point:
    """One (model, length, design): attention and linear layers, in the artifact's columns."""

    attn_latency_s: float
    attn_energy_pJ: float
    attn_dram_bytes: float
    util_2d: float
    util_1d: float
    linear_layers_latency_s: float
    linear_layers_energy_pJ: float


@lru_cache(maxsize=512)
def point(
    model: str, seq_len: str, design: str, memory: MemoryKind = "ideal", oddities: bool = True, searched: bool = False,
    batch: int = BATCH,
) -> Point:
    """Simulate one point on the artifact's flat memory, or on HBM of its pin rate simulated by command.

    *oddities*: add the reads that the artifact's tool counts in excess (``timeloop_elision``), for comparison with its energies.
    *searched*: FLAT under the mapping of our search instead of its own tool's. A ValueError for a length that does not tile.
    """
    tokens = _tokens(seq_len)
    shape = MODELS[model].attention(tokens, batch)
    machine = FLAT if design in ("unfused", "FLAT", "+cascade") else FUSEMAX
    mapping = best_mapping(shape, FLAT) if searched else _flat_mapping(model, seq_len, shape)
    in_the_loop = memory == "loop" and _fits_the_loop(shape, mapping, design)
    if memory != "ideal" and not in_the_loop:
        # What moves at a time: rows of scores in unfused and FLAT, a tile of K or V in the cascade.
        words = {"unfused": machine.n * shape.keys, "FLAT": CHUNK_ROWS * shape.keys}
        tile_bytes = WORD_BYTES * words.get(design, machine.n * shape.e)
        machine = replace(machine, memory=streamed_memory(machine.memory.bytes_per_s, WRITE_SHARE[design], tile_bytes))
    found, actions, excess_words = _attention(shape, design, machine, in_the_loop, mapping)
    attention_pj = energy_pj(actions, machine.energies)
    if oddities:
        attention_pj += excess_words * machine.energies.buffer_read / BUFFER_LINE_WORDS
    linear_s, linear_pj = _linear_layers(MODELS[model], tokens, batch, machine)
    return Point(found.cycles / machine.clock_hz, attention_pj, found.dram_bytes, found.busy_2d / found.cycles,
                 found.busy_1d / found.cycles, linear_s, linear_pj)


def _probe(shape: AttentionShape) -> tuple[int, int]:
    return chunk_probe(SOFTMAX_OPS * CHUNK_ROWS * shape.keys / FLAT.n, FLAT.clock_hz)


def _fits_the_loop(shape: AttentionShape, mapping: FlatMapping, design: str) -> bool:
    if design == "FLAT":
        moved = traffic(shape, mapping, FLAT).total_bytes
        return fits_the_loop(moved, shape.heads * -(-shape.queries // CHUNK_ROWS), _probe(shape))
    return design != "unfused"


def _attention(
    shape: AttentionShape, design: str, machine: EinsumMachine, in_the_loop: bool, mapping: FlatMapping,
) -> tuple[AttentionRun, Actions, int]:
    """The run, its actions, and the buffer words that the artifact's tool counts as read in excess."""
    if design == "unfused":
        found = run_unfused(shape, machine)
        return found, unfused_actions(shape, machine, found.dram_bytes), softmax_excess(shape)
    if design == "FLAT":
        if in_the_loop:
            found = run_flat(shape, machine, mapping, lambda chunks: chunk_ends(chunks, machine), _probe(shape))
        else:
            found = run_flat(shape, machine, mapping)
        return found, flat_actions(shape, machine, mapping, found.dram_bytes), flat_excess(shape, mapping)
    # +cascade runs on FLAT's arrays; the artifact gives it FuseMax's buffer, and FLAT's energies.
    arrays = replace(FUSEMAX, memory=machine.memory)
    cascade = (run(shape, arrays, _CASCADES[design], lambda layout: layout_ends(layout, arrays.clock_hz), KEY_PROBE)
               if in_the_loop else run(shape, arrays, _CASCADES[design]))
    actions = cascade_actions(shape, cascade.tiling, machine, _CASCADES[design], cascade.dram_bytes)
    return (AttentionRun(cascade.cycles, cascade.busy_2d, cascade.busy_1d, cascade.dram_bytes,
                         float(WORD_BYTES * shape.heads * shape.queries * shape.f)), actions,
            cascade_excess(shape, cascade.tiling, machine, design == "+cascade"))


def _linear_layers(model: Encoder, tokens: int, batch: int, machine: EinsumMachine) -> tuple[float, float]:
    """Projections and feed-forward of one layer, one after the other on the 2-D array; weights, inputs and outputs move once."""
    inner, batch_tokens = model.heads * model.e, batch * tokens
    widths = [(model.d, inner)] * 3 + [(inner, model.d), (model.d, model.s), (model.s, model.d)]
    macs = [batch_tokens * k * n for k, n in widths]
    moved = [WORD_BYTES * (batch_tokens * (k + n) + k * n) for k, n in widths]
    seconds = sum(max(macs_ / machine.n**2 / machine.clock_hz, bytes_ / machine.memory.bytes_per_s)
                  for macs_, bytes_ in zip(macs, moved, strict=True))
    return seconds, energy_pj(linear_actions(sum(macs), sum(moved), machine), machine.energies)


@lru_cache(maxsize=1)
def _published_mappings() -> Mapping[tuple[str, str], Mapping[str, str]]:
    with (DATA / "flat_mappings.csv").open(newline="", encoding="utf-8") as file:
        return {(row["model"], row["seq_len"]): row for row in csv.DictReader(file)}


def published_mapping(model: str, seq_len: str) -> FlatMapping:
    """The mapping that FLAT's own tool chose."""
    row = _published_mappings()[model, seq_len]
    kept = {name: row[name] == "onchip" for name in ("q", "k", "scores", "v", "av")}
    return FlatMapping(kept["q"], kept["k"], kept["scores"], kept["v"], kept["av"],
                       "weight" if row["stationarity"] == "weight" else "output",
                       LENGTHS[seq_len] if row["rows"] == "all" else int(row["rows"]))


def _flat_mapping(model: str, seq_len: str, shape: AttentionShape) -> FlatMapping:
    """The mapping that FLAT's own tool chose, or our search's where the artifact has none."""
    return published_mapping(model, seq_len) if (model, seq_len) in _published_mappings() else best_mapping(shape, FLAT)


def flat_search() -> dict[tuple[str, str], tuple[float, float]]:
    """DRAM bytes of the published mapping and of the one that our search finds, for every model and length."""
    found = {}
    for model, seq_len in _published_mappings():
        shape = MODELS[model].attention(LENGTHS[seq_len])
        found[model, seq_len] = (traffic(shape, published_mapping(model, seq_len), FLAT).total_bytes,
                                 traffic(shape, best_mapping(shape, FLAT), FLAT).total_bytes)
    return found


@dataclass(frozen=True, slots=True)
class Ratio:
    """FuseMax against FLAT over the 24 points."""

    arithmetic: float
    geometric: float


def headline(
    design: str = "+binding(FuseMax)", memory: MemoryKind = "ideal", oddities: bool = True, searched: bool = False,
) -> dict[str, Ratio]:
    """Speed-ups and energy ratios of *design* against FLAT on *memory*: of attention, and of the layer end to end. The rest is as
    for :func:`point`."""
    ratios: dict[str, list[float]] = {"attention speed-up": [], "end-to-end speed-up": [], "attention energy": [],
                                      "end-to-end energy": []}
    for model in MODELS:
        for seq_len in LENGTHS:
            ours, flat = (point(model, seq_len, which, memory, oddities, searched) for which in (design, "FLAT"))
            ratios["attention speed-up"].append(flat.attn_latency_s / ours.attn_latency_s)
            ratios["end-to-end speed-up"].append((flat.attn_latency_s + flat.linear_layers_latency_s)
                                                 / (ours.attn_latency_s + ours.linear_layers_latency_s))
            ratios["attention energy"].append(ours.attn_energy_pJ / flat.attn_energy_pJ)
            ratios["end-to-end energy"].append((ours.attn_energy_pJ + ours.linear_layers_energy_pJ)
                                               / (flat.attn_energy_pJ + flat.linear_layers_energy_pJ))
    return {name: Ratio(fmean(values), geometric_mean(values)) for name, values in ratios.items()}


def validate(reference: Path | None = None, memory: MemoryKind = "ideal") -> ValidationResult:
    """Compare with the shipped points, or with every file of those columns at *reference* (a file or a folder)."""
    tables = [DATA / "fusemax.csv"] if reference is None else find_tables(reference, COLUMNS, "FuseMax table")
    rows = tuple(row for path in tables for _, record in records(path) for row in _compared(record, memory))
    return ValidationResult("fusemax", rows, tuple(summarise(rows, {row.group: TOLERANCE_PCT[memory] for row in rows})))


def _tokens(seq_len: str) -> int:
    """Tokens of a length as it is written: ``4K``, ``2M``, ``4096``; 0 for what is none."""
    text, factor = (seq_len[:-1], {"K": 2**10, "M": 2**20}[seq_len[-1]]) if seq_len[-1:] in ("K", "M") else (seq_len, 1)
    return factor * (whole(text) or 0)


def _spelled(text: str, allowed: Iterable[str]) -> str:
    """The one of *allowed* that *text* is in other case, or *text*."""
    return {name.lower(): name for name in allowed}.get(text.lower(), text)


def _compared(record: Mapping[str, str], memory: MemoryKind) -> Iterator[Row]:
    """The rows of one line, a quantity each."""
    model, design = _spelled(record["model"], MODELS), _spelled(record["design"], DESIGNS)
    tokens = _tokens(record["seq_len"].upper())
    seq_len = next((name for name, length in LENGTHS.items() if length == tokens), record["seq_len"].upper())
    given = record.get("batch", "")
    batch = whole(given) if given else BATCH
    reason = _lacking(model, record["seq_len"], design, given)
    case = f"{model}/{seq_len}/{design}" + (f"/batch {batch}" if given and batch != BATCH else "")
    more: dict[str, str] = {"memory": LABELS[memory]}
    if reason is None and batch is not None:
        shape = MODELS[model].attention(tokens, batch)
        if memory == "loop" and not _fits_the_loop(shape, _flat_mapping(model, seq_len, shape), design):
            more["memory"] = LABELS["hbm"]
        if design == "FLAT" and (model, seq_len) not in _published_mappings():
            more["mapping"] = "our search's; the artifact has none of this length"
    for column, quantity in QUANTITIES.items():
        if not record.get(column):
            continue
        case_of, group = f"{case}/{column}", f"{quantity}:{design}"
        if reason is not None or batch is None:
            yield skip(case_of, group, number(record[column]), reason or "", **more)
            continue
        ours = partial(_quantity, column, model, seq_len, design, memory, batch)
        yield compared(case_of, group, record[column], ours, TOLERANCE_PCT[memory], more)


def _quantity(column: str, model: str, seq_len: str, design: str, memory: MemoryKind, batch: int) -> float:
    return float(getattr(point(model, seq_len, design, memory, batch=batch), column))


def _lacking(model: str, seq_len: str, design: str, batch: str) -> str | None:
    """Why a line says nothing that could be run, or None."""
    for name, value, allowed in (("model", model, tuple(MODELS)), ("design", design, DESIGNS)):
        if value not in allowed:
            return f"{name} is {value!r}, which is not known; known are {', '.join(allowed)}"
    if _tokens(seq_len.upper()) < 1:
        return f"seq_len is {seq_len!r}; it must be a number of tokens, such as 4K or 4096"
    if batch and (whole(batch) or 0) < 1:
        return f"batch is {batch!r}; it must be a whole number of at least 1"
    return None
