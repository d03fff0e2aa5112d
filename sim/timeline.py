"""The timeline: what each unit did when, as arrays, and as a Chrome/Perfetto trace."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import IO


@dataclass(slots=True)
class Timeline:
    """Slices of work: unit, operator, label, start and end in picoseconds. Slices of one track never overlap."""

    slices: list[tuple[str, str, str, int, int]] = field(default_factory=list)

    def add(self, unit: str, operator: str, label: str, start_ps: int, end_ps: int) -> None:
        self.slices.append((unit, operator, label, start_ps, end_ps))

    def write_chrome(self, stream: IO[str]) -> None:
        """Write the Chrome trace-event JSON (https://ui.perfetto.dev opens it), one track for each unit and lane.

        Transfers of one DMA queue overlap, and slices of a track must not: each queue gets as many lanes as it had
        transfers in flight. Times are microseconds with picosecond digits.
        """
        tracks: dict[tuple[str, int], int] = {}
        free_at: dict[str, list[int]] = {}
        stream.write('{"displayTimeUnit": "ns", "traceEvents": [\n')
        stream.write('{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "tilesim"}}')
        for unit, operator, label, start, end in sorted(self.slices, key=lambda s: (s[3], s[4], s[0])):
            lanes = free_at.setdefault(unit, [])
            lane = next((i for i, free in enumerate(lanes) if free <= start), len(lanes))
            if lane == len(lanes):
                lanes.append(0)
            lanes[lane] = end
            if (unit, lane) not in tracks:
                tracks[unit, lane] = len(tracks) + 1
                name = unit if lane == 0 else f"{unit} #{lane + 1}"
                _write(stream, {"ph": "M", "pid": 1, "tid": tracks[unit, lane], "name": "thread_name",
                                "args": {"name": name}})
            _write(stream, {"ph": "X", "pid": 1, "tid": tracks[unit, lane], "name": operator, "cat": label,
                            "ts": start / 1e6, "dur": (end - start) / 1e6})
        stream.write("\n]}\n")


def _write(stream: IO[str], event: dict[str, object]) -> None:
    stream.write(",\n" + json.dumps(event))
