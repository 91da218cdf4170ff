"""A job description is understood, or refused with every fault named."""

import json
import pickle

import pytest

from service.errors import SpecError
from service.spec import MAX_BYTES, check_roots, parse_spec
from workers.data.roots import DataRoots

TASK = {"name": "art", "source": {"kind": "demo", "task": "digits-ink"}}
JOB = {"name": "office", "backbone": {"model": "demo"}, "tasks": [TASK, {**TASK, "name": "clipart"}]}


def test_yaml_json_bytes_and_dict_are_the_same_job() -> None:
    spec = parse_spec(JOB)
    text = json.dumps(JOB)
    assert spec == parse_spec(text) == parse_spec(text.encode()) == parse_spec(json.dumps(JOB, indent="\t"))
    assert spec == parse_spec(
        "name: office\nbackbone: {model: demo}\ntasks:\n"
        "- {name: art, source: {kind: demo, task: digits-ink}}\n"
        "- {name: clipart, source: {kind: demo, task: digits-ink}}"
    )


def test_a_spec_survives_its_own_json() -> None:
    spec = parse_spec({**JOB, "grouping": {"must_link": [["art", "clipart"]]}, "training": {"epochs": 3}})
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"mehtod": {}}, "mehtod", "unknown key 'mehtod'. Did you mean 'method'?"),
        ({"tasks": []}, "tasks", "at least 1 item"),
        ({"tasks": [TASK, TASK]}, "", "'art' are given more than once"),
        ({"tasks": [{**TASK, "split": {"shots": "six"}}]}, "tasks[0].split.shots", "given 'six'"),
        ({"tasks": [{**TASK, "source": {"kind": "demo"}}]}, "tasks[0].source.task", "missing"),
        ({"tasks": [{**TASK, "template": "a photo"}]}, "tasks[0].template", "exactly once"),
        ({"tasks": [{**TASK, "name": f"t{n}"} for n in range(1001)]}, "tasks", "at most 1000"),
        ({"grouping": {"must_link": [["art", "photo"]]}}, "", "names 'photo', which is no task of this job"),
        ({"grouping": {"cannot_link": [["art", "art"]]}}, "", "with itself"),
        ({"grouping": {"num_groups": 3}}, "", "num_groups=3 exceeds the 2 tasks"),
        ({"grouping": {"num_groups": 1, "max_group_size": 1}}, "", "hold 1 of the 2 tasks"),
        ({"grouping": {"must_link": [["art", "clipart"]], "cannot_link": [["clipart", "art"]]}}, "", "Drop one of the"),
        ({"grouping": {"must_link": [["art", "clipart"]], "max_group_size": 1}}, "", "but max_group_size=1"),
        ({"grouping": {"must_link": [["art", "clipart"]], "num_groups": 2}}, "", "leaves only 1 separable"),
        (
            {"tasks": [{**TASK, "split": {"fraction": 0.7, "val_fraction": 0.3}}]},
            "tasks[0].split.fraction",
            "fraction=0.7 and val_fraction=0.3 leave nothing to test. Keep their sum under 1.",
        ),
        ({"baselines": ["alone", "alone"]}, "", "'alone' given more than once"),
        ({"baselines": ["random"]}, "baselines[0]", "given 'random'"),
        ({"resources": {"device": "tpu"}}, "resources.device", "given 'tpu'"),
        ({"training": {"lr": float("nan")}}, "training.lr", "finite"),
        ({"name": "two words"}, "name", "given 'two words'"),
        ({"search": {"lr": [1]}}, "search", "None"),
        ({"tasks": [{**TASK, "split": 3}]}, "tasks[0].split", "dictionary"),
    ],
)
def test_a_fault_is_named_with_its_place(change: dict, path: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({**JOB, **change})
    assert [place for place, _ in caught.value.problems] == [path]
    assert says in caught.value.problems[0][1]
    assert says in str(pickle.loads(pickle.dumps(caught.value)))


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(SpecError, match=r"2 fault\(s\)"):
        parse_spec({**JOB, "nmae": 1, "training": {"epochs": 0}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "alias"),
        ("[" * 50_000, "levels deep"),
        ('{"a":' * 50_000, "levels deep"),
        ("name: x\nname: y", "'name' twice"),
        ('{"name": "x", "name": "y"}', "'name' twice"),
        ("", "holds nothing"),
        ("- a", "holds a list"),
        ("a: b: c", "neither YAML nor JSON"),
        ("!!python/object/apply:os.system [id]", "YAML tag"),
        ("name: !!timestamp x", "YAML tag"),
        ("name: 2001-99-99", "neither YAML nor JSON"),
        ('{"name": 1' + "0" * 5000 + "}", "neither YAML nor JSON"),
        (json.dumps({**JOB, "tasks": [{**TASK, "source": {"kind": "folder", "uri": "\ud800"}}]}), "half a character"),
        (b"\xff\xfe", "UTF-8"),
        ("x" * (MAX_BYTES + 1), "bytes"),
    ],
    ids=[
        "alias-bomb",
        "deep-yaml",
        "deep-json",
        "twice-yaml",
        "twice-json",
        "empty",
        "list",
        "broken",
        "object",
        "tag",
        "date",
        "digits",
        "half",
        "bytes",
        "big",
    ],
)
def test_hostile_text_is_refused_in_words(text: str | bytes, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_spec(text)


@pytest.mark.parametrize(
    ("method", "trivial"),
    [
        ({"kind": "zero_shot"}, "all"),
        ({"kind": "mmap", "sharing": "alone"}, "alone"),
        ({"kind": "mmap", "sharing": "all"}, "all"),
        ({"kind": "mmap", "sharing": "grouped"}, None),
    ],
)
def test_only_grouped_sharing_needs_gradients(method: dict, trivial: str | None) -> None:
    assert parse_spec({**JOB, "method": method}).trivial_sharing == trivial


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": {"model": "local-dir:/etc"}},
        {"tasks": [{**TASK, "source": {"kind": "folder", "uri": "/etc"}}]},
        {"tasks": [{**TASK, "source": {"kind": "folder", "uri": "a"}, "split": {"train": "a", "test": "../../etc"}}]},
    ],
)
def test_paths_outside_the_roots_are_refused(change: dict, tmp_path) -> None:
    roots = DataRoots(file_roots=(str(tmp_path),))
    check_roots(parse_spec({**JOB, "backbone": {"model": f"local-dir:{tmp_path}/clip"}}), roots)
    with pytest.raises(ValueError, match="outside"):
        check_roots(parse_spec({**JOB, **change}), roots)


@pytest.mark.parametrize(
    "method", [{"kind": "mmap", "sharing": "alone"}, {"kind": "mmap", "sharing": "all"}, {"kind": "zero_shot"}]
)
@pytest.mark.parametrize(
    "demand",
    [
        {"num_groups": 1},
        {"max_group_size": 2},
        {"must_link": [["art", "clipart"]]},
        {"cannot_link": [["art", "clipart"]]},
    ],
)
def test_demands_on_groups_are_refused_where_no_groups_are_formed(method: dict, demand: dict) -> None:
    with pytest.raises(SpecError, match=rf"'{next(iter(demand))}' given.*would ignore it.*grouped\+task"):
        parse_spec({**JOB, "method": method, "grouping": demand})
    assert parse_spec({**JOB, "grouping": demand}).grouping.model_dump(exclude_defaults=True).keys() == demand.keys()
