"""The known origins of weights: publisher, licences, intended use, limits.

A checkpoint is identified by its repository, as the hub's cache names it, by a published commit, or by the hash of its
weights. The name of a folder proves nothing, so any other checkpoint is of unknown origin, and no licence is claimed
for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

BLIP2_PAPER = "https://arxiv.org/abs/2301.12597"
OPT_PAPER = "https://arxiv.org/abs/2205.01068"
BLIP2_CARD = "https://huggingface.co/Salesforce/blip2-opt-2.7b"
OPT_TERMS = "https://github.com/facebookresearch/metaseq/blob/main/projects/OPT/MODEL_LICENSE.md"

# Repository -> the OPT inside it.
PUBLISHED = {
    "Salesforce/blip2-opt-2.7b": "facebook/opt-2.7b",
    "Salesforce/blip2-opt-2.7b-coco": "facebook/opt-2.7b",
    "Salesforce/blip2-opt-6.7b": "facebook/opt-6.7b",
    "Salesforce/blip2-opt-6.7b-coco": "facebook/opt-6.7b",
}
# The commit that Azure's catalogue model was made from. A folder that was downloaded without the hub's cache keeps it.
COMMITS = {"6e723d92ee91ebcee4ba74d7017632f11ff4217b": "Salesforce/blip2-opt-2.7b"}
# model.safetensors of onnx/checkpoint.
SHAPES_WEIGHTS = "5ad8faa208228c32c4be63ea646bc041f0fe2bb21bb7639593b86b8412c2c765"


@dataclass(frozen=True)
class Licence:
    """Terms that hold for a part of the weights. `spdx` is an SPDX id, or a LicenseRef for terms that SPDX lacks."""

    name: str
    covers: str
    spdx: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Limit:
    """Something that the model is published to be bad at, and who says so; `is_ethical` if it harms people."""

    title: str
    text: str
    source: str
    is_ethical: bool = False


@dataclass(frozen=True)
class Origin:
    """The facts about a checkpoint. `repository` is its id on the hub, if known."""

    summary: str
    repository: str | None
    licences: tuple[Licence, ...]
    licence_advice: str
    uses: tuple[str, ...]
    not_for: str
    limits: tuple[Limit, ...]
    limits_preface: str = ""
    ancestors: tuple[str, ...] = ()

    @property
    def licence_expression(self) -> str:
        """All licences as one SPDX expression, or `unknown`."""
        known = [licence.spdx for licence in self.licences if licence.spdx]
        return " AND ".join(known) if known and len(known) == len(self.licences) else "unknown"


MIT = "MIT"
OPT_LICENCE = Licence(
    "OPT-175B License Agreement",
    "the language model, OPT, whose weights Meta published under terms of their own: non-commercial research use",
    "LicenseRef-OPT-175B",
    OPT_TERMS,
)
BLIP2_LICENCE = Licence(
    "MIT", "BLIP-2 as published by Salesforce, by its model card: vision encoder, Q-Former, projection", MIT, BLIP2_CARD
)
UNKNOWN_LICENCE = Licence("unknown; ask whoever published the checkpoint", "all weights")

USES = (
    "describing a picture in a short English sentence",
    "answering short English questions about a picture, written as `Question: … Answer:`",
    "research on vision-language models",
)
NOT_FOR = (
    "decisions about people, safety, health, law or money, and identifying people. The publishers have not tested "
    "the model in real applications and ask that it not be put into one directly: assess safety and fairness for "
    "the application first."
)
LIMITS = (
    Limit(
        "Wrong answers that sound sure",
        "The language model may know too little, reason along a wrong path, or have knowledge older than the "
        "picture; the answer shows no sign of it.",
        BLIP2_PAPER,
    ),
    Limit(
        "Does not learn from examples in the prompt",
        "Pictures with questions and answers put before the question did not make answers better: in training, each "
        "sample had one picture and one text.",
        BLIP2_PAPER,
    ),
    Limit(
        "Risks of language models",
        "The frozen language model may offend, spread social bias and give away private information. The authors name "
        "instructions that guide the answer, and training data freed of harmful content, as remedies.",
        BLIP2_PAPER,
        is_ethical=True,
    ),
    Limit(
        "Data from the web",
        "Pictures and texts of training were collected from the internet (LAION among others), so inappropriate "
        "content and biases of that data may come back in answers.",
        BLIP2_CARD,
        is_ethical=True,
    ),
    Limit(
        "Stereotypes and toxic language",
        "OPT tends to toxic language and harmful stereotypes, even after a harmless prompt; its authors trace part of "
        "it to unmoderated discussions in the training data.",
        OPT_PAPER,
        is_ethical=True,
    ),
    Limit(
        "Instructions, repetition, facts",
        "OPT follows plain instructions and blunt questions badly, repeats itself and can be caught in a loop, and "
        "states what is not true. Its authors held commercial use to be premature.",
        OPT_PAPER,
    ),
    Limit("English", "OPT was trained on English text for the most part; expect little of other languages.", OPT_PAPER),
)


def origin_of(manifest: Mapping[str, Any]) -> Origin:
    """Returns the facts about the checkpoint that a manifest names."""
    checkpoint = manifest["checkpoint"]
    repository = checkpoint["id"]
    if repository not in PUBLISHED:
        repository = COMMITS.get(checkpoint["revision"] or "")
    if repository:
        return _published(repository)
    if any(entry["sha256"] == SHAPES_WEIGHTS for entry in checkpoint["files"].values()):
        return _shapes(manifest)
    return _unknown(checkpoint["id"])


def _published(repository: str) -> Origin:
    return Origin(
        summary=f"BLIP-2 with OPT as published by Salesforce in `{repository}` ([paper]({BLIP2_PAPER})): an image "
        f"encoder and the language model `{PUBLISHED[repository]}`, joined by a Q-Former.",
        repository=repository,
        licences=(BLIP2_LICENCE, OPT_LICENCE),
        licence_advice="The two differ: MIT allows any use, the terms of OPT do not. Whether and how they bind the "
        "weights of OPT inside BLIP-2 is for you to check before you use or pass on this bundle.",
        uses=USES,
        not_for=NOT_FOR,
        limits=LIMITS,
        ancestors=(PUBLISHED[repository],),
    )


def _shapes(manifest: Mapping[str, Any]) -> Origin:
    image = manifest["image"]
    return Origin(
        summary="A tiny BLIP-2 of 2.3 M parameters in the classes of transformers, trained from nothing by the "
        "blip2-onnx project on drawn scenes of one to four coloured shapes. It exists to try and test the service.",
        repository=None,
        licences=(Licence("MIT", "all weights, as the project itself", MIT),),
        licence_advice="No weights of Salesforce or Meta are in it.",
        uses=("trying out and testing the service", "telling colour, shape, number and place of drawn shapes"),
        not_for="anything else; it has seen neither photographs nor text of other kinds.",
        limits=(
            Limit(
                "Nothing but shapes",
                "Knows circle, square, triangle, star and cross in seven colours on a grid of 3 by 3, "
                f"{image['width']} x {image['height']} pixels, and 408 tokens of English. Any other picture is still "
                "answered as if it showed shapes.",
                "onnx/README.md of the project",
            ),
            Limit(
                "Wrong now and then",
                "On 1,000 unseen scenes with seven questions each, 95.3 % of the answers are exactly right, in fp32 "
                "and in int8.",
                "onnx/README.md of the project",
            ),
        ),
    )


def _unknown(name: str) -> Origin:
    return Origin(
        summary=f"A checkpoint named `{name}`, of the architecture of BLIP-2 with OPT. Who published it is not known: "
        "neither repository and commit nor hashes are those of a checkpoint that this exporter knows.",
        repository=name if "/" in name else None,
        licences=(UNKNOWN_LICENCE,),
        licence_advice="Nothing is claimed here. BLIP-2's published weights are under MIT, and OPT's under terms of "
        f"their own ({OPT_TERMS}); weights that descend from them may be bound by both.",
        uses=("what whoever published the checkpoint says",),
        not_for="anything that whoever published the checkpoint does not name.",
        limits=LIMITS,
        limits_preface="Of this checkpoint nothing is known. These are published for BLIP-2 with OPT, and hold if it "
        "descends from that.",
    )
