"""The contents of DRAM for the functional interpreter: values at physical places, reached through the memory's address map.

A value stands in slots of the bytes that store it. Every burst is kept under the coordinates (channel, bank, row, column) that the
address map decodes it to, so that a map that sends two bursts to one place shows as wrong values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..memory.dram import DramConfig
from ..sim.dtypes import DType
from ..sim.program import Ranges, TensorPlace
from .functions import Array
from .storage import storage_unit

Int64Array = npt.NDArray[np.int64]
#: Burst numbers → one number for each physical place.
BurstPlaces = Callable[[Int64Array], Int64Array]


class MappingFault(Exception):
    """A program that is not right: it reads what nobody wrote, splits a storage unit, breaks a capacity law …"""


def identity_places(burst: Int64Array) -> Int64Array:
    """Every burst at its own number: no address map."""
    return burst


def decoded_places(config: DramConfig) -> tuple[BurstPlaces, int]:
    """The places of a DRAM part's bursts by its address map, and the bytes of a burst."""
    mapping, organisation = config.address_map(), config.device.organisation

    def places(burst: Int64Array) -> Int64Array:
        channel, local = mapping.local(burst)
        bank, row, column = mapping.decode(local)
        banks = 1 << 20                                             # more than any channel has
        return ((channel * banks + bank) * organisation.rows + row) * organisation.bursts_per_row + column

    return places, organisation.bytes_per_burst


class DramImage:
    """Slots for the bytes of *tensors*; poison (NaN) until something is written."""

    def __init__(self, tensors: Sequence[TensorPlace], places: BurstPlaces, burst_bytes: int) -> None:
        self._burst_bytes = burst_bytes
        self._slots_per_byte = 2 if any(_is_dense(tensor.dtype) for tensor in tensors) else 1
        self._first: dict[str, int] = {}
        keys: list[Int64Array] = [np.empty(0, dtype=np.int64)]
        count = 0
        for tensor in tensors:
            first = tensor.address // burst_bytes
            bursts = np.arange(first, -(-(tensor.address + tensor.nbytes) // burst_bytes), dtype=np.int64)
            keys.append(places(bursts))
            self._first[tensor.name] = count - first
            count += len(bursts)
        found, self._row = np.unique(np.concatenate(keys), return_inverse=True)
        if len(found) != count:
            raise MappingFault("two tensors, or two bursts, share a place in DRAM")
        self._slots = np.full((len(found), burst_bytes * self._slots_per_byte), np.nan)

    def read(self, tensor: TensorPlace, ranges: Ranges) -> Array:
        """The values of the bytes of *ranges*, one range after the other."""
        rows, slots = self._places(tensor, self.units(tensor, ranges))
        return np.asarray(self._slots[rows, slots])

    def write(self, tensor: TensorPlace, ranges: Ranges, values: Array) -> None:
        """Put *values* into the bytes of *ranges*."""
        rows, slots = self._places(tensor, self.units(tensor, ranges))
        if values.size != rows.size:
            raise MappingFault(f"{values.size} values go to {rows.size} elements of {tensor.name}")
        self._slots[rows, slots] = values.ravel()

    def units(self, tensor: TensorPlace, ranges: Ranges) -> Int64Array:
        """The storage units that *ranges* cover, in their order."""
        _, unit_bytes = storage_unit(tensor.dtype)
        if (ranges % unit_bytes).any():
            raise MappingFault(f"a range of {tensor.name} splits a storage unit of {unit_bytes} bytes")
        if (ranges[:, 0] < 0).any() or (ranges.sum(axis=1) > tensor.nbytes).any():
            raise MappingFault(f"a range leaves the {tensor.nbytes} bytes of {tensor.name}")
        return np.concatenate([np.arange(start, start + size, unit_bytes, dtype=np.int64) // unit_bytes
                               for start, size in ranges.tolist()])

    def _places(self, tensor: TensorPlace, units: Int64Array) -> tuple[Int64Array, Int64Array]:
        """(row, slot) of every element of *units*."""
        unit_elements, unit_bytes = storage_unit(tensor.dtype)
        within = (tensor.address + units * unit_bytes)[:, None] * self._slots_per_byte + np.arange(unit_elements)
        per_burst = self._burst_bytes * self._slots_per_byte
        burst, slot = np.divmod(within.ravel(), per_burst)
        return self._row[self._first[tensor.name] + burst], slot


def _is_dense(dtype: DType) -> bool:
    """Whether a byte may hold more than one element."""
    elements, nbytes = storage_unit(dtype)
    return elements > nbytes
