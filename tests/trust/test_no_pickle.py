"""Laws of code that is not ours: nothing that came from outside is unpickled, evaluated or run."""

import ast
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import SpecError
from service.spec import parse_spec

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("api", "service", "workers", "grouping", "bench")
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pandas.read_pickle", "pd.read_pickle"}
YAML = {"yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.full_load_all", "yaml.unsafe_load_all"}
SAFE = {"np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
SAFE_LOADERS = {"_Loader"}  # of service/reading.py, a CSafeLoader


def trees() -> Iterator[tuple[str, ast.AST]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def faults_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in CALLS | YAML:
            yield f"calls {called}"
        if called in SAFE and given.get(SAFE[called][0]) != str(SAFE[called][1]):
            yield f"calls {called} without {SAFE[called]}"
        if called == "yaml.load" and given.get("Loader") not in SAFE_LOADERS:
            yield "calls yaml.load with a loader that is not known to be safe"
        if given.get("shell") == "True" or given.get("trust_remote_code") == "True":
            yield f"calls {called} with {given}"


def test_nothing_in_the_rooms_unpickles_or_evaluates() -> None:
    found = [f"{path}: {fault}" for path, tree in trees() for fault in faults_of(tree)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_scan_finds_what_it_looks_for(text: str) -> None:
    assert list(faults_of(ast.parse(text)))


class Evil:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there afterwards."""
    place = tmp_path / "trace"
    pickle.loads(pickle.dumps(Evil(place)))
    assert place.exists(), "the trap itself works"
    place.unlink()
    yield place
    assert not place.exists(), "something was unpickled"


def test_arrays_that_hold_objects_are_refused(tmp_path: Path, trace: Path) -> None:
    np.savez(tmp_path / "evil.npz", gradients=np.array([Evil(trace)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"), np.load(tmp_path / "evil.npz", allow_pickle=False) as a:
        a["gradients"]
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(ValueError, match="pickle"):
        np.load(tmp_path / "bare.npz", allow_pickle=False)


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/object/new:pathlib.Path ['{}']",
        "!!python/name:os.system",
        "&a [*a]",
    ],
)
def test_a_description_runs_nothing(trace: Path, value: str) -> None:
    with pytest.raises(SpecError, match=r"YAML tag|YAML alias"):
        parse_spec(f"name: {value.format(trace)}\n")
