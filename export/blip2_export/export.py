"""The export command: checkpoint folder -> bundle folder. Needs neither torch nor transformers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blip2_export import __version__
from blip2_export.builder import GraphBuilder
from blip2_export.bundle import MANIFEST, json_bytes, list_files, new_bundle, write_file
from blip2_export.checkpoint import Checkpoint
from blip2_export.contract import STAGES, contracts
from blip2_export.graph_file import write_graph
from blip2_export.graphs.decoder import Decoder
from blip2_export.graphs.qformer import QFormer
from blip2_export.graphs.vision_encoder import VisionEncoder
from blip2_export.linear import linear_layers, stage_precision
from blip2_export.manifest import manifest
from blip2_export.preprocessing import image_manifest
from blip2_export.tokenizer import tokenizer_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

Json = dict[str, Any]

WRITERS: dict[str, Any] = {"vision_encoder": VisionEncoder, "qformer": QFormer, "decoder": Decoder}


@dataclass(frozen=True)
class ExportOptions:
    """What the command was asked for. `name` defaults to the last part of the checkpoint's id."""

    checkpoint: Path
    output: Path
    target: str = "cpu"
    precision: str = "int8"
    name: str | None = None
    force: bool = False


def export(options: ExportOptions) -> Json:
    """Writes the bundle and returns its manifest.

    Raises:
        ExportError: the checkpoint cannot be exported, or the output folder may not be written.
    """
    checkpoint = Checkpoint(options.checkpoint)
    precision = stage_precision(options.precision)
    image = image_manifest(checkpoint)
    tokenizer = tokenizer_bytes(checkpoint)
    with new_bundle(options.output, force=options.force) as folder:
        write_file(folder / "tokenizer.json", tokenizer)
        for stage in STAGES:
            progress(f"{stage}: writing the graph in {precision[stage]}")
            write_graph(folder / f"{stage}.onnx", stage_graph(checkpoint, stage, precision[stage]))
        document = manifest(
            checkpoint,
            name=options.name or checkpoint.identity().id.rpartition("/")[2],
            target=options.target,
            precision=precision,
            image=image,
            files=list_files(folder),
        )
        write_file(folder / MANIFEST, json_bytes(document))
    total = sum(entry["bytes"] for entry in document["files"].values())
    progress(f"wrote {options.output} ({total / 1e6:.1f} MB)")
    return document


def stage_graph(checkpoint: Checkpoint, stage: str, precision: str) -> onnx.ModelProto:
    """The graph of one stage at one precision."""
    builder = GraphBuilder(contracts(checkpoint.config)[stage], __version__)
    WRITERS[stage](checkpoint, builder, linear_layers(builder, precision)).write()
    return builder.model()


def progress(line: str) -> None:
    """Tells a waiting person what is going on; results go to stdout, this does not."""
    print(f"blip2_export: {line}", file=sys.stderr)
