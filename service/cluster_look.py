"""A short Ray Job that looks at a cluster as a driver would find it: `python -m service.cluster_look [PATH ...]`.

It starts where drivers start, reads what they read, asks every machine, and prints one line for whoever sent it.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import requires

from packaging.requirements import Requirement

from service.errors import DatabaseUnavailable
from service.roles import DEFAULT_TENANT
from service.settings import Settings
from service.store import Store
from workers.launching.nodes import Question, look_at_nodes
from workers.storage import is_remote
from workers.storage_mark import MARK, read_mark

SAYS = "COHORT-LOOK "
"""How the line begins."""
OPTIONAL = ("optuna",)
"""Packages that some jobs need."""
NODE_SECONDS = 90.0
"""How long a machine may take to answer."""


def needed(settings: Settings) -> Iterator[Requirement]:
    """The packages that Cohort needs wherever its drivers and workers run."""
    extras = {"", "server"}
    if settings.database_url.startswith("postgresql"):
        extras.add("postgres")
    if "s3" in settings.data_schemes or settings.storage.startswith("s3://"):
        extras.add("s3")
    for line in requires("cohort") or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if requirement.name != "cohort" and (marker is None or any(marker.evaluate({"extra": e}) for e in extras)):
            yield requirement


def main(paths: list[str]) -> int:
    settings = Settings.load()
    place, mark = settings.storage_place, read_mark(settings.storage_place)
    number = "" if mark is None else mark.number
    tenants = (DEFAULT_TENANT, *settings.tenant_roots)
    roots = {root for tenant in tenants for root in settings.roots_of(tenant).file_roots}
    question = Question(
        distributions=("cohort", *(requirement.name for requirement in needed(settings)), *OPTIONAL),
        storage=place if is_remote(place) else str(place),
        mark=None if is_remote(place) else (MARK, number),
        cache=str(settings.home / "cache"),
        paths=(*sorted(roots), *paths),
    )
    told = {
        "storage": settings.storage,
        "mark": number,
        "database": _database_problem(settings),
        "nodes": [asdict(report) for report in look_at_nodes(question, seconds=NODE_SECONDS)],
    }
    sys.stdout.write(f"{SAYS}{json.dumps(told)}\n")
    return 0


def _database_problem(settings: Settings) -> str:
    try:
        Store(settings.database_url).ping()
    except DatabaseUnavailable as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
