"""Tiles of images: which output positions are done at a time, and which input rows they need on chip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..sim.patches import Patches
from ..sim.program import View
from ..workloads.images import Convolution, Pool
from .tiles import Operand, tiles


@dataclass(frozen=True, slots=True)
class ImageTile:
    """*images* from *image* on, and of each the output positions of *rows* rows from *row* on and *cols* columns from *col* on.

    The positions of a tile are contiguous in the output: several images are whole, and several rows too.
    """

    image: int
    images: int
    row: int
    rows: int
    col: int
    cols: int

    @property
    def positions(self) -> int:
        return self.images * self.rows * self.cols

    def start(self, op: Convolution | Pool) -> int:
        """The number of its first position, over the whole output."""
        return (self.image * op.out_height + self.row) * op.out_width + self.col


@dataclass(frozen=True, slots=True)
class TileSize:
    """How much is done at a time: several whole images, or some output rows of one, or some columns of one row."""

    images: int
    rows: int
    cols: int

    def tiles(self, op: Convolution | Pool) -> Iterator[ImageTile]:
        """The tiles that cover the output."""
        return self.within(whole_output(op))

    def within(self, whole: ImageTile) -> Iterator[ImageTile]:
        """The tiles that cover *whole*."""
        for image, images in tiles(whole.images, self.images, whole.image):
            for row, rows in tiles(whole.rows, self.rows, whole.row):
                for col, cols in tiles(whole.cols, self.cols, whole.col):
                    yield ImageTile(image, images, row, rows, col, cols)


def whole_output(op: Convolution | Pool) -> ImageTile:
    """Everything as one tile."""
    return ImageTile(0, op.batch, 0, op.out_height, 0, op.out_width)


def tile_size(
    op: Convolution | Pool, *, positions: int | None = None, input_elements: int | None = None, channels: int | None = None,
) -> TileSize:
    """The largest tile of at most so many output *positions* and *input_elements* (None: any number), evenly divided; at least one
    position. *channels* are on chip at a time (None: all)."""
    held = op.channels if channels is None else channels
    most_positions = op.positions if positions is None else positions
    most_input = op.input_elements if input_elements is None else input_elements

    def fits(images: int, rows: int, cols: int) -> bool:
        needed = _extent(op.height, rows, op.filter_height, op.stride) * _extent(op.width, cols, op.filter_width, op.stride)
        return images * rows * cols <= most_positions and images * needed * held <= most_input

    def most(extent: int, fit: Callable[[int], bool]) -> int:
        """The largest extent that fits, or 1, in pieces as equal as they can be."""
        low, high = 1, extent + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fit(middle) else (low, middle)
        return -(-extent // -(-extent // low))

    if fits(1, op.out_height, op.out_width):
        return TileSize(most(op.batch, lambda images: fits(images, op.out_height, op.out_width)), op.out_height, op.out_width)
    if fits(1, 1, op.out_width):
        return TileSize(1, most(op.out_height, lambda rows: fits(1, rows, op.out_width)), op.out_width)
    return TileSize(1, 1, most(op.out_width, lambda cols: fits(1, 1, cols)))


def _extent(extent: int, outputs: int, window: int, stride: int) -> int:
    """The most input rows (or columns) that so many output rows (or columns) need on chip."""
    return min(extent, (outputs - 1) * stride + window)


def loaded_elements(op: Convolution | Pool, size: TileSize) -> int:
    """Elements that all tiles load together: what two tiles share is loaded by both."""
    return sum(tile.images * _loaded_rows(op, tile) * _columns(op, tile).count * op.channels for tile in size.tiles(op))


@dataclass(frozen=True, slots=True)
class _Seen:
    """The rows (or columns) inside the image that a tile's windows lie over, and how many zeros come before them."""

    first: int
    count: int
    zeros: int


def _seen(extent: int, first_output: int, outputs: int, window: int, stride: int, padding: int) -> _Seen:
    first = first_output * stride - padding
    end = min(extent, first + (outputs - 1) * stride + window)
    return _Seen(max(0, first), end - max(0, first), max(0, -first))


def _rows(op: Convolution | Pool, tile: ImageTile) -> _Seen:
    return _seen(op.height, tile.row, tile.rows, op.filter_height, op.stride, op.pad_top)


def _columns(op: Convolution | Pool, tile: ImageTile) -> _Seen:
    return _seen(op.width, tile.col, tile.cols, op.filter_width, op.stride, op.pad_left)


def _skips_rows(op: Convolution | Pool) -> bool:
    """Whether rows between windows are left where they are: a tile then holds the windows' own rows alone."""
    return op.stride > op.filter_height and op.pad_top == 0 and (op.out_height - 1) * op.stride + op.filter_height <= op.height


def _loaded_rows(op: Convolution | Pool, tile: ImageTile) -> int:
    return tile.rows * op.filter_height if _skips_rows(op) else _rows(op, tile).count


def _patches(op: Convolution | Pool, tile: ImageTile, stride_rows: int) -> Patches:
    return Patches(op.filter_height, op.filter_width, stride_rows, op.stride, _rows(op, tile).zeros, _columns(op, tile).zeros,
                   tile.rows, tile.cols)


def input_window(op: Convolution | Pool, tile: ImageTile, source: Operand, channel: int, channels: int) -> tuple[View, Patches]:
    """What *tile* needs of *source*, [images, rows, columns, channels], and the patches to take from it.

    In DRAM all channels lie side by side, so that whole rows make one range.
    """
    pixel, line = op.channels, op.width * op.channels
    rows, columns = _rows(op, tile), _columns(op, tile)
    offset = (tile.image * op.height + rows.first) * line + columns.first * pixel + channel
    if _skips_rows(op) and not source.resident:
        shape: tuple[int, ...] = (tile.images, tile.rows, op.filter_height, columns.count, channels)
        window = source.window(shape, (op.height * line, op.stride * line, line, pixel, 1), offset)
        return window, _patches(op, tile, op.filter_height)
    window = source.window((tile.images, rows.count, columns.count, channels), (op.height * line, line, pixel, 1), offset)
    return window, _patches(op, tile, op.stride)


def loaded_window(
    op: Convolution | Pool, tile: ImageTile, loaded: View, around: ImageTile, channel: int, channels: int, held: int | None = None,
) -> tuple[View, Patches]:
    """As ``input_window``, but of *loaded*: what *around* needs, contiguous on chip, *held* channels of it (None: all)."""
    pixel = op.channels if held is None else held
    held_rows, held_columns = _loaded_rows(op, around), _columns(op, around)
    line, count, columns = held_columns.count * pixel, _loaded_rows(op, tile), _columns(op, tile)
    if _skips_rows(op):
        first, stride_rows = (tile.row - around.row) * op.filter_height, op.filter_height
    else:
        first, stride_rows = _rows(op, tile).first - _rows(op, around).first, op.stride
    offset = (loaded.offset + ((tile.image - around.image) * held_rows + first) * line
              + (columns.first - held_columns.first) * pixel + channel)
    window = View((tile.images, count, columns.count, channels), (held_rows * line, line, pixel, 1), offset, loaded.buffer)
    return window, _patches(op, tile, stride_rows)
