"""Collectives between GPUs: ring, tree, direct and in-switch algorithms over NVLink or PCIe; the fastest is taken.

Serving engines bring all-reduce kernels of their own for small messages: every rank reads the buffers of all others at once
(one shot), or its share of them and then the sums (two shots), with no rendezvous but a flag.

Cost of each: a start, a number of hops one after another, and the busiest link's bytes over its effective rate (the
α–β model of Thakur, Rabenseifner and Gropp, IJHPCA 2005, with NCCL's algorithms). The constants of a link class are in
`configs/gpus/links/NAME.yaml`.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated

from pydantic import Field

from ..sim.config import Config, load
from ..sim.errors import ConfigError
from ..sim.units import BytesPerSecond
from .collectives import LEAST_SENT
from .gpu_config import DEVICE_FOLDER, Gpu

OPERATIONS = ("allreduce", "allgather", "reducescatter", "alltoall", "send_recv")

#: Engines hand larger messages to the vendor's library: vLLM's `CustomAllreduce` takes 8 MiB at most.
ONE_SHOT_MOST_BYTES = 8 * 2**20


class LinkClass(Config):
    """One way to wire GPUs in a node; the rate of a link is the board's, its use is the class's."""

    name: str
    launch_us: Annotated[float, Field(gt=0)]            # of a communication kernel, with its rendezvous
    hop_us: Annotated[float, Field(gt=0)]               # one step: store to the peer, flag, load
    efficiency: Annotated[float, Field(gt=0, le=1)]     # of the link rate, protocol headers and flags included
    ramp_bytes: Annotated[float, Field(ge=0)]           # message that reaches half of that rate; more channels join with √size
    in_switch: bool = False                             # the switch reduces and multicasts (NVLink SHARP)
    in_switch_efficiency: Annotated[float, Field(gt=0, le=1)] = 1.0
    shared_host: bool = False                           # more than two ranks share one host bridge
    host_share: Annotated[float, Field(gt=0, le=1)] = 1.0     # of the rate that is left then
    one_shot_us: Annotated[float, Field(gt=0)] | None = None    # an engine's own kernel: start and flags; None: there is none
    one_shot_efficiency: Annotated[float, Field(gt=0, le=1)] = 1.0    # of the link rate: plain loads from the peers
    beyond_pairs: str | None = None                     # only pairs have this link; more ranks use that class
    bandwidth_bytes_per_s: BytesPerSecond | None = None # each direction; None: the board's
    sources: tuple[str, ...] = ()


@cache
def link_class(name: str) -> LinkClass:
    """The shipped link class called *name*."""
    path = DEVICE_FOLDER / "links" / f"{name}.yaml"
    if not path.is_file():
        known = tuple(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ConfigError(f"{name!r} is no link class", value=name, allowed=known)
    return load(LinkClass, path, kind="link")


def collective_seconds(gpu: Gpu, op: str, message_bytes: float, ranks: int, link: LinkClass | None = None) -> float:
    """Time of *op* over *ranks* GPUs. *message_bytes* is each rank's buffer: the input of an all-reduce, the whole gathered
    output of an all-gather, the whole input of a reduce-scatter or an all-to-all, the payload of a send."""
    if op not in OPERATIONS:
        raise ConfigError(f"{op!r} is no collective", value=op, allowed=OPERATIONS)
    if ranks <= 1 and op != "send_recv":
        return 0.0
    wire = link or link_class(gpu.device.link)
    if wire.beyond_pairs is not None and ranks > 2:
        wire = link_class(wire.beyond_pairs)
    candidates = _CANDIDATES[op](message_bytes, max(ranks, 2), wire)
    # A send has no ring or tree to meet on: it starts with the two hops of a request and its data.
    start_us = 2.0 * wire.hop_us if op == "send_recv" else wire.launch_us
    seconds = start_us * 1e-6 + min(
        hops * wire.hop_us * 1e-6 + _wire_seconds(gpu, wire, sent_bytes, message_bytes, share, ranks, ramps=op != "send_recv")
        for hops, sent_bytes, share in candidates)
    if op == "allreduce" and gpu.library.one_shot_allreduce and message_bytes <= ONE_SHOT_MOST_BYTES and wire.one_shot_us:
        return min(seconds, one_shot_seconds(gpu, message_bytes, ranks, wire))
    return seconds


def one_shot_seconds(gpu: Gpu, message_bytes: float, ranks: int, wire: LinkClass) -> float:
    """An engine's own all-reduce kernel on a class that has one: all buffers in one shot, or a share of them in two."""
    assert wire.one_shot_us is not None
    rate = (wire.bandwidth_bytes_per_s or gpu.device.link_bandwidth_bytes_per_s) * wire.one_shot_efficiency
    once_s = message_bytes * (ranks - 1) / rate
    twice_s = 2.0 * message_bytes * (ranks - 1) / ranks / rate + wire.hop_us * 1e-6
    return wire.one_shot_us * 1e-6 + min(once_s, twice_s)


def _wire_seconds(
    gpu: Gpu, wire: LinkClass, sent_bytes: float, message_bytes: float, efficiency: float, ranks: int, *,
    ramps: bool,
) -> float:
    """Time of *sent_bytes* on one rank's link; small messages of a collective use too few channels to fill it."""
    rate = (wire.bandwidth_bytes_per_s or gpu.device.link_bandwidth_bytes_per_s) * efficiency
    if wire.shared_host and ranks > 2:
        rate *= wire.host_share
    ramp = math.sqrt(wire.ramp_bytes / message_bytes) if ramps and message_bytes else 0.0
    return sent_bytes / rate * (1.0 + ramp)


#: (hops one after another, bytes that the busiest link carries, efficiency of the link)
_Candidate = tuple[float, float, float]


def _allreduce(size_bytes: float, ranks: int, wire: LinkClass) -> list[_Candidate]:
    candidates = [
        (1.0, size_bytes * (ranks - 1), wire.efficiency),                         # direct: everyone reads everyone
        *_steps("allreduce", size_bytes, ranks, wire),                            # direct reduce-scatter and all-gather; ring
        (2.0 * math.ceil(math.log2(ranks)), 2.0 * size_bytes, wire.efficiency),   # double binary tree
    ]
    if wire.in_switch and ranks > 2:
        candidates.append((2.0, size_bytes * (1.0 + 1.0 / ranks), wire.in_switch_efficiency))
    return candidates


def _gather_like(size_bytes: float, ranks: int, wire: LinkClass) -> list[_Candidate]:
    return _steps("allgather", size_bytes, ranks, wire)


def _steps(function: str, size_bytes: float, ranks: int, wire: LinkClass) -> list[_Candidate]:
    """The direct and the ring algorithm: both send the least there is, in one step or in one step a neighbour."""
    share, rounds = float(LEAST_SENT[function](ranks)), 2.0 if function == "allreduce" else 1.0
    return [(rounds * hops, size_bytes * share, wire.efficiency) for hops in (1.0, ranks - 1.0)]


def _send(size_bytes: float, ranks: int, wire: LinkClass) -> list[_Candidate]:
    return [(0.0, size_bytes, wire.efficiency)]


_CANDIDATES = {"allreduce": _allreduce, "allgather": _gather_like, "reducescatter": _gather_like, "alltoall": _gather_like,
               "send_recv": _send}
