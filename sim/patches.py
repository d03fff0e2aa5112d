"""Windows that slide over images: which positions a tile of a convolution or of a pooling sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patches:
    """Windows of filter_rows × filter_cols over a tile [images, rows, cols, channels], one for each of *out_rows* × *out_cols*
    positions of each image.

    Position (y, x) sees the rows from ``y · stride_rows − top`` on and the columns from ``x · stride_cols − left`` on; what lies
    outside the tile is zero. As a matrix (im2col) a window is one row of filter_rows · filter_cols · channels elements,
    channels fastest, of which the *depth* elements from *first* on are meant (all of them when *depth* is 0).
    """

    filter_rows: int
    filter_cols: int
    stride_rows: int
    stride_cols: int
    top: int
    left: int
    out_rows: int
    out_cols: int
    first: int = 0
    depth: int = 0

    @property
    def positions(self) -> int:
        """Windows of one image."""
        return self.out_rows * self.out_cols

    def elements(self, channels: int) -> int:
        """Elements of one window that are meant."""
        return self.depth or self.filter_rows * self.filter_cols * channels


#: Functions that multiply patches → the channels of a window that meet one output element (None: all of the tile).
PATCH_PRODUCTS: dict[str, int | None] = {"conv": None, "depthwise": 1}
