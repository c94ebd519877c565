"""Searches the scale and zero point of every group. Needs no data; weighs columns by their importance if given.

The zero points of MatMulNBits are integers, so a method that puts zero between the codes, such as HQQ, loses most of
its gain by rounding. Here a group tries a few step sizes around that of plain rounding, each grid with its middle on
the middle of the group's range. The codes of a grid determine the best scale in closed form, by least squares, and
the error that is left with it. The best grid is kept, its codes are rounded again with that scale, and the scale is
fitted once more. Plain rounding is among the grids, and no step makes it worse but for rounding in f32.

Measured as squared error / that of plain rounding, 4 bits. Weights: normal and Student-t numbers, and the layers of
the committed checkpoint. Outputs: the layers of its vision encoder and decoder on activations of images, and normal
weights on correlated inputs with outlier channels.

                                      weights                        outputs
                                      normal  t (4)  t (2.5)  layers  vision  decoder  outliers
    this search, 13 grids             0.898   0.922  0.938    0.897   0.89    0.90     0.89
    60 step sizes x 16 zero points    0.898   0.922  0.938    0.896
    HQQ, zero point rounded           0.937   0.949  0.955    0.938   0.95    0.94     0.95
    this search with importance                                       0.78    0.86     0.44

With 8 bits every step size is a new draw of all rounding errors, and a few more or fewer steps cost little: the error
on normal weights falls to 0.73. More grids, or grids that cut off one end of the range only, gain next to nothing.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from blip2_export.graph.groups import GROUP_SIZE, Grouped, largest_code, split

# The dozen arrays of a chunk stay in the cache of a core, and numpy's loops are long enough to run side by side.
CHUNK_WEIGHTS = 1 << 17
# A column that calibration never saw active keeps a little weight, so that its values are not arbitrary.
LEAST_IMPORTANCE = 1e-6
SMALLEST = np.float32(1e-30)
# How many more steps than there are between the codes the range of a group is long: what is too much is cut off at
# both ends alike, and where steps are missing, codes stay unused.
EXCESS_STEPS = {4: np.arange(-4, 2.5, 0.5, dtype=np.float32), 8: np.arange(-24, 2, dtype=np.float32)}


def optimize(weight: np.ndarray, bits: int = 4, importance: np.ndarray | None = None) -> Grouped:
    """Groups f32 [out, in] with the least squared error found.

    `importance` f32 [in] weighs the squared error of each column: the mean square of the inputs, or better.
    The result depends neither on the number of threads nor on the processor.
    """
    out, columns = weight.shape
    groups = -(-columns // GROUP_SIZE)
    shape = (out, groups)
    grouped = Grouped(
        np.empty((*shape, GROUP_SIZE), np.uint8), np.empty(shape, np.float32), np.empty(shape, np.uint8), bits, columns
    )
    column_weights = _column_weights(importance, columns)
    rows_at_once = max(1, CHUNK_WEIGHTS // (groups * GROUP_SIZE))

    def search(start: int) -> None:
        rows = slice(start, min(start + rows_at_once, out))
        chunk = split(weight[rows]).reshape(-1, GROUP_SIZE).T
        found = _Search(chunk, np.tile(column_weights, rows.stop - start), largest_code(bits))
        for excess in EXCESS_STEPS[bits]:
            found.offer(excess)
        values, scale, zero_point = found.rounded()
        grouped.values[rows] = values.T.reshape(-1, groups, GROUP_SIZE)
        grouped.scale[rows] = scale.reshape(-1, groups)
        grouped.zero_point[rows] = zero_point.reshape(-1, groups)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(search, range(0, out, rows_at_once)))
    return grouped


def _column_weights(importance: np.ndarray | None, columns: int) -> np.ndarray:
    """Importance relative to its mean, by place in the group: f32 [32, groups]."""
    if importance is None:
        importance = np.ones(columns)
    relative = importance / max(importance.mean(dtype=np.float64), SMALLEST)
    padded = split(relative[None].astype(np.float32))[0]
    return np.ascontiguousarray(np.maximum(padded, np.float32(LEAST_IMPORTANCE)).T)


class _Search:
    """The best grid so far for each group of a chunk.

    All large arrays are [32, groups], so that numpy's inner loops run over groups. All deciding values are
    computed element by element, in a fixed order, so that every machine chooses the same codes.
    """

    def __init__(self, weight: np.ndarray, importance: np.ndarray, top: int) -> None:
        self.top = np.float32(top)
        # Relative to the largest magnitude, because squares of very large and very small weights leave f32.
        self.size = np.abs(weight).max(axis=0)
        self.size[self.size == 0] = 1
        self.weight = np.divide(weight, self.size, order="C")
        self.importance = importance
        self.weighted = self.weight * importance
        self.lowest = np.minimum(self.weight.min(axis=0), 0)
        self.range = np.maximum(self.weight.max(axis=0), 0) - self.lowest
        self.range[self.range == 0] = 1
        self.steps = np.empty_like(self.weight)  # codes less the zero point
        self._products = np.empty_like(self.weight)
        self.gain = np.full_like(self.size, -1)
        self.scale = np.ones_like(self.size)
        self.zero_point = np.zeros_like(self.size)

    def offer(self, excess: np.float32) -> None:
        """Keeps the grid with this number of excess steps where it is the best so far."""
        steps_a_unit = (self.top + excess) / self.range
        zero_point = np.rint(-self.lowest * steps_a_unit - excess / 2)
        np.clip(zero_point, 0, self.top, out=zero_point)
        self._round(steps_a_unit, zero_point)
        scale, gain = self._fit()
        better = gain > self.gain
        for best, offered in ((self.gain, gain), (self.scale, scale), (self.zero_point, zero_point)):
            np.copyto(best, offered, where=better)

    def rounded(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns codes u8 [32, groups], scale f32 [groups] and zero point u8 [groups] of the best grids."""
        self.scale[self.scale <= 0] = 1  # a group of zeros
        self._round(1 / self.scale, self.zero_point)
        scale, _ = self._fit()
        scale = np.where(scale > 0, scale, self.scale) * self.size
        self.steps += self.zero_point
        return self.steps.astype(np.uint8), scale, self.zero_point.astype(np.uint8)

    def _round(self, steps_a_unit: np.ndarray, zero_point: np.ndarray) -> None:
        np.multiply(self.weight, steps_a_unit, out=self.steps)
        np.rint(self.steps, out=self.steps)
        np.maximum(self.steps, -zero_point, out=self.steps)
        np.minimum(self.steps, self.top - zero_point, out=self.steps)

    def _fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the least-squares scale of the steps, and its gain over the error of all zeros."""
        along = self._total(np.multiply(self.steps, self.weighted, out=self._products))
        np.multiply(self.steps, self.steps, out=self._products)
        square = self._total(np.multiply(self._products, self.importance, out=self._products))
        scale = along / np.maximum(square, SMALLEST)
        return scale, scale * along

    @staticmethod
    def _total(products: np.ndarray) -> np.ndarray:
        """Sums [32, groups] over the group, in place; numpy's own order of summation depends on the shape."""
        half = GROUP_SIZE
        while half > 1:
            half //= 2
            products[:half] += products[half : 2 * half]
        return products[0].copy()
