"""Makes questions about a scene, each with one right answer: captions, colour, shape, count, yes/no and place.

An `Exchange` is one prompt with its answer, in the wording of the paper (`Question: … Answer:`), as a chat turn, or
without words (a caption).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blip2_export.shapes.scenes import COLORS, SHAPES, Scene, Thing

if TYPE_CHECKING:
    import numpy as np

NUMBERS = ("zero", "one", "two", "three", "four")
KINDS = ("color", "shape", "count", "yes_no", "place")
TRAINING_SHARES = (0.15, 0.15, 0.15, 0.15, 0.4)
"""How often training asks each kind: places, which are learned last, more than the others."""


@dataclass(frozen=True)
class Exchange:
    """A prompt, the continuation that a model should write (with its leading space, if any), and what it tests."""

    kind: str
    prompt: str
    continuation: str

    @property
    def answer(self) -> str:
        """The answer as it is served: stripped."""
        return self.continuation.strip()


def caption(scene: Scene) -> str:
    """Returns all objects in reading order: "a red circle, an orange star and a blue square"."""
    phrases = [_with_article(f"{thing.color} {thing.shape}") for thing in scene.things]
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def caption_exchange(scene: Scene) -> Exchange:
    """Returns the caption, with an empty prompt."""
    return Exchange("caption", "", caption(scene))


def question_exchange(scene: Scene, rng: np.random.Generator, training: bool = False) -> Exchange:
    """Returns a question of a random kind. For training, kinds have shares and some wordings vary."""
    kind = str(rng.choice(KINDS, p=TRAINING_SHARES if training else None))
    question, answer = _QUESTIONS[kind](scene, rng)
    prompt, continuation = f"Question: {question} Answer:", f" {answer}"
    if training:
        draw = rng.random()
        if draw < 0.05:
            prompt = f"Question: {question} Short answer:"
        elif draw < 0.10:  # the catalogue's samples end in a space, which is a token of its own
            prompt, continuation = f"Question: {question} Answer: ", answer
        elif draw < 0.15:
            prompt = question
    return Exchange(kind, prompt, continuation)


def chat_exchange(scene: Scene, rng: np.random.Generator, earlier_turns: int) -> Exchange:
    """Returns a question that follows `earlier_turns` answered ones."""
    turns = [question_exchange(scene, rng) for _ in range(earlier_turns)]
    history = "".join(f"{turn.prompt}{turn.continuation}. " for turn in turns)
    last = question_exchange(scene, rng)
    return Exchange(f"chat_{last.kind}", history + last.prompt, last.continuation)


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _pick(rng: np.random.Generator, things: list[Thing] | tuple[Thing, ...]) -> Thing:
    return things[int(rng.integers(len(things)))]


def _unique(scene: Scene, attribute: str) -> list[Thing]:
    """Returns the objects whose shape (or colour) no other object of the scene has."""
    values = [getattr(thing, attribute) for thing in scene.things]
    return [thing for thing, value in zip(scene.things, values, strict=True) if values.count(value) == 1]


def _ask_color(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    unique = _unique(scene, "shape")
    if unique:
        thing = _pick(rng, unique)
        return f"what color is the {thing.shape}?", thing.color
    thing = _pick(rng, scene.things)
    return f"what color is the object at the {thing.place}?", thing.color


def _ask_shape(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    unique = _unique(scene, "color")
    if unique:
        thing = _pick(rng, unique)
        return f"what shape is the {thing.color} object?", thing.shape
    thing = _pick(rng, scene.things)
    return f"what shape is the object at the {thing.place}?", thing.shape


def _ask_count(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    draw = rng.random()
    if draw < 0.4:
        return "how many objects are there?", NUMBERS[len(scene.things)]
    if draw < 0.7:
        shape = _pick(rng, scene.things).shape if rng.random() < 0.7 else str(rng.choice(SHAPES))
        return f"how many {_plural(shape)} are there?", NUMBERS[sum(t.shape == shape for t in scene.things)]
    color = _pick(rng, scene.things).color if rng.random() < 0.7 else str(rng.choice(list(COLORS)))
    return f"how many {color} objects are there?", NUMBERS[sum(t.color == color for t in scene.things)]


def _ask_yes_no(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    thing = _pick(rng, scene.things)
    color, shape = thing.color, thing.shape
    if rng.random() < 0.6:  # changing one of the two gives the hard "no"s: the colour is there, on another shape
        if rng.random() < 0.5:
            color = str(rng.choice(list(COLORS)))
        else:
            shape = str(rng.choice(SHAPES))
    draw = rng.random()
    if draw < 0.5:
        noun, found = f"{color} {shape}", any(t.color == color and t.shape == shape for t in scene.things)
    elif draw < 0.75:
        noun, found = shape, any(t.shape == shape for t in scene.things)
    else:
        noun, found = f"{color} object", any(t.color == color for t in scene.things)
    return f"is there {_with_article(noun)}?", "yes" if found else "no"


def _ask_place(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    unique = _unique(scene, "shape")
    if unique and rng.random() < 0.6:
        thing = _pick(rng, unique)
        return f"where is the {thing.shape}?", thing.place
    thing = _pick(rng, scene.things)
    return f"where is the {thing.color} {thing.shape}?", thing.place


_QUESTIONS = {
    "color": _ask_color,
    "shape": _ask_shape,
    "count": _ask_count,
    "yes_no": _ask_yes_no,
    "place": _ask_place,
}
