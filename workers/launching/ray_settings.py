"""Which settings a search tries: drawn with Ray Tune's sampling, or proposed by Optuna, each under a trial's number."""

import importlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.variant_generator import generate_variants

from workers.launching.search_config import Choice, Grid, LogUniform, SearchConfig, Uniform, Value
from workers.launching.search_space import takes_only_integers
from workers.launching.trials import Trial
from workers.launching.work import SearchWork

NUMBER = "number"
"""Key of a trial's number in its Tune config, beside the paths of its setting."""


class Settings(Searcher):
    """Hands Tune the settings that are still to be tried, then what Optuna proposes, each with the trial's number."""

    def __init__(self, work: SearchWork, started: Sequence[Trial], is_ending: Callable[[], bool]) -> None:
        config = work.search
        super().__init__(metric=config.metric, mode=config.mode)
        self._config, self._is_ending = config, is_ending
        numbers = {trial.number for trial in started}
        again = [(trial.number, trial.setting) for trial in started if not trial.has_ended]
        drawn = list(enumerate(draw_settings(work))) if config.searcher == "random" else []
        self._waiting = deque([*again, *((number, setting) for number, setting in drawn if number not in numbers)])
        self._next = max(numbers, default=-1) + 1
        self._to_propose = 0 if config.searcher == "random" else max(0, config.num_trials - len(started))
        self._optuna = _optuna(work, started) if self._to_propose else None
        self._proposed: set[str] = set()

    def __getstate__(self) -> dict:
        return {}  # Tune pickles its searcher for a restore that is never made

    @property
    def num_missing(self) -> int:
        return len(self._waiting) + self._to_propose

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._is_ending():
            return Searcher.FINISHED
        if self._waiting:
            number, setting = self._waiting.popleft()
            return {NUMBER: number, **setting}
        if self._optuna is None or not self._to_propose:
            return Searcher.FINISHED
        self._proposed.add(trial_id)
        self._to_propose -= 1
        self._next += 1
        return {NUMBER: self._next - 1, **_decoded(self._config, self._optuna.suggest(trial_id))}

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        if self._optuna is not None and trial_id in self._proposed and self.metric in result:
            self._optuna.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        if self._optuna is not None and trial_id in self._proposed:
            self._optuna.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records say what is missing."""


def setting_of(config: Mapping[str, Any]) -> tuple[int, dict[str, Value]]:
    """A trial's number and setting from its Tune config."""
    return config[NUMBER], {path: value for path, value in config.items() if path != NUMBER}


def draw_settings(work: SearchWork) -> list[dict[str, Value]]:
    """Every setting of a random search, by trial number: the same for the same space and seed, none twice."""
    random = np.random.default_rng(work.search.seed)
    drawn: list[dict[str, Value]] = []
    for _ in range(work.search.num_trials):
        for _, variant in generate_variants({"config": _domains(work)}, random_state=random):
            setting = _decoded(work.search, variant["config"])
            if setting not in drawn:
                drawn.append(setting)
    return drawn


def _domains(work: SearchWork) -> dict[str, Any]:
    """The space in Tune's terms.  Values of a list are drawn by their place, so that Tune never looks into them."""
    domains: dict[str, Any] = {}
    for path, found in work.search.space.items():
        match found:
            case Grid():
                domains[path] = tune.grid_search(list(range(len(found.grid))))
            case Choice():
                domains[path] = tune.choice(list(range(len(found.choice))))
            case Uniform() | LogUniform():
                low, high = found.uniform if isinstance(found, Uniform) else found.loguniform
                if takes_only_integers(path, found, work.method, work.training):
                    draw = tune.randint if isinstance(found, Uniform) else tune.lograndint
                    domains[path] = draw(int(low), int(high) + 1)
                else:
                    draw = tune.uniform if isinstance(found, Uniform) else tune.loguniform
                    domains[path] = draw(float(low), float(high))
    return domains


def _decoded(config: SearchConfig, point: Mapping[str, Any]) -> dict[str, Value]:
    """Values of lists by their place, and plain Python numbers."""
    return {path: _value(found, point[path]) for path, found in config.space.items()}


def _value(found: Any, drawn: Any) -> Value:
    match found:
        case Grid():
            return found.grid[drawn]
        case Choice():
            return found.choice[drawn]
        case _:
            return int(drawn) if isinstance(drawn, int | np.integer) else float(drawn)


def _encoded(config: SearchConfig, setting: Mapping[str, Value]) -> dict[str, Any]:
    places: dict[str, Any] = {}
    for path, found in config.space.items():
        places[path] = found.choice.index(setting[path]) if isinstance(found, Choice) else setting[path]
    return places


def _optuna(work: SearchWork, started: Sequence[Trial]) -> Any:
    """Optuna's TPE, told what earlier attempts found."""
    search_room = importlib.import_module("ray.tune.search.optuna")  # Optuna is there only where a search asks for it
    config = work.search
    ended = [trial for trial in started if trial.has_ended and trial.value(config.metric) is not None]
    found = search_room.OptunaSearch(
        space=search_room.OptunaSearch.convert_search_space(_domains(work)),
        metric=config.metric,
        mode=config.mode,
        seed=config.seed + len(started),  # the same again would repeat what the attempt before drew first
    )
    for trial in ended:
        found.add_evaluated_point(_encoded(config, trial.setting), trial.value(config.metric))
    return found
