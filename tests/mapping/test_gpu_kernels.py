"""From operators to a GPU library's kernels: which share a launch, what each must move and multiply, which are timed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import tilesim
from tilesim.arch.gpu_config import find_gpu
from tilesim.mapping.gpu_kernels import Kernel, kernels_of
from tilesim.mapping.gpu_work import signature, work_of
from tilesim.sim.dtypes import DTYPES
from tilesim.workloads import single
from tilesim.workloads.graph import GraphBuilder, OperatorGraph, totals
from tilesim.workloads.images import Pool
from tilesim.workloads.recurrent import LstmCell
from tilesim.workloads.tensors import Tensor
from tilesim.workloads.vector import Elementwise, Norm

GPU = find_gpu("a100-sxm-80gb")
BF16 = DTYPES["bf16"]


@pytest.mark.parametrize("graph", [
    lambda: tilesim.decode("qwen3-8b", context=300, batch=3).lower(),
    lambda: tilesim.prefill("qwen3-8b", prompt=40, batch=2).lower(),
    lambda: tilesim.decode("mistral-7b-v0.1", context=5000).lower(),
], ids=["decode", "prefill", "window"])
def test_kernels_read_and_write_what_lies_outside_as_the_graph_counts_it(graph: Callable[[], OperatorGraph]) -> None:
    """Weights, inputs and cached tokens once; keys and values that the run itself appended are not read from outside."""
    kernels, counts = kernels_of(graph()), totals(graph())
    assert sum(kernel.external_read_bytes for kernel in kernels) == sum(counts.external_read_bytes.values())
    assert sum(kernel.external_write_bytes for kernel in kernels) == sum(counts.external_written_bytes.values())


def test_norms_of_one_launch_do_the_work_of_both() -> None:
    kernels = kernels_of(tilesim.decode("qwen3-0.6b", context=300).lower())
    joined = next(kernel for kernel in kernels if [type(op) for op in kernel.operators] == [Norm, Norm])
    alone = [work_of(GPU, replace(joined, operators=(op,))) for op in joined.operators]
    assert work_of(GPU, joined).flops[0] == alone[0].flops[0] + alone[1].flops[0]


def test_a_residual_sum_shares_its_launch_only_with_the_norm_that_reads_it() -> None:
    def launches(reads_sum: bool) -> int:
        a, b, other = (Tensor(name, (4, 8), BF16, "input") for name in ("a", "b", "other"))
        total, y = (Tensor(name, (4, 8), BF16, "output") for name in ("sum", "y"))
        weight = Tensor("weight", (8,), BF16, "weight")
        builder = GraphBuilder("chain")
        builder.add(Elementwise(name="add", inputs=(a, b), outputs=(total,), function="add", rows=4, cols=8))
        builder.add(Norm(name="norm", inputs=(total if reads_sum else other, weight), outputs=(y,), function="rmsnorm", rows=4,
                         cols=8))
        return len(kernels_of(builder.graph))

    assert launches(reads_sum=True) == 1
    assert launches(reads_sum=False) == 2


def test_products_divided_by_columns_and_by_reduction_are_not_timed_as_one() -> None:
    kernel = kernels_of(single.gemm(16, 64, 64))[0]
    by_columns, by_reduction = replace(kernel, parts=2), replace(kernel, parts=2, splits_reduction=True)
    assert signature(by_columns) != signature(by_reduction)
    assert signature(by_columns) == signature(replace(by_columns, name="another"))


def test_windows_that_overlap_come_from_dram_once() -> None:
    """3 × 3 windows over 64 images of 56 × 56 × 64: read as a matrix, each pixel would come nine times."""
    kernel = kernels_of(single.conv(56, 56, 64, 64, padding=1, batch=64))[0]
    assert work_of(GPU, kernel).dram_bytes[0] < 1.1 * (kernel.external_read_bytes + kernel.external_write_bytes)


@pytest.mark.parametrize(("model", "kind"), [("resnet-50", Pool), ("tpu-v1-lstm1", LstmCell)])
def test_streaming_kernels_do_their_operators_operations(model: str, kind: type) -> None:
    def first() -> Kernel:
        return next(kernel for kernel in kernels_of(tilesim.inference(model, batch=4).lower()) if isinstance(kernel.first, kind))

    assert work_of(GPU, first()).flops[0] == first().first.vector_flops > 0
