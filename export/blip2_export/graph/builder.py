"""Writes ONNX graphs: nodes and weights with the names of the checkpoint.

Graphs are written, not traced, so this file is all there is between the formulas in `families/` and the protobuf.
It knows operators and nothing of BLIP-2. Inside the graphs activations are two-dimensional,
[tokens, features], with all rows and positions flattened: a linear layer is then one matrix product, whatever
the batch is.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from blip2_export.errors import ExportError
from blip2_export.graph.contract import OPSET

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blip2_export.graph.contract import Contract, TensorSpec

MICROSOFT = "com.microsoft"
IR_VERSION = 10
ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
}
Attribute = int | float | str | list[int]


class GraphBuilder:
    """Collects the nodes and constants of one graph with a given signature.

    Every method that adds nodes returns the name of the resulting tensor, which is the name passed in.

    `float_type` is the type of the activations; signatures are f32 but for the KV buffers, so `enter` and
    `leave` stand at the borders. With `standard_only` no operator of ONNX Runtime's own is used, so that
    another compiler (TensorRT) can take the whole graph. With `on_gpu` nothing computes with shapes: ONNX
    Runtime would do that on the CPU, and the graph could not be asked to stay on the GPU. `store` keeps the
    values of a constant: in the protobuf by default, on the disk during an export.
    """

    def __init__(
        self,
        contract: Contract,
        producer_version: str,
        *,
        float_type: str = "float32",
        standard_only: bool = False,
        on_gpu: bool = False,
        store: Callable[[str, np.ndarray], TensorProto] | None = None,
    ) -> None:
        self.contract = contract
        self.producer_version = producer_version
        self.float_type = float_type
        self.standard_only = standard_only
        self.on_gpu = on_gpu
        self._store = store or store_inline
        self._nodes: list[onnx.NodeProto] = []
        self._value_infos: list[onnx.ValueInfoProto] = []
        self._constants: dict[str, TensorProto] = {}

    def constant(self, name: str, values: np.ndarray) -> str:
        """Stores a constant unchanged. All constants pass through here."""
        if name in self._constants:
            raise ValueError(f"constant {name} is stored twice")
        self._constants[name] = self._store(name, np.ascontiguousarray(values))
        return name

    def floats(self, name: str, values: np.ndarray) -> str:
        """Stores a constant in the type of the activations.

        Raises:
            ExportError: a value does not fit the type.
        """
        with np.errstate(over="ignore"):  # told below, with the name
            cast = values.astype(self.float_type, copy=False)
        if self.float_type == "float16" and not np.isfinite(cast).all():
            raise ExportError(f"{name}: a weight exceeds the range of fp16; export this stage in fp32")
        return self.constant(name, cast)

    def ints(self, *values: int) -> str:
        """Stores a one-dimensional i64 constant, such as a shape or axes; equal ones are stored once."""
        name = "ints." + "_".join(str(value) for value in values)
        return self._shared(name, np.array(values, dtype=np.int64))

    def scalar(self, value: float, dtype: str = "float32") -> str:
        """Stores a scalar constant; equal ones are stored once."""
        return self._shared(f"{dtype}.{value!r}", np.array(value, dtype=dtype))

    def _shared(self, name: str, values: np.ndarray) -> str:
        return name if name in self._constants else self.constant(name, values)

    def op(self, op_type: str, inputs: Sequence[str], name: str, *, domain: str = "", **attributes: Attribute) -> str:
        """Adds a node with one output."""
        return self.op_many(op_type, inputs, [name], name=name, domain=domain, **attributes)[0]

    def op_many(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        name: str,
        domain: str = "",
        **attributes: Attribute,
    ) -> list[str]:
        """Adds a node with several outputs."""
        node = helper.make_node(op_type, list(inputs), list(outputs), name=name, domain=domain, **attributes)
        self._nodes.append(node)
        return list(outputs)

    def cast(self, x: str, dtype: str, name: str) -> str:
        """Converts the element type."""
        return self.op("Cast", [x], name, to=ELEMENT_TYPES[dtype])

    def enter(self, x: str, name: str) -> str:
        """Casts an f32 input to the type of the activations."""
        return x if self.float_type == "float32" else self.cast(x, self.float_type, name)

    def leave(self, x: str, name: str) -> str:
        """Casts a tensor in the type of the activations to f32."""
        return x if self.float_type == "float32" else self.cast(x, "float32", name)

    def reshape(self, x: str, shape: Sequence[int], name: str) -> str:
        """Reshapes to a constant shape, in which one entry may be -1."""
        return self.op("Reshape", [x, self.ints(*shape)], name)

    def tokens(self, x: str, width: int, name: str) -> str:
        """Flattens rows and positions: [..., width] -> [tokens, width], the same tokens throughout the graph.

        The axis is named because ONNX Runtime treats every -1 as a new size, and its search for reusable memory is
        quadratic in sizes: two seconds of loading at full size.
        """
        self._value_infos.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[self.float_type], ["tokens", width]))
        return self.reshape(x, [-1, width], name)

    def once_per_row(self, constant: str, like: str, name: str) -> str:
        """Repeats a constant [1, positions, width] for every row of `like` [rows, …, …], which has the same type."""
        if not self.on_gpu:
            rows = self.op("Shape", [like], f"{name}/Batch", start=0, end=1)
            shape = self.op("Concat", [rows, self.ints(1, 1)], f"{name}/Shape", axis=0)
            return self.op("Expand", [constant, shape], f"{name}/Expand")
        # One value of each row, made zero, brings the number of rows along. Expand would want it in CPU memory.
        corner = self.op("Slice", [like, self.ints(0, 0), self.ints(1, 1), self.ints(1, 2)], f"{name}/Corner")
        zero = self.op("Mul", [corner, self.scalar(0.0, self.float_type)], f"{name}/Zero")
        return self.op("Add", [zero, constant], f"{name}/Expand")

    def layer_norm(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray, eps: float) -> str:
        """Adds a LayerNorm over the last axis. The operator computes mean and deviation in f32 for every type."""
        inputs = [x, self.floats(f"{name}.weight", weight), self.floats(f"{name}.bias", bias)]
        return self.op("LayerNormalization", inputs, name, axis=-1, epsilon=eps)

    def gelu(self, x: str, name: str) -> str:
        """Adds the exact gelu, by erf."""
        return self.op("Gelu", [x], name, approximate="none")

    def attention(self, query: str, key: str, value: str, name: str, heads: int, head_dim: int, bias: str = "") -> str:
        """Adds softmax attention without a mask; all tensors are [batch, positions, heads * head_dim].

        `bias` [3 * heads * head_dim] is added to query, key and value first, where there is one; the standard form
        takes none. The fused operator of ONNX Runtime is 15 % faster than MatMul, Softmax, MatMul with their
        transposes (ViT-g dimensions, AVX2).
        """
        scale = head_dim**-0.5
        if self.standard_only:
            if bias:
                raise ValueError(f"{name}: a bias inside the standard attention")
            return self._standard_attention(query, key, value, name, heads, head_dim)
        inputs = [query, key, value, *filter(None, [bias])]
        return self.op("MultiHeadAttention", inputs, name, domain=MICROSOFT, num_heads=heads, scale=scale)

    def _standard_attention(self, query: str, key: str, value: str, name: str, heads: int, head_dim: int) -> str:
        """Adds the same attention in standard operators, with the softmax in f32.

        Queries are scaled before the product: in f16 the unscaled scores could overflow.
        """
        scale = self._shared(f"{self.float_type}.scale.{head_dim}", np.array(head_dim**-0.5, self.float_type))
        parts = zip((query, key, value), ("Queries", "Keys", "Values"), strict=True)
        q, k, v = (self._heads(x, f"{name}/{part}", heads, head_dim) for x, part in parts)
        k = self.op("Transpose", [k], f"{name}/KeysTransposed", perm=[0, 1, 3, 2])
        scores = self.op("MatMul", [self.op("Mul", [q, scale], f"{name}/Scaled"), k], f"{name}/Scores")
        weights = self.op("Softmax", [self.leave(scores, f"{name}/ScoresF32")], f"{name}/Softmax", axis=-1)
        mixed = self.op("MatMul", [self.enter(weights, f"{name}/Weights"), v], f"{name}/Mixed")
        rows = self.op("Transpose", [mixed], f"{name}/Rows", perm=[0, 2, 1, 3])
        return self.reshape(rows, [0, 0, heads * head_dim], name)

    def _heads(self, x: str, name: str, heads: int, head_dim: int) -> str:
        """[batch, positions, heads * head_dim] -> [batch, heads, positions, head_dim]."""
        split = self.reshape(x, [0, 0, heads, head_dim], f"{name}/Split")
        return self.op("Transpose", [split], f"{name}/Heads", perm=[0, 2, 1, 3])

    def operators(self) -> dict[str, int]:
        """Counts the operators by name; ONNX Runtime's own with their domain."""
        names = (f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in self._nodes)
        return dict(sorted(Counter(names).items()))

    def model(self) -> onnx.ModelProto:
        """Returns the finished graph, after checking that every name is produced once."""
        graph = helper.make_graph(
            self._nodes,
            self.contract.stage,
            [_value_info(spec) for spec in self.contract.inputs],
            [_value_info(spec) for spec in self.contract.outputs],
            list(self._constants.values()),
            value_info=self._value_infos,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if not self.standard_only:
            opsets.append(helper.make_opsetid(MICROSOFT, 1))
        model = helper.make_model(
            graph,
            producer_name="blip2_export",
            producer_version=self.producer_version,
            opset_imports=opsets,
            ir_version=IR_VERSION,
        )
        self._check_names()
        return model

    def _check_names(self) -> None:
        known = {spec.name for spec in self.contract.inputs} | set(self._constants) | {""}
        for node in self._nodes:
            unknown = set(node.input) - known
            repeated = set(node.output) & (known - {""})
            if unknown or repeated:
                raise ValueError(f"node {node.name}: unknown inputs {unknown}, repeated outputs {repeated}")
            known |= set(node.output)
        missing = {spec.name for spec in self.contract.outputs} - known
        if missing:
            raise ValueError(f"{self.contract.stage}: outputs {missing} are never produced")


def store_inline(name: str, values: np.ndarray) -> TensorProto:
    """Returns a constant with its values in the protobuf."""
    return numpy_helper.from_array(values, name)


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, ELEMENT_TYPES[spec.dtype], list(spec.axes))
