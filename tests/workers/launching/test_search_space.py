"""Laws of search spaces: what a path and a value may be, and what a setting changes."""

from typing import Any

import pytest
from pydantic import ValidationError

from workers.launching.search_config import SearchConfig, Uniform
from workers.launching.search_space import REFUSED, apply_setting, check_search, takes_only_integers
from workers.methods.config import MmAPConfig, ZeroShotConfig
from workers.training.config import TrainConfig

METHOD, TRAINING = MmAPConfig(), TrainConfig()


def check(space: dict[str, Any], method: Any = METHOD, training: TrainConfig = TRAINING, **search: Any) -> None:
    check_search(SearchConfig.model_validate({"space": space} | search), method, training)


def test_a_setting_changes_its_fields_and_nothing_else():
    setting = {"training.lr": 0.01, "method.num_tokens": 8, "training.augment.flip": False}
    method, training = apply_setting(setting, METHOD, TRAINING)
    assert method == METHOD.model_copy(update={"num_tokens": 8})
    assert TRAINING.augment is not None
    augment = TRAINING.augment.model_copy(update={"flip": False})
    assert training == TRAINING.model_copy(update={"lr": 0.01, "augment": augment})
    assert apply_setting({}, METHOD, TRAINING) == (METHOD, TRAINING)


def test_a_setting_that_does_not_fit_is_refused_with_its_values():
    with pytest.raises(ValueError, match=r"method.num_tokens=3, training.lr=0.1: source_shape=\[2, 2\]"):
        apply_setting({"method.num_tokens": 3, "training.lr": 0.1}, METHOD, TRAINING)


def test_every_distribution_over_fields_of_method_and_training_is_taken():
    check(
        {
            "training.lr": {"loguniform": [0.001, 0.1]},
            "training.weight_decay": {"uniform": [0, 0.1]},
            "training.epochs": {"uniform": [1, 5]},
            "training.augment.flip": {"choice": [True, False]},
            "training.optimizer": {"grid": ["sgd", "adamw"]},
            "method.num_tokens": {"choice": [2, 4, 8]},
            "method.depth": {"choice": [None, 9]},
        }
    )


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"training.lrr": {"uniform": [0.1, 1]}}, "training has no field 'lrr'. Did you mean training.lr?"),
        ({"method.layers": {"uniform": [0.1, 1]}}, "method \\(kind mmap\\) has no field 'layers'. It has kind,"),
        ({"grouping.num_groups": {"choice": [1]}}, "'grouping.num_groups' is no path. Use training.FIELD"),
        ({"training": {"choice": [1]}}, "'training' is no path"),
        ({"training.lr.x": {"choice": [1]}}, "training.lr is null in this job"),
        ({"training.pairwise.weight": {"choice": [1]}}, "training.pairwise is null in this job"),
        ({"training.lr": {"uniform": [0, 0.1]}}, "training.lr=0: Input should be greater than 0."),
        ({"training.lr": {"choice": [0.1, "fast"]}}, "training.lr='fast': Input should be a valid number"),
        ({"training.optimizer": {"grid": ["sgd", "lion"]}}, "training.optimizer='lion': Input should be 'sgd'"),
        ({"training.augment.flip": {"uniform": [0, 1]}}, "training.augment.flip=0.5: Input should be a valid boolean"),
        ({"training.epochs": {"uniform": [1.5, 4]}}, "training.epochs=1.5: Input should be a valid integer"),
        ({"method.num_tokens": {"uniform": [2, 4]}}, "method.num_tokens=3: source_shape"),
        ({"training.augment": {"choice": [None]}, "training.augment.flip": {"choice": [True]}}, "Search one or"),
        *(({path: {"choice": [1]}}, f"{path} cannot be searched: {why[:20]}") for path, why in REFUSED.items()),
    ],
)  # fmt: skip
def test_what_the_configs_do_not_take_is_refused_by_name(space: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        check(space)


def test_all_faults_are_told_at_once():
    with pytest.raises(ValueError, match=r"training.seed cannot.*'foo' is no path"):
        check({"training.seed": {"choice": [1]}, "foo": {"choice": [1]}})


def test_a_value_that_fits_beside_another_searched_value_is_taken():
    check({"method.num_tokens": {"choice": [3, 6]}, "method.source_shape": {"choice": [[3, 2]]}})


def test_a_method_without_training_steps_has_no_training_to_search():
    with pytest.raises(ValueError, match=r"training.lr has no effect: zero_shot takes no training steps"):
        check({"training.lr": {"choice": [0.1]}}, ZeroShotConfig())


def test_a_scheduler_needs_more_than_one_validation():
    space = {"training.lr": {"choice": [0.1]}}
    with pytest.raises(ValueError, match="scheduler=asha ends trials by what they score along the way"):
        check(space, training=TrainConfig(validations=1), scheduler="asha")
    check(space, training=TrainConfig(validations=2), scheduler="asha")


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"space": {}}, "at least 1 item"),
        ({"space": {"training.lr": {"normal": [0, 1]}}}, "one of {uniform: \\[from, to\\]}"),
        ({"space": {"training.lr": {"uniform": [10**400, 2 * 10**400]}}}, "must lie between -1e\\+15 and 1e\\+15"),
        ({"space": {"training.max_steps": {"uniform": [1, 10**19]}}}, "must lie between"),
        ({"space": {"training.lr": {"choice": [10**400]}}}, "must lie between"),
        ({"space": {"training.lr": {"uniform": [1, "fast"]}}}, "'fast' is no number"),
        ({"space": {"training.lr": {"choice": [1]}}, "searcher": "grid"}, "a grid is written in the space"),
        ({"space": {"training.lr": {"uniform": [1, 0]}}}, "must hold from < to"),
        ({"space": {"training.lr": {"loguniform": [0, 1]}}}, "must hold 0 < from < to"),
        ({"space": {"training.lr": {"choice": []}}}, "at least 1 item"),
        ({"space": {"training.lr": {"choice": [{"eval": "1"}]}}}, "choice"),
        ({"space": {"training.lr": {"grid": [0.1]}}, "searcher": "optuna"}, "cannot exhaust the grid of training.lr"),
        ({"space": {"training.lr": {"grid": [1, 2]}}, "num_trials": 501}, "are 1002 trials; at most 1000"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_run_is_refused(search: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        SearchConfig.model_validate(search)


@pytest.mark.parametrize(
    ("path", "integers"), [("training.epochs", True), ("training.max_steps", True), ("training.lr", False)]
)
def test_ranges_over_whole_numbers_are_known_by_the_field(path: str, integers: bool):
    assert takes_only_integers(path, Uniform(uniform=(1, 5)), METHOD, TRAINING) is integers
