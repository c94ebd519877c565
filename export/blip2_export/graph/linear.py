"""The precision policy: how a matrix product with weights is written, by precision, and nowhere else.

`fp32`, `fp16`: MatMul and Add in the type of the activations.

`int8` with f32 activations: weights are symmetric s8, [-127, 127], with one scale per output channel.
Activations are quantised at run time to u8, one scale per token, so that a token's result depends on its own
values only. The zero point is 128 and the scale comes from the largest magnitude, unless the range is known
(`Range`). The integer products are exact, the two scales are applied in f32.

`int4`, and `int8` with f16 activations: weights in groups of 32 with a scale and a zero point each, for
MatMulNBits. The output layer is not among them: beside f16 activations it is f16, beside f32 ones int8 as above.

Two traps of ONNX Runtime shape the int8 form (both are tested):

- On x86 without VNNI its u8 x s8 kernel saturates in 16 bits and returns wrong sums. The session entry
  `session.x64quantprecision` = `1` makes it convert the weights to u8 while loading, which is exact. Every
  session that loads an int8 graph on such a processor must set it. With VNNI the sums are exact without it.
- `MatMulInteger -> Cast -> Mul(row_scale * column_scale)` is fused into an operator that reads only the first
  row scale. Here the operator gets the column scale, and the row scale is multiplied afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from blip2_export.graph.builder import MICROSOFT
from blip2_export.graph.groups import GROUP_SIZE, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from blip2_export.graph.builder import GraphBuilder
    from blip2_export.graph.groups import Grouped

Q_MAX = 127
QKV = ("Query", "Key", "Value")
# A token of zeros has no scale of its own. Any positive one gives zeros; this one is a normal f32 after the
# division.
SMALLEST_ABSMAX = 1e-30
QUANTIZED_AT_ONCE = 1024  # rows
GROUP_BITS = {"int8": 8, "int4": 4}
# MatMulNBits quantises activations to 8 bits in groups of 32, on the CPU only; GPUs ignore it.
INT8_ACTIVATIONS = 4


class Range(NamedTuple):
    """How the u8 values of a token are laid over its f32 values: value = (u8 - zero_point) * scale.

    The scale is the largest value, or `least_largest` if that is more, divided by `steps`.
    """

    zero_point: int
    steps: int
    least_largest: float = SMALLEST_ABSMAX
    is_signed: bool = False  # the largest magnitude counts


ANY = Range(zero_point=128, steps=127, is_signed=True)
# Values below zero are rounded to zero: the Relu is part of the quantisation.
RELU = Range(zero_point=0, steps=255)
# Gelu is never below -0.16998, so most of the 256 steps can lie above zero. Tokens without a value of 0.68 share
# one scale; their largest error is 0.0027.
_GELU_ZERO_POINT, _GELU_LOWEST = 32, 0.17
GELU = Range(_GELU_ZERO_POINT, 255 - _GELU_ZERO_POINT, (255 - _GELU_ZERO_POINT) * _GELU_LOWEST / _GELU_ZERO_POINT)


class Qkv(NamedTuple):
    """Query, key and value, each [batch, positions, hidden], and the bias [3 * hidden] that is still to be added."""

    inputs: list[str]
    bias: str = ""


class Linear(Protocol):
    """Writes x [tokens, in] @ weight.T + bias -> [tokens, out]; weight is [out, in], as stored.

    `relu` and `gelu` stand in front of a linear layer, and nothing else may read what they return.
    """

    def __call__(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """Adds the layer and returns the name of its output, `name`."""
        ...

    def qkv(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None, positions: int) -> Qkv:
        """Adds the layer `{name}.qkv`, [3 * hidden, in], whose outputs attention reads in rows of `positions`."""
        ...

    def relu(self, x: str, name: str) -> str:
        """Adds max(x, 0), or leaves it to the next layer; returns what that reads."""
        ...

    def gelu(self, x: str, name: str) -> str:
        """Adds the exact gelu, and returns its name."""
        ...


class TiedEmbedding(Protocol):
    """One table [vocab, hidden], read by token id at the entrance and multiplied with at the exit."""

    def embed(self, input_ids: str, name: str) -> str:
        """[rows, seq] -> [rows, seq, hidden]."""
        ...

    def logits(self, x: str, name: str) -> str:
        """[…, hidden] -> f32 […, vocab]; on the CPU [tokens, hidden]."""
        ...


class Grouping(Protocol):
    """Chooses the groups of one layer's weights [out, in]; see `quantization`."""

    def __call__(self, name: str, weight: np.ndarray, bias: np.ndarray | None, bits: int, /) -> Grouped:
        """Returns the weights rounded to `bits` bits."""
        ...


def linear_layers(builder: GraphBuilder, precision: str, grouping: Grouping) -> Linear:
    """Returns the writer of linear layers for a precision; `grouping` serves precisions with grouped weights."""
    if is_grouped(precision, builder.float_type):
        return GroupedLinear(builder, GROUP_BITS[precision], grouping)
    return Int8Linear(builder) if precision == "int8" else FloatLinear(builder)


def is_grouped(precision: str, float_type: str) -> bool:
    """Returns whether weights are rounded in groups, beside activations of the given type."""
    return precision == "int4" or (precision == "int8" and float_type == "float16")


def tied_embedding(builder: GraphBuilder, linear: Linear, name: str, table: np.ndarray) -> TiedEmbedding:
    """Returns the token table in a precision that fits the linear layers it is used with: 8 bits or more."""
    if isinstance(linear, FloatLinear) or builder.float_type == "float16":
        return FloatTiedEmbedding(builder, name, table)
    return Int8TiedEmbedding(builder, name, table)


class Quantized(NamedTuple):
    """Symmetric 8-bit weights: weight ~ values * scale, one scale per output channel."""

    values: np.ndarray  # s8 [out, in]
    scale: np.ndarray  # f32 [out]


def quantize_weight(weight: np.ndarray) -> Quantized:
    """Rounds a weight matrix [out, in] to 8 bits, each output channel by its own largest magnitude."""
    values = np.empty(weight.shape, np.int8)
    scale = np.empty(len(weight), np.float32)
    for start in range(0, len(weight), QUANTIZED_AT_ONCE):  # a token table is large, its temporaries need not be
        rows = slice(start, start + QUANTIZED_AT_ONCE)
        largest = np.abs(weight[rows]).max(axis=1) / np.float32(Q_MAX)
        scale[rows] = np.where(largest > 0, largest, np.float32(1))
        scaled = weight[rows] / scale[rows, None]
        values[rows] = np.rint(scaled, out=scaled).clip(-Q_MAX, Q_MAX, out=scaled)
    return Quantized(values, scale)


class FloatInputs:
    """The operators around layers that read floats."""

    builder: GraphBuilder
    __call__: Callable[..., str]

    def qkv(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None, positions: int) -> Qkv:
        """See `Linear`. One product, then Split."""
        build = self.builder
        product = self(x, f"{name}.qkv", weight, bias)
        rows = build.reshape(product, [-1, positions, len(weight)], f"{name}.qkv/Rows")
        parts = [f"{name}/{part}" for part in QKV]
        return Qkv(build.op_many("Split", [rows], parts, name=f"{name}/Split", axis=-1, num_outputs=len(QKV)))

    def relu(self, x: str, name: str) -> str:
        """See `Linear`."""
        return self.builder.op("Relu", [x], name)

    def gelu(self, x: str, name: str) -> str:
        """See `Linear`."""
        return self.builder.gelu(x, name)


class FloatLinear(FloatInputs):
    """MatMul and Add in the type of the activations."""

    def __init__(self, builder: GraphBuilder) -> None:
        self.builder = builder

    def __call__(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """See `Linear`."""
        build = self.builder
        matrix = build.floats(f"{name}.weight", weight.T)
        if bias is None:
            return build.op("MatMul", [x, matrix], name)
        product = build.op("MatMul", [x, matrix], f"{name}/MatMul")
        return build.op("Add", [product, build.floats(f"{name}.bias", bias)], name)


class Int8Linear:
    """Integer products with per-token activations and per-channel weights, for layers that read the same tokens."""

    def __init__(self, builder: GraphBuilder) -> None:
        self.builder = builder
        self._activations: dict[str, tuple[str, str]] = {}
        self._ranges: dict[str, Range] = {}
        self._zero_points: dict[int, str] = {}

    def __call__(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """See `Linear`."""
        build, quantized = self.builder, quantize_weight(weight)
        matrix = build.constant(f"{name}.weight.int8", quantized.values.T)
        scale = build.constant(f"{name}.weight.scale", quantized.scale)
        if bias is None:
            return self.product(x, name, matrix, scale)
        product = self.product(x, f"{name}/Product", matrix, scale)
        return build.op("Add", [product, build.constant(f"{name}.bias", bias)], name)

    def qkv(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None, positions: int) -> Qkv:
        """See `Linear`. Three products share the quantisation; neither Split nor Add pass over their outputs."""
        build, hidden = self.builder, len(weight) // len(QKV)
        inputs = []
        for part, rows in zip(QKV, np.split(weight, len(QKV)), strict=True):
            product = self(x, f"{name}.qkv/{part}", rows, None)
            inputs.append(build.reshape(product, [-1, positions, hidden], f"{name}/{part}"))
        return Qkv(inputs, "" if bias is None else build.constant(f"{name}.qkv.bias", bias))

    def relu(self, x: str, _name: str) -> str:
        """See `Linear`. No operator: rounding to u8 cuts what is negative."""
        self._ranges[x] = RELU
        return x

    def gelu(self, x: str, name: str) -> str:
        """See `Linear`."""
        self._ranges[name] = GELU
        return self.builder.gelu(x, name)

    def product(self, x: str, name: str, matrix: str, scale: str) -> str:
        """x [tokens, in] times the s8 constant `matrix` [in, out] with its column `scale` [out]."""
        build = self.builder
        quantized, row_scale = self._quantize(x)
        zero_point = build.scalar(self._range(x).zero_point, "uint8")
        inputs = [quantized, matrix, build.scalar(1.0), scale, zero_point]
        columns = build.op("MatMulIntegerToFloat", inputs, f"{name}/Integer", domain=MICROSOFT)
        return build.op("Mul", [columns, row_scale], name)

    def _range(self, x: str) -> Range:
        return self._ranges.get(x, ANY)

    def _quantize(self, x: str) -> tuple[str, str]:
        """u8 values [tokens, in] and f32 scales [tokens, 1] of a tensor, once for all layers that read it."""
        if x not in self._activations:
            self._activations[x] = self._write_quantization(x, self._range(x))
        return self._activations[x]

    def _write_quantization(self, x: str, values: Range) -> tuple[str, str]:
        build = self.builder
        name = f"{x}/Quantize"
        magnitude = build.op("Abs", [x], f"{name}/Abs") if values.is_signed else x
        largest = build.op("ReduceMax", [magnitude, build.ints(-1)], f"{name}/Largest", keepdims=1)
        bounded = build.op("Max", [largest, build.scalar(values.least_largest)], f"{name}/Bounded")
        row_scale = build.op("Div", [bounded, build.scalar(float(values.steps))], f"{name}/RowScale")
        flat = build.reshape(row_scale, [-1], f"{name}/RowScaleFlat")
        zero_points = self._zero_points_of(flat, values.zero_point)
        return build.op("QuantizeLinear", [x, flat, zero_points], f"{name}/Values", axis=0), row_scale

    def _zero_points_of(self, flat: str, zero_point: int) -> str:
        """Returns the zero point once per token, u8 [tokens]: the operator wants as many as scales."""
        build = self.builder
        if zero_point not in self._zero_points:
            tokens = build.op("Shape", [flat], f"{flat}/Tokens")
            value = build.scalar(zero_point, "uint8")
            self._zero_points[zero_point] = build.op("Expand", [value, tokens], f"{flat}/ZeroPoints")
        return self._zero_points[zero_point]


class GroupedLinear(FloatInputs):
    """MatMulNBits: weights of 4 or 8 bits in groups, activations in their own type."""

    def __init__(self, builder: GraphBuilder, bits: int, grouping: Grouping) -> None:
        self.builder = builder
        self.bits = bits
        self.grouping = grouping

    def __call__(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """See `Linear`."""
        build, (out, into) = self.builder, weight.shape
        packed = pack(self.grouping(name, weight, bias, self.bits))
        inputs = [
            x,
            build.constant(f"{name}.weight.int{self.bits}", packed.values),
            build.floats(f"{name}.weight.scale", packed.scale),
            build.constant(f"{name}.weight.zero_point", packed.zero_point),
        ]
        attributes = {"K": into, "N": out, "bits": self.bits, "block_size": GROUP_SIZE}
        product = build.op(
            "MatMulNBits",
            inputs,
            name if bias is None else f"{name}/Product",
            domain=MICROSOFT,
            accuracy_level=INT8_ACTIVATIONS,
            **attributes,
        )
        return product if bias is None else build.op("Add", [product, build.floats(f"{name}.bias", bias)], name)


class FloatTiedEmbedding:
    """The table is stored once, [vocab, hidden]: Gather reads rows, Gemm multiplies with its transpose. On GPUs it is
    ONNX Runtime's own product, which takes hidden states of any rank.

    The product is f32 in any precision: the logits of an f16 product would be 1/64 apart where they are largest,
    and equal where they decide.
    """

    def __init__(self, builder: GraphBuilder, name: str, table: np.ndarray) -> None:
        self.builder = builder
        self.table = builder.floats(name, table)

    def embed(self, input_ids: str, name: str) -> str:
        """See `TiedEmbedding`."""
        return self.builder.op("Gather", [self.table, input_ids], name, axis=0)

    def logits(self, x: str, name: str) -> str:
        """See `TiedEmbedding`."""
        build = self.builder
        inputs = [build.leave(x, f"{name}/HiddenF32"), build.leave(self.table, f"{name}/TableF32")]
        if build.on_gpu:
            return build.op("FusedMatMul", inputs, name, domain=MICROSOFT, transB=1)
        return build.op("Gemm", inputs, name, transB=1)


class Int8TiedEmbedding:
    """The table is stored once, as s8 [hidden, vocab] for the product; a prompt gathers its few columns.

    A token's row of the embedding is a column here and has one scale, so looking up is exact to the same
    rounding as multiplying.
    """

    def __init__(self, builder: GraphBuilder, name: str, table: np.ndarray) -> None:
        quantized = quantize_weight(table)
        self.builder = builder
        self.linear = Int8Linear(builder)  # of its own: it reads only the tokens whose logits are wanted
        self.matrix = builder.constant(f"{name}.int8", quantized.values.T)
        self.scale = builder.constant(f"{name}.scale", quantized.scale)

    def embed(self, input_ids: str, name: str) -> str:
        """See `TiedEmbedding`."""
        build = self.builder
        columns = build.op("Gather", [self.matrix, input_ids], f"{name}/Columns", axis=1)
        rows = build.op("Transpose", [columns], f"{name}/Rows", perm=[1, 2, 0])
        values = build.cast(rows, "float32", f"{name}/Values")
        scale = build.op("Gather", [self.scale, input_ids], f"{name}/Scale", axis=0)
        column = build.op("Unsqueeze", [scale, build.ints(-1)], f"{name}/ScaleColumn")
        return build.op("Mul", [values, column], name)

    def logits(self, x: str, name: str) -> str:
        """See `TiedEmbedding`."""
        return self.linear.product(x, name, self.matrix, self.scale)
