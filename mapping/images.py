"""Convolutions and poolings: units, tiles, loop order, and the records.

A convolution on the arrays is the matrix product of its im2col form, [positions, window] · [window, filters], but the form is never
stored: image rows lie on chip as they lie in DRAM, and the arrays' feeder takes the windows from there (``conv`` records). So
DRAM traffic is the image's own rows, all columns and channels of them. They come in pieces as large as half of the room
for spilled activations: whole images where they fit, else the rows that so many output rows need (or columns of one row), so
that the ``filter_height − stride`` rows that two pieces share are read twice. An image that is resident moves nothing. Filters
are streamed once where a strip of them (or all) can be held, else once a tile.
Depth-wise convolutions and poolings run on the lanes, channel by channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..arch.systolic import gemm_cycles
from ..sim.dtypes import DType
from ..sim.patches import Patches
from ..sim.program import Segment, View
from ..workloads.images import Convolution, Pool
from ..workloads.operators import Operator
from .gemm_heuristic import check_format
from .image_tiles import ImageTile, TileSize, input_window, loaded_elements, loaded_window, tile_size
from .storage import Blocked, storage_unit, whole_units
from .target import TILE_BYTES, Site
from .tiles import Operand, Tiler, accumulator_dtype, floor_to, permute, tiles

#: Tiles of output that a convolution is cut into at least when its filters can be held, so that what the lanes do after the last
#: product is a short tail. ASSUMED; a search over tilings would overturn it.
_TILES_WHEN_HELD = 8


@dataclass(frozen=True, slots=True)
class FilterTile:
    """What the arrays take of one group's filters [k, n] at a time."""

    k: int
    n: int


def choose_filter_tile(op: Convolution, dtypes: tuple[DType, DType], site: Site) -> FilterTile:
    """1 MiB or a quarter of the stream's room, whole folds where they fit."""
    a_dtype, b_dtype = dtypes
    array, room = site.target.array, site.room
    elements = int(min(TILE_BYTES, room.stream_bytes // 4) * 8 / b_dtype.bits_per_element)
    if site.target.must_dequantize(b_dtype, a_dtype):
        elements = min(elements, room.vector_bytes // 4 * 8 // a_dtype.bits)
    n = min(op.group_filters, array.cols * array.arrays)
    k = floor_to(max(1, elements // n), array.rows)
    if k < min(op.k, array.rows):                       # a small scratchpad: one fold's rows, fewer columns
        k = min(op.k, array.rows, max(1, elements))
        n = min(n, max(1, elements // k))
    packed = storage_unit(b_dtype)[0]
    return FilterTile(min(op.k, max(packed, k // packed * packed)), n)


def filter_layout(op: Operator, operands: tuple[Operand, ...], site: Site) -> Blocked | None:
    """The storage of filters that only *op* reads: blocks in the order of its tiles; None where the lanes take them whole."""
    assert isinstance(op, Convolution)
    dtypes = operands[0].dtype, operands[1].dtype
    if unit_of(op, dtypes, site) == site.target.vpu:
        return None
    tile = choose_filter_tile(op, dtypes, site)
    return Blocked(op.groups, op.k, op.group_filters, tile.k, tile.n, tile.n, False)


def unit_of(op: Convolution, dtypes: tuple[DType, DType], site: Site) -> str:
    """The arrays; for a depth-wise convolution the lanes, when they are sooner done."""
    target = site.target
    check_format(dtypes[0], site)
    if not op.is_depthwise:
        return target.mxu
    array_s = gemm_cycles(op.positions, op.k, 1, target.array, op.groups).total / target.array.clock_hz
    return target.vpu if target.lanes.product_s(op.macs) <= array_s else target.mxu


def _block_elements(site: Site) -> int:
    """Sums of one block: half of the accumulators, so that the next block begins while the lanes empty this one."""
    return site.room.accumulator_bytes // 2 // 4


def lower_conv(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: image, filters, perhaps the bias, the output."""
    assert isinstance(op, Convolution)
    image, filters = operands[0], operands[1]
    if unit_of(op, (image.dtype, filters.dtype), site) == site.target.vpu:
        return _lower_depthwise(op, operands, site)
    whole_units(filters.dtype, op.k if filters.layout is not None else op.group_filters, f"{op.name}: the window of the filters")
    return _ConvLowering(op, operands, site).lower()


def _split(positions: int, depth: int, width: int, site: Site) -> int:
    """Into how many parts the positions of a tile are dealt, each with arrays and a copy of the filters of its own.

    Few filters make fewer folds than there are arrays, or a last round of few; their positions can be divided instead.
    """
    array = site.target.array
    return min(range(1, array.arrays + 1),
               key=lambda parts: gemm_cycles(-(-positions // parts), depth, width, array, parts).total)


@dataclass(frozen=True, slots=True)
class ConvPlan:
    """Tiles and loop order. ``piece`` is loaded and ``size`` multiplied at a time.

    ``outer`` is the outer of the loops over output tiles ("m") and over strips of filters ("n"); ``hold``: whether filters stay on
    chip for all output tiles: a strip of them (n outer) or all (m outer).
    """

    tile: FilterTile
    piece: TileSize
    size: TileSize
    outer: str
    hold: bool
    dram_bytes: int


def plan_conv(op: Convolution, image: Operand, filters: Operand, site: Site) -> ConvPlan:
    """The loop order that moves the fewest bytes from DRAM; of equals the one that holds filters."""
    tile = choose_filter_tile(op, (image.dtype, filters.dtype), site)
    room, unpacked = site.room, not site.target.must_dequantize(filters.dtype, image.dtype)
    all_bytes = filters.dtype.bytes_for(op.k * op.filters)
    strip_bytes = filters.dtype.bytes_for(op.k * tile.n)
    strips = op.groups * -(-op.group_filters // tile.n)
    piece = TileSize(op.batch, op.out_height, op.out_width)
    if not image.resident:
        piece = tile_size(op, input_elements=room.activation_bytes // 2 * 8 // image.dtype.bits)
    loaded = 0 if image.resident else image.dtype.bytes_for(loaded_elements(op, piece))
    plans = []
    for outer, held_bytes in (("m", all_bytes), ("n", strip_bytes)):
        hold = unpacked and held_bytes <= room.stream_bytes // 2
        most = _block_elements(site) // tile.n
        if hold:
            most = min(most, max(2 * site.target.array.rows, -(-op.positions // _TILES_WHEN_HELD)))
        size = tile_size(op, positions=most)
        count = sum(1 for around in piece.tiles(op) for _ in size.within(around))
        plans.append(ConvPlan(tile, piece, size, outer, hold, loaded * (strips if outer == "n" else 1)
                              + all_bytes * (1 if hold else count)))
    return min(plans, key=lambda plan: (plan.dram_bytes, not plan.hold))


class _ConvLowering:
    def __init__(self, op: Convolution, operands: tuple[Operand, ...], site: Site) -> None:
        self.op, self.site = op, site
        self.image, self.filters, self.out = operands[0], operands[1], operands[-1]
        self.bias = operands[2] if op.has_bias else None
        self.plan = plan_conv(op, self.image, self.filters, site)
        self.tiler = Tiler(op.name, operands, site)
        self._held: dict[tuple[int, int, int], View] = {}
        self._pending: Callable[[], None] | None = None

    def lower(self) -> Segment:
        plan, array = self.plan, self.site.target.array
        if plan.outer == "m":
            for around in plan.piece.tiles(self.op):
                loaded = self._load(around)
                for tile in plan.size.within(around):
                    for strip in self._strips():
                        self._block(tile, loaded, around, *strip)
        else:
            for strip in self._strips():
                self._held.clear()
                for around in plan.piece.tiles(self.op):
                    loaded = self._load(around)
                    for tile in plan.size.within(around):
                        self._block(tile, loaded, around, *strip)
        self._finish_pending()
        return self.tiler.build(unit=self.site.target.mxu, images_tile=plan.size.images, rows_tile=plan.size.rows,
                                cols_tile=plan.size.cols, rows_piece=plan.piece.rows, k_tile=plan.tile.k, n_tile=plan.tile.n,
                                outer=plan.outer, holds_filters=plan.hold, dataflow=array.dataflow, lowering="im2col")

    def _strips(self) -> Iterator[tuple[int, int, int]]:
        """(group, first filter of it, filters) of the strips."""
        for group in range(self.op.groups):
            for n, width in tiles(self.op.group_filters, self.plan.tile.n):
                yield group, n, width

    def _load(self, around: ImageTile) -> View | None:
        """The rows that *around* needs, loaded; None when the image is resident."""
        return None if self.image.resident else self.tiler.read(input_window(self.op, around, self.image, 0, self.op.channels)[0])

    def _block(self, tile: ImageTile, loaded: View | None, around: ImageTile, group: int, n: int, width: int) -> None:
        """One block of output: all of k, then the epilogue, which is left until the next block has begun."""
        op = self.op
        total = self.tiler.temporary("sums", (tile.positions, width), accumulator_dtype(self.image.dtype), self.site.target.mxu)
        each = op.channels // op.groups
        if loaded is None:
            image, patches = input_window(op, tile, self.image, group * each, each)
        else:
            image, patches = loaded_window(op, tile, loaded, around, group * each, each)
        for k, depth in tiles(op.k, self.plan.tile.k):
            weights = self._filter_tile(group, k, depth, n, width)
            self.tiler.builder.compute(self.site.target.mxu, "conv", (image, weights), (total,), accumulate=k > 0,
                                       patches=replace(patches, first=k, depth=depth),
                                       split=_split(tile.positions, depth, width, self.site))
            if k == 0:
                self._finish_pending()
        self._pending = lambda: self._epilogue(tile, group * op.group_filters + n, width, total)

    def _finish_pending(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending()

    def _epilogue(self, tile: ImageTile, n: int, width: int, total: View) -> None:
        """The sums with bias and activation, in the output's format, to where the output lives."""
        op = self.op
        bias = self.tiler.read(self.bias.window((width,), offset=n)) if self.bias is not None else None
        start, positions = tile.start(op), tile.positions
        room = max(1, self.site.room.vector_bytes // 8 * 8 // self.out.dtype.bits // width)
        for row, count in tiles(positions, positions if self.out.resident else min(positions, room)):
            source = View((count, width), (width, 1), row * width, buffer=total.buffer)
            window = self.out.window((count, width), (op.filters, 1), (start + row) * op.filters + n)
            sink = self.tiler.sink(window)
            if bias is not None:
                self.tiler.lanes("add", (source, bias), (source if op.activation else sink,))
            if op.activation or bias is None:
                self.tiler.lanes(op.activation or "copy", (source,), (sink,))
            self.tiler.commit(window, sink)

    def _filter_tile(self, group: int, k: int, depth: int, n: int, width: int) -> View:
        found = self._held.get((group, k, n))
        if found is None:
            found = self._read_filters(group, k, depth, n, width)
            if self.plan.hold:
                self._held[group, k, n] = found
        return found

    def _read_filters(self, group: int, k: int, depth: int, n: int, width: int) -> View:
        """A tile of one group's filters as a view [depth, width], whatever order it is stored in."""
        op, filters = self.op, self.filters
        if filters.layout is not None:
            buffer = self.tiler.load(filters, filters.layout.block(group, k, n, filters.dtype), depth * width)
            stored = View((width, depth), (depth, 1), 0, buffer=buffer)
            return permute(self.tiler.converted(stored, filters.dtype, self.image.dtype), 1, 0)
        window = filters.window((depth, width), (op.group_filters, 1), (group * op.k + k) * op.group_filters + n)
        return self.tiler.converted(self.tiler.read(window), filters.dtype, self.image.dtype)


def _lower_depthwise(op: Convolution, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Each channel by itself on the lanes; operands as of ``lower_conv``. All filters are on chip for the whole operator."""
    tiler, (image, filters), out = Tiler(op.name, operands, site), operands[:2], operands[-1]
    whole_units(filters.dtype, op.k * op.channels, f"{op.name}: the filters")
    stored = tiler.read(filters.window((op.channels, op.filter_height, op.filter_width)))
    weights = permute(tiler.converted(stored, filters.dtype, image.dtype), 1, 2, 0)
    bias = tiler.read(operands[2].window((op.filters,))) if op.has_bias else None
    sums = accumulator_dtype(image.dtype)
    size = _lane_tile(op, image, out, site, sums)
    for tile in size.tiles(op):
        rows, patches = _image_rows(op, tile, image, tiler)
        window = out.window((tile.positions, op.channels), offset=tile.start(op) * op.channels)
        total = tiler.temporary("sums", (tile.positions, op.channels), sums, site.target.vpu)
        tiler.lanes("depthwise", (rows, weights), (total,), patches=patches)
        sink = tiler.sink(window)
        if bias is not None:
            tiler.lanes("add", (total, bias), (total if op.activation else sink,))
        if op.activation or bias is None:
            tiler.lanes(op.activation or "copy", (total,), (sink,))
        tiler.commit(window, sink)
    return tiler.build(unit=site.target.vpu, images_tile=size.images, rows_tile=size.rows, lowering="direct")


def lower_pool(op: Operator, operands: tuple[Operand, ...], site: Site) -> Segment:
    """Operands: image, output."""
    assert isinstance(op, Pool)
    tiler, (image, out) = Tiler(op.name, operands, site), operands
    held = _channels_in_room(op, image, out, site)
    size = _lane_tile(op, image, out, site, None, held)
    for tile in size.tiles(op):
        for channel, channels in tiles(op.channels, held):
            source, patches = input_window(op, tile, image, channel, channels)
            rows = source
            if not image.resident:
                rows, patches = loaded_window(op, tile, tiler.read(source), tile, 0, channels, channels)
            window = out.window((tile.positions, channels), (op.channels, 1), tile.start(op) * op.channels + channel)
            sink = tiler.sink(window)
            tiler.lanes(f"{op.function}_pool", (rows,), (sink,), patches=patches)
            tiler.commit(window, sink)
    return tiler.build(unit=site.target.vpu, images_tile=size.images, rows_tile=size.rows, channels_tile=held)


def _channels_in_room(op: Pool, image: Operand, out: Operand, site: Site) -> int:
    """All channels, or as many as one window has room for: half of the pool that it passes; evenly divided, in whole units of
    storage."""
    if image.resident:
        return op.channels
    window = min(op.filter_height, op.height) * min(op.filter_width, op.width)
    most = max(1, site.room.activation_bytes // 2 * 8 // image.dtype.bits // window)
    if most >= op.channels:
        return op.channels
    unit = max(storage_unit(image.dtype)[0], storage_unit(out.dtype)[0])
    held = -(-op.channels // -(-op.channels // most))
    return max(unit, held // unit * unit)


def _lane_tile(
    op: Convolution | Pool, image: Operand, out: Operand, site: Site, sums: DType | None, channels: int | None = None,
) -> TileSize:
    """The tile that the lanes take: two of them in each pool that they pass, the sums' own beside the output's. *channels* are
    taken at a time (None: all)."""
    held = op.channels if channels is None else channels
    bits = (0 if out.resident else out.dtype.bits) + (sums.bits if sums is not None else 0)
    most = site.room.vector_bytes // 2 * 8 // (bits * held) if bits else op.positions
    most_input = None if image.resident else site.room.activation_bytes // 2 * 8 // image.dtype.bits
    return tile_size(op, positions=most, input_elements=most_input, channels=held)


def _image_rows(op: Convolution | Pool, tile: ImageTile, image: Operand, tiler: Tiler) -> tuple[View, Patches]:
    """The image rows that *tile* needs, on chip, and the patches to take from them."""
    window, patches = input_window(op, tile, image, 0, op.channels)
    return (window, patches) if image.resident else loaded_window(op, tile, tiler.read(window), tile, 0, op.channels)
