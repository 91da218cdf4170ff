"""What dashboards, alerts and pages name is what the code exports."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from service.store import Store
from service.telemetry import Telemetry
from tests.deploy.rendered import DASHBOARDS, RULES, expressions, plain_expressions
from workers.launching import ray_metrics

ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"\b(?:ray_)?cohort_[a-z_]+|\bray_node_[a-z_]+")
_SUFFIX = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def of_the_service() -> dict[str, str]:
    """Name -> kind."""
    return {family.name: family.type for family in Telemetry(Store("sqlite://")).registry.collect()}


def of_jobs() -> set[str]:
    metrics = {**vars(ray_metrics.GroupMetrics("job-1", "g1")), **vars(ray_metrics.StageMetrics())}
    return {f"ray_{each.info['name']}" for each in metrics.values() if hasattr(each, "info")}


def exported() -> set[str]:
    service = {f"{name}{suffix}" for name, kind in of_the_service().items() for suffix in _SUFFIX[kind]}
    return service | of_jobs() | {f"ray_{name}" for name in METRICS_GAUGES}


def test_dashboards_and_alerts_ask_for_what_there_is() -> None:
    there = exported()
    asked = {(place, name) for place, text in expressions() for name in _NAME.findall(text)}
    assert {(place, name) for place, name in asked if name not in there} == set()
    assert of_jobs() <= {name for _, name in asked}


def test_the_page_on_metrics_names_all_that_there_is_and_nothing_else() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text()
    named = re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE)
    assert sorted(named) == sorted({*of_the_service(), *of_jobs()})


def test_panels_of_a_dashboard_do_not_lie_on_each_other() -> None:
    for path in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for place in (panel["gridPos"] for panel in json.loads(path.read_text())["panels"]):
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken and place["x"] + place["w"] <= 24
            taken |= cells


def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: the package prometheus)")
    subprocess.run([promtool, "check", "config", str(RULES.with_name("prometheus.yml"))], check=True, timeout=60)
    rules = [{"record": f"expression:{number}", "expr": text} for number, (_, text) in enumerate(plain_expressions())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    subprocess.run([promtool, "check", "rules", str(tmp_path / "rules.yml")], check=True, timeout=60)
