"""Every manifest against the schema of its API, and that the schemas catch what they should."""

from __future__ import annotations

import pytest
import schemas
import yaml
from rendering import APPLIED, FOLDER, REPOSITORY, broken, load, of_kind, render


@pytest.mark.parametrize("path", APPLIED)
def test_every_manifest_follows_the_schema_of_its_api(path: str) -> None:
    """As it would be sent."""
    manifests = render(path)
    assert manifests
    assert [fault for manifest in manifests for fault in schemas.faults(manifest)] == []


def test_every_file_is_applied_by_something_that_is_checked() -> None:
    """A manifest that no kustomization names would be checked by nobody."""
    applied = {(each["kind"], each["metadata"]["name"]) for path in APPLIED for each in render(path)}
    for file in FOLDER.rglob("*.yaml"):
        for manifest in load(file):
            if "kind" in manifest and "kustomize.config.k8s.io" not in manifest["apiVersion"]:
                assert (manifest["kind"], manifest["metadata"]["name"]) in applied, file


def test_the_operators_rules_are_prometheus_rules() -> None:
    """One text in two forms."""
    (rule,) = of_kind(render("overlays/production"), "PrometheusRule")
    file = REPOSITORY / "deploy" / "prometheus" / "blip2.rules.yml"
    assert rule["spec"] == yaml.safe_load(file.read_text("utf-8")), (
        f"copy the groups of {file} into prometheus-rule.yaml"
    )


@pytest.mark.parametrize(
    ("path", "kind", "place", "value", "message"),
    [
        ("base", "Deployment", "spec.template.spec.containers.0.livenesProbe", {}, "livenesProbe"),
        ("base", "Deployment", "spec.replicas", "two", "two"),
        ("base", "Deployment", "spec.template.spec.terminationGracePeriod", 90, "terminationGracePeriod"),
        ("base", "Service", "spec.ports.0.port", "http", "http"),
        ("base", "PersistentVolumeClaim", "spec.accessMode", "ReadWriteMany", "accessMode"),
        ("base", "PodDisruptionBudget", "apiVersion", "policy/v1beta1", "policy/v1beta1"),
        ("base", "NetworkPolicy", "spec.egress.0.from", [], "from"),
        ("overlays/production", "HorizontalPodAutoscaler", "spec.metrics.0.pods.metric", {}, "name"),
        ("overlays/production", "HorizontalPodAutoscaler", "spec.maxReplica", 3, "maxReplica"),
        ("overlays/production", "ServiceMonitor", "spec.endpoints.0.scrapeTimout", "10s", "scrapeTimout"),
        ("overlays/production", "ServiceMonitor", "spec.endpoints.0.interval", "soon", "interval"),
        ("overlays/production", "PrometheusRule", "spec.groups.0.rules.0.annotation", {}, "annotation"),
        ("kserve", "PodMonitor", "spec.podMetricsEndpoint", [], "podMetricsEndpoint"),
        ("kserve", "InferenceService", "spec.predictor.model.storageUrl", "pvc://x", "storageUrl"),
        ("kserve", "InferenceService", "spec.predictor.model.modelFormat", "blip2-onnx", "modelFormat"),
        ("kserve", "InferenceService", "spec.predictor.minReplicas", "2", "minReplicas"),
        ("kserve", "InferenceService", "spec.predictor.securityContext.runAsNonroot", True, "runAsNonroot"),
        ("kserve", "InferenceService", "apiVersion", "serving.kserve.io/v1", "apiVersion"),
        ("kserve", "ClusterServingRuntime", "spec.protocolVersion", ["v2"], "protocolVersion"),
        ("kserve", "ClusterServingRuntime", "spec.containers.0.ports.0.containerPort", "5001", "containerPort"),
        ("kserve", "ClusterServingRuntime", "spec.containers.0.readinessProbe.httpGet.pth", "/", "pth"),
        ("export-model.yaml", "Job", "spec.template.spec.restartPolicies", "Never", "restartPolicies"),
    ],
)
def test_a_wrong_field_or_type_is_caught(path: str, kind: str, place: str, value: object, message: str) -> None:
    """In each of the schemas."""
    manifest = of_kind(render(path), kind)[0]
    assert schemas.faults(manifest) == []
    assert message in "\n".join(schemas.faults(broken(manifest, place, value)))
