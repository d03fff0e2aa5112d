"""The operator graph: is it a DAG in program order, does every tensor arrive as it left, do the parts add up?"""

from __future__ import annotations

from collections import Counter

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilesim.sim.dtypes import DTYPES
from tilesim.sim.errors import ConfigError
from tilesim.workloads import (
    Elementwise,
    GraphBuilder,
    ModelConfig,
    Tensor,
    Workload,
    decode,
    prefill,
    program_order,
    tensors_of,
    totals,
)
from tilesim.workloads.phases import Logits
from tilesim.workloads.tensors import Role

BF16 = DTYPES["bf16"]
LOGITS: tuple[Logits, ...] = ("last", "all")


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    """Small models of every trait, mixed freely."""
    kv_heads, head_dim = draw(st.integers(1, 3)), draw(st.sampled_from([2, 8]))
    heads = kv_heads * draw(st.integers(1, 3))
    flags = {flag: draw(st.booleans()) for flag in ("qkv_bias", "attention_out_bias", "mlp_bias", "qk_norm", "tied_embeddings")}
    layers = draw(st.integers(1, 3))
    return ModelConfig(
        name="random", family="random", layers=layers, hidden=draw(st.integers(1, 24)), heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, intermediate=draw(st.integers(1, 24)), vocab=draw(st.integers(1, 50)), max_positions=64,
        mlp=draw(st.sampled_from(["gated", "plain"])), activation=draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"])),
        norm=draw(st.sampled_from(["rmsnorm", "layernorm"])), positions=draw(st.sampled_from(["rotary", "learned"])),
        window_tokens=draw(st.none() | st.integers(1, 20)), first_window_layer=draw(st.integers(0, 3)), **flags,
    )


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    model, tokens, batch = draw(models()), draw(st.integers(1, 40)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        return decode(model, context=tokens, batch=batch)
    return prefill(model, prompt=tokens, batch=batch, logits=draw(st.sampled_from(LOGITS)))


@given(workloads())
@settings(deadline=None)
def test_graph_is_a_dag_in_program_order(workload: Workload) -> None:
    graph = workload.lower()
    assert nx.is_directed_acyclic_graph(graph)
    place = {name: i for i, name in enumerate(graph)}
    assert all(place[producer] < place[consumer] for producer, consumer in graph.edges)


@given(workloads())
@settings(deadline=None)
def test_every_tensor_is_consumed_as_it_was_produced_and_nothing_is_computed_in_vain(workload: Workload) -> None:
    graph = workload.lower()
    by_name = {op.name: op for op in program_order(graph)}
    carried: set[Tensor] = set()
    between: tuple[Tensor, ...]
    for producer, consumer, between in graph.edges(data="tensors"):
        assert set(between) <= set(by_name[producer].outputs)
        assert set(between) <= set(by_name[consumer].inputs)
        carried |= set(between)
    produced = {tensor for op in by_name.values() for tensor in op.outputs}
    assert {tensor for tensor in produced if tensor not in carried} == {tensors_of(graph)["logits"]}


@given(workloads())
@settings(deadline=None)
def test_totals_are_the_sums_of_the_parts(workload: Workload) -> None:
    graph = workload.lower()
    whole, parts = totals(graph), list(program_order(graph))
    assert (whole.operators, whole.macs, whole.flops) == (len(parts), sum(o.macs for o in parts), sum(o.flops for o in parts))
    by_role: Counter[Role] = Counter()
    for op in parts:
        by_role.update(op.read_bytes)
        by_role.update(op.written_bytes)
    assert whole.operator_bytes == dict(by_role)
    assert whole.parameters == workload.model.parameters


@given(workloads())
@settings(deadline=None)
def test_no_external_bytes_exceed_what_the_operators_move(workload: Workload) -> None:
    whole = totals(workload.lower())
    external = Counter(whole.external_read_bytes) + Counter(whole.external_written_bytes)
    assert all(external[role] <= whole.operator_bytes[role] for role in external)
    assert whole.external_read_bytes["weight"] <= whole.weight_bytes


@given(models(), st.integers(2, 40))
@settings(deadline=None)
def test_a_decode_step_does_the_attention_of_the_last_row_of_a_prefill(model: ModelConfig, tokens: int) -> None:
    def attention_macs(workload: Workload) -> int:
        return sum(op.macs for op in program_order(workload.lower()) if op.kind == "attention")

    last_row = attention_macs(prefill(model, prompt=tokens)) - attention_macs(prefill(model, prompt=tokens - 1))
    assert attention_macs(decode(model, context=tokens)) == last_row


@given(models(), st.integers(1, 40), st.integers(1, 3))
@settings(deadline=None)
def test_layers_of_one_shape_share_their_signatures(model: ModelConfig, context: int, batch: int) -> None:
    graph = decode(model, context=context, batch=batch).lower()
    of_layer = [[op.signature for op in program_order(graph) if op.layer == layer] for layer in range(model.layers)]
    if model.window_tokens is None:
        assert all(signatures == of_layer[0] for signatures in of_layer)
    assert all(len(signatures) == len(of_layer[0]) for signatures in of_layer)


def add(name: str, *reads: Tensor, writes: Tensor) -> Elementwise:
    return Elementwise(name=name, inputs=reads, outputs=(writes,), function="add", rows=1, cols=4)


def test_builder_refuses_what_makes_no_graph() -> None:
    roles: dict[str, Role] = {"x": "input", "y": "activation", "z": "activation"}
    x, y, z = (Tensor(name, (4,), BF16, role) for name, role in roles.items())
    builder = GraphBuilder()
    with pytest.raises(ConfigError, match="before any operator wrote it"):
        builder.add(add("early", x, y, writes=z))
    builder.add(add("first", x, x, writes=y))
    with pytest.raises(ConfigError, match="stands twice"):
        builder.add(add("first", x, x, writes=z))
    with pytest.raises(ConfigError, match="which first wrote"):
        builder.add(add("second", x, x, writes=y))
    with pytest.raises(ConfigError, match="elsewhere it is"):
        builder.add(add("third", x, Tensor("y", (2, 2), BF16, "activation"), writes=z))
