"""Names by which manifests mean each other: selectors, ports, claims, what is scaled, formats of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rendering import FOLDER, load, of_kind
from workloads import Workload, workloads

if TYPE_CHECKING:
    from rendering import Manifest


def faults(manifests: list[Manifest]) -> list[str]:
    """What is named and not there."""
    pods = workloads(manifests)
    found = _selector_faults(manifests, pods) + _port_faults(manifests, pods)
    found += _claim_faults(manifests, pods) + _autoscaler_faults(manifests, pods)
    return found + _kserve_faults(manifests)


def _selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def _selected(selector: dict[str, str], pods: list[Workload]) -> list[Workload]:
    return [pod for pod in pods if _selects(selector, pod.labels)]


def _selector_faults(manifests: list[Manifest], pods: list[Workload]) -> list[str]:
    found = []
    for manifest in manifests:
        for selector in _pod_selectors(manifest):
            if not _selected(selector, pods):
                found.append(f"{manifest['kind']}: no pod has the labels {selector}")
    for monitor in of_kind(manifests, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        if not any(_selects(selector, each["metadata"]["labels"]) for each in of_kind(manifests, "Service")):
            found.append(f"ServiceMonitor: no Service has the labels {selector}")
    return found


def _pod_selectors(manifest: Manifest) -> list[dict[str, str]]:
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Service":
        return [spec["selector"]]
    if manifest["kind"] in ("PodDisruptionBudget", "PodMonitor"):
        return [spec["selector"]["matchLabels"]]
    if manifest["kind"] == "NetworkPolicy":
        return [spec["podSelector"]["matchLabels"]]
    if manifest["kind"] == "Deployment":
        spread = spec["template"]["spec"].get("topologySpreadConstraints", [])
        return [spec["selector"]["matchLabels"], *(each["labelSelector"]["matchLabels"] for each in spread)]
    return []


def _port_faults(manifests: list[Manifest], pods: list[Workload]) -> list[str]:
    found = []

    def check(owner: str, port: Any, known: set[Any]) -> None:  # noqa: ANN401 - a name or a number
        if port not in known:
            found.append(f"{owner}: there is no port {port}, there are {sorted(map(str, known))}")

    def of_pods(selector: dict[str, str]) -> set[Any]:
        return {each for pod in _selected(selector, pods) for item in pod.ports.items() for each in item}

    for manifest in manifests:
        kind, spec = manifest["kind"], manifest.get("spec", {})
        if kind == "Service":
            for port in spec["ports"]:
                check("Service", port.get("targetPort", port["port"]), of_pods(spec["selector"]))
        elif kind == "NetworkPolicy":
            for rule in spec["ingress"]:
                for port in rule["ports"]:
                    check("NetworkPolicy", port["port"], of_pods(spec["podSelector"]["matchLabels"]))
        elif kind == "PodMonitor":
            for endpoint in spec["podMetricsEndpoints"]:
                check("PodMonitor", endpoint["port"], of_pods(spec["selector"]["matchLabels"]))
        elif kind == "ServiceMonitor":
            selector = spec["selector"]["matchLabels"]
            services = [
                each for each in of_kind(manifests, "Service") if _selects(selector, each["metadata"]["labels"])
            ]
            for endpoint in spec["endpoints"]:
                known = {port["name"] for service in services for port in service["spec"]["ports"]}
                check("ServiceMonitor", endpoint["port"], known)
    return found


def _claim_faults(manifests: list[Manifest], pods: list[Workload]) -> list[str]:
    # The export and KServe use the claim of the base.
    claims = of_kind(manifests, "PersistentVolumeClaim") or load(FOLDER / "base" / "model-claim.yaml")
    known = {each["metadata"]["name"] for each in claims}
    named = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in pods
        for volume in pod.pod.get("volumes", [])
        if "persistentVolumeClaim" in volume
    }
    return [f"there is no claim {name}, there are {sorted(known)}" for name in sorted(named - known)]


def _autoscaler_faults(manifests: list[Manifest], pods: list[Workload]) -> list[str]:
    (rule,) = load(FOLDER / "prometheus-adapter-values.yaml")[0]["rules"]["custom"]
    found = []
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        target = spec["scaleTargetRef"]
        scaled = [pod for pod in pods if (pod.kind, pod.name) == (target["kind"], target["name"])]
        if not scaled:
            found.append(f"HorizontalPodAutoscaler: there is no {target['kind']} {target['name']}")
        if any(pod.replicas is not None for pod in scaled):
            found.append(f"{target['name']}: replicas are set, which undoes what the autoscaler has set")
        if not spec["minReplicas"] < spec["maxReplicas"]:
            found.append("HorizontalPodAutoscaler: minReplicas is not below maxReplicas")
        for metric in spec["metrics"]:
            if (name := metric["pods"]["metric"]["name"]) != rule["name"]["as"]:
                found.append(f"HorizontalPodAutoscaler: prometheus-adapter gives {rule['name']['as']}, not {name}")
    return found


def _kserve_faults(manifests: list[Manifest]) -> list[str]:
    found = []
    runtimes = {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "ClusterServingRuntime")}
    for service in of_kind(manifests, "InferenceService"):
        model = service["spec"]["predictor"]["model"]
        runtime = runtimes[model["runtime"]]
        formats = [{key: each.get(key) for key in ("name", "version")} for each in runtime["supportedModelFormats"]]
        if model["modelFormat"] not in formats:
            found.append(f"InferenceService: the runtime supports {formats}, not {model['modelFormat']}")
        if model["protocolVersion"] not in runtime["protocolVersions"]:
            found.append(f"InferenceService: the runtime speaks {runtime['protocolVersions']}")
        (job,) = load(FOLDER / "export-model.yaml")
        output = next(each for each in job["spec"]["template"]["spec"]["containers"][0]["args"] if "--output=" in each)
        folder = output.removeprefix("--output=/model/")
        if not model["storageUri"].endswith(f"/{folder}"):
            found.append(
                f"InferenceService: export-model.yaml writes {folder}, and storageUri is {model['storageUri']}"
            )
    return found
