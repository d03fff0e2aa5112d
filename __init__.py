"""tilesim: a cycle-level, event-driven simulator of AI accelerators.

>>> import tilesim
>>> report = tilesim.simulate("hbm-npu", tilesim.decode("llama-3.2-1b", batch=1, context=2048))  # doctest: +SKIP
>>> report.seconds, report.energy_j, report.memory["hbm"].bandwidth_bytes_per_s  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .arch.machine import MachineConfig, load_machine
    from .explore import compare
    from .run import simulate
    from .sim.errors import ConfigError, TilesimError
    from .sim.report import Report
    from .workloads.network import inference
    from .workloads.phases import Workload, decode, prefill

__all__ = ["ConfigError", "MachineConfig", "Report", "TilesimError", "Workload", "__version__", "compare", "decode",
           "inference", "load_machine", "prefill", "simulate"]

#: Public name → the module that holds it; imported at first use, so that ``import tilesim`` costs nothing.
_HOMES = {
    "ConfigError": "sim.errors", "TilesimError": "sim.errors", "Report": "sim.report", "MachineConfig": "arch.machine",
    "load_machine": "arch.machine", "simulate": "run", "Workload": "workloads.phases", "prefill": "workloads.phases",
    "decode": "workloads.phases", "inference": "workloads.network", "compare": "explore",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tilesim' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
