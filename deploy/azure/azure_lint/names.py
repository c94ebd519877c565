"""Names, and references to what is registered."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from azure_lint.section import Section

# Azure's words: 3 to 32 characters, a letter first, letters, digits and single dashes, no dash at the end.
_ENDPOINT = re.compile(r"[A-Za-z](?:-?[A-Za-z0-9])*\Z")
_ASSET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z")
_REGISTERED = re.compile(r"azureml:([A-Za-z0-9][A-Za-z0-9_.-]{0,254})(?::|@)([A-Za-z0-9_.-]+)\Z")
_REGISTRY = re.compile(
    r"azureml://registries/[^/\s]+/(models|environments|components)/[^/\s]+/(?:versions|labels)/[^/\s]+\Z"
)
_ARM = re.compile(r"(?:azureml:)?/subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/[^\s]+\Z", re.IGNORECASE)
# A path with one of these is not on this machine.
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def is_endpoint_name(name: str) -> bool:
    """May an endpoint or a deployment be called that?"""
    return 3 <= len(name) <= 32 and _ENDPOINT.match(name) is not None


def check_endpoint_name(section: Section, key: str) -> None:
    """The name of an endpoint or a deployment: it becomes part of a host name."""
    if not section.required(key, "every endpoint and deployment needs a name"):
        return
    name = section.text(key)
    if name is not None and not is_endpoint_name(name):
        section.report.error(
            section.where(key),
            name,
            "must be 3 to 32 letters, digits and single dashes, a letter first, no dash at the end",
        )


def check_asset_name(section: Section, needed: bool) -> None:
    """The name of a model or an environment."""
    if needed:
        section.required("name", "what is registered needs a name")
    name = section.text("name")
    if name is not None and not _ASSET.match(name):
        section.report.error(
            section.where("name"),
            name,
            "must be at most 255 letters, digits, dashes, underscores and dots, a letter or digit first",
        )
    version = section.get("version")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int | str)):
        section.report.error(section.where("version"), version, "must be text or a whole number")
    elif version is not None and not re.fullmatch(r"[A-Za-z0-9_.-]{1,30}", str(version)):
        section.report.error(
            section.where("version"), version, "must be at most 30 letters, digits, dashes, underscores and dots"
        )


def check_reference(section: Section, key: str, kind: str) -> tuple[str, str] | None:
    """A text that names something registered. Answers with name and version where it is of this workspace."""
    value = section.text(key)
    if value is None:
        return None
    found = _REGISTERED.match(value)
    if found:
        return found[1], found[2]
    registry = _REGISTRY.match(value)
    if (registry and registry[1] == f"{kind}s") or _ARM.match(value):
        return None
    section.report.error(
        section.where(key),
        value,
        f"must be azureml:NAME:VERSION, azureml:NAME@latest or azureml://registries/REGISTRY/{kind}s/NAME/versions/VERSION",
    )
    return None


def is_remote(path: str) -> bool:
    """Does a path lie in Azure's storage, or on the web?"""
    return _REMOTE.match(path) is not None
