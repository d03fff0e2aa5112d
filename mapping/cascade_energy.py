"""Energy of fused and unfused attention, and of linear layers, from action counts: DRAM lines, buffer lines, functional units.

The counts follow from the loop nests; they were settled with 70 of the 120 energies of FuseMax's artifact in sight.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..arch.einsum_arrays import BUFFER_LINE_WORDS, DRAM_LINE_BYTES, EinsumEnergies, EinsumMachine
from .cascade import Design, Tiling
from .flat import HANDING, PASSING, AttentionShape, FlatMapping

#: MACs and adds of an exponential where there is no unit for it, on either FuseMax array.
TAYLOR_MACS, TAYLOR_ADDS = 6, 1
#: Reads and writes of the buffer for each score while softmax alone holds its rows there: those of its passes, the rows coming in
#: instead of the weights going out.
SOFTMAX_READS = PASSING["softmax"].reads
SOFTMAX_WRITES = PASSING["softmax"].writes - HANDING["softmax"].writes + HANDING["softmax"].reads

Actions = Mapping[str, float]


def prices_pj(energies: EinsumEnergies) -> dict[str, float]:
    """What one action costs; words of the buffer and bytes of DRAM are counted, lines are paid."""
    return {
        "dram_bytes": energies.dram_line / DRAM_LINE_BYTES,
        "buffer_read_words": energies.buffer_read / BUFFER_LINE_WORDS,
        "buffer_written_words": energies.buffer_write / BUFFER_LINE_WORDS,
        "register_read_words": energies.register_read, "register_written_words": energies.register_write,
        "mac": energies.mac, "add": energies.add, "max": energies.max, "exp": energies.exp, "divide": energies.divide,
    }


def energy_pj(actions: Actions, energies: EinsumEnergies) -> float:
    """The sum of count times energy."""
    paid = prices_pj(energies)
    return sum(count * paid[action] for action, count in actions.items())


def cascade_actions(shape: AttentionShape, cut: Tiling, machine: EinsumMachine, design: Design, dram_bytes: float) -> Actions:
    """Actions of the one-pass cascade. Each operand word that enters a row or column of the array is one word of the buffer.

    For each tile of n keys and each query: q and k once for each of e steps, v once for each of f, and the running maximum, sum and
    output read and written; the division reads sum and output once more. Columns leave FuseMax's 2-D array through the 1-D array's
    register file: f products with V, a maximum, a sum. On FLAT's arrays the scores also pass through the buffer to the 1-D array,
    which reads them for the maximum and for the exponential.
    """
    tile_queries = shape.heads * cut.blocks * cut.key_tiles * cut.resident * machine.n
    outputs, rows = shape.heads * shape.queries * shape.f, shape.heads * shape.queries
    macs = shape.scores * (shape.e + shape.f) + tile_queries * (1 + shape.f)                 # with SPD, SPNV
    adds = shape.scores + tile_queries * (1 + shape.f)                                       # SLD, RD, RNV
    exponentials = shape.scores + tile_queries                                               # SLN, PRM
    on_lanes = design == "cascade"
    column_words = 0 if on_lanes else tile_queries * (shape.f + 2)
    return {
        "dram_bytes": dram_bytes,
        "buffer_read_words": tile_queries * (2 * shape.e + 2 * shape.f + 2) + outputs + rows + on_lanes * 2 * shape.scores,
        "buffer_written_words": dram_bytes / 2 - outputs + tile_queries * (shape.f + 2) + on_lanes * shape.scores,
        "register_read_words": column_words, "register_written_words": column_words,
        "mac": macs + (0 if on_lanes else TAYLOR_MACS * exponentials),
        "add": adds + exponentials * (1 if on_lanes else TAYLOR_ADDS),
        "exp": exponentials * on_lanes,
        "max": shape.scores + shape.heads * cut.key_tiles * shape.queries,
        "divide": outputs,
    }


def softmax_actions(shape: AttentionShape) -> dict[str, float]:
    """Three-pass softmax: maximum, subtract and exponential, sum, division of every score."""
    scores = float(shape.scores)
    return {"max": scores, "add": 2 * scores, "exp": scores, "divide": scores}


def unfused_actions(shape: AttentionShape, machine: EinsumMachine, dram_bytes: float) -> Actions:
    """Three operators by way of DRAM. Softmax brings each score into the buffer, reads it twice, writes and reads exponentials.

    QK reads both operands of each MAC. AV streams the weights from DRAM past V in the array: it reads V, and the outputs for every
    key tile but the first, and writes them for every one.
    """
    words = shape.scores / machine.n
    outputs = shape.heads * shape.queries * shape.f
    return softmax_actions(shape) | {
        "dram_bytes": dram_bytes,
        "mac": shape.scores * (shape.e + shape.f),
        "buffer_read_words": 2 * words * (shape.e + shape.f) - outputs + SOFTMAX_READS * shape.scores,
        "buffer_written_words": SOFTMAX_WRITES * shape.scores + words * shape.f
        + shape.heads * (shape.queries * shape.e + shape.keys * (shape.e + shape.f)),
    }


def flat_actions(shape: AttentionShape, machine: EinsumMachine, mapping: FlatMapping, dram_bytes: float) -> Actions:
    """FLAT: operands that are off chip stream from DRAM into the array; scores and weights live in the buffer.

    Scores on chip: written, read twice, exponentials written and read, weights written and read. Operands on chip are written once
    for each block of queries (q: once). Outputs on chip are written for each key tile and read for all but the first where K and V
    are pinned; where outputs are, they are written once.
    """
    words = shape.scores / machine.n
    outputs = shape.heads * shape.queries * shape.f
    blocks = -(-shape.queries // mapping.rows)
    read = words * (shape.e * (mapping.q_on_chip + mapping.k_on_chip) + shape.f * mapping.v_on_chip)
    written = float(shape.heads * (shape.queries * shape.e * mapping.q_on_chip + blocks * shape.keys
                                   * (shape.e * mapping.k_on_chip + shape.f * mapping.v_on_chip)))
    if mapping.av_on_chip:
        passes = words * shape.f if mapping.stationarity == "weight" else float(outputs)
        read, written = read + passes - outputs, written + passes
    reads, writes = SOFTMAX_READS, SOFTMAX_WRITES
    if mapping.scores_on_chip:
        reads, writes = (sum(stage.reads for stage in PASSING.values()), sum(stage.writes for stage in PASSING.values()))
    return softmax_actions(shape) | {
        "dram_bytes": dram_bytes,
        "mac": shape.scores * (shape.e + shape.f),
        "buffer_read_words": read + reads * shape.scores,
        "buffer_written_words": written + writes * shape.scores,
    }


def linear_actions(macs: float, dram_bytes: float, machine: EinsumMachine) -> Actions:
    """Linear layers: both operands of every MAC come from the buffer, each word feeding a row or a column."""
    return {"dram_bytes": dram_bytes, "mac": macs, "buffer_read_words": 2 * macs / machine.n,
            "buffer_written_words": dram_bytes / 4}
