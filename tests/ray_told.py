"""What a running Ray shows of what happens in it: its dashboard's pages, and the logs that it keeps."""

from pathlib import Path
from typing import Any

import requests
from ray._private import worker as _worker

worker: Any = _worker
PAGES = (
    "logical/actors",
    "nodes?view=summary",
    "api/jobs/",
    "events",
    *(f"api/v0/{kind}?detail=true" for kind in ("actors", "tasks", "objects", "placement_groups", "workers")),
    "api/v0/tasks/summarize",
    "api/v0/runtime_envs",
)


def session_folder() -> Path:
    """Where Ray on this machine keeps its logs, and Tune its trials' folders."""
    return Path(worker._global_node.get_session_dir_path())


def told_by_ray(*more: str) -> dict[str, bytes]:
    """Page of the dashboard (`more` of them beside the usual ones) or file of a log -> what is there."""
    url = worker.get_dashboard_url()
    told = {}
    for page in (*PAGES, *more):
        answer = requests.get(f"http://{url}/{page}", timeout=60)
        assert answer.ok, (page, answer.text[:500])
        told[page] = answer.content
    for path in session_folder().glob("logs/**/*"):
        if path.is_file():
            told[str(path)] = path.read_bytes()
    return told
