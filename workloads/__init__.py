"""Workloads: a model in a phase, lowered to a graph of operators with shapes, formats and operands.

The names below load their modules when first asked for, so that ``import tilesim.workloads`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .graph import GraphBuilder, OperatorGraph, Totals, program_order, tensors_of, totals
    from .model import ModelConfig
    from .operators import Attention, Embedding, Gemm, KvAppend, Operator, SelectLast
    from .phases import Precision, Workload, decode, prefill
    from .shipped import load_model, shipped_models
    from .tensors import Tensor
    from .vector import Elementwise, Norm, Rope, Softmax

__all__ = [
    "Attention", "Elementwise", "Embedding", "Gemm", "GraphBuilder", "KvAppend", "ModelConfig", "Norm", "Operator",
    "OperatorGraph", "Precision", "Rope", "SelectLast", "Softmax", "Tensor", "Totals", "Workload", "decode", "load_model",
    "prefill", "program_order", "shipped_models", "tensors_of", "totals",
]

_HOME = {
    "graph": ("GraphBuilder", "OperatorGraph", "Totals", "program_order", "tensors_of", "totals"),
    "model": ("ModelConfig",),
    "operators": ("Attention", "Embedding", "Gemm", "KvAppend", "Operator", "SelectLast"),
    "phases": ("Precision", "Workload", "decode", "prefill"),
    "shipped": ("load_model", "shipped_models"),
    "tensors": ("Tensor",),
    "vector": ("Elementwise", "Norm", "Rope", "Softmax"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
