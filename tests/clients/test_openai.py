"""OpenAI's own client against `/v1/chat/completions` and `/v1/models`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Service
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

MODEL = "blip2-shapes"
STAR = "what color is the star?"
CAPTION = "a purple cross, a yellow star and a blue circle"


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    """A client that does not try again."""
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def picture(scene_base64: str) -> dict[str, Any]:
    """The scene, as a part of a message."""
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{scene_base64}", "detail": "low"}}


def text(text: str) -> dict[str, Any]:
    """A text, as a part of a message."""
    return {"type": "text", "text": text}


def ask(client: openai.OpenAI, *parts: dict[str, Any], **params: object) -> ChatCompletion:
    """The answer to a conversation of one turn."""
    return client.chat.completions.create(**{"model": MODEL, "messages": [{"role": "user", "content": parts}]} | params)


def stream(client: openai.OpenAI, *parts: dict[str, Any], **params: object) -> openai.Stream[ChatCompletionChunk]:
    """As it comes."""
    return ask(client, *parts, stream=True, **params)


@pytest.mark.parametrize("question", [STAR, f"Question: {STAR} Answer:"])
def test_a_question_is_put_into_the_template_unless_it_has_it(
    client: openai.OpenAI, picture: dict[str, Any], question: str
) -> None:
    """Either way it is answered."""
    completion = ask(client, text(question), picture)
    choice = completion.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "yellow", "stop")
    assert completion.id.startswith("chatcmpl-")
    assert (completion.object, completion.model, choice.logprobs) == ("chat.completion", MODEL, None)
    assert completion.system_fingerprint.startswith("fp_")
    assert completion.usage.completion_tokens == 2, "the word and the end"
    assert completion.usage.prompt_tokens > 8, "the picture counts"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_no_text_asks_for_a_caption_and_a_limit_cuts_it(client: openai.OpenAI, picture: dict[str, Any]) -> None:
    """`finish_reason` says which of the two."""
    whole = ask(client, picture).choices[0]
    assert (whole.message.content, whole.finish_reason) == (CAPTION, "stop")
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}, {"extra_body": {"max_new_tokens": 3}}):
        cut = ask(client, picture, **limit)
        assert cut.choices[0].finish_reason == "length"
        assert cut.usage.completion_tokens == 3
        assert CAPTION.startswith(cut.choices[0].message.content)


def test_an_assistant_who_speaks_last_has_begun_the_answer(client: openai.OpenAI, picture: dict[str, Any]) -> None:
    """The model goes on behind it."""
    messages = [{"role": "user", "content": [picture]}, {"role": "assistant", "content": "a purple cross, a"}]
    completion = client.chat.completions.create(model=MODEL, messages=messages)
    assert completion.choices[0].message.content == CAPTION.removeprefix("a purple cross, a").strip()


def test_a_chat_goes_on_about_the_picture_of_its_first_turn(client: openai.OpenAI, picture: dict[str, Any]) -> None:
    """The picture may come again, and the answers need not be those of the model."""
    messages = [
        {"role": "user", "content": [picture, text(STAR)]},
        {"role": "assistant", "content": "yellow"},
        {"role": "user", "content": [picture, text("what color is the circle?")]},
    ]
    completion = client.chat.completions.create(model=MODEL, messages=messages)
    single = ask(client, picture, text("what color is the circle?"))
    assert completion.choices[0].message.content
    assert completion.usage.prompt_tokens > single.usage.prompt_tokens
    raw = f"Question: {STAR} Answer: yellow. Question: what color is the circle? Answer:"
    assert ask(client, picture, text(raw)).choices[0].message == completion.choices[0].message


@pytest.mark.parametrize("params", [{}, {"logprobs": True, "top_logprobs": 2}, {"stop": "star"}])
def test_streamed_pieces_are_the_whole_answer(
    client: openai.OpenAI, picture: dict[str, Any], params: dict[str, Any]
) -> None:
    """Role first, then text, then why it ended, then what was used."""
    whole = ask(client, picture, **params)
    chunks = list(stream(client, picture, stream_options={"include_usage": True}, **params))
    assert chunks[0].choices[0].delta.role == "assistant"
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert [choice.finish_reason for choice in choices[-2:]] == [None, whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert len(chunks) > 4
    if "logprobs" in params:
        tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
        assert [token.token for token in tokens] == [token.token for token in whole.choices[0].logprobs.content]
        assert tokens[0].logprob == pytest.approx(whole.choices[0].logprobs.content[0].logprob, abs=1e-4)


def test_a_stream_can_be_left(client: openai.OpenAI, picture: dict[str, Any]) -> None:
    """The next question is answered."""
    with stream(client, picture) as chunks:
        next(iter(chunks))
    assert ask(client, text(STAR), picture).choices[0].message.content == "yellow"


def test_logprobs_name_tokens_and_bytes_of_the_text(client: openai.OpenAI, picture: dict[str, Any]) -> None:
    """Together they are the text."""
    choice = ask(client, picture, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode().strip() == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token, "greedy search takes the likeliest"
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1 + 1e-4


def test_several_choices_are_samples_or_the_best_beams(client: openai.OpenAI, picture: dict[str, Any]) -> None:
    """A seed makes samples repeatable; the best beams differ from one another."""
    best = [choice.message.content for choice in ask(client, picture, n=3, temperature=0).choices]
    assert best[0] == CAPTION
    assert len(set(best)) == 3
    texts = {0: "", 1: "", 2: ""}
    for chunk in stream(client, picture, n=3, temperature=0):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(texts.values()) == best
    sampled = [ask(client, picture, n=4, temperature=1.5, seed=seed) for seed in (7, 7, -8)]
    first, again, other = [[choice.message.content for choice in completion.choices] for completion in sampled]
    assert first == again != other
    assert sampled[0].usage.completion_tokens >= 4


@pytest.mark.parametrize(("stop", "expected"), [("yellow", "a purple cross, a"), (["zzz", " cross"], "a purple")])
def test_the_answer_ends_before_a_stop_string(
    client: openai.OpenAI, picture: dict[str, Any], stop: str | list[str], expected: str
) -> None:
    """It is no part of text and tokens."""
    choice = ask(client, picture, stop=stop, logprobs=True).choices[0]
    assert (choice.message.content, choice.finish_reason) == (expected, "stop")
    assert "".join(token.token for token in choice.logprobs.content).strip() == expected


def test_parameters_of_the_engine_are_taken_too(client: openai.OpenAI, picture: dict[str, Any]) -> None:
    """By `extra_body`."""
    beams = ask(client, picture, extra_body={"num_beams": 3, "length_penalty": 0.5})
    assert beams.choices[0].message.content == CAPTION
    forbidden = ask(client, text(STAR), picture, extra_body={"bad_words": ["yellow"]})
    assert forbidden.choices[0].message.content != "yellow"


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100_000}, "messages"),
        ({"n": 100}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"num_beam": 3}}, "num_beam"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: openai.OpenAI, picture: dict[str, Any], params: dict[str, Any], param: str
) -> None:
    """`param` holds the name."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, picture, **params)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,bm90IGFuIGltYWdl", "http://127.0.0.1/x.png", "file:///etc/passwd", "", "QUJDR"]
)
@pytest.mark.parametrize("ask", [ask, stream])
def test_a_picture_that_is_none_is_a_bad_request(client: openai.OpenAI, url: str, ask: Callable[..., object]) -> None:
    """Streamed or not, and the place is named."""
    with pytest.raises(openai.BadRequestError, match="image") as caught:
        ask(client, {"type": "image_url", "image_url": {"url": url}})
    assert caught.value.param == "messages[0].content[0].image_url"


def test_no_picture_and_another_one_are_refused(client: openai.OpenAI, picture: dict[str, Any]) -> None:
    """There is exactly one."""
    with pytest.raises(openai.BadRequestError, match="no image"):
        ask(client, text(STAR))
    with pytest.raises(openai.BadRequestError, match="another image"):
        ask(client, picture, {"type": "image_url", "image_url": {"url": "QUJD"}})


def test_models_are_listed_and_another_is_not_found(client: openai.OpenAI, picture: dict[str, Any]) -> None:
    """The checkpoint's name is a name of the model too."""
    models = client.models.list()
    assert [(model.id, model.object) for model in models] == [(MODEL, "model")]
    owner = models.data[0].owned_by
    assert client.models.retrieve(MODEL).id == client.models.retrieve(owner).id == MODEL
    assert ask(client, text(STAR), picture, model=owner).model == MODEL
    for missing in (lambda: ask(client, picture, model="gpt-4o"), lambda: client.models.retrieve("gpt-4o")):
        with pytest.raises(openai.NotFoundError, match="gpt-4o") as caught:
            missing()
        assert caught.value.code == "model_not_found"
