"""What must hold of pods, and no schema can say: ports, probes, times, memory, the restricted Pod Security Standard."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rendering import REPOSITORY

if TYPE_CHECKING:
    from workloads import Workload

UID = 10001
# Unsent traces get this, after drain delay and grace (docs/operations.md, Shutdown).
TRACES_S = 3
# The most that an int8 bundle of blip2-opt-2.7b took (docs/performance.md); the plan leaves a tenth of the limit free.
INT8_PEAK_BYTES = 5.39e9
# What the restricted standard lets a pod mount.
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "name",
}


def exposed_port() -> int:
    """The port that the image declares."""
    ports = set(re.findall(r"^EXPOSE (\d+)$", (REPOSITORY / "Dockerfile").read_text("utf-8"), re.MULTILINE))
    assert len(ports) == 1, f"Dockerfile: EXPOSE names {ports}, and one port is expected"
    return int(ports.pop())


def security_faults(workload: Workload) -> list[str]:
    """Against the restricted Pod Security Standard, and what goes beyond it here."""
    pod, container = workload.pod, workload.container
    of_pod, of_container = pod.get("securityContext", {}), container.get("securityContext", {})
    both = of_pod | of_container
    rules = {
        "runAsNonRoot is not true": both.get("runAsNonRoot") is True,
        f"runAsUser is not {UID}, the image's": both.get("runAsUser") == UID,
        "seccompProfile is not RuntimeDefault": both.get("seccompProfile") == {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation is not false": of_container.get("allowPrivilegeEscalation") is False,
        "capabilities are not all dropped": of_container.get("capabilities") == {"drop": ["ALL"]},
        "privileged": not of_container.get("privileged"),
        "readOnlyRootFilesystem is not true": of_container.get("readOnlyRootFilesystem") is True,
        "automountServiceAccountToken is not false": pod.get("automountServiceAccountToken") is False,
        "shares a namespace of the host": not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
        "a port of the host": not any("hostPort" in port for port in container.get("ports", [])),
        "a volume that the standard forbids": all(each.keys() <= VOLUMES for each in pod.get("volumes", [])),
        # A Service `blip2` would set BLIP2_PORT, the variable of --port, to tcp://…, and the start would fail.
        "enableServiceLinks is not false": pod.get("enableServiceLinks") is False,
    }
    return [fault for fault, holds in rules.items() if not holds]


def service_faults(workload: Workload) -> list[str]:
    """Of pods that serve: ports, probes, times, key, model, memory."""
    environment = workload.environment
    rules = {
        f"the port http is not {exposed_port()}, the image's": _http_port(workload) == exposed_port(),
        "BLIP2_METRICS_PORT is not the port metrics": environment.get("BLIP2_METRICS_PORT")
        == str(workload.ports.get("metrics")),
        "BLIP2_API_KEY does not come from a Secret": "secretKeyRef" in (environment.get("BLIP2_API_KEY") or {}),
        "the model can be written": any(
            mount["name"] == "model" and mount.get("readOnly") for mount in workload.container["volumeMounts"]
        ),
    }
    found = [fault for fault, holds in rules.items() if not holds]
    return found + _probe_faults(workload) + _time_faults(workload) + _resource_faults(workload)


def _http_port(workload: Workload) -> int | None:
    return workload.ports.get("http", workload.ports.get("http1"))


def _probe_faults(workload: Workload) -> list[str]:
    found = []
    expected = {
        "startupProbe": ("/readyz", "/v2/health/ready"),
        "livenessProbe": ("/", "/livez", "/v2/health/live"),
        "readinessProbe": ("/readyz", "/v2/health/ready"),
    }
    for name, paths in expected.items():
        probe = workload.container.get(name, {}).get("httpGet", {})
        if probe.get("path") not in paths:
            found.append(f"{name} asks {probe.get('path')}, not {' or '.join(paths)}")
        if workload.ports.get(str(probe.get("port")), probe.get("port")) != _http_port(workload):
            found.append(f"{name} asks the port {probe.get('port')}, which is not that of the service")
    return found


def _time_faults(workload: Workload) -> list[str]:
    times = [
        float(workload.environment.get(f"BLIP2_{name}_S", 0)) for name in ("DRAIN_DELAY", "SHUTDOWN_GRACE", "TIMEOUT")
    ]
    drain, grace, timeout = times
    given = workload.pod.get("terminationGracePeriodSeconds", 30)
    found = []
    if given <= drain + grace + TRACES_S:
        found.append(f"terminationGracePeriodSeconds {given} is not above {drain} + {grace} + {TRACES_S} s")
    if not 0 < timeout <= grace:
        found.append(f"a request that was taken may last {timeout} s, and the grace is {grace} s")
    return found


def _resource_faults(workload: Workload) -> list[str]:
    requests, limits = (workload.container["resources"][key] for key in ("requests", "limits"))
    found = []
    if any(requests[key] != limits[key] for key in ("cpu", "memory")):
        found.append("requests and limits of cpu or memory differ, so memory that was promised may be missing")
    if not limits["cpu"].isdigit():
        found.append(f"a limit of {limits['cpu']} cpu is no whole number of threads")
    if _bytes(limits["memory"]) * 0.9 < INT8_PEAK_BYTES:
        found.append(f"nine tenths of {limits['memory']} are less than an int8 bundle takes")
    return found


def _bytes(quantity: str) -> float:
    size = re.fullmatch(r"(\d+)(Mi|Gi)", quantity)
    assert size, f"{quantity}: write memory in Mi or Gi"
    return int(size[1]) * {"Mi": 2**20, "Gi": 2**30}[size[2]]


def gpu_faults(workload: Workload) -> list[str]:
    """Of pods for GPUs, beside the others."""
    rules = {
        "the limit of nvidia.com/gpu is not 1": workload.container["resources"]["limits"].get("nvidia.com/gpu") == "1",
        "the image is not blip2:cuda": workload.container["image"] == "blip2:cuda",
        "BLIP2_PROVIDER is not cuda, so a bundle for CPUs would leave the GPU idle": workload.environment.get(
            "BLIP2_PROVIDER"
        )
        == "cuda",
    }
    return [fault for fault, holds in rules.items() if not holds]
