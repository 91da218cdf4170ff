"""What the API says of itself beyond what the framework sees: bodies that are read by hand, problems, examples."""

import json
from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from api import problems
from service.children import NewTasks
from service.planning import WHOLE
from service.spec import JobSpec
from service.submission import Clone
from service.wire import Problem
from service.wire_keys import NewKey
from service.wire_plans import NewPlan
from service.wire_queue import NewPriority, NewQuota

_ART, _CLIPART = (
    {
        "name": name,
        "source": {"kind": "folder", "uri": f"office_home/{name.capitalize()}"},
        "split": {"shots": 6, "seed": 1},
        "template": "a photo of a {}.",
    }
    for name in ("art", "clipart")
)
_JOB: dict[str, Any] = {
    "name": "office-home",
    "backbone": {"model": "ViT-B-16-quickgelu", "pretrained": "openai", "precision": "bf16"},
    "tasks": [_ART, _CLIPART],
    "method": {"kind": "mmap", "num_tokens": 4, "source_shape": [2, 2], "sharing": "grouped+task"},
    "training": {"epochs": 5, "batch_size": 16},
}
EXAMPLES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "JobSpec": {"two_tasks": ("Two tasks, grouped if that helps", _JOB)},
    "Clone": {"longer": ("The same, trained for longer", {"name": "again", "overrides": {"training": {"epochs": 10}}})},
    "NewTasks": {"one": ("One more task", {"tasks": [{**_ART, "name": "paintings"}]})},
    "NewPlan": {
        "settings": ("What if there were three groups?", {"settings": {"num_groups": 3}}),
        "groups": ("Groups of my own", {"groups": {"g1": ["art", "clipart"], "g2": ["photo"]}}),
    },
    "NewPriority": {"earlier": ("Before others", {"priority": 10})},
    "NewQuota": {"small": ("Two jobs on four devices", {"max_running_jobs": 2, "max_devices": 4})},
    "NewKey": {"ci": ("A key that ends by itself", {"name": "ci", "tenant": "vision", "expires_in": 2_592_000})},
}
"""Message -> examples of it, each with what it is for.  Every request that sends the message shows them."""

ANSWERS = Path(__file__).with_name("answers.json")
"""Message (operation, where an answer has no name) -> one that a service gave; written by `python -m docs.answers`."""

_PARAMETERS = {
    "job_id": "The job's id.",
    "group": "The group's id, as `groups` of the job has it.",
    "idempotency-key": "The same request with the same key is carried out once.",
    "path": "The rest of the path: of a file, as `artifacts` of the job lists it; of a page of the dashboard.",
    "token": "What the link was made with.",
    "name": "The file's own name.",
    "if-none-match": "The `ETag` of a copy that is there already: the answer is 304 while it is good.",
}
"""What parameters mean on every route that does not say it itself."""


def _problem(text: str) -> dict[str, Any]:
    """An answer that is a problem."""
    content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": text, "content": content}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: _problem(text)
    for status, text in {
        401: "No good API key.",
        403: "The key's role may not do this.",
        404: "No such job, plan or file (yet).",
        409: "The job's state does not allow it.",
        422: "The request is not as it should be.",
        429: "Too many requests by this key.",
        503: "The database or Ray does not answer; try again soon.",
    }.items()
}
_OF_BODIES = {413: "The body is longer than 1 MiB.", 415: "The body is announced as neither YAML nor JSON."}

_KEPT: dict[str, dict[str, Any]] = {
    "plan": {"$ref": "#/components/schemas/WholePlan"},
    "review": {"anyOf": [{"$ref": "#/components/schemas/WholeReview"}, {"type": "null"}]},
}


def operation_id(route: APIRoute) -> str:
    """`jobs_submit`: what a generated client calls the operation."""
    return "_".join([*map(str, route.tags[:1]), route.name])


def describe(app: FastAPI) -> None:
    """Lets the app describe itself whole."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            _add_messages(schema)
            answers = json.loads(ANSWERS.read_text())
            schema["components"]["examples"] = {name: {"value": value} for name, value in answers.items()}
            for operation in (each for path in schema["paths"].values() for each in path.values()):
                _complete(operation)
                _show(operation, set(answers))
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi


def _add_messages(schema: dict[str, Any]) -> None:
    parts = schema.setdefault("components", {}).setdefault("schemas", {})
    named = [(model, "") for model in (Clone, JobSpec, NewKey, NewPlan, NewTasks, Problem, NewPriority, NewQuota)]
    named += [(model, "Whole") for model in WHOLE]
    for model, prefix in named:
        own = model.model_json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
        for name, part in {**own.pop("$defs", {}), model.__name__: own}.items():
            parts[f"{prefix}{name}"] = part
    for name in ("plan", "review"):  # as they are kept: no client has to know every number
        parts["PlanDetail"]["properties"][name] |= _KEPT[name]


def _complete(operation: dict[str, Any]) -> None:
    """Adds what every operation says alike."""
    for parameter in operation.get("parameters", ()):
        if "description" not in parameter and parameter["name"] in _PARAMETERS:
            parameter["description"] = _PARAMETERS[parameter["name"]]
    if "requestBody" not in operation:
        return
    for status, text in _OF_BODIES.items():
        operation["responses"][str(status)] = _problem(text)
    for kind, content in operation["requestBody"]["content"].items():
        named = EXAMPLES.get(content["schema"].get("$ref", "").rpartition("/")[2], {})
        content["examples"] = {
            name: {"summary": summary, "value": _written(value, kind)} for name, (summary, value) in named.items()
        }


def _show(operation: dict[str, Any], answers: set[str]) -> None:
    """Adds an example to every answer that has one."""
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/json")
        if content is not None and status.startswith("2"):
            name = content["schema"].get("$ref", operation["operationId"]).rpartition("/")[2]
            if name in answers:
                content["examples"] = {"recorded": {"$ref": f"#/components/examples/{name}"}}


def _written(value: dict[str, Any], kind: str) -> Any:
    return yaml.safe_dump(value, sort_keys=False) if kind == "application/yaml" else value
