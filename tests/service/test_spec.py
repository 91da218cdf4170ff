"""A job description is understood, or refused with every fault named."""

import json
import pickle
from typing import get_args

import pytest

from service.errors import SpecError
from service.reading import MAX_BYTES, MAX_DEPTH, read_mapping, read_spec
from service.spec import check_roots, parse_spec, sharing_of, with_sharing
from service.submission import Clone
from workers.data.roots import DataRoots
from workers.methods.config import CoOpConfig, MethodConfig, Sharing

TASK = {"name": "art", "source": {"kind": "demo", "task": "digits-ink"}}
FOLDER = {"name": "art", "source": {"kind": "folder", "uri": "art"}}
JOB = {"name": "office", "backbone": {"model": "demo"}, "tasks": [TASK, {**TASK, "name": "clipart"}]}
SEARCH = {"space": {"training.lr": {"loguniform": [0.001, 0.1]}}}


def every_method() -> list[MethodConfig]:
    """Each member of the union with its own defaults."""
    union, _ = get_args(MethodConfig)
    return [member() for member in get_args(union)]


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
        ({"search": {"space": {"training.lr": {"normal": [0, 1]}}}}, "search.space.training.lr", "one of {uniform:"),
        (
            {"search": {"space": {"training.lr": {"uniform": [0.1, float("inf")]}}}},
            "search.space.training.lr.uniform[1]",
            "must lie between",
        ),
        ({"method": {"kind": "zero_shot", "sharing": "all"}}, "method", "zero_shot has no parameters that tasks could"),
        ({"training": {"sharing": "all"}}, "training.sharing", "'sharing' has no meaning here. Remove it."),
        ({"search": {"space": {"training.lrr": {"choice": [1]}}}}, "", "Did you mean training.lr?"),
        ({"search": {"space": {"training.lr": {"uniform": [0, 1]}}}}, "", "search: training.lr=0: Input should be"),
        ({"search": {"space": {"training.seed": {"choice": [1, 2]}}}}, "", "training.seed cannot be searched"),
        ({"search": SEARCH, "method": {"kind": "zero_shot"}, "grouping": {}}, "", "zero_shot takes no training steps"),
        (
            {
                "search": SEARCH,
                "tasks": [
                    {
                        **TASK,
                        "source": {"kind": "huggingface", "uri": "a", "test_split": "test"},
                        "split": {"fraction": 0.5},
                    },
                    {
                        **TASK,
                        "name": "photo",
                        "source": {"kind": "huggingface", "uri": "a", "test_split": "test", "val_split": "dev"},
                        "split": {"fraction": 0.5},
                    },
                ],
            },
            "",
            "search: settings are compared on validation images, and 'art' would have none. Give val_shots",
        ),
        (
            {"search": SEARCH, "tasks": [{**TASK, "split": {"shots": 4, "val_shots": 0}}]},
            "",
            "search: settings are compared on validation images, and 'art' would have none. Give val_shots",
        ),
        ({"search": SEARCH, "tasks": [{**FOLDER, "split": {"fraction": 0.5}}]}, "", "'art' would have none"),
        (
            {
                "grouping": {"arbitrate": True},
                "tasks": [TASK, {**FOLDER, "name": "photo", "split": {"shots": 4, "val_shots": 0}}],
            },
            "",
            "grouping.arbitrate: groups are compared on validation images, and 'photo' would have none.",
        ),
        ({"grouping": {"arbitrate": True}, "tasks": [TASK]}, "", "a single task has nothing to be grouped with"),
        ({"grouping": {"arbitrate": True}, "method": {"kind": "mmap", "sharing": "all"}}, "", "forms no groups"),
        ({"grouping": {"arbitrate_share": 0}}, "grouping.arbitrate_share", "greater than 0"),
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
        ('{"name": 1' + "0" * 5000 + "}", "a number of 5001 characters"),
        ("priority: 0x" + "f" * 6000, "a number of 6002 characters"),
        ("priority: 1" + ":1" * 400 + ".5", "given '1:1:1"),
        ("priority: 1" + ":1" * 120_000, "given '1:1:1"),
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
        "hexadecimals",
        "fraction-to-the-base-60",
        "number-to-the-base-60",
        "half",
        "bytes",
        "big",
    ],
)
def test_hostile_text_is_refused_in_words(text: str | bytes, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_spec(text)


@pytest.mark.parametrize("place", [{"priority": 10**5000}, {10**5000: 1}, {"training": {"epochs": [10**5000]}}])
def test_a_number_that_cannot_be_written_is_a_fault_like_any_other(place: dict) -> None:
    with pytest.raises(SpecError, match="too long to write"):
        parse_spec({**JOB, **place})


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 100, 400, 900, 3000])
def test_yaml_and_json_nest_at_most_thirty_two_levels_deep(levels: int) -> None:
    for key in ("a", '"a"'):  # YAML and JSON
        for opens, closes in ((f"{{{key}: ", "}"), ("[", "]")):
            assert read_mapping(f"{{{key}: {opens * (MAX_DEPTH - 1)}1{closes * (MAX_DEPTH - 1)}}}")
            with pytest.raises(SpecError, match=f"nests more than {MAX_DEPTH} levels deep"):
                read_mapping(f"{{{key}: {opens * (levels - 1)}1{closes * (levels - 1)}}}")


@pytest.mark.parametrize("levels", [400, 900])
def test_what_nests_too_deep_to_be_kept_is_not_called_half_a_character(levels: int) -> None:
    inner: dict = {}
    for _ in range(levels):
        inner = {"a": inner}
    with pytest.raises(SpecError, match=r"cannot be written as JSON: .*depth"):
        read_spec(Clone, {"overrides": inner})


def test_a_time_of_day_is_a_text_and_every_usual_number_a_number() -> None:
    text = "{time: 12:30, half: 12:30.5, whole: -1_000, hex: 0x1f, part: 1.5e-3, none: .inf}"
    numbers = {"whole": -1000, "hex": 31, "part": 0.0015, "none": float("inf")}
    assert read_mapping(text) == {"time": "12:30", "half": "12:30.5", **numbers}


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
    ("method", "baselines"),
    [({"kind": "zero_shot"}, ("zero_shot",)), ({"kind": "mmap"}, ("zero_shot", "alone", "all"))],
)
def test_a_job_is_compared_with_what_its_method_defines(method: dict, baselines: tuple[str, ...]) -> None:
    assert parse_spec({**JOB, "method": method}).baselines == baselines
    assert parse_spec({**JOB, "method": method, "baselines": []}).baselines == ()


@pytest.mark.parametrize(
    ("method", "baseline", "reason"),
    [
        ("zero_shot", "all", "zero_shot has nothing that tasks could share"),
        ("linear_probe", "all", "sharing=all is not defined for linear_probe"),
    ],
)
def test_a_baseline_that_the_method_does_not_define_is_refused_with_the_reason(method, baseline, reason) -> None:
    with pytest.raises(SpecError, match=rf"baselines: '{baseline}' given, but {reason}.*Drop the baseline\."):
        parse_spec({**JOB, "method": {"kind": method}, "baselines": ["zero_shot", baseline]})
    assert baseline not in parse_spec({**JOB, "method": {"kind": method}}).baselines


def test_a_fault_elsewhere_is_not_told_a_second_time_of_the_baselines() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({**JOB, "method": {"kind": "mmap", "depth": 0}})
    assert [path for path, _ in caught.value.problems] == ["method.depth"]


def test_a_searched_value_fits_the_baselines_and_the_tasks() -> None:
    space = {"method.task_prefix": {"grid": [True]}}
    adapter = {**JOB, "method": {"kind": "adapter", "sharing": "all"}, "search": {"space": space}}
    with pytest.raises(SpecError, match=r"task_prefix=True: the baseline 'alone'.*`baselines: \[zero_shot, all\]`"):
        parse_spec(adapter)
    assert parse_spec({**adapter, "baselines": ["zero_shot", "all"]})
    assert parse_spec({**adapter, "search": {"space": space, "scope": "group"}})  # baselines keep the job's settings

    pairs = {"name": "pairs", "kind": "retrieval", "source": {"kind": "manifest", "uri": "pairs.jsonl"}}
    split = {"fraction": 0.5, "val_fraction": 0.2}
    coop = {"kind": "coop", "sharing": "all"}
    search = {"space": {"method.class_specific": {"grid": [False, True]}}}
    with pytest.raises(SpecError, match="class_specific=True: tasks: 'pairs' given, but coop learns"):
        parse_spec({**JOB, "tasks": [TASK, {**pairs, "split": split}], "method": coop, "search": search})


@pytest.mark.parametrize("method", every_method())
def test_every_method_is_split_among_tasks_as_it_says(method: MethodConfig) -> None:
    """Holds for every member of the union: a method that is added needs nothing in this room."""
    for sharing in get_args(Sharing):
        if sharing in type(method).sharings:
            shared = with_sharing(method, sharing)
            assert sharing_of(shared) == sharing
            assert with_sharing(shared, sharing) == shared
            trivial = parse_spec({**JOB, "method": shared.model_dump()}).trivial_sharing
            assert trivial == (sharing if sharing in ("alone", "all") else None)
        else:
            with pytest.raises(ValueError, match=sharing.replace("+", r"\+") if type(method).sharings else "share"):
                with_sharing(method, sharing)
    default = parse_spec({**JOB, "method": method.model_dump()})
    assert set(default.baselines) == {"zero_shot", "alone", "all"} & {"zero_shot", *type(method).sharings}
    if not type(method).sharings:
        assert default.trivial_sharing == "all"


def test_retrieval_over_several_devices_is_refused() -> None:
    pairs = {"name": "pairs", "kind": "retrieval", "source": {"kind": "manifest", "uri": "pairs.csv"}}
    job = {**JOB, "tasks": [TASK, pairs]}
    assert parse_spec(job).tasks[1].kind == "retrieval"
    with pytest.raises(SpecError, match=r"devices_per_group=2 given with retrieval tasks \('pairs'\)"):
        parse_spec({**job, "resources": {"devices_per_group": 2}})


@pytest.mark.parametrize(
    "method",
    [*(method for method in every_method() if "retrieval" not in method.task_kinds()), CoOpConfig(class_specific=True)],
)
def test_a_task_of_a_kind_that_the_method_does_not_learn_is_refused(method: MethodConfig) -> None:
    pairs = {"name": "pairs", "kind": "retrieval", "source": {"kind": "manifest", "uri": "pairs.csv"}}
    with pytest.raises(SpecError, match=f"'pairs' given, but {method.kind} learns tasks of kind classification"):
        parse_spec({**JOB, "tasks": [TASK, pairs], "method": method.model_dump()})


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": {"model": "local-dir:/etc"}},
        {"tasks": [{**TASK, "source": {"kind": "folder", "uri": "/etc"}}]},
        {"tasks": [{**TASK, "source": {"kind": "folder", "uri": "a"}, "split": {"train": "a", "test": "../../etc"}}]},
        {"tasks": [{**TASK, "source": {"kind": "webdataset", "uri": "{a,../../etc}/x.tar"}}]},
        {"tasks": [{**TASK, "source": {"kind": "huggingface", "uri": "/etc"}}]},
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
    instead = r"Drop it\." if method["kind"] == "zero_shot" else r"or set method\.sharing to grouped or grouped\+task"
    with pytest.raises(SpecError, match=rf"'{next(iter(demand))}' given.*would ignore it.*{instead}"):
        parse_spec({**JOB, "method": method, "grouping": demand})
    assert parse_spec({**JOB, "grouping": demand}).grouping.model_dump(exclude_defaults=True).keys() == demand.keys()
