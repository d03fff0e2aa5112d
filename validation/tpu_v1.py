"""Suite `tpu-v1`: the applications of Jouppi et al., ISCA 2017, on the chip ``tpu-v1``, event by event, DDR3 command by command.

The paper gives layers, weights and batch (table 1), TOPS and where the array's cycles went (table 3; here recalled, unverified),
not the layers' shapes. Shapes are what those counts allow (``configs/models/tpu-v1-*.yaml``), in whole 256×256 tiles: the
table's share of useful MACs says how much of the tiles is padding, and padding moves and multiplies like the rest. They
were not chosen by times. What is not modelled: the host (inputs and outputs come from and go to weight memory; of CNN0's
609 µs its input takes 25), 16-bit activations (the LSTMs' arrays are active half as long as measured; they wait for weights
all the same), instruction issue and synchronisation between units beyond an operator's end.

What other shapes of the same counts do, against the measurement: MLP0 as 2000×2000 without padding −0.2 %, as 8×8 tiles a layer
−4.7 %; MLP1 as squares in whole tiles (76 % useful) −21 %, without padding +2 %; LSTM0 padded to 1536 +1 %, in 600×600
matrices −35 %; LSTM1 without padding +114 %; CNN0 as 16 layers of 236 channels −22 %, of 512 channels −9 %. So an agreement
within 15 % says that weight memory is the bound and its rate is right, and little more.

LSTM1's gap is not one of shapes: at the share of useful MACs that was measured, weight memory alone allows 3.8 TOPS, and 2.8
were measured. Nor does the table agree with itself. Its share of weight shifts (17.1 %, 256 cycles a tile) says a tile every 1497
cycles; ours come every 1455. With 96 rows of 768 of which 600 are useful that is 3.6 TOPS; 2.8 are 75 rows. Its share of active
cycles (10.5 %, 192 cycles a tile with 16-bit activations) says a tile every 1830 cycles, 25 GB/s, which for 96 rows is 2.9 TOPS,
while the same reading of LSTM0 gives 1560 cycles and of MLP0 1575. Either its products have fewer rows than its batch, or its
weights come more slowly than the others' do; no source says which, so neither is built in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..arch.machine import load_machine
from ..arch.systolic import SystolicConfig
from ..run import simulate
from ..sim.errors import ConfigError
from ..workloads.graph import totals
from ..workloads.network import inference
from .contract import Row, ValidationResult, compare, skip, summarise

CHIP = "tpu-v1"
MEMORY_BOUND_TOLERANCE_PCT, CNN0_TOLERANCE_PCT, RIDGE_TOLERANCE_PCT = 15.0, 10.0, 1.0


@dataclass(frozen=True, slots=True)
class Application:
    """One application: its batch, the share of its MACs that is not padding, and the measured figures."""

    name: str
    batch: int
    useful_share: float
    tops: float
    active: float
    weight_stall: float
    weight_shift: float | None = None


#: Useful share: weights of table 1 over those of the whole tiles in our network; LSTM1: 600×600 of 768×768.
APPLICATIONS = (
    Application("MLP0", 200, 20e6 / (312 * 65536), 12.3, 0.127, 0.539, 0.159),
    Application("MLP1", 168, 5e6 / (85 * 65536), 9.7, 0.106, 0.442, 0.134),
    Application("LSTM0", 64, 1.0, 3.7, 0.082, 0.581, 0.158),
    Application("LSTM1", 96, (600 / 768) ** 2, 2.8, 0.105, 0.621, 0.171),
    Application("CNN0", 8, 1.0, 86.0, 0.782, 0.0, 0.0),
)
#: CNN1's shallow layers decide its time, and no source gives them.
UNKNOWN_SHAPES = {"CNN1": (14.1, "the shapes of its 72 convolutions are not published, and their shallow depth decides its time")}
#: Die power (ibid., table 2): what an application draws on average lies between them, by how much of it works.
IDLE_W, BUSY_W = 28.0, 40.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """TOPS of useful MACs; the array's shares of time at work, idle for want of weights, and shifting them in unhidden."""

    tops: float
    active: float
    weight_stall: float
    weight_shift: float
    power_w: float                        # of the die: without the DDR3 devices
    roofline_ratio: float
    memory_bytes_per_s: float             # read from and written to weight memory


@lru_cache(maxsize=16)
def predict(application: Application) -> Prediction:
    """Run the application on the chip."""
    workload = inference(f"{CHIP}-{application.name.lower()}", batch=application.batch, dtype="int8")
    report = simulate(CHIP, workload)
    array, memory = report.units["mxu"], load_machine(CHIP).main_memory()[0]
    active = array.utilisation or 0.0
    # Waiting for weights overlaps the work on those before; what idles, and waits for nothing else, is the stall.
    other_s = sum(seconds for cause, seconds in array.stalled_s.items() if cause not in ("memory", "link"))
    stalled_s = max(0.0, report.seconds - array.busy_s - other_s)
    return Prediction(
        tops=2e-12 * totals(workload.lower()).macs * application.useful_share / report.seconds, active=active,
        weight_stall=stalled_s / report.seconds, weight_shift=max(0.0, array.busy_s / report.seconds - active),
        power_w=(report.energy_j - report.energy_by_component[memory]) / report.seconds,
        roofline_ratio=report.distance_to_roofline, memory_bytes_per_s=report.memory[memory].bandwidth_bytes_per_s)


def ridge_macs_per_weight_byte() -> float:
    """Rows of activations for each weight tile at which the array is as busy as the weight memory; the paper says about 1350."""
    machine = load_machine(CHIP)
    return machine.only(SystolicConfig, "systolic")[1].peak_macs_per_s / machine.main_memory()[1].peak_bytes_per_s


def validate(reference: Path | None = None) -> ValidationResult:
    """TOPS of the six applications; shares of the array's cycles and power are reported, not judged. Its figures ship with it."""
    if reference is not None:
        raise ConfigError("no table of TPU v1 is read: its measured figures ship", file=str(reference),
                          mend="leave --reference out")
    rows: list[Row] = []
    for application in APPLICATIONS:
        ours, name = predict(application), application.name
        group = "cnn0" if name == "CNN0" else "memory-bound"
        tolerance = CNN0_TOLERANCE_PCT if group == "cnn0" else MEMORY_BOUND_TOLERANCE_PCT
        rows.append(compare(f"{name}/tops", group, application.tops, ours.tops, tolerance))
        for quantity, measured, got in (("active", application.active, ours.active),
                                        ("weight_stall", application.weight_stall, ours.weight_stall),
                                        ("weight_shift", application.weight_shift, ours.weight_shift)):
            if measured is not None:
                rows.append(compare(f"{name}/array_{quantity}", f"shares:{quantity}", measured, got, 100.0))
    rows += [skip(f"{name}/tops", "unknown shapes", measured, reason) for name, (measured, reason) in UNKNOWN_SHAPES.items()]
    rows.append(compare("CNN0/power_w", "power:idle given", BUSY_W, predict(APPLICATIONS[-1]).power_w, 100.0))
    rows.append(compare("ridge/macs_per_weight_byte", "ridge", 1350.0, ridge_macs_per_weight_byte(), RIDGE_TOLERANCE_PCT))
    tolerances = {"memory-bound": MEMORY_BOUND_TOLERANCE_PCT, "cnn0": CNN0_TOLERANCE_PCT, "ridge": RIDGE_TOLERANCE_PCT}
    return ValidationResult(CHIP, tuple(rows), tuple(summarise(rows, tolerances)))
