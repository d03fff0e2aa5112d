"""An oddity of FuseMax's artifact: reads of the buffer that its tool counts at long sequences, and that nobody makes.

Timeloop leaves out the first read of each output word ("elision"). The number left out comes by way of a product of words
written and words of a tile, in 64 bits: at 64K to 1M tokens it wraps, less is left out than should be, and the artifact adds
reads of scores, exponentials or running outputs that are never read. Found from the artifact's energies: the words in excess
are whole multiples of the buffer's read energy at every point that shows them, for BERT at 256K tokens 2⁴³ of 12·2⁴⁰ words. Our
own counts do not have them; a comparison with the artifact adds them, and says so.
"""

from __future__ import annotations

from ..arch.einsum_arrays import EinsumMachine
from ..mapping.cascade import Tiling
from ..mapping.flat import AttentionShape, FlatMapping


def excess_reads(written_words: int, tile_words: int) -> int:
    """Words that are counted as read although their first read should be left out."""
    return written_words - (written_words * tile_words) % 2**64 // tile_words


def cascade_excess(shape: AttentionShape, cut: Tiling, machine: EinsumMachine, on_lanes: bool) -> int:
    """Running outputs of every key tile; where the scores pass through the buffer (*on_lanes*), scores and exponentials too."""
    outputs = shape.heads * cut.key_tiles * shape.queries * shape.f
    excess = excess_reads(outputs, cut.resident * machine.n * shape.f)
    return excess + on_lanes * 2 * excess_reads(shape.scores, cut.resident * machine.n**2)


def softmax_excess(shape: AttentionShape) -> int:
    """Exponentials, a row at a time."""
    return excess_reads(shape.scores, shape.keys)


def flat_excess(shape: AttentionShape, mapping: FlatMapping) -> int:
    """Exponentials; where scores are on chip, scores by blocks of fused rows, and weights."""
    on_chip = excess_reads(shape.scores, mapping.rows * shape.keys) + softmax_excess(shape) if mapping.scores_on_chip else 0
    return softmax_excess(shape) + on_chip
