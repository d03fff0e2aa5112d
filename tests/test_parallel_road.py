"""Several NPUs from model to report: one stands for all as well as all do, laws hold, one device is as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import tilesim
from tilesim.arch.engine import Engine
from tilesim.arch.machine import load_machine
from tilesim.cli import main
from tilesim.mapping.mapper import map_graph
from tilesim.run import run_graph
from tilesim.sim.report import Report
from tilesim.workloads.model import ModelConfig
from tilesim.workloads.parallel import shard
from tilesim.workloads.single import gemm

MODEL = ModelConfig(name="small", family="llama", layers=2, hidden=512, heads=8, kv_heads=4, head_dim=64, intermediate=1024,
                    vocab=1024, max_positions=256, mlp="gated", activation="silu", norm="rmsnorm", positions="rotary",
                    tied_embeddings=False)


def ran(tp: int, *, exact: bool = False, tokens: int = 1) -> Report:
    workload = tilesim.decode(MODEL, context=100, batch=2) if tokens == 1 else tilesim.prefill(MODEL, prompt=tokens)
    return tilesim.simulate("hbm-npu", workload, tensor_parallel=tp, exact=exact)


def test_one_device_is_as_before_to_the_picosecond() -> None:
    """The report at tp = 1 is the engine's own run of the model's own graph."""
    workload, machine = tilesim.decode(MODEL, context=100, batch=2), load_machine("hbm-npu")
    alone = Engine(machine, map_graph(workload.lower(), machine)).run()
    assert round(ran(1).seconds * 1e12) == alone.end_ps
    assert ran(1).machine == "hbm-npu"
    assert not any(op.kind == "collective" for op in ran(1).operators)


@pytest.mark.parametrize("tokens", [1, 24])
def test_one_that_stands_for_all_equals_all_of_them(tokens: int) -> None:
    reduced, exact = ran(4, tokens=tokens), ran(4, exact=True, tokens=tokens)
    assert reduced.seconds == exact.seconds
    assert reduced.energy_j == exact.energy_j
    assert reduced.links_bytes == exact.links_bytes
    assert [op.end_s for op in reduced.operators] == [op.end_s for op in exact.operators]
    assert {"name": "device symmetry", "devices": 4, "simulated": 1}.items() <= dict(reduced.reductions[-1]).items()
    assert not exact.reductions


@pytest.mark.parametrize("tp", [2, 4])
def test_laws_of_several_devices(tp: int) -> None:
    one, several = ran(1, tokens=24), ran(tp, tokens=24)
    assert several.seconds >= several.bounds.roofline_s
    assert sum(op.macs for op in several.operators) == sum(op.macs for op in one.operators)
    assert several.bounds.compute_s == pytest.approx(one.bounds.compute_s / tp)
    assert several.energy_j == pytest.approx(sum(several.energy_by_component.values()))
    size = 24 * 512 * 2                                    # bf16; two sums a layer, and the logits of one row gathered
    least = 4 * 2 * (tp - 1) * size + (tp - 1) * 1024 * 2
    assert several.links_bytes["device→device"] >= least   # a direct exchange in a ring of four passes two links on half its ways
    assert tp > 2 or several.links_bytes["device→device"] == least
    bits = 8 * several.links_bytes["device→device"]
    assert several.energy_by_component["interconnect"] == pytest.approx(bits * 5.6e-12)


def test_an_all_reduce_between_two_takes_its_closed_form() -> None:
    """24 rows of 512 bf16: two steps of half the buffer, 2 · (500 ns + 12288 B / 100 GB/s)."""
    sums = [op for op in ran(2, tokens=24).operators if op.kind == "collective" and op.layer is not None]
    assert len(sums) == 4
    for op in sums:
        assert round((op.end_s - op.start_s) * 1e12) == 2 * (500_000 + 122_880)
        assert op.bottleneck == "link"


def test_a_large_product_gains_from_more_devices() -> None:
    """256 × 4096 × 4096: four devices multiply a quarter each and gather 2 MiB; their links carry that in 8 µs of 33."""
    graph, machine = gemm(256, 4096, 4096), load_machine("hbm-npu")
    one, four = (run_graph(machine, graph, "gemm", 0, {}, tensor_parallel=tp) for tp in (1, 4))
    assert one.seconds / 4 < four.seconds < one.seconds


def test_layers_of_devices_are_replayed_like_those_of_one() -> None:
    """Twelve layers, of which eight are simulated: within 0.5 % of all of them, and the exchanges counted exactly."""
    deep = MODEL.model_copy(update={"layers": 12})
    short, exact = (tilesim.simulate("hbm-npu", tilesim.decode(deep, context=100, batch=2), tensor_parallel=2, exact=flag)
                    for flag in (False, True))
    assert {reduction["name"] for reduction in short.reductions} >= {"layer memo", "device symmetry"}
    assert short.seconds == pytest.approx(exact.seconds, rel=0.005)
    assert short.links_bytes == exact.links_bytes
    assert len(short.operators) == len(exact.operators)


def test_the_machine_may_say_how_many(tmp_path: Path) -> None:
    chip = tmp_path / "chip.yaml"
    chip.write_text("extends: hbm-npu\nparallel: {tensor: 2}\n")
    workload = tilesim.decode(MODEL, context=100, batch=2)
    assert tilesim.simulate(str(chip), workload).seconds == ran(2).seconds


def test_a_machine_without_links_is_told_what_to_add(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["op", "gemm", "64", "64", "64", "--arch", "gemmini-default", "--dtype", "int8", "--tp", "2"]
    assert main(command) == 2
    assert "interconnect: {topology: ring" in capsys.readouterr().err


def test_heads_that_do_not_divide_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--arch", "hbm-npu", "--model", "llama-3.2-1b", "--phase", "decode", "--tp", "16"]) == 2
    complaint = capsys.readouterr().err
    assert "heads = 8, which 16 devices cannot share evenly" in complaint
    offered = complaint.split("allowed: ")[1].split(".")[0].split(", ")
    assert offered
    for devices in offered:                         # not what divides that one size: what divides the model
        shard(tilesim.decode("llama-3.2-1b", context=64).lower(), int(devices))


def test_convolutions_are_not_done_once_on_every_device() -> None:
    with pytest.raises(tilesim.ConfigError, match=r"conv.* is not divided over devices"):
        tilesim.simulate("hbm-npu", tilesim.inference("alexnet"), tensor_parallel=2)


def test_one_device_may_be_asked_of_a_machine_of_several() -> None:
    graph = gemm(64, 256, 256)
    machine = load_machine("hbm-npu", ("parallel.tensor=2",))
    assert run_graph(machine, graph, "gemm", 0, {}).machine.startswith("2 ×")
    assert run_graph(machine, graph, "gemm", 0, {}, tensor_parallel=1).machine == "hbm-npu"
