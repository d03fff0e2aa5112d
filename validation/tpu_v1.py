"""TPU v1: the six applications of Jouppi et al., ISCA 2017, from weight streaming and systolic cycles.

The paper gives weights, batch, layers and measured TOPS (its tables 1 and 3; here recalled, unverified), not the layers' shapes.
What is modelled: weight tiles of 256×256 arrive at the DDR3 rate, ragged ones whole; a FIFO of four; a tile shifts in while the one
before works; a product takes as many cycles as there are rows of activations (twice with 16-bit activations, as the LSTMs use);
a layer starts when the one before has drained. What is not: host transfers, pooling, the activation unit's throughput.

Sensitivity to the assumed shapes, against the measurement: CNN0 with 236 channels in 16 layers instead of 256 in 14, −11 % instead
of +5 %; MLP1 in layers of 1280×977 instead of squares, +12 % instead of −10 %; LSTM0 in 600×600 matrices, −28 % instead of
+8 %. Real shapes overturn these agreements.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..arch.systolic import SystolicConfig
from ..mapping.in_order import InOrderUnits
from .contract import Row, ValidationResult, compare, skip, summarise

ARRAY = SystolicConfig(type="systolic", rows=256, cols=256, clock_hz=700e6, dtypes=("int8",),
                       mac_energy_pj={"int8": 0.23})         # Jouppi et al., §2; energy: Horowitz, ISSCC 2014, 0.2 + 0.03
WEIGHT_BYTES_PER_S = 34e9             # two channels of DDR3-2133; ibid., §2
FIFO_TILES = 4                        # ibid., figure 1
MEMORY_BOUND_TOLERANCE_PCT, CNN0_TOLERANCE_PCT = 15.0, 10.0


@dataclass(frozen=True, slots=True)
class Application:
    """*layers* products of *rows* activations (batch times positions) by k×n weights; measured and counted figures beside them."""

    name: str
    layers: int
    rows: int
    k: int
    n: int
    activation_passes: int            # 2: 16-bit activations take the 8-bit array twice
    measured_tops: float
    measured_weight_stall: float
    measured_active: float
    shapes: str                       # where k and n come from


#: Table 1: layers, weights, batch. The k and n are the square layers that hold the weights, unless stated.
APPLICATIONS = (
    Application("MLP0", 5, 200, 2000, 2000, 1, 12.3, 0.539, 0.127, "ASSUMED: 20 M weights in 5 equal square layers"),
    Application("MLP1", 4, 168, 1118, 1118, 1, 9.7, 0.442, 0.106, "ASSUMED: 5 M weights in 4 equal square layers"),
    Application("LSTM0", 24, 64, 1472, 1472, 2, 3.7, 0.581, 0.082, "ASSUMED: 52 M weights in 24 equal square layers"),
    Application("LSTM1", 94, 96, 600, 600, 2, 2.8, 0.621, 0.105, "600×600 named in the paper's §7; 34 M weights make 94 of them"),
    Application("CNN0", 14, 8 * 361, 9 * 256, 256, 1, 86.0, 0.0, 0.782,
                "2888 operations a weight byte are 8 boards of 19×19; ASSUMED: 3×3 filters, 256 channels, 8 M weights"),
)
#: CNN1's shallow layers decide its time, and no source gives them.
UNKNOWN_SHAPES = {"CNN1": (14.1, "the shapes of its 72 convolutions are not published, and their shallow depth decides its time")}


@dataclass(frozen=True, slots=True)
class Prediction:
    """TOPS, and the shares of the array's cycles: at work, waiting for weights, waiting for a shift or for the layer before."""

    tops: float
    active: float
    weight_stall: float
    other_stall: float


def ridge_macs_per_weight_byte() -> float:
    """Rows of activations for each weight tile at which the array is as busy as the weight memory; the paper says about 1350."""
    return ARRAY.peak_macs_per_s / WEIGHT_BYTES_PER_S


def predict(application: Application, inferences: int = 4) -> Prediction:
    """Run the layers of some batches back to back, tile by tile; the last batches count."""
    tiles = -(-application.k // ARRAY.rows) * -(-application.n // ARRAY.cols)
    tile_cycles = ARRAY.rows * ARRAY.cols / WEIGHT_BYTES_PER_S * ARRAY.clock_hz
    work = application.rows * application.activation_passes
    drain = ARRAY.rows + ARRAY.cols - 2
    units = InOrderUnits()
    freed: list[float] = []                          # when each tile leaves the FIFO: its shift into the array begins
    waited_for_weights, worked, end, layer_ready = 0.0, 0.0, 0.0, 0.0
    batch_ends: list[tuple[float, float, float]] = []
    for _ in range(inferences):
        for _ in range(application.layers):
            for _ in range(tiles):
                space = freed[-FIFO_TILES] if len(freed) >= FIFO_TILES else 0.0
                fetched = units.run("weight memory", tile_cycles, (space,))
                begun = max(fetched, units.free.get("shift", 0.0))
                shifted = units.run("shift", ARRAY.rows, (fetched, end - work if freed else 0.0))
                freed.append(begun)
                start = max(end, shifted, layer_ready)
                waited_for_weights += max(0.0, min(start, fetched) - max(end, layer_ready))
                end, worked = start + work, worked + work
            layer_ready = end + drain
        batch_ends.append((end, worked, waited_for_weights))
    cycles, work_cycles, waits = (last - first for first, last in zip(batch_ends[0], batch_ends[-1], strict=True))
    macs = (inferences - 1) * application.layers * application.rows * application.k * application.n
    return Prediction(2e-12 * macs / cycles * ARRAY.clock_hz, work_cycles / cycles, waits / cycles,
                      1.0 - (work_cycles + waits) / cycles)


def validate() -> ValidationResult:
    """TOPS of the six applications; shares of active and weight-stalled cycles are reported, not judged."""
    rows: list[Row] = []
    for application in APPLICATIONS:
        ours = predict(application)
        group = "cnn0" if application.name == "CNN0" else "memory-bound"
        tolerance = CNN0_TOLERANCE_PCT if group == "cnn0" else MEMORY_BOUND_TOLERANCE_PCT
        rows.append(compare(f"{application.name}/tops", group, application.measured_tops, ours.tops, tolerance,
                            shapes=application.shapes))
        rows.append(compare(f"{application.name}/array_active", "shares", application.measured_active, ours.active, 100.0))
        rows.append(compare(f"{application.name}/weight_stall", "shares", application.measured_weight_stall, ours.weight_stall,
                            100.0))
    rows += [skip(f"{name}/tops", "unknown shapes", measured, reason) for name, (measured, reason) in UNKNOWN_SHAPES.items()]
    rows.append(compare("ridge/macs_per_weight_byte", "ridge", 1350.0, ridge_macs_per_weight_byte(), 1.0))
    tolerances = {"memory-bound": MEMORY_BOUND_TOLERANCE_PCT, "cnn0": CNN0_TOLERANCE_PCT, "ridge": 1.0}
    return ValidationResult("tpu-v1", tuple(rows), tuple(summarise(rows, tolerances)))
