"""Operators on images: convolution and pooling. Images lie as [batch, height, width, channels].

Windows: output position (y, x) sees the input rows from ``y · stride − pad_top`` on and the columns from ``x · stride − pad_left``
on. What lies outside the image is zero for a convolution, and does not take part in a pooling. A convolution's products with
such zeros count as MACs, as they do wherever layers are counted by their shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..sim.errors import ConfigError
from .operators import Operator
from .tensors import Tensor
from .vector import POINTWISE

POOLINGS = ("max", "average")


def output_extent(extent: int, filter_extent: int, stride: int, padding: int) -> int:
    """Positions of a window that stays within *extent* and *padding* on both sides."""
    return (extent + 2 * padding - filter_extent) // stride + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Windowed(Operator):
    """What convolution and pooling share: an image, windows, and the positions of the output."""

    batch: int
    height: int
    width: int
    channels: int
    filter_height: int
    filter_width: int
    out_height: int
    out_width: int
    stride: int = 1
    pad_top: int = 0
    pad_left: int = 0

    @property
    def positions(self) -> int:
        """Output positions over all images."""
        return self.batch * self.out_height * self.out_width

    @property
    def input_elements(self) -> int:
        return self.batch * self.height * self.width * self.channels

    def rows_seen(self) -> int:
        """Input rows that some window sees."""
        return _seen(self.height, self.out_height, self.filter_height, self.stride, self.pad_top)

    def cols_seen(self) -> int:
        """Input columns that some window sees."""
        return _seen(self.width, self.out_width, self.filter_width, self.stride, self.pad_left)

    def touched_elements(self, tensor: Tensor) -> int:
        if tensor == self.inputs[0]:
            return self.batch * self.rows_seen() * self.cols_seen() * self.channels
        return tensor.elements

    def check_windows(self) -> None:
        """Refuse windows that see nothing of the image."""
        for axis, extent, out, window, padding in (
            ("height", self.height, self.out_height, self.filter_height, self.pad_top),
            ("width", self.width, self.out_width, self.filter_width, self.pad_left),
        ):
            if padding >= window or (out - 1) * self.stride - padding >= extent:
                raise ConfigError(f"{self.kind} {self.name}: a window of {window} lies wholly outside the {axis} of {extent} "
                                  f"(stride {self.stride}, {padding} before, {out} positions)", key=self.name)


def _seen(extent: int, out: int, window: int, stride: int, padding: int) -> int:
    """How many of *extent* rows (or columns) lie under the windows."""
    if stride <= window:
        return min(extent, (out - 1) * stride - padding + window)
    return sum(max(0, min(extent, y * stride - padding + window) - max(0, y * stride - padding)) for y in range(out))


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(_Windowed):
    """A convolution (a cross-correlation, as networks mean it), in *groups* that share no channels; depth-wise is one group a
    channel.

    inputs: image ``[batch, height, width, channels]``, filters ``[groups, filter_height, filter_width, channels / groups,
    filters / groups]``, perhaps a bias ``[filters]``; output ``[batch, out_height, out_width, filters]``. *activation* is a
    pointwise function of one operand, done where the sums leave their accumulators; "" for none.
    """

    kind = "conv"

    filters: int
    groups: int = 1
    activation: str = ""

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.channels % self.groups or self.filters % self.groups:
            raise ConfigError(f"conv {self.name}: groups ({self.groups}) must divide channels ({self.channels}) and filters "
                              f"({self.filters})", key=self.name)
        simple = tuple(name for name, function in POINTWISE.items() if function.arity == 1)
        if self.activation and self.activation not in simple:
            raise ConfigError(f"conv {self.name}: {self.activation!r} is no activation", key="activation", value=self.activation,
                              allowed=simple)
        self.check_windows()
        bias = (self.filters,) if self.has_bias else ()
        return (self.input_elements, self.k * self.filters, *bias), (self.positions * self.filters,)

    @property
    def has_bias(self) -> bool:
        return len(self.inputs) == 3

    @property
    def k(self) -> int:
        """Products that one output element sums: the length of a window of one group."""
        return self.filter_height * self.filter_width * (self.channels // self.groups)

    @property
    def group_filters(self) -> int:
        return self.filters // self.groups

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.channels == self.filters

    @property
    def macs(self) -> int:
        return self.positions * self.filters * self.k

    @property
    def vector_flops(self) -> int:
        each = int(self.has_bias) + (POINTWISE[self.activation].flops_per_element if self.activation else 0)
        return self.positions * self.filters * each


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool(_Windowed):
    """The maximum or the average of each window and channel, over what lies inside the image.

    input ``[batch, height, width, channels]``; output ``[batch, out_height, out_width, channels]``.
    """

    kind = "pool"

    function: str

    def operand_elements(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.function not in POOLINGS:
            raise ConfigError(f"pool {self.name}: {self.function!r} is no pooling", key="function", value=self.function,
                              allowed=POOLINGS)
        self.check_windows()
        return (self.input_elements,), (self.positions * self.channels,)

    @property
    def vector_flops(self) -> int:
        """One comparison or addition for each element of a window; an average divides once."""
        each = self.filter_height * self.filter_width + (1 if self.function == "average" else 0)
        return self.positions * self.channels * each
