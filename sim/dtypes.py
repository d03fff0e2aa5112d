"""Number formats: how many bits an element takes, in storage and on a wire."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from .errors import ConfigError


@dataclass(frozen=True, slots=True)
class DType:
    """An element format of *bits* bits; *group* elements share one scale of *scale_bits* bits (0: no scales).

    ``int4-g128`` is a 4-bit integer with one 16-bit scale for each 128 elements along the reduction axis.
    """

    name: str
    bits: int
    kind: Literal["float", "int"]
    group: int = 0
    scale_bits: int = 0

    @property
    def base(self) -> str:
        """The name without the group."""
        return self.name.partition("-g")[0]

    @property
    def bits_per_element(self) -> Fraction:
        """Storage bits for one element, its share of the group scale included."""
        return Fraction(self.bits) + (Fraction(self.scale_bits, self.group) if self.group else 0)

    def bytes_for(self, elements: int) -> int:
        """Bytes that *elements* elements take, packed, with the scales of every begun group; rounded up to bytes."""
        data_bits = elements * self.bits
        scale_bits = -(-elements // self.group) * self.scale_bits if self.group else 0
        return -(-data_bits // 8) + -(-scale_bits // 8)


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        DType("fp32", 32, "float"),
        DType("tf32", 32, "float"),
        DType("fp16", 16, "float"),
        DType("bf16", 16, "float"),
        DType("fp8", 8, "float"),
        DType("fp4", 4, "float"),
        DType("int32", 32, "int"),
        DType("int8", 8, "int"),
        DType("int4", 4, "int"),
    )
}


def parse_dtype(text: str) -> DType:
    """The format of *text*: a name of :data:`DTYPES`, or ``NAME-gGROUP`` for one with a 16-bit scale per GROUP elements."""
    base, has_group, group_text = text.partition("-g")
    if base not in DTYPES or (has_group and not (group_text.isdecimal() and int(group_text) > 0)):
        raise ConfigError(
            f"{text!r} is no number format", key="dtype", value=base, allowed=tuple(DTYPES),
            mend="group scales are written like int4-g128",
        )
    if not has_group:
        return DTYPES[base]
    plain = DTYPES[base]
    return DType(text, plain.bits, plain.kind, int(group_text), 16)
