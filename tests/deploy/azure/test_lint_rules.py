"""One wrong field at a time: the linter names it, its value and what is allowed, where the real SDK lets it pass."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from azure_lint import Options, lint_files
from loading import load

if TYPE_CHECKING:
    from pathlib import Path

ROUTES = {
    "liveness_route": {"path": "/", "port": 5001},
    "readiness_route": {"path": "/readyz", "port": 5001},
    "scoring_route": {"path": "/score", "port": 5001},
}
ENVIRONMENT = {"name": "blip2-rust-env", "version": 1, "image": "acr.azurecr.io/blip2:1", "inference_config": ROUTES}
GOOD: dict[str, dict[str, Any]] = {
    "environment": ENVIRONMENT,
    "model": {"name": "blip2-opt-2-7b-onnx", "version": 1, "type": "custom_model", "path": "bundle"},
    "online-endpoint": {"name": "blip2-vqa", "auth_mode": "key", "traffic": {"blue": 90, "green": 10}},
    "batch-endpoint": {"name": "blip2-batch", "defaults": {"deployment_name": "demo"}},
    "online-deployment": {
        "name": "blue",
        "endpoint_name": "blip2-vqa",
        "model": "azureml:blip2-opt-2-7b-onnx:1",
        "environment": "azureml:blip2-rust-env:1",
        "instance_type": "Standard_DS5_v2",
        "instance_count": 1,
        "environment_variables": {"BLIP2_QUEUE_ROWS": "64", "BLIP2_TIMEOUT_S": "85"},
        "request_settings": {"request_timeout_ms": 90000, "max_concurrent_requests_per_instance": 4},
        "liveness_probe": {"initial_delay": 30, "period": 10, "timeout": 5, "failure_threshold": 30},
        "readiness_probe": {"initial_delay": 10, "period": 10, "timeout": 5, "failure_threshold": 120},
    },
    "batch-deployment": {
        "name": "demo",
        "endpoint_name": "blip2-batch",
        "type": "model",
        "model": "azureml:blip2-opt-2-7b-onnx:1",
        "compute": "azureml:cpu-cluster",
        "environment": {"name": "blip2-batch", "image": "acr.azurecr.io/blip2-batch:1"},
        "code_configuration": {"code": "batch", "scoring_script": "batch_driver.py"},
        "resources": {"instance_count": 1},
        "settings": {
            "max_concurrency_per_instance": 1,
            "mini_batch_size": 1,
            "output_action": "append_row",
            "output_file_name": "predictions.csv",
            "retry_settings": {"max_retries": 3, "timeout": 600},
            "error_threshold": -1,
            "logging_level": "info",
        },
    },
}
GONE = object()
INLINE = {key: value for key, value in ENVIRONMENT.items() if key != "version"}


def _inline(**changes: object) -> dict[str, Any]:
    """An inline environment with something changed."""
    return {key: value for key, value in {**copy.deepcopy(INLINE), **changes}.items() if value is not GONE}


def _routed(route: str, **changes: object) -> dict[str, Any]:
    routes = copy.deepcopy(ROUTES)
    routes[route].update(changes)
    return _inline(inference_config=routes)


# Kind, field, wrong value, the field and some words of the message. All of these the SDK loads.
ACCEPTED_ALTHOUGH_WRONG = [
    ("online-endpoint", "name", "ab", "name", "3 to 32"),
    ("online-endpoint", "name", "a" * 33, "name", "3 to 32"),
    ("online-endpoint", "name", "blip2--vqa", "name", "single dashes"),
    ("online-endpoint", "traffic", {"blue": -10, "green": 110}, "traffic.blue", "from 0 to 100"),
    ("online-endpoint", "traffic", {"blue": 20, "green": 20}, "traffic", "100 or 0, not 40"),
    ("online-endpoint", "traffic", {"b--e": 100}, "traffic.b--e", "name of a deployment"),
    ("online-endpoint", "mirror_traffic", {"green": 60}, "mirror_traffic.green", "from 0 to 50"),
    ("online-endpoint", "mirror_traffic", {"green": 10}, "mirror_traffic.green", "without a share"),
    ("online-deployment", "instance_count", GONE, "instance_count", "missing"),
    ("online-deployment", "instance_count", 0, "instance_count", "at least 1"),
    ("online-deployment", "instance_count", -2, "instance_count", "at least 1"),
    (
        "online-deployment",
        "request_settings.request_timeout_ms",
        999999,
        "request_settings.request_timeout_ms",
        "to 180000",
    ),
    (
        "online-deployment",
        "request_settings.request_timeout_ms",
        180001,
        "request_settings.request_timeout_ms",
        "to 180000",
    ),
    ("online-deployment", "request_settings.request_timeout_ms", 0, "request_settings.request_timeout_ms", "from 1"),
    ("online-deployment", "request_settings.request_timeout_ms", -5, "request_settings.request_timeout_ms", "from 1"),
    ("online-deployment", "request_settings.request_timeout_ms", GONE, "request_settings.request_timeout_ms", "5000"),
    ("online-deployment", "request_settings", GONE, "request_settings.request_timeout_ms", "5000"),
    ("online-deployment", "liveness_probe.timeout", 400, "liveness_probe.timeout", "from 1 to 299"),
    ("online-deployment", "readiness_probe.timeout", 300, "readiness_probe.timeout", "from 1 to 299"),
    ("online-deployment", "readiness_probe.timeout", 0, "readiness_probe.timeout", "from 1 to 299"),
    ("online-deployment", "liveness_probe.period", -1, "liveness_probe.period", "at least 1"),
    ("online-deployment", "readiness_probe.period", 0, "readiness_probe.period", "at least 1"),
    ("online-deployment", "readiness_probe.initial_delay", 0, "readiness_probe.initial_delay", "at least 1"),
    ("online-deployment", "readiness_probe.failure_threshold", 0, "readiness_probe.failure_threshold", "at least 1"),
    ("online-deployment", "liveness_probe.success_threshold", 2, "liveness_probe.success_threshold", "from 1 to 1"),
    ("online-deployment", "readiness_probe.success_threshold", 0, "readiness_probe.success_threshold", "at least 1"),
    ("online-deployment", "readiness_probe.failure_threshold", 3, "readiness_probe", "the start takes up to 49.7 s"),
    (
        "online-deployment",
        "request_settings.max_concurrent_requests_per_instance",
        0,
        "request_settings.max_concurrent_requests_per_instance",
        "at least 1",
    ),
    (
        "online-deployment",
        "request_settings.max_concurrent_requests_per_instance",
        33,
        "environment_variables.BLIP2_QUEUE_ROWS",
        "at least 66",
    ),
    ("online-deployment", "environment", _routed("scoring_route", port=0), "scoring_route.port", "from 1 to 65535"),
    (
        "online-deployment",
        "environment",
        _routed("liveness_route", port=99999),
        "liveness_route.port",
        "from 1 to 65535",
    ),
    ("online-deployment", "environment", _routed("readiness_route", port=8080), "readiness_route.port", "must be 5001"),
    (
        "online-deployment",
        "environment",
        _routed("scoring_route", path="score"),
        "scoring_route.path",
        "begin with a slash",
    ),
    ("online-deployment", "environment", _routed("liveness_route", path="/readyz"), "liveness_route.path", "/livez"),
    ("online-deployment", "environment", _routed("readiness_route", path="/"), "readiness_route.path", "/readyz"),
    (
        "online-deployment",
        "environment",
        _inline(inference_config=GONE),
        "environment.inference_config",
        "three|liveness_route",
    ),
    ("online-deployment", "environment", GONE, "environment", "missing"),
    ("online-deployment", "environment", _inline(build={"path": "context"}), "environment.image", "exclude each other"),
    ("online-deployment", "environment", {"name": "e", "inference_config": ROUTES}, "environment.image", "missing"),
    ("online-deployment", "model", GONE, "model", "missing"),
    ("online-deployment", "model", {"name": "m", "path": "nowhere"}, "model.path", "no such file or folder"),
    ("online-deployment", "model", "azureml:", "model", "azureml:NAME:VERSION"),
    ("online-deployment", "name", "b", "name", "3 to 32"),
    ("online-deployment", "name", "blue green", "name", "3 to 32"),
    ("online-deployment", "name", "1blue", "name", "a letter first"),
    ("online-deployment", "name", "blue-", "name", "no dash at the end"),
    ("online-deployment", "endpoint_name", "blip2_vqa", "endpoint_name", "single dashes"),
    ("online-deployment", "model_mount_path", "models", "model_mount_path", "absolute"),
    ("online-deployment", "instance_type", "Standard_DS9_v9", "instance_type", "Microsoft's list"),
    ("online-deployment", "instance_type", "Standard_DS1_v2", "instance_type", "3.8 GB of memory"),
    (
        "online-deployment",
        "environment_variables.BLIP2_QUEUE_ROWS",
        "7",
        "environment_variables.BLIP2_QUEUE_ROWS",
        "at least 8",
    ),
    (
        "online-deployment",
        "environment_variables.BLIP2_QUEUE_ROWS",
        "many",
        "environment_variables.BLIP2_QUEUE_ROWS",
        "whole",
    ),
    (
        "online-deployment",
        "environment_variables.BLIP2_QUEUE_ROW",
        "64",
        "environment_variables.BLIP2_QUEUE_ROW",
        "no such",
    ),
    (
        "online-deployment",
        "environment_variables.BLIP2_QUEUE_ROWS",
        64,
        "environment_variables.BLIP2_QUEUE_ROWS",
        "in quotes",
    ),
    (
        "online-deployment",
        "environment_variables.BLIP2_TIMEOUT_S",
        "91",
        "environment_variables.BLIP2_TIMEOUT_S",
        "at most 90",
    ),
    (
        "online-deployment",
        "environment_variables.BLIP2_TIMEOUT_S",
        "nan",
        "environment_variables.BLIP2_TIMEOUT_S",
        "seconds",
    ),
    (
        "online-deployment",
        "environment_variables.SCORING_TIMEOUT_MS",
        "100000",
        "environment_variables.SCORING_TIMEOUT_MS",
        "at most 90000",
    ),
    (
        "online-deployment",
        "environment_variables.BLIP2_BODY_TIMEOUT_S",
        "120",
        "environment_variables.BLIP2_BODY_TIMEOUT_S",
        "at most 90",
    ),
    (
        "online-deployment",
        "environment_variables.BLIP2_SHUTDOWN_GRACE_S",
        "60",
        "environment_variables.BLIP2_SHUTDOWN_GRACE_S",
        "not exceed 25 together",
    ),
    (
        "online-deployment",
        "environment_variables.BLIP2_API_KEY",
        "x",
        "environment_variables.BLIP2_API_KEY",
        "not be set",
    ),
    (
        "online-deployment",
        "environment_variables.BLIP2_HOST",
        "127.0.0.1",
        "environment_variables.BLIP2_HOST",
        "0.0.0.0",
    ),
    (
        "online-deployment",
        "environment_variables.AZUREML_MODEL_DIR",
        "/m",
        "environment_variables.AZUREML_MODEL_DIR",
        "platform",
    ),
    ("online-deployment", "tags", {"precision": "int3"}, "tags.precision", "fp32, int8, int4"),
    ("online-deployment", "tags", {"target": "cuda"}, "instance_type", "has no GPU"),
    (
        "online-deployment",
        "code_configuration",
        {"code": "batch", "scoring_script": "no.py"},
        "code_configuration.scoring_script",
        "no",
    ),
    ("environment", "build", {"path": "context"}, "image", "exclude each other"),
    ("environment", "image", GONE, "image", "missing"),
    ("environment", "image", "a b:1", "image", "without spaces"),
    ("environment", "inference_config", GONE, "inference_config", "missing"),
    ("environment", "name", "a b", "name", "dots"),
    ("model", "path", "nowhere", "path", "no such file or folder"),
    ("model", "path", GONE, "path", "missing"),
    ("model", "name", "blip 2", "name", "dots"),
    ("model", "name", "blip/2", "name", "dots"),
    (
        "batch-deployment",
        "code_configuration",
        {"code": "nowhere", "scoring_script": "x.py"},
        "code_configuration.code",
        "no such",
    ),
    (
        "batch-deployment",
        "code_configuration.scoring_script",
        "x.py",
        "code_configuration.scoring_script",
        "no such file",
    ),
    ("batch-deployment", "code_configuration", GONE, "code_configuration", "missing"),
    ("batch-deployment", "environment", GONE, "environment", "missing"),
    ("batch-deployment", "environment", {"name": "e"}, "environment.image", "missing"),
    ("batch-deployment", "resources", GONE, "resources", "missing"),
    ("batch-deployment", "resources", {"instance_count": 0}, "resources.instance_count", "at least 1"),
    ("batch-deployment", "settings.mini_batch_size", 0, "settings.mini_batch_size", "at least 1"),
    ("batch-deployment", "settings.error_threshold", -2, "settings.error_threshold", "at least -1"),
    ("batch-deployment", "settings.logging_level", "loud", "settings.logging_level", "debug, info, warning"),
    ("batch-deployment", "settings.output_file_name", "out/p.csv", "settings.output_file_name", "without slashes"),
    (
        "batch-deployment",
        "settings.max_concurrency_per_instance",
        0,
        "settings.max_concurrency_per_instance",
        "at least 1",
    ),
    ("batch-deployment", "settings.retry_settings.timeout", 0, "settings.retry_settings.timeout", "at least 1"),
    ("batch-deployment", "model", "azureml:", "model", "azureml:NAME:VERSION"),
    ("batch-deployment", "name", "d", "name", "3 to 32"),
    (
        "online-deployment",
        "environment.build",
        {"path": "context", "dockerfile_path": "No"},
        "dockerfile_path",
        "no such file",
    ),
    ("batch-endpoint", "name", "x", "name", "3 to 32"),
]
# These the SDK refuses as well; whoever has the linter alone learns of them too.
REFUSED_BY_BOTH = [
    ("online-endpoint", "auth_mode", "password", "auth_mode", "aad_token"),
    ("online-deployment", "instance_type", GONE, "instance_type", "missing"),
    ("online-deployment", "instance_count", "one", "instance_count", "whole number"),
    ("online-deployment", "environment", _routed("scoring_route", port="http"), "scoring_route.port", "whole number"),
    ("online-deployment", "environment.build", {"path": "nowhere"}, "environment.build.path", "no such folder"),
    ("environment", "os_type", "plan9", "os_type", "linux"),
    ("model", "type", "onnx", "type", "custom_model"),
    ("model", "name", GONE, "name", "missing"),
    ("batch-deployment", "compute", GONE, "compute", "missing"),
    ("batch-deployment", "settings.output_action", "print", "settings.output_action", "append_row"),
]
DOCKERFILE = "FROM scratch\nARG PORT=5001\nEXPOSE ${PORT}/tcp\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the good documents refer to."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "batch").mkdir()
    (tmp_path / "batch" / "batch_driver.py").write_text("")
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


def changed(kind: str, field: str, value: object) -> dict[str, Any]:
    """A good document with one field replaced, or gone."""
    document = copy.deepcopy(GOOD[kind])
    *above, key = field.split(".")
    if field.startswith("environment.") and kind == "online-deployment":
        document["environment"] = _inline(image=GONE)
    inner = document
    for name in above:
        inner = inner.setdefault(name, {})
    if value is GONE:
        del inner[key]
    else:
        inner[key] = value
    return document


def written(folder: Path, document: object, name: str = "it.yml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document))
    return path


def messages(folder: Path, kind: str | None, document: object) -> list[str]:
    options = Options(kind=kind, dockerfile=folder / "Dockerfile")
    return [str(finding) for finding in lint_files([written(folder, document)], options)]


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_document_passes_both(folder: Path, kind: str) -> None:
    assert messages(folder, kind, GOOD[kind]) == []
    # Not told what it is, the linter finds it out.
    assert messages(folder, None, GOOD[kind]) == []
    load(kind, folder / "it.yml")


def _case(row: tuple[str, str, object, str, str]) -> str:
    return f"{row[0]} {row[1]} {'gone' if row[2] is GONE else row[2]}"[:70]


@pytest.mark.parametrize("row", ACCEPTED_ALTHOUGH_WRONG + REFUSED_BY_BOTH, ids=_case)
def test_a_wrong_field_is_named(folder: Path, row: tuple[str, str, object, str, str]) -> None:
    kind, field, value, named, words = row
    found = messages(folder, kind, changed(kind, field, value))
    right = [message for message in found if f": error: {named}" in message or f".{named}" in message]
    assert right, found
    assert all(message.startswith(str(folder / "it.yml")) for message in found)
    assert any(word in message for message in right for word in words.split("|")), found


@pytest.mark.parametrize("row", ACCEPTED_ALTHOUGH_WRONG, ids=_case)
def test_the_sdk_lets_it_pass(folder: Path, row: tuple[str, str, object, str, str]) -> None:
    """Else the row belongs to the other table."""
    kind, field, value, *_ = row
    load(kind, written(folder, changed(kind, field, value)))


@pytest.mark.parametrize("row", REFUSED_BY_BOTH, ids=_case)
def test_the_sdk_refuses_it(folder: Path, row: tuple[str, str, object, str, str]) -> None:
    kind, field, value, *_ = row
    with pytest.raises(Exception, match=r"."):
        load(kind, written(folder, changed(kind, field, value)))


def test_a_port_follows_the_variable_that_moves_it(folder: Path) -> None:
    document = changed("online-deployment", "environment", _inline())
    document["environment_variables"]["SERVER_PORT"] = "8080"
    found = messages(folder, None, document)
    assert len(found) == 3
    assert all(
        "must be 8080: that is where blip2 listens by environment_variables.SERVER_PORT" in line for line in found
    )


def test_a_port_that_the_dockerfile_does_not_expose_is_named(folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\nEXPOSE 8000 8001\n")
    found = messages(folder, None, changed("online-deployment", "environment", _inline()))
    assert len(found) == 3
    assert all("exposes: 8000, 8001" in line for line in found)


def test_a_dockerfile_that_exposes_nothing_is_named(folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\n# EXPOSE 5001\n")
    (found,) = messages(folder, None, GOOD["environment"])
    assert "exposes no port: add EXPOSE 5001" in found


def test_a_dockerfile_of_the_build_is_read(folder: Path) -> None:
    (folder / "context" / "Dockerfile").write_text("FROM scratch\nEXPOSE 9000\n")
    document = changed("environment", "image", GONE)
    document["build"] = {"path": "context"}
    assert all("exposes: 9000" in line for line in messages(folder, "environment", document))
    document["build"] = {"path": "context", "dockerfile_path": "Missing"}
    (found,) = messages(folder, "environment", document)
    assert "build.dockerfile_path is 'Missing': no such file" in found


def test_an_environment_in_another_file_is_read(folder: Path) -> None:
    document = changed("online-deployment", "environment", "file:other/environment.yml")
    (found,) = messages(folder, None, document)
    assert "environment is 'file:other/environment.yml': no such file" in found
    (folder / "other").mkdir()
    written(folder / "other", GOOD["environment"], "environment.yml")
    assert messages(folder, None, document) == []
    load("online-deployment", folder / "it.yml")
    written(folder / "other", changed("environment", "inference_config", GONE), "environment.yml")
    (found,) = messages(folder, None, document)
    assert found.startswith(f"{folder / 'other' / 'environment.yml'}: error: inference_config is missing")


@pytest.mark.parametrize(
    ("size", "tags", "words"),
    [
        ("Standard_DS3_v2", {"precision": "fp32"}, "15.0 GB of memory"),
        ("Standard_DS4_v2", {"precision": "fp32"}, ""),
        ("STANDARD_DS3_V2", {"precision": "int8"}, ""),
        ("Standard_F4s_v2", {"precision": "int4"}, ""),
        ("Standard_NC4as_T4_v3", {"precision": "fp16"}, ""),
        ("Standard_NC6s_v3", {"precision": "fp16"}, "V100, for which CUDA 13 has no code"),
        ("Standard_NV6ads_A10_v5", {"precision": "int4"}, "4 GiB of GPU memory"),
        ("Standard_NC4as_T4_v3", {"target": "cpu", "precision": "int8"}, ""),
    ],
)
def test_a_size_must_hold_the_bundle(folder: Path, size: str, tags: dict[str, str], words: str) -> None:
    document = {**changed("online-deployment", "instance_type", size), "tags": tags}
    found = messages(folder, None, document)
    assert (len(found) == 1 and words in found[0]) if words else found == []


def test_a_measured_start_replaces_the_assumed_one(folder: Path) -> None:
    path = written(folder, changed("online-deployment", "readiness_probe", {"failure_threshold": 5}))
    assert lint_files([path], Options()) == []
    (found,) = lint_files([path], Options(start_s=61))
    assert "60 s" in str(found)
    assert "the start takes up to 61 s" in str(found)


def test_default_settings_beside_a_shorter_request_are_a_warning(folder: Path) -> None:
    (found,) = messages(folder, None, changed("online-deployment", "environment_variables.BLIP2_TIMEOUT_S", GONE))
    assert "warning: environment_variables.BLIP2_TIMEOUT_S is 180.0: must be at most 90" in found


def test_files_are_checked_together(folder: Path) -> None:
    files = [
        written(folder, changed("environment", "version", 2), "environment.yml"),
        written(folder, changed("model", "version", 1), "model.yml"),
        written(folder, GOOD["online-deployment"], "deployment.yml"),
    ]
    (found,) = lint_files(files, Options(dockerfile=folder / "Dockerfile"))
    assert "environment is 'azureml:blip2-rust-env:1': version 2 is what the other files register" in str(found)
