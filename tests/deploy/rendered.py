"""What `deploy/` comes to: compose with its variables filled in, and overlays as kustomize renders them."""

import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
OVERLAYS = sorted(path.name for path in (DEPLOY / "kubernetes" / "overlays").iterdir())
SECRETS = {"POSTGRES_PASSWORD": "password-of-postgres", "COHORT_RAY_TOKEN": "0123456789abcdef" * 4}
SECRETS |= {"GRAFANA_PASSWORD": "password-of-grafana"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


class Unset(ValueError):
    """A variable that compose cannot do without."""


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """`compose.yaml` with its variables: `${NAME}`, `${NAME:-default}`, `${NAME:?why}`."""

    def fill(value: Any) -> Any:
        match value:
            case str():
                return _VARIABLE.sub(lambda found: _value(variables, *found.groups()), value)
            case dict():
                return {key: fill(each) for key, each in value.items()}
            case list():
                return [fill(each) for each in value]
        return value

    return fill(yaml.load((DEPLOY / "compose.yaml").read_text(), yaml.CSafeLoader))


def _value(variables: Mapping[str, str], name: str, kind: str | None, rest: str | None) -> str:
    value = variables.get(name, "")
    if kind == "?" and not value:
        raise Unset(rest)
    return value or ((rest or "") if kind == "-" else "")


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and the expression."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        dashboard: dict[str, Any] = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.stem}: {panel['title']}", target["expr"]
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{path.stem}: ${variable['name']}", variable["query"]["query"]


def plain_expressions(interval: str = "1m") -> Iterator[tuple[str, str]]:
    """What Grafana makes of them: variables filled in, those of the variables themselves left out."""
    for place, text in expressions():
        if not text.startswith("label_values"):
            yield place, text.replace("$__rate_interval", interval).replace("$job", ".*").replace("$group", ".*")


def _rendered(overlay: str) -> str:
    kubectl = Path(sys.executable).with_name("kubectl")  # the one of our own packages
    command = [str(kubectl), "kustomize", str(DEPLOY / "kubernetes" / "overlays" / overlay)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@functools.cache
def objects(overlay: str) -> list[dict[str, Any]]:
    """What an overlay makes in the cluster."""
    return list(yaml.load_all(_rendered(overlay), yaml.CSafeLoader))


def the(overlay: str, kind: str, name: str = "") -> dict[str, Any]:
    """The one object of a kind (and name)."""
    (found,) = (each for each in objects(overlay) if each["kind"] == kind and name in ("", each["metadata"]["name"]))
    return found


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    """Every pod template that an overlay holds, by a name for it."""
    found = {}
    for each in objects(overlay):
        if each["kind"] in ("Deployment", "StatefulSet"):
            found[each["metadata"]["name"]] = each["spec"]["template"]
        if each["kind"] == "RayCluster":
            found["head"] = each["spec"]["headGroupSpec"]["template"]
            found |= {group["groupName"]: group["template"] for group in each["spec"]["workerGroupSpecs"]}
    return found


def environment(overlay: str, pod: str, secrets: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """What the first container of a pod finds.  `secrets`: by name and key."""
    (container, *_) = pods(overlay)[pod]["spec"]["containers"]
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= the(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
        else:
            assert source["secretRef"]["optional"]
    for each in container.get("env", []):
        if "value" in each:
            found[each["name"]] = each["value"]
        else:
            reference = each["valueFrom"]["secretKeyRef"]
            found[each["name"]] = secrets[reference["name"], reference["key"]]
    return found


def image_environment() -> dict[str, str]:
    """What the last stage of the Dockerfile sets, less the path."""
    stage = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").rpartition("\nFROM ")[2]
    (line,) = re.findall(r"^ENV (.*)$", stage, re.MULTILINE)
    named = dict(pair.split("=", 1) for pair in line.split())
    del named["PATH"]
    return named


def docker_compose() -> list[str] | None:
    """The real thing, where it is."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None
