"""Records what a service answers, as the examples of the API's own description: `python -m docs.answers HOME`.

HOME is the home of a service that runs and may be thrown away: `cohort --home HOME up` starts one.  A job of four demo
tasks is run there, a dry run of it, and every kind of answer is asked for once.
"""

import json
import sys
from pathlib import Path
from typing import Any

import httpx2
import yaml

from api.openapi import ANSWERS
from service.client import Cohort
from service.connection import Connection

_ROOT = Path(__file__).resolve().parent.parent
_TASKS = ("digits-ink", "digits-inverted", "shapes-filled", "shapes-outlined")


def main(home: Path) -> None:
    connection = Connection.read(home)
    if connection is None or connection.key is None:
        raise SystemExit(f"{home} is not the home of a service with keys. Start one: cohort --home {home} up")
    spec = yaml.safe_load((_ROOT / "examples/demo.yaml").read_text())
    spec["tasks"] = [task for task in spec["tasks"] if task["name"] in _TASKS]
    spec["training"]["max_steps"] = 30
    with Cohort(connection.url, connection.key) as client:
        job = client.submit(spec)
        client.wait(job.id)
        estimate = client.wait_for_estimate(client.estimate(spec).id)
    headers = {"Authorization": f"Bearer {connection.key}"}
    with httpx2.Client(base_url=connection.url, headers=headers, timeout=60) as http:
        answers = _answers(http, job.id, estimate.id, spec)
    ANSWERS.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")


def _answers(http: httpx2.Client, job: str, estimate: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Message, or operation where the answer has no name -> what was answered."""

    def ask(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = http.request(method, path, json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    of_job = f"/v1/jobs/{job}"
    quota = "/v1/tenants/vision/quota"
    key = ask("POST", "/v1/keys", {"name": "ci", "tenant": "vision", "expires_in": 2_592_000})
    answers = {
        "Whoami": ask("GET", "/v1/whoami"),
        "CreatedKey": key | {"key": f"cohort_{key['prefix']}_{'0' * 64}"},
        "KeyList": ask("GET", "/v1/keys"),
        "Key": ask("DELETE", f"/v1/keys/{key['prefix']}"),
        "AuditPage": ask("GET", "/v1/audit?limit=3"),
        "Quota": ask("PUT", quota, {"max_running_jobs": 2, "max_devices": 4}),
        "Validation": ask("POST", "/v1/jobs/validate", spec | {"priority": "high"}),
        "Estimate": ask("GET", f"/v1/jobs/{estimate}/estimate"),
        "Job": ask("GET", of_job),
        "JobPage": ask("GET", "/v1/jobs?limit=2"),
        "EventPage": ask("GET", f"{of_job}/events?limit=3"),
        "MetricPage": ask("GET", f"{of_job}/metrics?name=val_score&limit=3"),
        "Groups": ask("GET", f"{of_job}/groups"),
        "Similarity": ask("GET", f"{of_job}/similarity"),
        "Results": ask("GET", f"{of_job}/results"),
        "ArtifactList": ask("GET", f"{of_job}/artifacts"),
        "ArtifactLink": ask("POST", f"{of_job}/artifacts/bundle/report.html/url"),
        "PlanDetail": ask("POST", f"{of_job}/plans", {"settings": {"num_groups": 3}}),
        "PlanList": ask("GET", f"{of_job}/plans"),
        "PlanComparison": ask("GET", f"{of_job}/plans/compare?first=0&second=1"),
        "results_plan": ask("GET", f"{of_job}/plan"),
        "Readiness": ask("GET", "/readyz"),
        "health_livez": ask("GET", "/livez"),
    }
    ask("DELETE", quota)
    return answers


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
