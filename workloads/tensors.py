"""Tensors of a workload: a name, a shape, a number format and what the data is for."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Literal, get_args

from ..sim.dtypes import DType
from ..sim.errors import ConfigError

#: What a tensor is for. ``input`` comes from and ``output`` goes to the host; ``activation`` lives and dies inside the run.
Role = Literal["weight", "kv", "activation", "input", "output"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array of *shape* (C order) in *dtype*.

    An operator may look at the same elements in another shape (``[tokens, heads · head_dim]`` as ``[tokens · heads,
    head_dim]``): the C order stays.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    role: Role

    def __post_init__(self) -> None:
        if not self.shape or not all(isinstance(extent, int) and extent > 0 for extent in self.shape):
            raise ConfigError(f"tensor {self.name} has the shape {self.shape}; each extent must be a positive integer",
                              key=self.name, value=self.shape)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in storage, packed, group scales included."""
        return self.dtype.bytes_for(self.elements)


def positive_count(key: str, value: int) -> int:
    """*value* as a Python int; a ConfigError that names *key* unless it is a positive whole number (numpy's count too)."""
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigError(f"{key} is {value!r}; a positive whole number is wanted", key=key, value=value)
    return count
