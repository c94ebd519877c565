"""Writes the graph of one stage for a target and a precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from blip2_export import __version__
from blip2_export.graph.builder import GraphBuilder
from blip2_export.graph.contract import contracts
from blip2_export.graph.families.opt import Decoder
from blip2_export.graph.families.qformer import QFormer
from blip2_export.graph.families.vision_encoder import VisionEncoder
from blip2_export.graph.linear import is_grouped, linear_layers

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import onnx

    from blip2_export.checkpoint.reader import TensorSource
    from blip2_export.graph.linear import Grouping, Linear


class StageWriter(Protocol):
    """Writes the graph of one stage: reads weights and adds nodes to the builder. Used for one graph."""

    def __init__(self, checkpoint: TensorSource, builder: GraphBuilder, linear: Linear) -> None: ...

    def write(self) -> None:
        """Adds the whole graph to the builder."""
        ...


WRITERS: dict[str, type[StageWriter]] = {"vision_encoder": VisionEncoder, "qformer": QFormer, "decoder": Decoder}


@dataclass(frozen=True)
class Graph:
    """The form of one stage: its target, its precision, and the rounding of its groups."""

    stage: str
    target: str
    precision: str
    grouping: Grouping

    @property
    def float_type(self) -> str:
        """The type of the activations."""
        return "float32" if self.target == "cpu" or self.precision == "fp32" else "float16"

    @property
    def standard_only(self) -> bool:
        """Whether the graph is for TensorRT. The decoder's is not: a growing cache would rebuild engines, so it runs
        on the CUDA provider."""
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
    checkpoint: TensorSource,
    graph: Graph,
    store: Callable[[str, np.ndarray], onnx.TensorProto] | None = None,
) -> GraphBuilder:
    """Writes the graph of one stage into a builder, and returns the builder."""
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
