"""The ports of an SRAM shared at tile grain: who came first keeps its rate, who comes later gets what is left.

A tile moves its bytes evenly while its unit works, at most as fast as the unit can use them. A reservation is a piece of time at a
rate; the sum of all pieces never passes the ports' peak, so no window beats it.
"""

from __future__ import annotations

import math


class PortShare:
    """One direction of an SRAM's ports: *peak_bytes_per_ps* for everything that is reserved."""

    def __init__(self, peak_bytes_per_ps: float) -> None:
        self.peak_bytes_per_ps = peak_bytes_per_ps
        self._pieces: list[tuple[int, int, float]] = []            # start, end, bytes per picosecond

    def reserve(self, now_ps: int, start_ps: int, nbytes: int, at_least_ps: int) -> int:
        """Reserve *nbytes* from *start_ps* on, over *at_least_ps* or longer; gives when they have moved.

        Nothing is reserved before *now_ps* any more, so older pieces are forgotten.
        """
        self._pieces = [piece for piece in self._pieces if piece[1] > now_ps]
        if nbytes == 0:
            return start_ps + at_least_ps
        most = nbytes / at_least_ps if at_least_ps else self.peak_bytes_per_ps
        most = min(most, self.peak_bytes_per_ps)
        left, at = float(nbytes), start_ps
        edges = sorted({edge for piece in self._pieces for edge in piece[:2] if edge > start_ps})
        for edge in [*edges, None]:
            taken = sum(rate for begin, end, rate in self._pieces if begin <= at < end)
            rate = min(most, max(0.0, self.peak_bytes_per_ps - taken))
            if rate > 0 and (edge is None or left <= rate * (edge - at)):
                end_ps = at + math.ceil(left / rate)
                self._pieces.append((at, end_ps, rate))
                return max(end_ps, start_ps + at_least_ps)
            assert edge is not None, "after the last reservation all of the ports are free"
            if rate > 0:
                self._pieces.append((at, edge, rate))
                left -= rate * (edge - at)
            at = edge
        raise AssertionError("unreachable: the last edge is open")
