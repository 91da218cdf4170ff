"""The API describes itself whole: every operation, parameter and body in words, with examples that it takes."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator

from api.openapi import EXAMPLES
from service.children import NewTasks
from service.spec import JobSpec
from service.submission import Clone
from service.wire_keys import NewKey
from service.wire_plans import NewPlan
from service.wire_queue import NewPriority, NewQuota

MODELS = (Clone, JobSpec, NewKey, NewPlan, NewPriority, NewQuota, NewTasks)
Operations = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def operations(api: TestClient) -> Operations:
    paths = api.get("/openapi.json").json()["paths"]
    return [(f"{method} {path}", each) for path, methods in paths.items() for method, each in methods.items()]


def bodies(operations: Operations) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, operation in operations:
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            yield name, kind, content


def test_every_operation_has_a_name_of_its_own_and_is_explained(operations: Operations) -> None:
    names = [operation["operationId"] for _, operation in operations]
    assert len(set(names)) == len(names)
    assert [name for name, each in operations if not each.get("summary") or not each.get("description")] == []


def test_every_parameter_is_explained(operations: Operations) -> None:
    parameters = [(name, each) for name, operation in operations for each in operation.get("parameters", ())]
    assert [(name, each["name"]) for name, each in parameters if not each.get("description")] == []


def test_every_body_is_shown_by_example(operations: Operations) -> None:
    assert [f"{name}: {kind}" for name, kind, content in bodies(operations) if not content.get("examples")] == []


def test_every_example_is_one(operations: Operations) -> None:
    models = {model.__name__: model for model in MODELS}
    assert set(models) == set(EXAMPLES)
    for _, kind, content in bodies(operations):
        model = models[content["schema"]["$ref"].rpartition("/")[2]]
        for example in content["examples"].values():
            value = example["value"]
            model.model_validate(yaml.safe_load(value) if kind == "application/yaml" else value)


def test_every_answer_is_shown_by_one_that_a_service_gave(api: TestClient, operations: Operations) -> None:
    document = api.get("/openapi.json").json()
    answers = {
        f"{name} {status}": content
        for name, operation in operations
        for status, answer in operation["responses"].items()
        if status.startswith("2") and (content := answer.get("content", {}).get("application/json")) is not None
    }
    assert [name for name, content in answers.items() if not content.get("examples")] == []
    shown = document["components"]["examples"]
    assert shown
    for content in answers.values():
        (example,) = content["examples"].values()
        checked = {"components": document["components"], **content["schema"]}
        Draft202012Validator(checked).validate(shown[example["$ref"].rpartition("/")[2]]["value"])


def test_every_answer_in_json_has_a_shape(operations: Operations) -> None:
    answers = [
        (f"{name} {status}", answer) for name, each in operations for status, answer in each["responses"].items()
    ]
    contents = [(name, content) for name, answer in answers for content in answer.get("content", {}).values()]
    assert [name for name, content in contents if not content.get("schema")] == []
