"""The overlays: good for Kubernetes' own schemas, of one piece, and as closed as they say."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from service.settings import Settings
from tests.deploy.rendered import DEPLOY, OVERLAYS, environment, objects, pods, the

WITH_RAY = [name for name in OVERLAYS if name.startswith("kuberay")]
SECRETS = {
    ("cohort-database", "url"): "postgresql://cohort:secret@postgres:5432/cohort",
    ("cohort-links", "secret"): "0123456789abcdef" * 2,
    ("cohort-ray-token", "auth_token"): "0123456789abcdef" * 4,
    ("cohort-ray-gcs", "password"): "secret",
}
"""What an operator makes before anything else; docs/how-to/kubernetes.md names them."""

# The fields of ray.io/v1, as KubeRay 1.6 documents them; its schema is in no package.
RAY_CLUSTER = {"upgradeStrategy", "authOptions", "suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations"}
RAY_CLUSTER |= {"enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec", "rayVersion"}
RAY_CLUSTER |= {"workerGroupSpecs"}
AUTH = {"enableK8sTokenAuth", "secretName", "mode"}
AUTOSCALER = {"resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds", "upscalingMode"}
AUTOSCALER |= {"version", "env", "envFrom", "volumeMounts"}
GCS_STORE = {"redisUsername", "redisPassword", "externalStorageNamespace", "redisAddress"}
HEAD = {"template", "headService", "enableIngress", "resources", "labels", "rayStartParams", "serviceType"}
WORKERS = {"suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "resources"}
WORKERS |= {"labels", "rayStartParams", "template", "scaleStrategy", "numOfHosts"}


def validate(thing: dict[str, Any]) -> None:
    kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)


def groups(overlay: str) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in the(overlay, "RayCluster")["spec"]["workerGroupSpecs"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_one_of_kubernetes(overlay: str) -> None:
    for each in objects(overlay):
        if each["kind"] != "RayCluster":
            validate(each)
    for name, template in pods(overlay).items():
        validate({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_goes_to_one_namespace(overlay: str) -> None:
    assert {each["metadata"].get("namespace") for each in objects(overlay)} == {"cohort"}


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_the_ray_cluster_has_only_fields_that_kuberay_knows(overlay: str) -> None:
    spec = the(overlay, "RayCluster")["spec"]
    head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert set(spec) <= RAY_CLUSTER
    assert set(spec["authOptions"]) <= AUTH
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER
    assert set(spec["gcsFaultToleranceOptions"]) <= GCS_STORE
    assert set(head) <= HEAD
    assert all(set(group) <= WORKERS for group in workers)
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    options = spec["autoscalerOptions"]
    container = {"name": "autoscaler", "resources": options["resources"], "securityContext": options["securityContext"]}
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "head"}, "spec": {"containers": [container]}})


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_ray_has_the_version_of_the_image(overlay: str) -> None:
    pins = (DEPLOY.parent / "constraints.txt").read_text()
    assert f"ray=={the(overlay, 'RayCluster')['spec']['rayVersion']}\n" in pins


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_ray_asks_for_the_token_that_the_control_plane_has(overlay: str) -> None:
    options = the(overlay, "RayCluster")["spec"]["authOptions"]
    assert options == {"mode": "token", "secretName": "cohort-ray-token"}
    assert (
        environment(overlay, "cohort-control-plane", SECRETS)["COHORT_RAY_TOKEN"]
        == SECRETS[options["secretName"], "auth_token"]
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_of_ours_is_a_setting_and_good(
    overlay: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for pod in pods(overlay):
        named = {k: v for k, v in environment(overlay, pod, SECRETS).items() if k.startswith("COHORT_")}
        with monkeypatch.context() as patch:
            for name, value in named.items():
                assert name.removeprefix("COHORT_").lower() in Settings.model_fields, name
                patch.setenv(name, value)
            settings = Settings.load(home=tmp_path)
        if pod == "cohort-control-plane":
            assert settings.ray_address
            assert settings.storage not in ("", str(tmp_path / "storage"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_a_pod_refers_to_is_made_or_named_in_the_guide(overlay: str) -> None:
    guide = (DEPLOY.parent / "docs" / "how-to" / "kubernetes.md").read_text()
    made = {(each["kind"], each["metadata"]["name"]) for each in objects(overlay)}
    text = json.dumps(pods(overlay))
    for name in re.findall(r'"configMapRef": {"name": "([^"]+)"', text):
        assert ("ConfigMap", name) in made
    for name in re.findall(r'"claimName": "([^"]+)"', text):
        assert ("PersistentVolumeClaim", name) in made
    for name in re.findall(r'"secretKeyRef": {"key": "[^"]+", "name": "([^"]+)"', text):
        assert f"secret generic {name} " in guide


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_what_they_are_for(overlay: str) -> None:
    found = objects(overlay)
    labels = [template["metadata"]["labels"] for template in pods(overlay).values()]
    selectors = [each["spec"]["selector"] for each in found if each["kind"] == "Service"]
    selectors += [
        each["spec"]["selector"]["matchLabels"]
        for each in found
        if each["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget")
    ]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in found if each["kind"] == "NetworkPolicy"]
    for selector in selectors:
        assert any(selector.items() <= each.items() for each in labels), selector


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_is_root_or_may_become_it_and_each_says_what_it_needs(overlay: str) -> None:
    for name, template in pods(overlay).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["enableServiceLinks"] is False, name
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_head_may_ask_kubernetes_anything(overlay: str) -> None:
    asking = {name for name, each in pods(overlay).items() if each["spec"].get("automountServiceAccountToken", True)}
    assert asking <= {"head"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_two_control_planes_answer_and_one_always_stays(overlay: str) -> None:
    deployment = the(overlay, "Deployment", "cohort-control-plane")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert the(overlay, "PodDisruptionBudget")["spec"]["minAvailable"] == 1
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/livez", "port": "http"}


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_drivers_start_on_machines_for_drivers_and_nowhere_else(overlay: str) -> None:
    wanted = json.loads(environment(overlay, "cohort-control-plane", SECRETS)["COHORT_DRIVER_RESOURCES"])
    offered = json.loads(json.loads(groups(overlay)["drivers"]["rayStartParams"]["resources"]))
    assert set(wanted) <= set(offered)
    head = the(overlay, "RayCluster")["spec"]["headGroupSpec"]
    for params in (head["rayStartParams"], groups(overlay)["drivers"]["rayStartParams"]):
        assert (params["num-cpus"], params["num-gpus"]) == ("0", "0")
    assert "resources" not in groups(overlay)["gpu"]["rayStartParams"]
    assert "resources" not in head["rayStartParams"]


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_machines_with_gpus_come_and_go_as_far_as_jobs_ask(overlay: str) -> None:
    gpu = groups(overlay)["gpu"]
    assert the(overlay, "RayCluster")["spec"]["enableInTreeAutoscaling"]
    assert 1 <= gpu["minReplicas"] < gpu["maxReplicas"]
    (container,) = gpu["template"]["spec"]["containers"]
    each = int(container["resources"]["limits"]["nvidia.com/gpu"])
    settings = environment(overlay, "drivers", SECRETS)
    assert each >= 1 and settings["COHORT_MAX_GPUS"] == str(gpu["maxReplicas"] * each)
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in gpu["template"]["spec"][
        "tolerations"
    ]


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_the_database_is_known_to_control_plane_and_drivers_alone(overlay: str) -> None:
    knowing = {pod for pod in pods(overlay) if "COHORT_DATABASE_URL" in environment(overlay, pod, SECRETS)}
    assert knowing == {"cohort-control-plane", "drivers"}


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_control_plane_drivers_and_workers_agree_on_settings_and_files(overlay: str) -> None:
    computing = ["cohort-control-plane", "head", "drivers", "gpu"]
    settings = [environment(overlay, pod, SECRETS) for pod in computing]
    for name in ("COHORT_HOME", "COHORT_STORAGE", "COHORT_DATA_ROOTS"):
        assert len({each[name] for each in settings}) == 1, name
    mounts = []
    for pod in computing:
        spec = pods(overlay)[pod]["spec"]
        claims = {
            each["name"]: each["persistentVolumeClaim"]["claimName"]
            for each in spec["volumes"]
            if "persistentVolumeClaim" in each
        }
        mounts.append(
            {
                (each["mountPath"], claims[each["name"]], each.get("readOnly", False))
                for each in spec["containers"][0]["volumeMounts"]
                if each["name"] in claims
            }
        )
    assert all(each == mounts[0] for each in mounts)
    if not settings[0]["COHORT_STORAGE"].startswith("s3://"):
        paths = {path: read_only for path, _, read_only in mounts[0]}
        assert paths == {settings[0]["COHORT_STORAGE"]: False, settings[0]["COHORT_DATA_ROOTS"]: True}


def reaches(overlay: str, source: str, target: str, port: int) -> bool:
    """Whether the policies let a pod of ours open a connection to another.  What no policy selects is open."""
    labels = {name: template["metadata"]["labels"] for name, template in pods(overlay).items()}

    def lets(kind: str, peers: str, own: str, other: str) -> bool:
        chosen = [
            each["spec"]
            for each in objects(overlay)
            if each["kind"] == "NetworkPolicy"
            and each["spec"]["podSelector"]["matchLabels"].items() <= labels[own].items()
            and kind.capitalize() in each["spec"]["policyTypes"]
        ]
        return not chosen or any(
            (
                peers not in rule
                or any(
                    "podSelector" in peer and peer["podSelector"]["matchLabels"].items() <= labels[other].items()
                    for peer in rule[peers]
                )
            )
            and ("ports" not in rule or port in [each["port"] for each in rule["ports"] if "protocol" not in each])
            for spec in chosen
            for rule in spec.get(kind, [])
        )

    return lets("egress", "to", source, target) and lets("ingress", "from", target, source)


@pytest.mark.parametrize("overlay", WITH_RAY)
def test_connections_that_are_needed_are_let_through_and_no_others(overlay: str) -> None:
    api, gcs, ray = "cohort-control-plane", "cohort-ray-gcs", ("head", "drivers", "gpu")
    assert reaches(overlay, api, "head", 8265)
    assert all(reaches(overlay, one, other, port) for one in ray for other in ray for port in (6379, 8265, 30_000))
    assert reaches(overlay, "head", gcs, 6379)
    assert not reaches(overlay, api, "head", 6379)
    assert not reaches(overlay, api, "gpu", 30_000)
    assert not reaches(overlay, api, gcs, 6379)
    assert not reaches(overlay, gcs, "head", 8265)
    assert not reaches(overlay, "gpu", api, 8080)
