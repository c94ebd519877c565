"""What the compilers of GPU graphs take: the rows of their published lists for the operators that our graphs use.

`CUDA_KERNELS`: microsoft/onnxruntime, docs/OperatorKernels.md at 001d12d, section CUDAExecutionProvider.
`TENSORRT_OPERATORS`: onnx/onnx-tensorrt, docs/operators.md of TensorRT 10.15.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx
from onnx import TensorProto

from blip2_export.graph.builder import MICROSOFT

F16, F32, U8 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.UINT8
I32, I64 = TensorProto.INT32, TensorProto.INT64


class Kernel(NamedTuple):
    """The types of the first input, and the versions of the operator; without `last` the kernel is open-ended."""

    types: set[int]
    first: int
    last: int | None = None


FLOATS, NUMBERS = {F16, F32}, {F16, F32, I32, I64, U8}
CUDA_KERNELS = {
    "Add": Kernel(NUMBERS, 14),
    "Cast": Kernel(NUMBERS, 21, 22),
    "Concat": Kernel(NUMBERS, 13),
    "Conv": Kernel(FLOATS, 11, 21),
    "Gather": Kernel(NUMBERS, 13),
    "GatherND": Kernel(FLOATS | {I64}, 13),
    "Gelu": Kernel(FLOATS, 20),
    "LayerNormalization": Kernel(FLOATS, 17),
    "MatMul": Kernel(FLOATS, 13),
    "Mul": Kernel(NUMBERS, 14),
    "Pad": Kernel(FLOATS, 18),  # used by no graph, see the test of `has_kernel`
    "Relu": Kernel(FLOATS, 14),
    "Reshape": Kernel(NUMBERS, 21, 22),
    "Slice": Kernel(NUMBERS, 13),
    "Softmax": Kernel(FLOATS, 13),
    "Split": Kernel(NUMBERS, 18),
    "Transpose": Kernel(NUMBERS, 21, 22),
    "Unsqueeze": Kernel(NUMBERS, 21, 22),
    f"{MICROSOFT}.FusedMatMul": Kernel(FLOATS, 1),
    f"{MICROSOFT}.GroupQueryAttention": Kernel({F16}, 1),
    f"{MICROSOFT}.MatMulNBits": Kernel(FLOATS, 1),
    f"{MICROSOFT}.MultiHeadAttention": Kernel(FLOATS, 1),
}

TENSORRT_OPSETS = range(9, 25)
TENSORRT_OPERATORS = {
    "Add": {F16, F32, I32, I64},
    "Cast": {F16, F32, I32, I64, U8},
    "Concat": {F16, F32, I32, I64},
    "Conv": FLOATS,
    "Gelu": {F16, F32, I32, I64},
    "LayerNormalization": FLOATS,
    "MatMul": FLOATS,
    "Mul": {F16, F32, I32, I64},
    "Reshape": {F16, F32, I32, I64},
    "Slice": {F16, F32, I32, I64},
    "Softmax": FLOATS,
    "Split": {F16, F32, I32, I64},
    "Transpose": {F16, F32, I32, I64},
}


def qualified(node: onnx.NodeProto) -> str:
    """The operator's name, with the domain of those of ONNX Runtime."""
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def has_kernel(node: onnx.NodeProto, opset: int, first_type: int) -> bool:
    """Whether the CUDA provider has a kernel for a node, by ONNX Runtime's rule.

    A kernel without a last version serves only the version it was registered with: ONNX Runtime cannot know what
    a later version of the operator means.
    """
    kernel = CUDA_KERNELS.get(qualified(node))
    if kernel is None or first_type not in kernel.types:
        return False
    version = 1 if node.domain else onnx.defs.get_schema(node.op_type, opset).since_version
    return version == kernel.first or (kernel.last is not None and kernel.first <= version <= kernel.last)


def element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """The element type of every tensor. All operators above but Cast give the type of their first input."""
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        made = next((a.i for a in node.attribute if node.op_type == "Cast" and a.name == "to"), types[node.input[0]])
        types |= dict.fromkeys(node.output, made)
    return types
