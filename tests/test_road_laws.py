"""Laws that every run obeys, over random shapes, machines and batch sizes: no roofline is beaten, bytes and MACs are conserved,
energy adds up, the same input gives the same bytes, and what was timed computes the right values in the order it was timed."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
import tilesim
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tilesim.arch.engine import Engine
from tilesim.arch.machine import MachineConfig, load_machine
from tilesim.mapping.dram_image import decoded_places
from tilesim.mapping.interpreter import interpret
from tilesim.mapping.mapper import map_graph
from tilesim.mapping.reference import run_reference
from tilesim.memory.dram import DramConfig
from tilesim.memory.sram import SramConfig
from tilesim.run import run_graph
from tilesim.sim.report import Report
from tilesim.workloads.graph import OperatorGraph, program_order, tensors_of
from tilesim.workloads.model import ModelConfig
from tilesim.workloads.single import single_operator

TINY = ModelConfig(name="tiny", family="llama", layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=160,
                   vocab=96, max_positions=512, mlp="gated", activation="silu", norm="rmsnorm", positions="rotary",
                   tied_embeddings=True)


def machine(rows: int = 16, cols: int = 16, arrays: int = 2, lanes: int = 32, sram_kib: int = 256, stacks: int = 1,
            banks: int = 64, link_gbytes: int = 2000, shadow: bool = True, dataflow: str = "weight_stationary",
            timing: str = "physical") -> MachineConfig:
    config = load_machine("hbm-npu", (
        f"parts.mxu.rows={rows}", f"parts.mxu.cols={cols}", f"parts.mxu.arrays={arrays}", f"parts.vpu.lanes={lanes}",
        f"parts.scratchpad.capacity={sram_kib} KiB", f"parts.hbm.stacks={stacks}", f"parts.scratchpad.banks={banks}",
        f"parts.mxu.double_buffered_weights={str(shadow).lower()}", f"parts.mxu.dataflow={dataflow}", f"parts.mxu.timing={timing}"))
    links = tuple(link.model_copy(update={"bandwidth_bytes_per_s": link_gbytes * 1e9}) for link in config.links)
    return config.model_copy(update={"links": links})


machines = st.builds(machine, rows=st.sampled_from([8, 16, 32]), cols=st.sampled_from([8, 16, 48]), arrays=st.integers(1, 3),
                     lanes=st.sampled_from([16, 64]), sram_kib=st.sampled_from([128, 1024]), stacks=st.integers(1, 2),
                     banks=st.sampled_from([14, 64]), link_gbytes=st.sampled_from([300, 2000]), shadow=st.booleans(),
                     dataflow=st.sampled_from(["weight_stationary", "output_stationary", "input_stationary"]),
                     timing=st.sampled_from(["physical", "physical", "scalesim"]))
sizes = st.integers(1, 300)


def gemm(m: int, n: int, k: int, batch: int = 1) -> OperatorGraph:
    return single_operator("gemm", {"m": m, "n": n, "k": k, "batch": batch, "dtype": "bf16"})[0]


def attention(heads: int, group: int, head_dim: int, q_tokens: int, context: int, batch: int) -> OperatorGraph:
    return single_operator("attention", {
        "heads": heads * group, "kv_heads": heads, "head_dim": head_dim, "q": min(q_tokens, context), "context": context,
        "batch": batch, "full": False, "dtype": "bf16"})[0]


def conv(extent: int, window: int, channels: int, filters: int, stride: int, depthwise: bool, batch: int) -> OperatorGraph:
    return single_operator("conv", {
        "height": extent, "width": extent + 3, "channels": channels, "filters": channels if depthwise else filters,
        "filter": [window], "stride": stride, "padding": window // 2, "groups": channels if depthwise else 1, "batch": batch,
        "dtype": "bf16"})[0]


def lstm(batch: int, width: int, hidden: int, steps: int) -> OperatorGraph:
    return single_operator("lstm", {"batch": batch, "input": width, "hidden": hidden, "steps": steps, "layers": 2,
                                    "dtype": "bf16"})[0]


graphs = st.one_of(
    st.builds(conv, st.integers(4, 30), st.sampled_from([1, 3, 4]), st.integers(1, 40), st.integers(1, 70), st.integers(1, 3),
              st.booleans(), st.integers(1, 2)),
    st.builds(lstm, st.integers(1, 40), st.integers(1, 60), st.integers(1, 60), st.integers(1, 2)),
    st.builds(gemm, sizes, sizes, sizes, st.integers(1, 3)),
    st.builds(attention, st.integers(1, 3), st.sampled_from([1, 2, 4]), st.sampled_from([8, 16, 24]), st.integers(1, 70),
              st.integers(1, 200), st.integers(1, 2)),
)
few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def run(config: MachineConfig, graph: OperatorGraph, exact: bool = False) -> Report:
    return run_graph(config, graph, "case", 1, {}, exact=exact)


def check_laws(report: Report, config: MachineConfig, graph: OperatorGraph) -> None:
    """The laws of design §5 that a report alone can be held to."""
    assert report.seconds >= report.bounds.roofline_s
    assert report.distance_to_roofline >= 1
    for unit in report.units.values():
        if unit.utilisation is not None:
            assert 0 <= unit.utilisation <= 1
            assert unit.busy_s <= report.seconds * (1 + 1e-12)
            assert unit.busy_s + sum(unit.stalled_s.values()) <= report.seconds * (1 + 1e-9)      # no moment is both
    for level in report.memory.values():
        assert level.bandwidth_bytes_per_s <= level.peak_bytes_per_s
        assert level.used_bytes <= level.capacity_bytes
    # MACs: the units did what the mapping says, and no less than the workload asks for (masked tiles may add some).
    done = sum(unit.macs for unit in report.units.values())
    assert done == sum(op.executed_macs for op in report.operators)
    asked = sum(op.macs for op in program_order(graph))
    assert done == asked if all(op.kind != "attention" for op in program_order(graph)) else done >= asked
    # Bytes: what DRAM gave crossed the link and reached the scratchpad; operators account for all of it.
    dram, sram = report.memory["hbm"], report.memory["scratchpad"]
    assert dram.read_bytes == report.links_bytes["hbm→scratchpad"] == sum(op.read_bytes for op in report.operators)
    assert dram.written_bytes == report.links_bytes["scratchpad→hbm"] == sum(op.write_bytes for op in report.operators)
    assert sram.written_bytes >= dram.read_bytes
    assert dram.read_bytes + dram.written_bytes >= report.bounds.compulsory_bytes
    # Energy adds up, line by line and component by component; every priced action has a count.
    assert report.energy_j == pytest.approx(sum(report.energy_by_component.values()))
    for line in report.energy_lines:
        assert line.joules >= 0
        if line.action != "static":
            assert line.joules == pytest.approx(line.count * line.pj_each * 1e-12)
    # Time adds up over operators.
    assert sum(op.seconds for op in report.operators) == pytest.approx(report.seconds)


@few
@given(machines, graphs)
@example(machine(rows=32, cols=32, arrays=1, sram_kib=128, dataflow="output_stationary"), attention(3, 1, 64, 119, 300, 1))
def test_every_run_obeys_the_laws(config: MachineConfig, graph: OperatorGraph) -> None:
    check_laws(run(config, graph), config, graph)


@few
@given(machines, st.integers(1, 3), st.integers(1, 60), st.booleans())
def test_whole_models_obey_the_laws(config: MachineConfig, batch: int, tokens: int, is_prefill: bool) -> None:
    workload = (tilesim.prefill(TINY, prompt=tokens, batch=batch) if is_prefill
                else tilesim.decode(TINY, context=tokens, batch=batch))
    check_laws(tilesim.simulate(config, workload), config, workload.lower())


@few
@given(graphs, st.sampled_from([96, 256]))
def test_values_are_right_in_the_order_that_was_timed(graph: OperatorGraph, sram_kib: int) -> None:
    """The interpreter runs the very records in the order in which they ended, through the address map, and equals numpy."""
    config = machine(sram_kib=sram_kib)
    program = map_graph(graph, config)
    order = Engine(config, program).run().completion_order
    generator = np.random.default_rng(1)
    given_tensors = {name: tensor for name, tensor in tensors_of(graph).items() if tensor.role in ("weight", "kv", "input")}
    values = {name: generator.integers(-3, 4, tensor.shape) for name, tensor in given_tensors.items()}
    places, burst_bytes = decoded_places(config.only(DramConfig, "dram")[1])
    found = interpret(program, values, order=order, places=places, burst_bytes=burst_bytes,
                      sram_bytes=config.only(SramConfig, "sram")[1].capacity_bytes)
    wanted = run_reference(graph, values)
    for op in program_order(graph):
        for tensor in op.outputs:
            np.testing.assert_allclose(found[tensor.name], wanted[tensor.name], rtol=1e-9, atol=1e-9)


@few
@given(machines, graphs)
@example(machine(rows=8, arrays=3, lanes=16, sram_kib=1024, banks=14, link_gbytes=300, shadow=False), gemm(16, 16, 176))
def test_exact_run_takes_the_same_time(config: MachineConfig, graph: OperatorGraph) -> None:
    """Channel symmetry is the only reduction where no tile loop is left, and exact: also where ragged tensors part the channels."""
    reduced, exact = run(config, graph), run(config, graph, exact=True)
    assert exact.reductions == ()
    if any(reduction["name"] == "tile loops" for reduction in reduced.reductions):
        assert reduced.seconds == pytest.approx(exact.seconds, rel=0.005)
        return
    assert reduced.seconds == exact.seconds
    assert [op.end_s for op in reduced.operators] == [op.end_s for op in exact.operators]
    assert reduced.memory["hbm"].details["commands"] == exact.memory["hbm"].details["commands"]


@pytest.mark.parametrize("phases", [1, 4])
def test_two_layer_model_is_exact_with_several_channel_classes(phases: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With refresh staggered over four groups of channels there are at least four classes; time and counts stay the exact ones.

    Classes that rows of the embedding and of the cache part unite as soon as they can.
    """
    monkeypatch.setattr("tilesim.memory.channels._WORTH_A_LOOK", 0)
    config = load_machine("hbm-npu", (f"parts.hbm.controller.refresh_phases={phases}", "parts.hbm.stacks=1"))
    workload = tilesim.decode(TINY, context=33, batch=3)
    reduced, exact = tilesim.simulate(config, workload), tilesim.simulate(config, workload, exact=True)
    assert reduced.memory["hbm"].details["channel_classes"] >= phases
    assert reduced.memory["hbm"].details["channel_classes"] < reduced.memory["hbm"].details["channels"]
    assert reduced.seconds == exact.seconds
    assert reduced.memory["hbm"].details["commands"] == exact.memory["hbm"].details["commands"]
    assert reduced.energy_lines == exact.energy_lines


def test_same_input_gives_the_same_bytes() -> None:
    first = tilesim.simulate("hbm-npu", tilesim.decode(TINY, context=40))
    second = tilesim.simulate("hbm-npu", tilesim.decode(TINY, context=40))
    assert first.to_json() == second.to_json()


def test_json_is_strict_and_csv_has_a_line_for_each_operator() -> None:
    report = tilesim.simulate("hbm-npu", tilesim.prefill(TINY, prompt=20))
    data = json.loads(report.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert data["schema"] == "tilesim.report/1"
    assert data["bounds"]["ratio"] == pytest.approx(report.seconds / report.bounds.roofline_s)
    stream = io.StringIO()
    report.write_csv(stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [row["name"] for row in rows] == [op.name for op in report.operators]
    assert math.fsum(float(row["seconds"]) for row in rows) == pytest.approx(report.seconds)


def test_decode_reads_weights_kv_and_activations_by_count() -> None:
    """gpt2 at batch 1, context 513: every weight once but for the embedding rows not asked for, 512 cached tokens, no spills."""
    context = 513
    workload = tilesim.decode("gpt2", context=context)
    report = tilesim.simulate("hbm-npu", workload)
    model = workload.model
    weights = sum(t.nbytes for t in tensors_of(workload.lower()).values() if t.role == "weight")
    positions = 2 * model.hidden * (model.max_positions - 1)                   # learned positions: one row of the table
    embedding_row = 2 * model.hidden                                           # the tied table is read whole by the head
    kv = 2 * 2 * model.layers * model.kv_heads * model.head_dim * (context - 1)
    token_id = tensors_of(workload.lower())["token_ids"].nbytes
    assert report.memory["hbm"].read_bytes == weights - positions + embedding_row + kv + token_id
    appended = 2 * 2 * model.layers * model.kv_heads * model.head_dim
    logits = 2 * model.vocab
    assert report.memory["hbm"].written_bytes == appended + logits


def test_decode_is_memory_bound_within_15_percent_of_the_streaming_rate() -> None:
    """1.00 to 1.15 times what its bytes take at the rate of a long stream of reads (which pays for its own first activates)."""
    import simpy
    from tilesim.memory.dram import DramSystem

    config = load_machine("hbm-npu")
    env = simpy.Environment()
    memory = DramSystem(env, config.only(DramConfig, "dram")[1])
    size = 32 << 20
    memory.transfer([(0, size)], write=False)
    env.run()
    stream_bytes_per_s = size / (env.now * 1e-12)
    assert stream_bytes_per_s >= 0.9 * memory.peak_bytes_per_s
    report = tilesim.simulate(config, tilesim.decode("gpt2", context=1024))
    ratio = report.seconds * stream_bytes_per_s / report.bounds.compulsory_bytes
    assert 0.98 <= ratio <= 1.15
    assert report.bounds.kind == "memory"
