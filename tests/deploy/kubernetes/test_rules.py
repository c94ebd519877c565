"""What must hold of the manifests beyond their schemas, and that each rule is broken by what it forbids."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pod_rules
import pytest
import reference_rules
from rendering import APPLIED, broken, render
from workloads import workloads

if TYPE_CHECKING:
    from rendering import Manifest

SERVING = ("base", "overlays/production", "overlays/gpu", "kserve")
POD = "spec.template.spec"
CONTAINER = f"{POD}.containers.0"
# What the Dockerfile makes; where they are pushed to is the user's.
IMAGES = {"blip2:latest", "blip2:cuda", "blip2-export:latest"}


def faults(path: str, manifests: list[Manifest]) -> list[str]:
    """All rules that `path` is under."""
    found = reference_rules.faults(manifests)
    for workload in workloads(manifests):
        found += pod_rules.security_faults(workload)
        if path in SERVING:
            found += pod_rules.service_faults(workload)
        if path == "overlays/gpu":
            found += pod_rules.gpu_faults(workload)
        if workload.container["image"] not in IMAGES:
            found.append(f"no such image: {workload.container['image']}")
    return found


@pytest.mark.parametrize("path", APPLIED)
def test_every_rule_holds(path: str) -> None:
    """As it would be sent."""
    assert workloads(render(path))
    assert faults(path, render(path)) == []


@pytest.mark.parametrize(
    ("path", "kind", "place", "value", "message"),
    [
        ("base", "Deployment", f"{POD}.securityContext.runAsNonRoot", False, "runAsNonRoot"),
        ("base", "Deployment", f"{POD}.securityContext.runAsUser", 0, "runAsUser"),
        ("base", "Deployment", f"{POD}.securityContext.seccompProfile.type", "Unconfined", "seccompProfile"),
        ("base", "Deployment", f"{CONTAINER}.securityContext.allowPrivilegeEscalation", True, "allowPrivilege"),
        ("base", "Deployment", f"{CONTAINER}.securityContext.capabilities", {"drop": ["NET_RAW"]}, "capabilities"),
        ("base", "Deployment", f"{CONTAINER}.securityContext.privileged", True, "privileged"),
        ("base", "Deployment", f"{CONTAINER}.securityContext.readOnlyRootFilesystem", False, "readOnlyRoot"),
        ("base", "Deployment", f"{POD}.automountServiceAccountToken", True, "automountServiceAccountToken"),
        ("base", "Deployment", f"{POD}.hostNetwork", True, "namespace of the host"),
        ("base", "Deployment", f"{CONTAINER}.ports.0.hostPort", 5001, "a port of the host"),
        ("base", "Deployment", f"{POD}.volumes.0", {"name": "model", "hostPath": {"path": "/"}}, "a volume that"),
        ("base", "Deployment", f"{POD}.enableServiceLinks", True, "enableServiceLinks"),
        ("base", "Deployment", f"{CONTAINER}.ports.0.containerPort", 8080, "the port http is not 5001"),
        ("base", "Deployment", f"{CONTAINER}.ports.1.containerPort", 9090, "BLIP2_METRICS_PORT"),
        ("base", "Deployment", f"{CONTAINER}.env.0", {"name": "BLIP2_API_KEY", "value": "k"}, "Secret"),
        ("base", "Deployment", f"{CONTAINER}.volumeMounts.0.readOnly", False, "the model can be written"),
        ("base", "Deployment", f"{CONTAINER}.readinessProbe.httpGet.path", "/", "readinessProbe asks /,"),
        ("base", "Deployment", f"{CONTAINER}.livenessProbe.httpGet.path", "/readyz", "livenessProbe asks /readyz"),
        ("base", "Deployment", f"{CONTAINER}.startupProbe.httpGet.port", "metrics", "startupProbe asks the port"),
        ("base", "Deployment", f"{POD}.terminationGracePeriodSeconds", 73, "terminationGracePeriodSeconds 73"),
        ("base", "Deployment", f"{CONTAINER}.env.3.value", "180", "a request that was taken may last 180.0 s"),
        ("base", "Deployment", f"{CONTAINER}.resources.limits.memory", "5Gi", "nine tenths of 5Gi"),
        ("base", "Deployment", f"{CONTAINER}.resources.requests.memory", "1Gi", "requests and limits"),
        ("base", "Deployment", f"{CONTAINER}.resources.limits.cpu", "2500m", "no whole number"),
        ("base", "Deployment", f"{CONTAINER}.image", "blip:latest", "no such image"),
        ("base", "Deployment", f"{POD}.volumes.0.persistentVolumeClaim.claimName", "model", "there is no claim model"),
        ("base", "Deployment", "spec.selector.matchLabels", {"app": "blip2"}, "Deployment: no pod"),
        ("base", "Service", "spec.selector", {"app": "blip2"}, "Service: no pod"),
        ("base", "Service", "spec.ports.0.targetPort", "web", "Service: there is no port web"),
        ("base", "PodDisruptionBudget", "spec.selector.matchLabels", {"app": "blip2"}, "PodDisruptionBudget: no pod"),
        ("base", "NetworkPolicy", "spec.podSelector.matchLabels", {"app": "blip2"}, "NetworkPolicy: no pod"),
        ("base", "NetworkPolicy", "spec.ingress.0.ports.0.port", 80, "NetworkPolicy: there is no port 80"),
        ("overlays/production", "ServiceMonitor", "spec.endpoints.0.port", "web", "ServiceMonitor: there is no port"),
        ("overlays/production", "ServiceMonitor", "spec.selector.matchLabels", {"app": "b"}, "no Service has"),
        (
            "overlays/production",
            "HorizontalPodAutoscaler",
            "spec.metrics.0.pods.metric.name",
            "blip2_rows_waiting",
            "prometheus-adapter gives blip2_rows_in_work",
        ),
        ("overlays/production", "HorizontalPodAutoscaler", "spec.scaleTargetRef.name", "blip", "no Deployment blip"),
        ("overlays/production", "HorizontalPodAutoscaler", "spec.maxReplicas", 2, "not below"),
        ("overlays/production", "Deployment", "spec.replicas", 2, "replicas are set"),
        ("overlays/gpu", "Deployment", f"{CONTAINER}.image", "blip2:latest", "the image is not blip2:cuda"),
        ("overlays/gpu", "Deployment", f"{CONTAINER}.resources.limits", {"cpu": "4", "memory": "16Gi"}, "gpu is not 1"),
        ("kserve", "InferenceService", "spec.predictor.model.modelFormat.name", "onnx", "the runtime supports"),
        ("kserve", "InferenceService", "spec.predictor.model.protocolVersion", "v1", "the runtime speaks"),
        ("kserve", "InferenceService", "spec.predictor.model.storageUri", "pvc://other/m", "there is no claim other"),
        ("kserve", "InferenceService", "spec.predictor.model.storageUri", "pvc://blip2-model/x", "export-model.yaml"),
        ("kserve", "InferenceService", "spec.predictor.enableServiceLinks", True, "enableServiceLinks"),
        ("kserve", "ClusterServingRuntime", "spec.containers.0.readinessProbe.httpGet.port", 8080, "the port 8080"),
        ("kserve", "PodMonitor", "spec.selector.matchLabels", {"app": "blip2"}, "PodMonitor: no pod"),
        ("kserve", "PodMonitor", "spec.podMetricsEndpoints.0.port", "web", "PodMonitor: there is no port web"),
        ("export-model.yaml", "Job", f"{POD}.securityContext.runAsUser", 1000, "runAsUser"),
    ],
)
def test_what_a_rule_forbids_is_caught(path: str, kind: str, place: str, value: object, message: str) -> None:
    """One change to one manifest."""
    manifests = deepcopy(render(path))
    index = next(index for index, each in enumerate(manifests) if each["kind"] == kind)
    manifests[index] = broken(manifests[index], place, value)
    assert message in "\n".join(faults(path, manifests))
