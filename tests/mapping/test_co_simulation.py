"""Recorded tasks with a memory in the loop: by hand, against the same tasks timed as they are appended, and on HBM by command."""

from __future__ import annotations

import pytest
import simpy
from tilesim.arch.einsum_arrays import FLAT, FUSEMAX
from tilesim.mapping.cascade import Design, Layout, lay_out, run
from tilesim.mapping.co_simulation import Recorder, run_recorded, when
from tilesim.mapping.flat import AttentionShape, best_mapping
from tilesim.mapping.flat_run import Chunks, run_flat
from tilesim.mapping.in_order import Moment, Time
from tilesim.memory.ideal import IdealMemory, IdealMemoryConfig
from tilesim.validation.fusemax_hbm import KEY_PROBE, layout_ends

SHAPE = AttentionShape(40, 2048, 2048, 64, 64)
RATE = FUSEMAX.memory.bytes_per_s


def ideal(env: simpy.Environment, bytes_per_s: float = RATE, latency_ps: int = 0) -> IdealMemory:
    return IdealMemory(env, IdealMemoryConfig.model_validate({
        "type": "ideal", "capacity_bytes": 2**34, "bandwidth_bytes_per_s": bytes_per_s, "latency_ps": latency_ps,
        "read_energy_pj_per_bit": 0.0, "write_energy_pj_per_bit": 0.0, "source": "a test"}))


def on_ideal(append: Chunks, bytes_per_cycle: float, clock_hz: float) -> list[float]:
    recorder, env = Recorder(bytes_per_cycle), simpy.Environment()
    ends: list[Time] = append(recorder, recorder)
    ended = run_recorded(recorder.tasks, clock_hz, env, ideal(env))
    return [when(end, ended, clock_hz) for end in ends]


def test_two_tasks_and_a_transfer_by_hand() -> None:
    """At 1 GHz and 8 B/ns: 800 B arrive at 100 ns, 50 cycles of work on them, 30 cycles later 20 more on another unit: 200 ns."""
    recorder = Recorder(8.0)
    arrived = recorder.transfer(100.0)
    worked = recorder.run("2d", 50.0, (arrived,))
    done = recorder.run("1d", 20.0, (worked + 30.0, 0.0))
    env = simpy.Environment()
    ends_ps = run_recorded(recorder.tasks, 1e9, env, ideal(env, 8e9))
    assert ends_ps == [100_000, 150_000, 200_000]
    assert when(done + 5.0, ends_ps, 1e9) == pytest.approx(205.0)


def test_a_transfer_of_nothing_is_over_at_once() -> None:
    recorder = Recorder(8.0)
    arrived = recorder.transfer(10.0)
    assert recorder.transfer(0.0, (arrived,)) == arrived
    assert recorder.transfer(0.0) == Moment()


@pytest.mark.parametrize("design", ["binding", "architecture", "cascade"])
def test_a_cascade_in_the_loop_equals_the_one_timed_as_it_is_laid_out(design: Design) -> None:
    """The same flat rate, once as arithmetic and once as a memory that serves transfers in the order in which they come."""
    def ends(layout: Layout) -> tuple[float, ...]:
        return tuple(on_ideal(lambda units, channel: list(lay_out(layout, units, channel)), layout.bytes_per_cycle, 940e6))

    assert run(SHAPE, FUSEMAX, design, ends).cycles == pytest.approx(run(SHAPE, FUSEMAX, design).cycles, rel=1e-3)


def test_flat_in_the_loop_equals_the_one_timed_as_it_is_laid_out() -> None:
    mapping = best_mapping(SHAPE, FLAT)
    found = run_flat(SHAPE, FLAT, mapping, lambda chunks: on_ideal(chunks, RATE / FLAT.clock_hz, FLAT.clock_hz))
    assert found.cycles == pytest.approx(run_flat(SHAPE, FLAT, mapping).cycles, rel=1e-3)


@pytest.mark.parametrize("design", ["binding", "architecture", "cascade"])
def test_hbm_by_command_in_the_loop_hides_behind_the_arrays(design: Design) -> None:
    """All three are bound by their arrays: refresh and row misses cost them less than 0.5 %, and make nothing faster than its
    arrays allow."""
    found = run(SHAPE, FUSEMAX, design, lambda layout: layout_ends(layout, FUSEMAX.clock_hz), KEY_PROBE)
    assert found.cycles == pytest.approx(run(SHAPE, FUSEMAX, design).cycles, rel=0.005)
    assert found.cycles >= 0.999 * max(found.busy_2d, found.busy_1d)
