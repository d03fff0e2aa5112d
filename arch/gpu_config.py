"""A GPU as data: the board's published facts, and its architecture's few calibrated constants.

The board (`GpuDevice`, `configs/gpus/ID.yaml`) holds what a data sheet or a micro-benchmark says. The architecture
(`GpuArchitecture`, `configs/gpus/architectures/NAME.yaml`) holds what is common to all its boards: the tiles that its
libraries ship, and the constants that `validation/calibrate_gpu.py` fits. `Gpu` is both, and every timing function
takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from ..sim.config import Config, load
from ..sim.errors import ConfigError
from ..sim.units import Bytes, BytesPerSecond, Hertz, Watts

Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

#: Bytes of one element in memory. `fp8_block` and `nvfp4` carry a scale per block: 1/128 and 1/16 of 1 byte more.
ELEMENT_BYTES = {"fp32": 4.0, "tf32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "fp8_block": 1.0 + 4 / 128,
                 "int8": 1.0, "nvfp4": 0.5 + 1 / 16, "mxfp4": 0.5 + 1 / 32, "fp4": 0.5 + 1 / 16, "int4": 0.5 + 2 / 128}
#: The pipes that can multiply each format, the best first: a library widens what the board has no pipe for (fp8 to 16 bits in
#: registers, bf16 to fp32: cuBLAS on boards before Ampere). The weights of mxfp4 and int4 are always widened to 16 bits.
PIPELINES = {"fp32": ("fp32",), "tf32": ("tf32", "fp32"), "fp16": ("fp16", "fp32"), "bf16": ("bf16", "fp32"),
             "fp8": ("fp8", "fp16", "fp32"), "fp8_block": ("fp8", "fp16", "fp32"), "int8": ("int8", "fp16", "fp32"),
             "nvfp4": ("fp4", "fp16", "fp32"), "fp4": ("fp4", "fp16", "fp32"), "mxfp4": ("fp16", "fp32"),
             "int4": ("fp16", "fp32")}
#: Energy of a pipe that was never measured apart, as a share of one that was: bf16 as fp16; int8 as fp8, or half of 16 bits
#: (ASSUMED: half the operand bits; fp8 over fp16 is 0.49–0.63 in the fits of Hopper, Ada and Blackwell).
_ENERGY_KIN = {"bf16": (("fp16", 1.0),), "int8": (("fp8", 1.0), ("fp16", 0.5)), "tf32": (("fp16", 2.0),),
               "fp8": (("fp16", 0.5),), "fp4": (("fp8", 0.5), ("fp16", 0.25))}
#: Formats whose activations arrive in 16 bits and are quantised by a kernel of their own before the GEMM.
QUANTISED = ("fp8", "fp8_block", "nvfp4", "fp4")

PartT = TypeVar("PartT", bound=Config)

DEVICE_FOLDER = Path(__file__).resolve().parent.parent / "configs" / "gpus"


class GpuArchitecture(Config):
    """What the boards of one architecture share. Fields under "calibrated" are fitted, the rest are facts."""

    name: str
    calibrated_on: tuple[str, ...] = ()     # device names of the rows the fit saw; empty: values of the nearest one
    # --- facts of the SM and of the library's kernels ---
    tiles: tuple[tuple[int, int], ...]      # (m, n) of the thread-block tiles that the matrix library ships
    simt_tiles: tuple[tuple[int, int], ...] = ((128, 128), (128, 64), (64, 64), (32, 64), (128, 32), (64, 128))
    simt_batched_tiles: tuple[tuple[int, int], ...] = ()    # of batches, where the library has fewer fp32 kernels for them
    tiles_by_dtype: dict[str, tuple[tuple[int, int], ...]] = Field(default_factory=dict)   # formats with a menu of their own
    threads_per_sm: Annotated[int, Field(ge=1)] = 2048     # resident at most: CUDA C programming guide, technical specifications
    shared_memory_per_sm_bytes: Bytes
    pipeline_stages: Annotated[int, Field(ge=1)]    # k-slices that a main loop keeps in flight at most
    registers_per_sm_bytes: Bytes           # that accumulators may take: the register file, or tensor memory
    sm_l2_bytes_per_cycle: Positive         # width of the SM's port to L2
    overlapped_epilogue: bool               # persistent, warp-specialised kernels store a tile while the next one runs
    exposed_epilogue: tuple[str, ...] = ()  # formats whose kernels do not, on such an architecture
    fp32_matrix_cores: bool = False         # fp32 products run on the matrix cores (CDNA)
    multicast: Positive = 1.0               # SMs that one L2 read of a tile reaches (thread-block clusters)
    dram_latency_ns: Positive
    # Query rows and KV columns that a block of fused attention multiplies whole; FlashAttention-2 over a paged cache: 64 rows
    # (its split-KV kernel; 16 queries against 16400 keys take half of what 128 rows would, on the RTX PRO 6000).
    prefill_tile: tuple[int, int] = (64, 64)
    prefill_packs_gqa: bool = False         # its rows hold the query heads that share K and V, side by side
    # --- assumed: rows do not show them ---
    tile_overhead_us: NotNegative           # prologue and epilogue of one tile that nothing hides
    wave_skew: NotNegative                  # how far SMs drift apart, as a share of a round of tiles
    gemm_l2_share: Share                    # of the L2 peak that tiles of operands reach
    cold_start_us: NotNegative              # first touches of cold data: page walks, DRAM ramp
    # --- calibrated: launch and pipelines ---
    launch_us: Positive                     # start, first wave's fill and drain of an empty kernel inside a CUDA graph
    matmul_efficiency: dict[str, Share]     # issue rate of the main loop over the pipe's peak, by pipeline
    load_latency_us: Positive               # one main-loop load, under load; with the stages it bounds a lone tile
    split_k_us: NotNegative                 # meeting of the parts of a split reduction
    quantise_us: dict[str, NotNegative] = Field(default_factory=dict)
    no_split_k: tuple[str, ...] = ()        # formats whose kernels do not split the reduction
    warm_share: Positive                    # share of L2 that just-written activations may fill and still hit
    warm_weight_share: Positive             # the same of GEMM operands, last read a whole repetition before
    # --- calibrated: fused attention ---
    decode_launch_us: Positive
    decode_cta_us: NotNegative              # one (sequence, kv head) work item: set-up, softmax reduction, store
    decode_stream: Share                    # share of the streaming bandwidth that paged, split KV reads reach
    decode_block_gb_per_s: Positive         # what a lone thread block draws: its loads in flight over their latency
    splits_mha_cache: bool = True           # whether the cache is split when heads do not share K and V (a fact)
    prefill_launch_us: Positive
    prefill_cta_us: NotNegative             # one query tile: set-up, first loads, normalisation, store
    prefill_issue_flops_per_cycle: Positive # products per SM cycle if the matrix pipe were free: instructions around them
    softmax_overlap: Annotated[float, Field(ge=0, le=1)]    # share of the shorter of products and softmax that is hidden
    # --- calibrated: vector kernels ---
    vector_launch_us: Positive
    vector_stream: Share
    vector_l2_share: Share                  # of the L2 peak that streaming kernels reach
    # --- calibrated: grouped GEMM of experts ---
    moe_launch_us: NotNegative              # permute, sort, activation and un-permute kernels around the two GEMMs
    moe_efficiency: Share                   # of the dense main loop
    moe_stream: Share
    # --- power ---
    pj_per_flop: dict[str, Positive]        # board energy of one operation at full clock, by pipeline
    pj_per_dram_byte: Positive
    pj_per_l2_byte: Positive
    pj_per_score: NotNegative               # softmax work of one attention score: exponential, fp32 operations, registers
    voltage_floor: Share                    # V/Vmax where the clock goes to 0: energy per operation falls with V²
    full_voltage_clock_hz: Hertz            # where the energies above are stated; boards of a lower clock run at a lower voltage
    sources: tuple[str, ...] = ()


    def overlaps_epilogue(self, dtype: str) -> bool:
        """Whether the stores of a GEMM tile hide behind the main loop of the next one."""
        return self.overlapped_epilogue and dtype not in self.exposed_epilogue


class GpuLibrary(Config):
    """A generation of kernel libraries: how many passes its kernels make. Boards name the one they are measured with."""

    name: str
    causal_prefix_skip: bool                # prefill skips the blocks that the causal mask empties
    one_shot_allreduce: bool = False        # the engine has an all-reduce kernel of its own for small messages
    packs_gqa: bool = True                  # decode reads K and V once for all query heads that share them
    decode_slots_per_element: NotNegative = 0.0    # decode attention without matrix cores: lane slots for each cached element
    bytes_per_cycle_per_sm: dict[str, Positive] = Field(default_factory=dict)   # issue-bound operators
    passes: dict[str, Positive] = Field(default_factory=dict)     # traffic of an operator over its fused least
    row_threads: dict[str, Positive] = Field(default_factory=dict)    # of the block that works on a row, where it is not 256
    # Rows of so many columns at most stay in the registers of a warp, so that nothing is read twice.
    register_row_columns: dict[str, int] = Field(default_factory=dict)
    kernels: dict[str, Positive] = Field(default_factory=dict)    # launches of an operator, where it is not one
    host_gap_us: NotNegative = 0.0          # eager calls: part of the host's launch that event timing does not hide
    sources: tuple[str, ...]


class GpuDevice(Config):
    """One board: the facts of its data sheet, each with its source in the YAML."""

    type: Literal["gpu"] = "gpu"
    name: str
    aliases: tuple[str, ...] = ()
    architecture: str
    library: str = "fused-2025"
    sms: Annotated[int, Field(ge=1)]
    clock_hz: Hertz                         # highest sustained when power allows
    fp32_flops_per_cycle_per_sm: Positive
    tensor_flops_per_cycle_per_sm: dict[str, Positive]
    lane_flops_per_cycle_per_sm: dict[str, Positive] = Field(default_factory=dict)  # packed on the fp32 lanes: half2, dp4a
    l2_bytes: Bytes
    l2_bytes_per_cycle: Positive
    dram_bandwidth_bytes_per_s: BytesPerSecond
    dram_efficiency: Share                  # streaming rate over the pin rate
    dram_capacity_bytes: Bytes
    power_limit_w: Watts
    idle_power_w: Watts
    link: str
    link_bandwidth_bytes_per_s: BytesPerSecond
    sources: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _limit_leaves_room_for_work(self) -> Self:
        if self.idle_power_w >= self.power_limit_w:
            raise ValueError(f"power_limit of {self.power_limit_w:g} W is not above idle_power of {self.idle_power_w:g} W: "
                             "nothing is left to work with")
        return self


@dataclass(frozen=True)
class Gpu:
    """A board with its architecture and library: the value that every timing function takes."""

    device: GpuDevice
    architecture: GpuArchitecture
    library: GpuLibrary

    @property
    def name(self) -> str:
        return self.device.name

    @cached_property
    def is_calibrated(self) -> bool:
        """Whether rows of this very board were in the calibration."""
        return any(alias in self.architecture.calibrated_on for alias in (self.device.name, *self.device.aliases))

    @property
    def dram_stream_bytes_per_s(self) -> float:
        return self.device.dram_bandwidth_bytes_per_s * self.device.dram_efficiency

    @property
    def l2_bytes_per_s(self) -> float:
        return self.device.l2_bytes_per_cycle * self.device.clock_hz

    def pipeline(self, dtype: str) -> str:
        """The pipe that multiplies *dtype* on this board: its own, or that of the format to which libraries widen it."""
        if dtype not in PIPELINES:
            raise ConfigError(f"products in {dtype} are not modelled", key="dtype", value=dtype, allowed=tuple(PIPELINES))
        device = self.device
        return next(pipe for pipe in PIPELINES[dtype]
                    if pipe in device.tensor_flops_per_cycle_per_sm or pipe in device.lane_flops_per_cycle_per_sm or pipe == "fp32")

    def flops_per_cycle_per_sm(self, dtype: str) -> float:
        """The peak of the pipe that multiplies *dtype*."""
        pipe, device = self.pipeline(dtype), self.device
        return device.tensor_flops_per_cycle_per_sm.get(
            pipe, device.lane_flops_per_cycle_per_sm.get(pipe, device.fp32_flops_per_cycle_per_sm))

    def runs_on_tensor_cores(self, dtype: str) -> bool:
        pipe = self.pipeline(dtype)
        return pipe in self.device.tensor_flops_per_cycle_per_sm or (pipe == "fp32" and self.architecture.fp32_matrix_cores)

    def matmul_efficiency(self, dtype: str) -> float:
        """Main-loop efficiency of *dtype*, or of the nearest pipe that was calibrated: the lanes have that of fp32."""
        table = self.architecture.matmul_efficiency
        nearest = (dtype, self.pipeline(dtype), "fp16", "fp32") if self.runs_on_tensor_cores(dtype) else ("fp32",)
        for key in nearest:
            if key in table:
                return table[key]
        raise ConfigError(f"architecture {self.architecture.name} has no matmul efficiency for {dtype}")

    def pj_per_flop(self, dtype: str) -> float:
        """Energy of one operation. A packed instruction of the lanes costs what an fp32 one does, and does more operations."""
        table, pipe = self.architecture.pj_per_flop, self.pipeline(dtype)
        if not self.runs_on_tensor_cores(dtype):
            return table["fp32"] * self.device.fp32_flops_per_cycle_per_sm / self.flops_per_cycle_per_sm(dtype)
        for key, share in ((pipe, 1.0), *_ENERGY_KIN.get(pipe, ())):
            if key in table:
                return table[key] * share
        return table["fp32"]

    def peak_flops_per_s(self, dtype: str) -> float:
        return self.flops_per_cycle_per_sm(dtype) * self.device.sms * self.device.clock_hz


def load_gpu(path: Path, sets: tuple[str, ...] = ()) -> Gpu:
    """The board in the YAML at *path*, with its architecture and library from the folders beside it or the shipped ones;
    *sets* are ``path=value`` changes to the board."""
    device = load(GpuDevice, path, folders=[DEVICE_FOLDER], kind="GPU", sets=sets)
    return assemble(device, path.parent)


def assemble(device: GpuDevice, folder: Path = DEVICE_FOLDER) -> Gpu:
    """*device* with the architecture and the library that it names."""
    return Gpu(device, _part(GpuArchitecture, device.architecture, folder, "architectures"),
               _part(GpuLibrary, device.library, folder, "libraries"))


def named_library(name: str) -> GpuLibrary:
    """The shipped library called *name*."""
    found: GpuLibrary = _part(GpuLibrary, name, DEVICE_FOLDER, "libraries")
    return found


@cache
def _part(schema: type[PartT], name: str, folder: Path, shelf: str) -> PartT:
    for root in (folder, DEVICE_FOLDER):
        path = root / shelf / f"{name}.yaml"
        if path.is_file():
            return load(schema, path, folders=[path.parent], kind=shelf)
    known = tuple(sorted(path.stem for path in (DEVICE_FOLDER / shelf).glob("*.yaml")))
    raise ConfigError(f"{name!r} is none of the {shelf}", value=name, allowed=known)


@cache
def shipped_gpus() -> dict[str, Gpu]:
    """Every shipped board by its id and by each of its aliases."""
    gpus: dict[str, Gpu] = {}
    for path in sorted(DEVICE_FOLDER.glob("*.yaml")):
        gpu = load_gpu(path)
        for name in (gpu.name, *gpu.device.aliases):
            gpus[name] = gpu
    return gpus


def find_gpu(name: str) -> Gpu:
    """The shipped board called *name* (id or alias), or a ConfigError with the nearest spelling."""
    gpus = shipped_gpus()
    if name not in gpus:
        raise ConfigError(f"{name!r} is no shipped GPU", value=name, allowed=tuple(sorted({g.name for g in gpus.values()})))
    return gpus[name]


__all__ = ["ELEMENT_BYTES", "PIPELINES", "QUANTISED", "Gpu", "GpuArchitecture", "GpuDevice", "GpuLibrary", "assemble",
           "find_gpu", "load_gpu", "named_library", "shipped_gpus"]
