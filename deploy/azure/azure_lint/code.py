"""`code_configuration`: a folder and a script in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from azure_lint import names, paths

if TYPE_CHECKING:
    from azure_lint.section import Section


def check(deployment: Section) -> None:
    """Where it stands, are folder and script there?"""
    configuration = deployment.section("code_configuration")
    if configuration is None:
        return
    code = scripts = None
    if configuration.required("code", "the folder with the scoring script"):
        code = configuration.text("code")
    if configuration.required("scoring_script", "the script in that folder"):
        scripts = configuration.text("scoring_script")
    if code is None or names.is_remote(code):
        return
    folder = configuration.folder / code
    if not paths.is_folder(folder):
        configuration.report.error(
            configuration.where("code"), code, f"no such folder, seen from {configuration.folder}"
        )
    elif scripts is not None and (Path(scripts).is_absolute() or not paths.is_file(folder / scripts)):
        configuration.report.error(configuration.where("scoring_script"), scripts, f"no such file in {folder}")
