"""Makes a bundle that can be served: downloads and exports a checkpoint, checks the hashes, and says how to serve it.

The checkpoint is a folder in the hub's layout, or an id of the hub, which is downloaded into the hub's cache. A
download that broke off is resumed. `make model` runs this command; `export` has more options.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from blip2_export.graph.precision import DEFAULT_PRECISION, PRECISIONS, TARGETS

if TYPE_CHECKING:
    import argparse

EXAMPLES = """\
examples:
  python -m blip2_export model --checkpoint Salesforce/blip2-opt-2.7b
  python -m blip2_export model --checkpoint ~/blip2-opt-2.7b --precision int4 --output onnx/int4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("--checkpoint", required=True, metavar="DIR|ID", help="folder, or id of the hub")
    parser.add_argument("--revision", help="branch, tag or commit of the hub's repository; only with an id")
    parser.add_argument(
        "--target", choices=TARGETS, default="cpu", help="hardware that the bundle is for (default: cpu)"
    )
    defaults = ", ".join(f"{target}: {precision}" for target, precision in DEFAULT_PRECISION.items())
    parser.add_argument("--precision", choices=PRECISIONS, help=f"as `export` has it (default: {defaults})")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: onnx/NAME[-TARGET]-PRECISION")
    parser.add_argument("--force", action="store_true", help="replace the bundle in --output")


def run(options: argparse.Namespace) -> int:
    """Makes the bundle."""
    from blip2_export.bundle.folder import check_output
    from blip2_export.bundle.writer import ExportOptions, export
    from blip2_export.checkpoint.location import expanded, local_folder
    from blip2_export.commands.check import check
    from blip2_export.graph.precision import stage_precisions

    precision = options.precision or DEFAULT_PRECISION[options.target]
    # Wrong options are refused before gigabytes are downloaded.
    stage_precisions(options.target, precision)
    output = expanded(str(options.output)) if options.output else _output(options.checkpoint, options.target, precision)
    check_output(output, force=options.force)
    checkpoint = local_folder(options.checkpoint, options.revision)
    export(ExportOptions(checkpoint, output, target=options.target, precision=precision, force=options.force))
    check(output)
    print(how_to_serve(output, options.target), end="")
    return 0


def _output(checkpoint: str, target: str, precision: str) -> Path:
    from blip2_export.checkpoint.location import expanded

    folder = expanded(checkpoint)
    name = folder.resolve().name if folder.is_dir() else folder.name
    return Path("onnx") / "-".join(part for part in (name, "" if target == "cpu" else target, precision) if part)


def how_to_serve(bundle: Path, target: str) -> str:
    """Returns the commands that serve a bundle, for a shell in the repository's folder."""
    image, gpus = ("blip2", "") if target == "cpu" else ("blip2:cuda", "--gpus all ")
    mount = shlex.quote(f"{bundle.resolve()}:/model:ro")
    folder = shlex.quote(str(bundle))
    on_gpu = (
        "make build onnxruntime-gpu && ORT_DYLIB_PATH=.ort-gpu/libonnxruntime.so target/release/blip2 serve --model"
    )
    # make reads `$` before the shell does.
    command = f"make run MODEL={folder.replace('$', '$$')}" if target == "cpu" else f"{on_gpu} {folder}"
    return f"""
Serve it on port 5001, in a container or with the binary:

  docker run --rm {gpus}-p 5001:5001 -v {mount} {image}
  {command}
"""
