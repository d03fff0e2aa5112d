"""Plots of a GPU validation result: predicted against measured, and error by size. Functions of the result alone."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .contract import Row, ValidationResult

_OPERATORS = ("gemm", "attention_prefill", "attention_decode", "moe", "allreduce")


def write_plots(result: ValidationResult, folder: Path) -> None:
    """Both plots as PNG files in *folder*, which is made when it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    predicted_against_measured(result, folder / "gpu_predicted_measured.png")
    error_by_size(result, folder / "gpu_error_by_size.png")


def predicted_against_measured(result: ValidationResult, path: Path) -> None:
    """One point a scored row, both axes logarithmic; the diagonal is perfect, the grey lines ±20 %."""
    figure, axes = plt.subplots(figsize=(6, 6))
    for operator in _OPERATORS:
        rows = _timed(result, operator)
        axes.scatter([r.expected or 0.0 for r in rows], [r.got or 0.0 for r in rows], s=6, alpha=0.6, label=operator)
    limits = (1.0, 2e5)
    for factor, style in ((1.0, "k-"), (1.2, "k:"), (1 / 1.2, "k:")):
        axes.plot(limits, [limit * factor for limit in limits], style, linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, xlabel="measured, µs", ylabel="predicted, µs")
    axes.legend()
    _save(figure, path)


def error_by_size(result: ValidationResult, path: Path) -> None:
    """The signed error of each scored row over its measured time."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for operator in _OPERATORS:
        rows = _timed(result, operator)
        axes.scatter([r.expected or 0.0 for r in rows], [r.error_pct or 0.0 for r in rows], s=6, alpha=0.6, label=operator)
    axes.axhline(0.0, color="k", linewidth=0.8)
    axes.set(xscale="log", ylim=(-100, 150), xlabel="measured, µs", ylabel="error, %")
    axes.legend()
    _save(figure, path)


def _timed(result: ValidationResult, operator: str) -> list[Row]:
    return [row for row in result.rows if row.group.split(":")[0] == operator and row.skipped is None and row.got]


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
