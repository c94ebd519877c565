"""Exports a checkpoint folder to a bundle folder. Needs neither torch nor transformers.

Works layer by layer: one is read, converted and written before the next is read.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blip2_export.bundle.folder import MANIFEST, check_output, new_bundle
from blip2_export.bundle.manifest import Provenance, manifest
from blip2_export.bundle.size import bundle_bytes, check_disk
from blip2_export.checkpoint.preprocessing import image_manifest
from blip2_export.checkpoint.reader import Checkpoint
from blip2_export.checkpoint.tensors import tensor_shapes
from blip2_export.checkpoint.tokenizer import tokenizer_bytes
from blip2_export.description.documents import documents
from blip2_export.errors import ExportError
from blip2_export.files import json_bytes, write_file
from blip2_export.graph.contract import STAGES
from blip2_export.graph.graph_file import GraphFile
from blip2_export.graph.precision import stage_precisions
from blip2_export.graph.stage import Graph, stage_graph
from blip2_export.progress import ByteProgress, progress, size
from blip2_export.quantization.calibration import Calibration, read_rows, rows_digest
from blip2_export.quantization.gptq_rounding import GptqRounding
from blip2_export.quantization.rounding import ROUNDINGS
from blip2_export.quantization.smoothing import smoothed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blip2_export.checkpoint.reader import TensorSource
    from blip2_export.graph.builder import GraphBuilder
    from blip2_export.quantization.calibration import CalibrationRow

Json = dict[str, Any]


@dataclass(frozen=True)
class ExportOptions:
    """The options of `export`.

    `precision` defaults to the target's usual one, `name` to the last part of the checkpoint's id. `rounding` is
    how weights in groups are rounded, one of ROUNDINGS. `calibration` is a folder of images and prompts: the
    decoder's groups are then rounded by GPTQ, and int8 stages are smoothed.
    """

    checkpoint: Path
    output: Path
    target: str = "cpu"
    precision: str | None = None
    vision_encoder_precision: str | None = None
    decoder_precision: str | None = None
    rounding: str = "optimized"
    calibration: Path | None = None
    name: str | None = None
    force: bool = False


def export(options: ExportOptions) -> Json:
    """Writes the bundle and returns its manifest.

    Raises:
        ExportError: the checkpoint cannot be exported, or the output folder must not be replaced.
    """
    precision = stage_precisions(
        options.target, options.precision, options.vision_encoder_precision, options.decoder_precision
    )
    graphs = [Graph(s, options.target, getattr(precision, s), ROUNDINGS[options.rounding]) for s in STAGES]
    if options.calibration and not any(graph.is_smoothed or graph.is_grouped for graph in graphs):
        raise ExportError("--calibration: nothing is rounded at this precision, so nothing to calibrate; leave it out")
    check_output(options.output, force=options.force)
    checkpoint = Checkpoint(options.checkpoint)
    source_bytes = checkpoint.require(tensor_shapes(checkpoint.config))
    rows = read_rows(options.calibration) if options.calibration else []
    image, tokenizer = image_manifest(checkpoint), tokenizer_bytes(checkpoint)
    check_disk(options.output, bundle_bytes(checkpoint, options.target, precision))
    with new_bundle(options.output, force=options.force) as folder, checkpoint.provenance() as sources:
        files = {"tokenizer.json": write_file(folder / "tokenizer.json", tokenizer)}
        calibration = Calibration(rows, folder, image, checkpoint.config) if rows else None
        operators = {}
        with ByteProgress(source_bytes) as bar:
            checkpoint.on_read = bar.advance
            for graph in graphs:
                bar.stage(f"{graph.stage} {graph.precision}")
                builder, entries = _write_stage(checkpoint, graph, folder, calibration)
                operators[graph.stage] = builder.operators()
                files |= entries
        document = manifest(
            checkpoint,
            name=options.name or checkpoint.identity().id.rpartition("/")[2],
            target=options.target,
            precision=precision,
            image=image,
            provenance=Provenance(sources(), _recorded(options, rows), operators, dict(sorted(files.items()))),
        )
        files |= {name: write_file(folder / name, content) for name, content in documents(document).items()}
        document["files"] = dict(sorted(files.items()))
        write_file(folder / MANIFEST, json_bytes(document))
    total = sum(entry["bytes"] for entry in document["files"].values())
    progress(f"wrote {options.output} ({size(total)})")
    return document


def _write_stage(
    checkpoint: Checkpoint, graph: Graph, folder: Path, calibration: Calibration | None
) -> tuple[GraphBuilder, Json]:
    """Writes one stage, calibrated if there are rows. Returns its builder and the entries of its files."""
    source: TensorSource = checkpoint
    if calibration and graph.is_smoothed:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            plain = Path(scratch) / f"{graph.stage}.onnx"
            _write(checkpoint, graph, plain)
            source = smoothed(checkpoint, graph.stage, plain, calibration)
    if calibration and graph.stage == "decoder" and graph.is_grouped:
        graph = replace(graph, grouping=GptqRounding(checkpoint, calibration))
    return _write(source, graph, folder / f"{graph.stage}.onnx")


def _write(checkpoint: TensorSource, graph: Graph, path: Path) -> tuple[GraphBuilder, Json]:
    with GraphFile(path) as file:
        builder = stage_graph(checkpoint, graph, file.store)
        return builder, file.finish(builder.model())


def _recorded(options: ExportOptions, rows: Sequence[CalibrationRow]) -> Json:
    """Returns every option that decides the bytes of the bundle, without paths, which differ by machine."""
    recorded = asdict(options)
    for name in ("checkpoint", "output", "force"):
        del recorded[name]
    if rows:
        recorded["calibration"] = {"rows": len(rows), "sha256": rows_digest(rows)}
    return recorded
