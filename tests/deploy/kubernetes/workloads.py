"""The pods that manifests make: a Deployment's, a Job's, and those that KServe makes of a runtime and a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rendering import Manifest


@dataclass(frozen=True)
class Workload:
    """Pods of one kind."""

    kind: str
    name: str
    labels: dict[str, str]
    pod: dict[str, Any]
    replicas: int | None = None

    @property
    def container(self) -> dict[str, Any]:
        """The only one there is."""
        (container,) = self.pod["containers"]
        return container

    @property
    def environment(self) -> dict[str, Any]:
        """Its variables: a text, or where it comes from."""
        return {each["name"]: each.get("value", each.get("valueFrom")) for each in self.container.get("env", [])}

    @property
    def ports(self) -> dict[str, int]:
        """By name."""
        return {each["name"]: each["containerPort"] for each in self.container.get("ports", [])}


def workloads(manifests: list[Manifest]) -> list[Workload]:
    """All of them."""
    runtimes = {each["metadata"]["name"]: each for each in manifests if each["kind"] == "ClusterServingRuntime"}
    found = []
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "Job"):
            template = manifest["spec"]["template"]
            labels, name = template["metadata"]["labels"], manifest["metadata"]["name"]
            replicas = manifest["spec"].get("replicas")
            found.append(Workload(manifest["kind"], name, labels, template["spec"], replicas))
        elif manifest["kind"] == "InferenceService":
            found.append(_of_kserve(manifest, runtimes[manifest["spec"]["predictor"]["model"]["runtime"]]))
    return found


def _of_kserve(service: Manifest, runtime: Manifest) -> Workload:
    """As KServe's Standard mode does: what the service says goes before what the runtime says."""
    predictor = dict(service["spec"]["predictor"])
    model = predictor.pop("model")
    (container,) = runtime["spec"]["containers"]
    container = container | {"env": container.get("env", []) + model.get("env", [])}
    name = service["metadata"]["name"]
    claim, _, _folder = model["storageUri"].removeprefix("pvc://").partition("/")
    volume = {"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    container["volumeMounts"] = [{"name": "model", "mountPath": "/mnt/models", "readOnly": True}]
    pod = predictor | {"containers": [container], "volumes": [volume]}
    return Workload("Deployment", f"{name}-predictor", {"serving.kserve.io/inferenceservice": name}, pod)
