"""The manifests: what Kubernetes' schemas allow, whose parts belong together, and which settings the programs take."""

import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cutout_gateway.settings import GatewaySettings
from cutout_server.settings import Settings
from documentation import ROOT

MANIFESTS = ROOT / "deploy" / "kubernetes"
# The oldest that has everything that is used, and a newer one.
VERSIONS = ("1.30", "1.34")
# Fields of custom resources that are used, as KEDA (v1alpha1), the Prometheus Operator and KubeRay (v1) publish them.
CUSTOM = {
    "ScaledObject": {
        "scaleTargetRef": {"name"},
        "minReplicaCount": None,
        "maxReplicaCount": None,
        "pollingInterval": None,
        "cooldownPeriod": None,
        "advanced": {"horizontalPodAutoscalerConfig"},
        "triggers": {"type", "metadata"},
    },
    "RayCluster": {
        "rayVersion": None,
        "authOptions": {"mode"},
        "enableInTreeAutoscaling": None,
        "autoscalerOptions": {"idleTimeoutSeconds", "securityContext"},
        "headGroupSpec": {"rayStartParams", "template"},
        "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
    },
    "ServiceMonitor": {"selector": {"matchLabels"}, "endpoints": {"port", "interval", "path"}},
}
OVERLAYS = ("base", "gpu", "ray")
Resource = dict[str, Any]


def resources(folder: str) -> list[Resource]:
    """Those that a kustomization of this folder names, as they stand there."""
    kustomization = yaml.safe_load((MANIFESTS / folder / "kustomization.yaml").read_text())
    files = [file for name in kustomization["resources"] if (file := MANIFESTS / folder / name).is_file()]
    return [each for file in files for each in yaml.safe_load_all(file.read_text())]


def named(kind: str, name: str) -> Resource:
    """One of `base`."""
    return next(each for each in resources("base") if (each["kind"], each["metadata"]["name"]) == (kind, name))


def pods() -> list[Resource]:
    return [each["spec"]["template"] for each in resources("base") if each["kind"] in {"Deployment", "Job"}]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", ["base", "hpa"])
def test_kubernetes_takes_every_resource(folder: str, version: str):
    """No field is unknown, none missing, none of another type."""
    for resource in resources(folder):
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("folder", ["keda", "monitoring"])
def test_custom_resources_have_published_fields(folder: str):
    """Of the operators' own definitions, and they look for what there is."""
    for resource in resources(folder):
        fields = CUSTOM[resource["kind"]]
        assert resource["spec"].keys() <= fields.keys()
        for field, inner in fields.items():
            value = resource["spec"].get(field)
            for each in value if isinstance(value, list) else [value]:
                assert inner is None or each is None or each.keys() <= inner
        if resource["kind"] == "ServiceMonitor":
            service = named("Service", resource["metadata"]["name"])
            assert resource["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            ports = {port["name"] for port in service["spec"]["ports"]}
            assert {endpoint["port"] for endpoint in resource["spec"]["endpoints"]} <= ports
        else:
            assert named("Deployment", resource["spec"]["scaleTargetRef"]["name"])
            assert "cutout_queue_depth" in resource["spec"]["triggers"][0]["metadata"]["query"]


def test_a_ray_cluster_has_fronts_and_workers_that_find_each_other():
    """Kubernetes takes its pods, which are restricted; fronts know its head, its token and how many workers it has."""
    cluster, *policies = resources("ray")
    spec, name = cluster["spec"], cluster["metadata"]["name"]
    assert spec.keys() <= CUSTOM["RayCluster"].keys()
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    assert groups[0].keys() <= CUSTOM["RayCluster"]["headGroupSpec"]
    for group in groups:
        assert group.keys() <= CUSTOM["RayCluster"]["workerGroupSpecs"]
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        kubernetes_validate.validate(pod | {"metadata": {"name": "pod", **pod["metadata"]}}, VERSIONS[-1], strict=True)
        (container,) = pod["spec"]["containers"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert all(value == str(value) for value in group["rayStartParams"].values())
    for policy in policies:
        kubernetes_validate.validate(policy, VERSIONS[-1], strict=True)
        selected = policy["spec"]["podSelector"]["matchLabels"].items()
        assert any(selected <= group["template"]["metadata"]["labels"].items() for group in groups)
    front = yaml.safe_load((MANIFESTS / "ray" / "server.yaml").read_text())["spec"]["template"]
    (container,) = front["spec"]["containers"]
    assert policies[0]["spec"]["podSelector"]["matchLabels"] == front["metadata"]["labels"]
    assert f"--address={name}-head-svc:6379" in container["args"][0]
    env = {each["name"]: each.get("value") or each["valueFrom"]["secretKeyRef"]["name"] for each in container["env"]}
    assert env["RAY_AUTH_TOKEN"] == name
    (workers,) = spec["workerGroupSpecs"]
    assert (int(env["CUTOUT_RAY_MIN_WORKERS"]), int(env["CUTOUT_RAY_MAX_WORKERS"])) == (
        workers["minReplicas"],
        workers["maxReplicas"],
    )


def test_pods_are_restricted():
    """As the pod security standard `restricted`, which the namespace enforces, demands, and with a read-only root."""
    labels = named("Namespace", "cutout")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounted.keys() <= {volume["name"] for volume in spec["volumes"]}
            assert "/tmp" in mounted.values()  # noqa: S108 - where uploads and caches go


def test_parts_belong_together():
    """Services, budgets and network policies select pods that there are; servers are many addresses behind one name."""
    labels = [pod["metadata"]["labels"] for pod in pods()]
    for resource in resources("base"):
        spec = resource.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector"))
        if selector and resource["kind"] != "Deployment":
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= each.items() for each in labels), resource["metadata"]["name"]
    assert named("Service", "cutout-server")["spec"]["clusterIP"] == "None"
    server = named("Deployment", "cutout-server")["spec"]["template"]["spec"]
    probes = [server["containers"][0][f"{name}Probe"] for name in ("startup", "readiness", "liveness")]
    assert [probe["grpc"]["port"] for probe in probes] == [Settings().port] * 3
    assert server["terminationGracePeriodSeconds"] > Settings().drain_s + 5


def test_both_programs_take_the_settings(monkeypatch: pytest.MonkeyPatch):
    """Each its own of the map, and neither finds one that it does not know."""
    for name, value in named("ConfigMap", "cutout-settings")["data"].items():
        monkeypatch.setenv(name, value)
    server, gateway = Settings.load([]), GatewaySettings.load([])
    assert (server.host, server.offline, gateway.host) == ("0.0.0.0", True, "0.0.0.0")  # noqa: S104
    assert str(server.weights_dir) in {m["mountPath"] for m in pods()[0]["spec"]["containers"][0]["volumeMounts"]}
    assert gateway.server_address.startswith("dns:///cutout-server.")
    (pull,) = named("Job", "cutout-weights")["spec"]["template"]["spec"]["containers"]
    assert pull["args"][:3] == ["models", "pull", server.profile]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_builds_it(overlay: str):
    """With its patches, and what comes out is taken by Kubernetes."""
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("kubectl is not installed; a current one is in no package of Debian's")
    built = subprocess.run([kubectl, "kustomize", MANIFESTS / overlay], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    made = list(yaml.safe_load_all(built.stdout))
    for resource in made:
        if resource["kind"] not in CUSTOM:
            kubernetes_validate.validate(resource, VERSIONS[-1], strict=True)
    assert len(made) == len(resources("base")) + (len(resources("ray")) if overlay == "ray" else 0)
    (server,) = [
        each["spec"]["template"]["spec"]
        for each in made
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", "cutout-server")
    ]
    (container,) = server["containers"]
    limits = container["resources"]["limits"]
    assert limits.get("nvidia.com/gpu", 0) == (overlay == "gpu")
    assert bool(server.get("tolerations")) == (overlay == "gpu")
    assert container["image"].endswith(":cpu" if overlay == "base" else ":gpu")
