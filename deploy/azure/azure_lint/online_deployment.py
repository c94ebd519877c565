"""A managed online deployment: its parts, and whether they fit each other and the bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from azure_lint import code, environment, model, names, service
from azure_lint.bundles import BUNDLES, DEFAULT_PRECISION, PLATFORM_GB, Bundle
from azure_lint.instances import INSTANCES, TOO_OLD, Instance

if TYPE_CHECKING:
    from pathlib import Path

    from azure_lint.section import Section

_GIB = 1.073741824
_LONGEST_REQUEST_MS = 180_000
_DEFAULT_PROBE = {"initial_delay": 10, "period": 10, "failure_threshold": 30}


def check(deployment: Section, dockerfile: Path | None, start_s: float | None) -> dict[str, tuple[str, str]]:
    """Answers with the registered model and environment that it uses."""
    names.check_endpoint_name(deployment, "name")
    names.check_endpoint_name(deployment, "endpoint_name")
    used = {"model": model.check_use(deployment)}
    _check_mount(deployment)
    code.check(deployment)
    variables = deployment.section("environment_variables")
    settings = service.settings(variables)
    used["environment"] = _check_environment(deployment, dockerfile, settings)
    instance = _check_instance(deployment)
    if deployment.required("instance_count", "how many instances; one at least"):
        deployment.integer("instance_count", 1)
    concurrent, timeout_ms = _check_requests(deployment)
    service.check_fit(deployment, variables, concurrent, timeout_ms)
    _check_probe(deployment, "liveness_probe")
    budget = _check_probe(deployment, "readiness_probe")
    bundle, label = _bundle(deployment, instance)
    if instance is not None and bundle is not None:
        _check_size(deployment, instance, bundle, label)
    _check_start(deployment, budget, start_s, bundle, label)
    return {kind: reference for kind, reference in used.items() if reference is not None}


def _check_mount(deployment: Section) -> None:
    path = deployment.text("model_mount_path")
    if path is not None and not path.startswith("/"):
        deployment.report.error(deployment.where("model_mount_path"), path, "must be absolute: begin with a slash")


def _check_environment(
    deployment: Section, dockerfile: Path | None, settings: service.Settings
) -> tuple[str, str] | None:
    reference = environment.check_use(deployment, dockerfile=dockerfile, settings=settings)
    if reference is not None and settings.port != service.DEFAULT_PORT:
        deployment.report.warning(
            str(settings.port_variable),
            settings.port,
            f"a registered environment has its routes at {service.DEFAULT_PORT}",
        )
    return reference


def _check_instance(deployment: Section) -> Instance | None:
    if not deployment.required("instance_type", "a size, as Standard_DS5_v2"):
        return None
    name = deployment.text("instance_type")
    if name is None:
        return None
    instance = INSTANCES.get(name.lower())
    if instance is None:
        deployment.report.error(
            deployment.where("instance_type"),
            name,
            "must be a size that managed online endpoints offer (azure_lint/instances.py has Microsoft's list)",
        )
    return instance


def _check_requests(deployment: Section) -> tuple[int | None, int | None]:
    """Answers with max_concurrent_requests_per_instance and request_timeout_ms, as they will count."""
    requests = deployment.section("request_settings")
    why = "the default is 5000, shorter than many an answer on a CPU: as 90000, at most 180000"
    if requests is None:
        if not deployment.has("request_settings"):
            deployment.report.missing("request_settings.request_timeout_ms", why)
        return 1, None
    concurrent = requests.integer("max_concurrent_requests_per_instance", 1)
    if concurrent is None and not requests.has("max_concurrent_requests_per_instance"):
        concurrent = 1
    requests.integer("max_queue_wait_ms", 1)
    if not requests.required("request_timeout_ms", why):
        return concurrent, None
    return concurrent, requests.integer("request_timeout_ms", 1, _LONGEST_REQUEST_MS, "milliseconds")


def _check_probe(deployment: Section, key: str) -> int | None:
    """Answers with the seconds until the probe gives up."""
    probe = deployment.section(key)
    if probe is None:
        return None if deployment.has(key) else _budget(_DEFAULT_PROBE)
    found = {
        "initial_delay": probe.integer("initial_delay", 1, unit="seconds"),
        "period": probe.integer("period", 1, unit="seconds"),
        "failure_threshold": probe.integer("failure_threshold", 1),
    }
    probe.integer("timeout", 1, 299, "seconds")
    # Kubernetes, below the platform, allows a liveness probe no other.
    probe.integer("success_threshold", 1, 1 if key == "liveness_probe" else None)
    if any(value is None and probe.has(name) for name, value in found.items()):
        return None
    return _budget({name: _DEFAULT_PROBE[name] if value is None else value for name, value in found.items()})


def _budget(probe: dict[str, int]) -> int:
    return probe["initial_delay"] + probe["failure_threshold"] * probe["period"]


def _bundle(deployment: Section, instance: Instance | None) -> tuple[Bundle | None, str]:
    """What the tags say the bundle is, or what it is by default; with words for messages."""
    target = "cuda" if instance is not None and instance.gpu else "cpu"
    tags = deployment.section("tags")
    if tags is not None and tags.has("target"):
        target = tags.choice("target", ("cpu", "cuda", "tensorrt")) or target
    # Its encoder is another, its sizes are about those of a cuda bundle.
    target = "cuda" if target == "tensorrt" else target
    precision = DEFAULT_PRECISION[target]
    if tags is not None and tags.has("precision"):
        known = tuple(of for by, of in BUNDLES if by == target)
        given = tags.choice("precision", known)
        if given is None:
            return None, ""
        precision = given
    return BUNDLES[target, precision], f"a {target} bundle in {precision}"


def _check_size(deployment: Section, instance: Instance, bundle: Bundle, label: str) -> None:
    where = deployment.where("instance_type")
    memory = instance.memory_gib * _GIB
    if bundle.memory_gb + PLATFORM_GB > memory:
        deployment.report.error(
            where,
            instance.name,
            f"has {memory:.1f} GB of memory, and {label} takes {bundle.memory_gb:g}, the platform {PLATFORM_GB:g}",
        )
    if not bundle.gpu_memory_gb:
        return
    if instance.gpu is None:
        deployment.report.error(where, instance.name, f"has no GPU, and {label} needs one: see tags.target")
    elif instance.gpu in TOO_OLD:
        deployment.report.error(
            where, instance.name, f"has a {instance.gpu}, for which CUDA 13 has no code: T4, A10, A100 or H100"
        )
    elif bundle.gpu_memory_gb > 0.9 * instance.gpu_memory_gib * _GIB:
        deployment.report.error(
            where,
            instance.name,
            f"has {instance.gpu_memory_gib} GiB of GPU memory, a tenth of it to stay free, and {label} takes "
            f"{bundle.gpu_memory_gb:g} GB",
        )


def _check_start(
    deployment: Section, budget: int | None, start_s: float | None, bundle: Bundle | None, label: str
) -> None:
    if start_s is None and bundle is None:
        return
    needed = start_s if start_s is not None else bundle.start_s if bundle is not None else 0
    told = f"the start takes up to {needed:g} s" + (f" ({label}, read cold)" if start_s is None else "")
    if budget is not None and budget < needed:
        deployment.report.error(
            "readiness_probe", f"{budget} s", f"initial_delay + failure_threshold * period must be more: {told}"
        )
