"""The graph of one stage, for a target, at a precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blip2_export import __version__
from blip2_export.builder import GraphBuilder
from blip2_export.contract import contracts
from blip2_export.graphs.decoder import Decoder
from blip2_export.graphs.qformer import QFormer
from blip2_export.graphs.vision_encoder import VisionEncoder
from blip2_export.linear import is_grouped, linear_layers
from blip2_export.quantization.groups import round_to_nearest
from blip2_export.quantization.optimize import optimize

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import onnx

    from blip2_export.checkpoint import Checkpoint
    from blip2_export.linear import Grouping
    from blip2_export.quantization.groups import Grouped
    from blip2_export.smoothing import Smoothed

WRITERS: dict[str, Any] = {"vision_encoder": VisionEncoder, "qformer": QFormer, "decoder": Decoder}


def _nearest(_name: str, weight: np.ndarray, _bias: np.ndarray | None, bits: int) -> Grouped:
    return round_to_nearest(weight, bits)


def _optimized(_name: str, weight: np.ndarray, _bias: np.ndarray | None, bits: int) -> Grouped:
    return optimize(weight, bits)


ROUNDINGS: dict[str, Grouping] = {"optimized": _optimized, "nearest": _nearest}


@dataclass(frozen=True)
class Graph:
    """One stage as it is to be written: for a target, at a precision, its groups rounded by `grouping`."""

    stage: str
    target: str
    precision: str
    grouping: Grouping = _optimized

    @property
    def float_type(self) -> str:
        """The type of the activations."""
        return "float32" if self.target == "cpu" or self.precision == "fp32" else "float16"

    @property
    def standard_only(self) -> bool:
        """Whether TensorRT takes the graph. Not the decoder's: a growing cache would rebuild engines, so it runs on
        the CUDA provider."""
        return self.target == "tensorrt" and self.stage != "decoder"

    @property
    def on_gpu(self) -> bool:
        """Whether the whole graph is to stay on the GPU."""
        return self.target != "cpu"

    @property
    def is_grouped(self) -> bool:
        """Whether weights are rounded in groups, so that there is something to choose."""
        return is_grouped(self.precision, self.float_type)

    @property
    def is_smoothed(self) -> bool:
        """Whether activations are rounded too, one scale a token."""
        return self.precision == "int8" and not self.is_grouped


def stage_graph(
    checkpoint: Checkpoint | Smoothed,
    graph: Graph,
    store: Callable[[str, np.ndarray], onnx.TensorProto] | None = None,
) -> GraphBuilder:
    """The graph of one stage, written into a builder."""
    builder = GraphBuilder(
        contracts(checkpoint.config, graph.target)[graph.stage],
        __version__,
        float_type=graph.float_type,
        standard_only=graph.standard_only,
        on_gpu=graph.on_gpu,
        store=store,
    )
    WRITERS[graph.stage](checkpoint, builder, linear_layers(builder, graph.precision, graph.grouping)).write()
    return builder
