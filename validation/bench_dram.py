"""Requests per CPU second of the DRAM controller, on the cases that two public simulators were timed on, with their traffic.

No reductions, one core, one channel, the preset of the peer; the trace is made before the clock starts, as the peers' was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..memory.address import parse_mapping
from ..memory.controller import replay, tables_for
from .bench import Line
from .dram import SHIPPED, Reference, controller_of
from .dram_traces import MAPPING, Geometry, make_trace

REQUESTS = 300_000
#: (peer, config) → thousand requests per CPU second of the peer on sequential, bank-group and random reads, release builds on a
#: 2-core machine (Ramulator 2.1 c5b1c3a, DRAMsim3 2981759, both MIT): our own runs of the unmodified simulators.
PEERS = {
    ("ramulator2.1", "ddr4_2400r_8gb_x8"): {"seq_rd": 267, "bgi_rd": 336, "rand_rd": 150},
    ("ramulator2.1", "hbm3_6400_8gb_8hi"): {"seq_rd": 206, "bgi_rd": 383, "rand_rd": 98},
    ("ramulator2.1", "ddr5_4800an_16gb_x8"): {},
    ("ramulator2.1", "lpddr5_6400_8gb_x16"): {},
    ("dramsim3", "ddr4_2400_8gb_x8"): {"seq_rd": 276, "bgi_rd": 252, "rand_rd": 116},
    ("dramsim3", "hbm2_8gb_x128"): {"seq_rd": 468, "bgi_rd": 418, "rand_rd": 86},
}
KINDS = ("seq_rd", "bgi_rd", "hit_rd", "rand_rd")


def benchmarks() -> Iterator[Line]:
    """One line for each device and kind of traffic."""
    reference = Reference(SHIPPED / "configs.yaml")
    for (peer, config), rates in PEERS.items():
        device = reference.device(peer, config)
        for kind in KINDS:
            trace = make_trace(kind, Geometry.parse(device.geometry), REQUESTS, 1)
            best = float("inf")
            for _ in range(3):
                tables = tables_for(device.standard, device.organisation, device.timing,
                                    parse_mapping(MAPPING, device.organisation), controller_of(peer))
                before = time.process_time()
                replay(tables, trace.burst, trace.tick + 1, trace.write)
                best = min(best, time.process_time() - before)
            known = rates.get(kind)
            yield Line(f"{config} {kind}", best, REQUESTS / best, "req/s", known * 1e3 if known else None, peer if known else "")
