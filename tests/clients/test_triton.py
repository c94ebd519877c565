"""Triton's own HTTP client asks the service: probes, metadata, tensors in JSON and in binary, errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Service

MODEL = "blip2-shapes"
STAR = "Question: what color is the star? Answer:"
CIRCLE = "Question: what color is the circle? Answer:"


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[InferenceServerClient]:
    """A client; it wants an address without a scheme."""
    with InferenceServerClient(url=f"127.0.0.1:{service.port}") as client:
        yield client


def tensor(name: str, elements: list[bytes] | list[str], *, binary: bool = True) -> InferInput:
    """A BYTES tensor of shape [n]."""
    array = np.array(elements, dtype=np.object_)
    return InferInput(name, list(array.shape), "BYTES").set_data_from_numpy(array, binary_data=binary)


def texts(array: np.ndarray) -> list[str]:
    """The elements of a BYTES tensor, which are bytes if they came in binary."""
    return [element.decode() if isinstance(element, bytes) else element for element in array.tolist()]


def test_service_and_model_are_live_ready_and_described(client: InferenceServerClient) -> None:
    """What Triton's tools ask before anything else."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("another")
    assert not client.is_model_ready(MODEL, "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(MODEL, "1")
    assert [(tensor["name"], tensor["datatype"]) for tensor in metadata["inputs"]] == [
        ("image", "BYTES"),
        ("text", "BYTES"),
    ]
    assert {tensor["name"] for tensor in metadata["outputs"]} >= {"text", "score", "mean_probability", "stop_reason"}
    assert client.get_model_config(MODEL)["max_batch_size"] == 0
    assert client.get_model_repository_index()[0]["state"] == "READY"


def test_a_batch_in_binary_is_answered_in_order(client: InferenceServerClient, scene: bytes, scene_base64: str) -> None:
    """Files, base64 and data URIs may stand side by side; all outputs come, in binary."""
    images: list[bytes] = [scene, scene_base64.encode(), f"data:image/png;base64,{scene_base64}".encode()]
    answer = client.infer(
        MODEL,
        [tensor("image", images), tensor("text", [STAR, CIRCLE, ""])],
        request_id="17",
        parameters={"max_new_tokens": 20},
    )
    star, circle, caption = texts(answer.as_numpy("text"))
    assert (star, circle) == ("yellow", "blue")
    assert "star" in caption
    assert answer.get_response()["id"] == "17"
    probabilities = answer.as_numpy("mean_probability")
    assert probabilities.dtype == np.float32
    assert (probabilities > 0.5).all()
    assert texts(answer.as_numpy("stop_reason")) == ["eos"] * 3
    details = json.loads(texts(answer.as_numpy("details"))[0])
    assert details["text"] == "yellow"


def test_tensors_in_json_give_the_same(client: InferenceServerClient, scene_base64: str) -> None:
    """No binary on the way there, none on the way back."""
    answer = client.infer(
        MODEL,
        [tensor("image", [scene_base64] * 2, binary=False), tensor("text", [STAR, CIRCLE], binary=False)],
        outputs=[InferRequestedOutput(name, binary_data=False) for name in ("text", "score")],
    )
    assert texts(answer.as_numpy("text")) == ["yellow", "blue"]
    assert answer.as_numpy("score").dtype == np.float32
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["text", "score"]


def test_a_column_is_read_and_one_text_is_for_all_pictures(client: InferenceServerClient, scene: bytes) -> None:
    """Shape [n, 1], as Triton's own models with batches have it."""
    array = np.array([[scene], [scene]], dtype=np.object_)
    image = InferInput("image", [2, 1], "BYTES").set_data_from_numpy(array)
    answer = client.infer(MODEL, [image, tensor("text", [STAR])], model_version="1")
    assert texts(answer.as_numpy("text")) == ["yellow", "yellow"]


def test_outputs_are_selected_one_in_json_and_one_in_binary(client: InferenceServerClient, scene: bytes) -> None:
    """Each output says for itself how it comes."""
    outputs = [InferRequestedOutput("stop_reason", binary_data=False), InferRequestedOutput("text", binary_data=True)]
    answer = client.infer(MODEL, [tensor("image", [scene]), tensor("text", [STAR])], outputs=outputs)
    assert texts(answer.as_numpy("text")) == ["yellow"]
    assert texts(answer.as_numpy("stop_reason")) == ["eos"]
    assert answer.as_numpy("score") is None


def test_parameters_steer_generation(client: InferenceServerClient, scene: bytes) -> None:
    """Under the names of transformers, beside Triton's own."""
    answer = client.infer(
        MODEL, [tensor("image", [scene])], parameters={"max_new_tokens": 2}, priority=1, timeout=60_000_000
    )
    assert texts(answer.as_numpy("stop_reason")) == ["length"]
    details = json.loads(texts(answer.as_numpy("details"))[0])
    assert len(details["token_ids"]) == 2
    assert "priority has no effect" in details["warnings"][0]


def test_a_request_in_the_background_is_answered(client: InferenceServerClient, scene: bytes) -> None:
    """`async_infer` takes the same road."""
    pending = client.async_infer(MODEL, [tensor("image", [scene]), tensor("text", [STAR])])
    assert texts(pending.get_result().as_numpy("text")) == ["yellow"]


@pytest.mark.parametrize(
    ("change", "status", "part"),
    [
        ({"parameters": {"foo": 1}}, "400", 'unknown parameter "foo"'),
        ({"model_name": "another"}, "404", 'there is no model "another"'),
        ({"model_version": "2"}, "404", 'has no version "2"'),
        ({"outputs": [InferRequestedOutput("logits")]}, "400", 'there is no output "logits"'),
        ({"outputs": [InferRequestedOutput("text", class_count=2)]}, "400", "classification is not supported"),
        ({"sequence_id": 7}, "400", "sequence_id is not supported"),
        ({"inputs": [tensor("text", [STAR])]}, "400", "inputs holds no image"),
        ({"inputs": [tensor("image", [b"\x00no picture"])]}, "400", "image[0]: "),
        ({"request_compression_algorithm": "gzip"}, "415", "uncompressed"),
    ],
)
def test_a_fault_is_an_exception_with_status_and_reason(
    client: InferenceServerClient, scene: bytes, change: dict, status: str, part: str
) -> None:
    """The client reads the error's text."""
    request = {"model_name": MODEL, "inputs": [tensor("image", [scene]), tensor("text", [STAR])]} | change
    with pytest.raises(InferenceServerException) as raised:
        client.infer(**request)
    assert raised.value.status() == status
    assert part in raised.value.message()
