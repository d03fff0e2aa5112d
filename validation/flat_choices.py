"""FLAT's own mapping choices beside our search's: which are equal, what they move, and what FLAT's tool must have looked for.

The artifact lists what FLAT's tool chose at 24 points (``data/flat_mappings.csv``) and that tool's latency for each. The latencies
are those of the 2-D array or of DRAM at 400 GiB/s, whichever is longer; softmax is not in them. Up to 64K tokens the array is
longer and many placements tie; the tool keeps one that holds scores in the array's registers (output stationary: QK takes E
cycles a tile, not n) and moves more bytes than it must. Our search makes DRAM bytes small. Beyond, DRAM is longer, and both choose
alike, though the tool counts about half the bytes that the artifact's Timeloop runs, and we, do (outputs that are added to are
not read back).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..arch.einsum_arrays import FLAT
from ..mapping.flat import AttentionShape, FlatMapping, best_mapping, mappings, traffic
from .fusemax import LENGTHS, MODELS, published_mapping
from .reproduction import Figure

#: The tool's DRAM (FuseMax's artifact, src/accel/flat.py): its latencies from 256K tokens on are its own bytes at this rate.
FLAT_DRAM_BYTES_PER_S = 400 * 2**30
_EQUAL = 1e-9
_CHOICES, _BYTES = "FLAT's mapping choices", "GB of DRAM moved by FLAT's mapping"
_FEWER = ("FLAT's tool makes the time of its array or DRAM short, whichever is longer; where that is the array's it keeps the "
          "output-stationary order, of less array time, and moves bytes that our search, which makes bytes few, saves")
_TIES = "the same bytes as our choice: where the outputs of a row stay does not matter"
_SPILL = ("at XLM/4K scores do not fit whole; we charge a spilled score once for each of its seven transfers, as the artifact's "
          "Timeloop runs do, and FLAT's tool fewer, so that another mapping is faster here and not there")


@dataclass(frozen=True, slots=True)
class Choice:
    """One point: what FLAT's tool chose and what our search finds, the DRAM bytes of both, and whether the tool's choice is the
    fastest of the space by the tool's own measure."""

    model: str
    seq_len: str
    published: FlatMapping
    ours: FlatMapping
    published_bytes: float
    our_bytes: float
    is_fastest: bool

    @property
    def moves_as_much(self) -> bool:
        return abs(self.published_bytes / self.our_bytes - 1) <= _EQUAL


def flat_choices() -> tuple[Choice, ...]:
    """All 24 points."""
    found = []
    for model in MODELS:
        for seq_len, tokens in LENGTHS.items():
            shape, published = MODELS[model].attention(tokens), published_mapping(model, seq_len)
            ours = best_mapping(shape, FLAT)
            best_s = min(flat_tool_seconds(shape, mapping) for mapping in mappings(shape, FLAT))
            found.append(Choice(model, seq_len, published, ours, traffic(shape, published, FLAT).total_bytes,
                                traffic(shape, ours, FLAT).total_bytes,
                                flat_tool_seconds(shape, published) <= best_s * (1 + _EQUAL)))
    return tuple(found)


def flat_tool_seconds(shape: AttentionShape, mapping: FlatMapping) -> float:
    """FLAT's measure of a mapping, with the bytes as we count them: its 2-D array or its DRAM, whichever takes longer."""
    return max(array_seconds(shape, mapping), traffic(shape, mapping, FLAT).total_bytes / FLAT_DRAM_BYTES_PER_S)


def array_seconds(shape: AttentionShape, mapping: FlatMapping) -> float:
    """QK and AV on the 2-D array, one after the other."""
    n = FLAT.n
    qk_cycles = shape.e if mapping.stationarity == "output" else n
    return shape.heads * -(-shape.queries // n) * -(-shape.keys // n) * (qk_cycles + n) / FLAT.clock_hz


def claims() -> list[Figure]:
    """How many of the choices are as ours, and how many are best by FLAT's measure."""
    found = flat_choices()
    counts = (("the same mapping", sum(one.published == one.ours for one in found), _FEWER),
              ("the same bytes", sum(one.moves_as_much for one in found), _FEWER),
              ("fastest by FLAT's measure", sum(one.is_fastest for one in found), _SPILL))
    return [Figure(f"{what}/of 24", _CHOICES, float(len(found)), float(count), "equal" if count == len(found) else why)
            for what, count, why in counts]


def points() -> list[Figure]:
    """GB that either choice moves, with the reason where they differ."""
    return [Figure(f"{one.model}/{one.seq_len}/FLAT", _BYTES, one.published_bytes / 1e9, one.our_bytes / 1e9, _reason(one))
            for one in flat_choices()]


def _reason(one: Choice) -> str:
    if one.published == one.ours:
        return "equal"
    if one.moves_as_much:
        return _TIES
    if one.our_bytes < one.published_bytes:
        return _FEWER if one.is_fastest else _SPILL
    return "unexplained"
