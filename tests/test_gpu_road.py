"""A GPU is a chip like any other: the same commands, the same report, the same laws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tilesim
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tilesim.arch.families import find_machine, shipped_names
from tilesim.arch.gpu_config import find_gpu, shipped_gpus
from tilesim.cli import main
from tilesim.mapping.gpu_kernels import kernels_of
from tilesim.run import run_graph
from tilesim.sim.errors import ConfigError
from tilesim.sim.report import Report
from tilesim.validation.gpu_models import Engine, step
from tilesim.validation.gpu_shapes import SHAPES
from tilesim.workloads import single
from tilesim.workloads.graph import OperatorGraph, program_order, totals
from tilesim.workloads.model import ModelConfig
from tilesim.workloads.single import single_operator

BOARDS = sorted({gpu.name for gpu in shipped_gpus().values()})
TINY = ModelConfig(name="tiny", family="llama", layers=2, hidden=256, heads=8, kv_heads=4, head_dim=32, intermediate=512,
                   vocab=512, max_positions=4096, mlp="gated", activation="silu", norm="rmsnorm", positions="rotary",
                   tied_embeddings=False)
boards = st.sampled_from(BOARDS)
sizes = st.integers(1, 9000)
few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def gemm(m: int, n: int, k: int, batch: int, dtype: str) -> OperatorGraph:
    return single_operator("gemm", {"m": m, "n": n, "k": k, "batch": batch, "dtype": dtype})[0]


def attention(group: int, q_tokens: int, context: int, batch: int, head_dim: int) -> OperatorGraph:
    return single_operator("attention", {"heads": 4 * group, "kv_heads": 4, "head_dim": head_dim, "q": min(q_tokens, context),
                                         "context": context, "batch": batch, "full": False, "dtype": "bf16"})[0]


def vector(kind: str, rows: int, cols: int) -> OperatorGraph:
    return single_operator(kind, {"rows": rows, "cols": cols, "function": "layernorm" if kind == "norm" else "gelu_tanh_mul",
                                  "dtype": "bf16"})[0]


def conv(extent: int, channels: int, filters: int, size: int, *, stride: int = 1, padding: int = 0, groups: int = 1,
         batch: int = 1) -> OperatorGraph:
    return single.conv(extent, extent, channels, filters, filter_height=size, filter_width=size, stride=stride, padding=padding,
                       groups=groups, batch=batch)


graphs = st.one_of(
    st.builds(gemm, sizes, sizes, sizes, st.integers(1, 3), st.sampled_from(["fp32", "bf16", "fp8", "int8", "int4-g128"])),
    st.builds(attention, st.sampled_from([1, 4, 8]), st.integers(1, 3000), st.integers(1, 5000), st.integers(1, 40),
              st.sampled_from([64, 128])),
    st.builds(vector, st.sampled_from(["norm", "softmax", "elementwise"]), sizes, sizes),
)


def check_laws(report: Report, graph: OperatorGraph) -> None:
    """The laws of design §5 that a report alone can be held to."""
    assert report.seconds >= report.bounds.roofline_s
    for level in report.memory.values():
        assert level.bandwidth_bytes_per_s <= level.peak_bytes_per_s
        assert 0 <= level.used_bytes <= level.capacity_bytes
    for unit in report.units.values():
        assert unit.utilisation is None or 0 <= unit.utilisation <= 1
        assert unit.busy_s <= report.seconds * (1 + 1e-12)
    assert sum(unit.macs for unit in report.units.values()) == sum(op.executed_macs for op in report.operators)
    assert all(op.executed_macs >= op.macs for op in report.operators)
    assert sum(op.macs for op in report.operators) == sum(op.macs for op in program_order(graph))
    dram = report.memory["dram"]
    assert dram.read_bytes == sum(op.read_bytes for op in report.operators)
    assert dram.written_bytes == sum(op.write_bytes for op in report.operators)
    assert dram.read_bytes + dram.written_bytes >= report.bounds.compulsory_bytes
    ranks = report.config["machine"]["gpus"]                # each of them rounds each kernel's share down
    assert dram.written_bytes >= sum(totals(graph).external_written_bytes.values()) - ranks * len(report.operators)
    assert all(op.read_bytes >= 0 and op.write_bytes >= 0 for op in report.operators)
    assert report.energy_j == pytest.approx(sum(report.energy_by_component.values()))
    for line in report.energy_lines:
        assert line.joules >= 0
        assert line.action == "static" or line.joules == pytest.approx(line.count * line.pj_each * 1e-12)
    assert sum(op.seconds for op in report.operators) == pytest.approx(report.seconds)
    json.loads(report.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@few
@given(boards, graphs)
def test_every_operator_obeys_the_laws(board: str, graph: OperatorGraph) -> None:
    check_laws(run_graph(find_gpu(board), graph, "case", 0, {}), graph)


def possible(board: str, ranks: int) -> int:
    """*ranks*, or one where the board has no link."""
    return 1 if find_gpu(board).device.link == "none" else ranks


@few
@given(boards, st.integers(1, 9), st.integers(1, 3000), st.booleans(), st.sampled_from([1, 2, 4]),
       st.sampled_from([None, "int4-g128"]))
def test_whole_models_obey_the_laws(board: str, batch: int, tokens: int, is_prefill: bool, ranks: int, weights: str | None) -> None:
    workload = (tilesim.prefill(TINY, prompt=tokens, batch=batch, weights=weights) if is_prefill
                else tilesim.decode(TINY, context=tokens, batch=batch, weights=weights))
    check_laws(tilesim.simulate(board, workload, tensor_parallel=possible(board, ranks)), workload.lower())


@few
@given(boards, st.integers(1, 40), st.integers(1, 64), st.sampled_from([1, 2, 3]), st.sampled_from([(16, 48, 1), (96, 24, 4),
                                                                                                  (64, 64, 64)]))
def test_convolutions_obey_the_laws(board: str, batch: int, extent: int, stride: int, widths: tuple[int, int, int]) -> None:
    channels, filters, groups = widths
    graph = conv(extent, channels, filters, min(3, extent), stride=stride, groups=groups, batch=batch)
    check_laws(run_graph(find_gpu(board), graph, "case", 0, {}), graph)


@pytest.mark.parametrize("model", ["resnet-50", "tpu-v1-lstm1"])
def test_networks_of_layers_run_on_boards(model: str) -> None:
    workload = tilesim.inference(model, batch=4)
    check_laws(tilesim.simulate("h100-sxm", workload), workload.lower())
    if model == "resnet-50":
        with pytest.raises(ConfigError, match="tensor parallelism of 'conv'"):
            tilesim.simulate("h100-sxm", workload, tensor_parallel=2)


def test_a_convolution_of_single_pixels_is_a_matrix_product() -> None:
    """56 × 56 positions of 256 channels into 64 filters: m = 3136, k = 256, n = 64, and the same operands."""
    seconds = [run_graph(find_gpu("a100-sxm-80gb"), graph, "case", 0, {}).seconds for graph in (
        conv(56, 256, 64, 1), gemm(3136, 64, 256, 1, "bf16"))]
    assert seconds[0] == pytest.approx(seconds[1], rel=1e-9)


def test_a_depthwise_convolution_streams_its_image() -> None:
    """One filter a channel would leave 127 of 128 columns of a tile empty; the direct kernel is bound by DRAM instead."""
    graph = conv(112, 512, 512, 3, padding=1, groups=512, batch=32)
    report = run_graph(find_gpu("a100-sxm-80gb"), graph, "case", 0, {})
    image_s = 2 * 2 * 32 * 112 * 112 * 512 / find_gpu("a100-sxm-80gb").dram_stream_bytes_per_s
    assert image_s < report.seconds < 1.2 * image_s


@pytest.mark.parametrize("board", BOARDS)
def test_every_shipped_gpu_decodes_gpt2(board: str) -> None:
    workload = tilesim.decode("gpt2", context=512)
    check_laws(tilesim.simulate(board, workload), workload.lower())


def test_energy_is_that_of_the_kernels() -> None:
    """The breakdown sums to the power model's own energies: 8192³ on an H200 runs at its power limit."""
    report = run_graph(find_gpu("h200-sxm"), gemm(8192, 8192, 8192, 1, "bf16"), "case", 0, {})
    operator = report.operators[0]
    assert operator.mapping["clock_share"] < 1
    assert operator.bottleneck == "power cap"
    assert report.energy_j == pytest.approx(operator.mapping["power_w"] * report.seconds, rel=1e-6)
    assert report.energy_j / report.seconds <= find_gpu("h200-sxm").device.power_limit_w * 1.001


def test_library_kernels_join_operators() -> None:
    """A decoder layer: 9 launches for a gated rotary model; the first norm, embedding, head and their exchange stand apart."""
    graph = tilesim.decode(TINY, context=64).lower()
    kernels = kernels_of(graph)
    assert [k.name for k in kernels if k.first.layer == 0] == [
        "layers.0.attention.norm", "layers.0.attention.q+k+v", "layers.0.attention.q_rope+k_rope+kv_append",
        "layers.0.attention.mix", "layers.0.attention.out", "layers.0.attention.residual+mlp.norm", "layers.0.mlp.gate+up",
        "layers.0.mlp.activation", "layers.0.mlp.down", "layers.0.mlp.residual+norm"]
    assert [op.name for k in kernels for op in k.operators] == [op.name for op in program_order(graph)]


def test_tensor_parallel_reduces_twice_in_a_layer_and_gathers_logits_once() -> None:
    kernels = kernels_of(tilesim.decode(TINY, context=64).lower(), 4)
    exchanges = [(k.name, k.collective) for k in kernels if k.collective]
    assert exchanges[:2] == [("layers.0.attention.out", "allreduce"), ("layers.0.mlp.down", "allreduce")]
    assert exchanges[-1] == ("head", "allgather")
    assert len(exchanges) == 2 * TINY.layers + 1


TINY_EXPERTS = TINY.model_copy(update={"name": "tiny-experts", "experts": 16, "top_k": 2})


@few
@given(board=boards, batch=st.integers(1, 300), ranks=st.sampled_from([1, 2, 4]))
def test_a_mixture_of_experts_keeps_the_laws(board: str, batch: int, ranks: int) -> None:
    workload = tilesim.decode(TINY_EXPERTS, context=200, batch=batch)
    check_laws(tilesim.simulate(board, workload, tensor_parallel=possible(board, ranks)), workload.lower())


def test_ranks_route_alike_and_reduce_the_experts_results_once() -> None:
    kernels = {k.name: k for k in kernels_of(tilesim.decode(TINY_EXPERTS, context=64, batch=3).lower(), 4)}
    router, experts = kernels["layers.0.mlp.router"], kernels["layers.0.mlp.experts"]
    assert (router.parts, router.collective) == (1, None)
    assert (experts.parts, experts.collective, experts.message_bytes) == (4, "allreduce", 3 * TINY.hidden * 2)


def test_experts_without_a_token_are_not_read() -> None:
    def weight_bytes(batch: int) -> int:
        layer = next(k for k in kernels_of(tilesim.decode(TINY_EXPERTS, context=64, batch=batch).lower())
                     if k.name == "layers.0.mlp.experts")
        return layer.external_read_bytes

    expert_bytes = 3 * TINY.hidden * TINY.intermediate * 2
    assert weight_bytes(1) == 2 * expert_bytes
    assert weight_bytes(1000) == 16 * expert_bytes


@pytest.mark.parametrize(("ranks", "batch"), [(1, 1), (2, 32), (4, 256)])
def test_a_step_through_experts_equals_that_of_the_validated_whole_models(ranks: int, batch: int) -> None:
    """4 %: as for dense models, and the norms of q and k, which the validated step ignores."""
    ours = tilesim.simulate("h200-sxm", tilesim.decode("qwen3-30b-a3b", context=1500, batch=batch), tensor_parallel=ranks)
    theirs = step(find_gpu("h200-sxm"), SHAPES["qwen3-30b-a3b"], Engine(0.0, "graph", "bf16", "bf16"), batch=batch, q_len=1,
                  kv_len=1500, ranks=ranks)
    assert ours.seconds == pytest.approx(theirs.seconds, rel=0.06)


@pytest.mark.parametrize(("ranks", "batch", "q_len"), [(1, 1, 1), (1, 32, 1), (1, 1, 1024), (2, 16, 1), (8, 2, 512)])
def test_step_equals_that_of_the_validated_whole_models(ranks: int, batch: int, q_len: int) -> None:
    """3 %: the validated step ignores the cache write, the logits' exchange, and norm weights, and has one norm more."""
    context = max(q_len, 1500 if q_len == 1 else q_len)
    workload = (tilesim.decode("llama-3.1-8b", context=context, batch=batch, dtype="fp16") if q_len == 1
                else tilesim.prefill("llama-3.1-8b", prompt=q_len, batch=batch, dtype="fp16"))
    ours = tilesim.simulate("h100-sxm", workload, tensor_parallel=ranks)
    theirs = step(find_gpu("h100-sxm"), SHAPES["llama-3-8b"], Engine(0.0, "graph"), batch=batch, q_len=q_len, kv_len=context,
                  ranks=ranks)
    assert ours.seconds == pytest.approx(theirs.seconds, rel=0.03)
    assert ours.energy_j == pytest.approx(theirs.energy_j, rel=0.04)


def test_model_larger_than_memory_says_how_many_gpus_hold_it() -> None:
    with pytest.raises(ConfigError, match="--tp 2 or more"):
        tilesim.simulate("h100-sxm", tilesim.decode("llama-3.1-70b", context=128))


def test_window_costs_no_more_than_full_attention() -> None:
    """Mistral 7B v0.1, window 4096: a prompt of 16k tokens takes less attention time than v0.3, which has none."""
    def attention_s(model: str) -> float:
        report = tilesim.simulate("h100-sxm", tilesim.prefill(model, prompt=16384))
        return sum(op.seconds for op in report.operators if op.kind == "attention")

    assert 0.3 < attention_s("mistral-7b-v0.1") / attention_s("mistral-7b-v0.3") < 0.6      # pairs: 0.44


@pytest.mark.parametrize("words", [
    ["--exact"], ["--trace", "t.json"], ["--attention", "unfused"], ["--tp", "0"], ["--tp", "5"],
    ["--weights", "fp4", "--activations", "int8"], ["--set", "sms=0"], ["--set", "nothing=1"],
])
def test_options_that_make_no_sense_give_one_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--arch", "h100-sxm", "--model", "llama-3.2-1b", "--phase", "decode", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tilesim: ")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("words", [["decode", "--prompt", "100"], ["prefill", "--context", "100"],
                                   ["decode", "--context", "10", "--prompt", "100"]])
@pytest.mark.parametrize("chip", ["h100-sxm", "hbm-npu"])
def test_an_option_of_the_other_phase_is_refused(chip: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--arch", chip, "--model", "gpt2", "--phase", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "makes no sense with --phase" in captured.err


def test_a_board_goes_by_the_names_of_measurement_tables() -> None:
    assert find_machine("H100-SXM5-80GB") == find_machine("h100-sxm")
    with pytest.raises(ConfigError, match="h100-sxm"):
        find_machine("H100-SXM6")


def test_tensor_parallel_is_refused_without_links(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--arch", "tpu-v4i", "--model", "gpt2", "--phase", "decode", "--context", "64", "--tp", "2"]) == 2
    assert "has no links to other devices" in capsys.readouterr().err


@pytest.mark.parametrize("operator", [
    ["gemm", "128", "4096", "4096"], ["attention", "--heads", "32", "--head-dim", "128", "--q", "1", "--context", "2000"],
    ["norm", "8", "4096"], ["softmax", "8", "4096"], ["elementwise", "silu_mul", "8", "4096"],
])
def test_single_operators_write_every_output(operator: list[str], tmp_path: Path) -> None:
    assert main(["op", *operator, "--arch", "a100-sxm-80gb", "--quiet", "--json", str(tmp_path / "r.json"), "--csv",
                 str(tmp_path / "r.csv"), "--plots", str(tmp_path / "plots")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["operators"]) == 1
    assert report["reductions"] == []
    assert len(list((tmp_path / "plots").glob("*.png"))) == 3


def test_listed_chips_hold_both_families_and_each_loads() -> None:
    names = shipped_names()
    assert {"hbm-npu", "h100-sxm"} <= set(names)
    for name in names:
        assert find_machine(name).name == name


def test_shown_gpu_loads_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "h100-sxm", "--set", "sms=100"]) == 0
    text = capsys.readouterr().out
    assert "type: gpu" in text
    assert "# architecture hopper" in text
    (tmp_path / "again.yaml").write_text(text)
    assert find_machine(str(tmp_path / "again.yaml")) == find_machine("h100-sxm", ("sms=100",))


def test_own_board_extends_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text("extends: h100-sxm\nname: slow\ndram_bandwidth: 1 TB/s\n")
    workload = tilesim.decode("gpt2", context=64)
    slow = tilesim.simulate(tmp_path / "slow.yaml", workload)
    assert slow.machine == "slow"
    assert slow.seconds > tilesim.simulate("h100-sxm", workload).seconds


def test_a_board_without_a_link_is_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--arch", "jetson-agx-orin", "--model", "llama-3.2-1b", "--phase", "decode", "--tp", "2"]) == 2
    assert "has no link to another" in capsys.readouterr().err


def test_a_format_without_a_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["op", "--arch", "l4", "norm", "10", "10", "--dtype", "int32"]) == 2
    assert "int32" in capsys.readouterr().err
    assert main(["run", "--arch", "h100-sxm", "--model", "qwen3-0.6b", "--phase", "prefill", "--dtype", "int32"]) == 2
