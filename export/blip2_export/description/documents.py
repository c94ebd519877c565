"""Makes the three documents of a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blip2_export.description.ml_bom import ml_bom
from blip2_export.description.mlmodel import mlmodel
from blip2_export.description.model_card import model_card
from blip2_export.description.names import BOM, CARD, MLMODEL
from blip2_export.description.origin import origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]


def documents(manifest: Mapping[str, Any], certificate: Json | None = None) -> dict[str, bytes]:
    """Returns the documents of a bundle with this manifest, and its parity certificate if it was verified.

    They list graphs, weights and tokenizer only: what else the manifest lists, themselves included, changes nothing.
    """
    origin = origin_of(manifest)
    return {
        MLMODEL: mlmodel(manifest, origin),
        CARD: model_card(manifest, origin, certificate),
        BOM: ml_bom(manifest, origin, certificate),
    }
