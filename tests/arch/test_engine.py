"""The engine on programs small enough to time by hand: each unit's cycles, each wait, each byte and each picojoule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import simpy
from tilesim.arch.engine import Engine
from tilesim.arch.machine import MachineConfig, load_machine
from tilesim.arch.run_counts import ProgramRun
from tilesim.arch.run_parts import StepState
from tilesim.arch.vector import VectorConfig, vector_cycles
from tilesim.memory.dram import DramConfig, DramSystem
from tilesim.memory.port_share import PortShare
from tilesim.run import run_graph
from tilesim.sim.clock import Clock
from tilesim.sim.dtypes import DTYPES
from tilesim.sim.program import Pool, SegmentBuilder, Step, TensorPlace, TileProgram, view_of, whole
from tilesim.workloads.single import single_operator

BF16, FP32 = DTYPES["bf16"], DTYPES["fp32"]
CLOCK = Clock.from_hz("chip", 1.05e9)
N = 128


def quiet(*sets: str) -> MachineConfig:
    """The NPU without refresh, so that time is what the rules alone say."""
    return load_machine("hbm-npu", ("parts.hbm.controller.refresh=none", "parts.hbm.controller.refresh_postponed_max=0", *sets))


def product() -> TileProgram:
    """C = A · B of 128³: two loads, one product on the arrays, its conversion on the lanes, one store."""
    size = N * N
    builder = SegmentBuilder("product", 3)
    a, b = builder.buffer("a", "stream", size, BF16), builder.buffer("b", "stream", size, BF16)
    sums, out = builder.buffer("sums", "accumulators", size, FP32), builder.buffer("out", "vector", size, BF16)
    builder.load("dma.stream", 0, whole(2 * size), a)
    builder.load("dma.stream", 1, whole(2 * size), b)
    builder.compute("mxu", "matmul", (view_of((N, N), buffer=a), view_of((N, N), buffer=b)), (view_of((N, N), buffer=sums),),
                    accumulate=False)
    builder.compute("vpu", "copy", (view_of((N, N), buffer=sums),), (view_of((N, N), buffer=out),))
    builder.store("dma.store", 2, whole(2 * size), view_of((N, N), buffer=out))
    tensors = (TensorPlace("a", (N, N), BF16, "input", "hbm", 0, 2 * size),
               TensorPlace("b", (N, N), BF16, "weight", "hbm", 1 << 20, 2 * size),
               TensorPlace("c", (N, N), BF16, "output", "hbm", 2 << 20, 2 * size))
    pools = tuple(Pool(name, "scratchpad", 1 << 20) for name in ("stream", "accumulators", "vector"))
    step = Step("product", "gemm", builder.build(), (0, 1, 2), ((), (), ()))
    return TileProgram(tensors, pools, {"scratchpad": 0}, (step,))


def run(machine: MachineConfig) -> tuple[ProgramRun, dict[str, list[tuple[int, int]]]]:
    """The run of the product, and the slices of each unit."""
    done = Engine(machine, product(), trace=True).run()
    assert done.timeline is not None
    slices: dict[str, list[tuple[int, int]]] = {}
    for unit, _, _, start, end in done.timeline.slices:
        slices.setdefault(unit, []).append((start, end))
    return done, {unit: sorted(found) for unit, found in slices.items()}


def memory_alone_ps(machine: MachineConfig, starts_ps: list[int]) -> list[int]:
    """When reads of the two operands end that start at those times, with the memory alone."""
    env, ends = simpy.Environment(), [0, 0]
    memory = DramSystem(env, machine.only(DramConfig, "dram")[1])

    def read(i: int, start_ps: int) -> object:
        yield env.timeout(start_ps)
        yield memory.transfer(np.array([[i << 20, 2 * N * N]]), write=False)
        ends[i] = int(env.now)

    for i, start_ps in enumerate(starts_ps):
        env.process(read(i, start_ps))                                              # type: ignore[arg-type]
    env.run()
    return ends


def test_loads_are_issued_a_descriptor_at_a_time_and_end_with_the_memory() -> None:
    machine = quiet()
    _, slices = run(machine)
    starts = [start for start, _ in slices["dma.stream"]]
    assert starts == [CLOCK.ps_of(8), CLOCK.ps_of(16)]                              # 8 cycles for each descriptor
    assert [end for _, end in slices["dma.stream"]] == memory_alone_ps(machine, starts)


def test_one_transfer_at_a_time_where_no_more_may_be_in_flight() -> None:
    _, slices = run(quiet("parts.dma.max_in_flight=1"))
    (_, first_end), (second_start, _) = slices["dma.stream"]
    assert second_start == first_end + CLOCK.wait_ps(first_end, 8)


@pytest.mark.parametrize("latency_ns", [0, 700])
def test_product_takes_preload_stream_and_drain_behind_its_last_operand(latency_ns: int) -> None:
    """128 cycles to shift the weights in, 128 rows to stream, R + C − 2 to drain; then 128·128 / 2048 lanes + 16 cycles."""
    machine = quiet(f"parts.hbm.on_chip_latency={latency_ns} ns")
    done, slices = run(machine)
    loaded = CLOCK.cycle_at(max(end for _, end in slices["dma.stream"]))
    (start, end), = slices["mxu"]
    assert start == CLOCK.ps_of(loaded)
    assert end == CLOCK.ps_of(loaded + 128 + 128 + 128 + 128 - 2)
    (lanes_start, lanes_end), = slices["vpu"]
    assert lanes_start == end
    assert lanes_end - lanes_start == CLOCK.wait_ps(end, N * N // 2048 + 16)
    (store_start, store_end), = slices["dma.store"]
    assert store_start == lanes_end + CLOCK.wait_ps(lanes_end, 8)
    assert done.end_ps == store_end > store_start


def test_arrays_wait_for_memory_and_lanes_for_arrays() -> None:
    done, slices = run(quiet())
    assert done.units["mxu"].stalled_ps == {"memory": max(end for _, end in slices["dma.stream"])}
    assert done.units["vpu"].stalled_ps == {"mxu": slices["mxu"][0][1]}
    assert done.operators[0].waited_ps == {"memory": done.units["mxu"].stalled_ps["memory"], "mxu": slices["mxu"][0][1]}


def test_a_slow_link_is_named_as_what_was_waited_for() -> None:
    """64 KiB over 1 GB/s: each operand takes 32.768 µs, one behind the other; the arrays wait for the link."""
    machine = load_machine("hbm-npu")
    slow = machine.model_copy(update={"links": tuple(link.model_copy(update={"bandwidth_bytes_per_s": 1e9})
                                                     for link in machine.links)})
    done, slices = run(slow)
    first_start = slices["dma.stream"][0][0]
    assert [end for _, end in slices["dma.stream"]] == [first_start + 2 * N * N * 1000, first_start + 4 * N * N * 1000]
    assert set(done.units["mxu"].stalled_ps) == {"link"}


def test_bytes_and_macs_are_those_of_the_program() -> None:
    """SRAM: operands in, read once, fp32 sums written by the arrays and read by the lanes, the result written and stored."""
    done, _ = run(quiet())
    size = N * N
    assert done.sram_write_bytes == 2 * 2 * size + 4 * size + 2 * size
    assert done.sram_read_bytes == 2 * 2 * size + 4 * size + 2 * size
    assert done.memory.read_bytes == 4 * size
    assert done.memory.written_bytes == 2 * size
    assert done.link_bytes == {"hbm→scratchpad": 4 * size, "scratchpad→hbm": 2 * size}
    assert done.ledger.counts["mxu", "mac.bf16"] == N**3
    assert done.ledger.counts["vpu", "op"] == size
    assert done.sram_used_bytes == 2 * 2 * size + 4 * size + 2 * size


def test_every_priced_action_costs_what_its_table_says() -> None:
    """Each line: its own count times the YAML's figure; bits are eight to the byte; static power over the run."""
    machine = load_machine("hbm-npu")
    graph, _ = single_operator("gemm", {"m": 256, "n": 512, "k": 384, "batch": 1, "dtype": "bf16"})
    report = run_graph(machine, graph, "gemm", 0, {})
    lines = {(line.component, line.action): line for line in report.energy_lines}
    sram, dram = report.memory["scratchpad"], report.memory["hbm"]
    expected = {
        ("mxu", "mac.bf16"): 256 * 512 * 384 * 0.59,
        ("scratchpad", "read bit"): 8 * sram.read_bytes * 0.189,
        ("scratchpad", "write bit"): 8 * sram.written_bytes * 0.178,
        ("links", "hbm→scratchpad bit"): 8 * dram.read_bytes * 10 * 0.0132,         # 10 mm of the 11 nm wires, which hold at 7 nm
        ("links", "scratchpad→hbm bit"): 8 * dram.written_bytes * 10 * 0.0132,
        ("scratchpad", "static"): 0.34 * report.seconds * 1e12,
        ("chip", "static"): 30 * report.seconds * 1e12,
    }
    for key, pj in expected.items():
        assert lines[key].joules * 1e12 == pytest.approx(pj), key
    gemv, _ = single_operator("gemm", {"m": 1, "n": 512, "k": 384, "batch": 1, "dtype": "bf16"})
    lanes = {(line.component, line.action): line for line in run_graph(machine, gemv, "gemv", 0, {}).energy_lines}
    assert lanes["vpu", "mac"].joules * 1e12 == pytest.approx(512 * 384 * 1.69)


def test_lanes_pay_for_exponentials_and_for_each_row() -> None:
    """Softmax of 8 × 256 on 64 lanes: 4 simple and one special operation of 4 an element, one special a row, 10 deep."""
    config = VectorConfig(type="vector", lanes=64, clock_hz=1e9, latency_cycles=10, exp_ops=4, op_energy_pj=1, mac_energy_pj=1)
    cycles = vector_cycles("softmax", (view_of((8, 256), buffer=0),), {}, config)
    assert cycles == math.ceil((8 * 256 * (4 + 4) + 8 * 4) / 64) + 10
    assert vector_cycles("add", (view_of((8, 256), buffer=0),) * 2, {}, config) == 8 * 256 // 64 + 10


def test_ports_give_the_later_tile_what_the_earlier_left() -> None:
    """Peak 10 B/ps. 60 B over 10 ps take 6 of it; a second tile that could use all gets 4 until then and 10 after."""
    ports = PortShare(10.0)
    assert ports.reserve(0, 0, 60, 10) == 10
    assert ports.reserve(0, 0, 100, 10) == 16                       # 40 B by 10 ps, 60 B more at 10 B/ps
    assert ports.reserve(0, 0, 0, 5) == 5
    assert ports.reserve(20, 20, 50, 100) == 120                    # slower than its share: its own pace


def test_ports_are_never_promised_twice() -> None:
    ports, generator = PortShare(7.0), np.random.default_rng(3)
    promised, now = [], 0
    for _ in range(200):
        now += int(generator.integers(0, 30))
        nbytes, at_least = int(generator.integers(1, 400)), int(generator.integers(1, 60))
        end = ports.reserve(now, now, nbytes, at_least)
        assert end >= now + max(at_least, nbytes / 7.0) - 1e-9
        promised.append((now, end, nbytes))
    for begin, end, _ in promised:
        inside = sum(n for s, e, n in promised if s >= begin and e <= end)
        assert inside <= 7.0 * (end - begin) * (1 + 1e-9) + 1e-6


def test_who_stood_in_for_a_record_passes_it_on_when_it_is_left_out_too() -> None:
    """Records 6 to 8 are left out for 3 to 5, and later 4 and 5 for 2 and 3: what waits for 7 or 8 waits for 2 or 3."""
    state = StepState(simpy.Environment(), product().steps[0].segment)
    state.ended, state.remaining = bytearray(9), 9
    state.let_stand_in(6, [3, 4, 5])
    state.let_stand_in(4, [2, 3])
    assert [state.stand_in(record) for record in range(9)] == [0, 1, 2, 3, 2, 3, 3, 2, 3]
    assert state.remaining == 4
