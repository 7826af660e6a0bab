"""What may stand nowhere in the package, by its syntax: code from data, checks that `python -O` removes, open doors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nerfstudio_ext import floors
from nerfstudio_ext.errors import UserError
from nerfstudio_ext.methods.torch_files import read_torch_file
from nerfstudio_ext.scenes import images
from nerfstudio_ext.tensor_files import parse_tensors
from tests.reliability.cases import holds
from tests.reliability.corpus_models import entry, os_system, tensor_file, torch_archive

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "nerfstudio_ext").rglob("*.py"))

UNPICKLERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "jsonpickle",
}
RUNNERS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "commands.getoutput",
}
LOADERS = {"torch.load", "torch.jit.load", "torch.export.load", "torch.hub.load", "torch.package.PackageImporter",
           "torch.utils.model_zoo.load_url"}  # fmt: skip
SAFE_READER = "methods/torch_files.py"
DOORS = {"viewer/gate.py": "compared with what the user asked for", "viewer/address.py": "compared, to print a link"}
ASSERTS = {
    "stages/stega/soft_decoding.py": "sizes of our own code tables",
    "stages/stega/curriculum.py": "a strength that our schedule computes",
    "stages/stega/statistics.py": "counts that our decoder makes",
    "stages/stega/scale_search.py": "pictures that our reader made",
    "stages/stega/bch.py": "words that our encoder made",
    "stages/stega/keys.py": "a width that is a constant",
    "fields/color_residual.py": "a layout that is built from checked settings",
    "kernels/cuda_launch.py": "a row of our own table",
}
"""Modules whose asserts compare numbers, and where these come from: never from a user."""


def inner(path: Path) -> str:
    return path.relative_to(ROOT / "nerfstudio_ext").as_posix()


def dotted(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""


def is_true(call: ast.Call, keyword: str) -> bool:
    found = [k.value for k in call.keywords if k.arg == keyword]
    return bool(found) and not (isinstance(found[0], ast.Constant) and found[0].value is False)


def faults_of_call(call: ast.Call, module: str) -> Iterator[str]:
    name = dotted(call.func)
    if name in RUNNERS:
        yield f"{name}() runs text"
    if name in LOADERS and not (name == "torch.load" and module == SAFE_READER and is_literally_safe(call)):
        yield f"{name}() reads what may be code"
    for keyword in ("shell", "allow_pickle", "trust_remote_code"):
        if is_true(call, keyword):
            yield f"{keyword}= runs code from data"


def is_literally_safe(call: ast.Call) -> bool:
    found = [k.value for k in call.keywords if k.arg == "weights_only"]
    return len(found) == 1 and isinstance(found[0], ast.Constant) and found[0].value is True


def is_about_types(test: ast.expr) -> bool:
    """Whether an assert only tells the type checker what our own code has made sure of."""
    if isinstance(test, ast.BoolOp):
        return all(is_about_types(value) for value in test.values)
    if isinstance(test, ast.UnaryOp):
        return is_about_types(test.operand)
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], (ast.Is, ast.IsNot)) and ast.unparse(test.comparators[0]) == "None"
    return isinstance(test, ast.Call) and dotted(test.func) == "isinstance"


def docstrings(tree: ast.AST) -> set[int]:
    """Where texts stand that explain and do nothing."""
    return {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}


def faults(tree: ast.AST, module: str) -> Iterator[str]:
    explaining = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name.split(".")[0] for alias in node.names} | {
                (getattr(node, "module", "") or "").split(".")[0]
            }
            yield from (f"line {node.lineno}: {name}" for name in names & UNPICKLERS)
        if isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {fault}" for fault in faults_of_call(node, module))
        if isinstance(node, ast.Assert) and not is_about_types(node.test) and module not in ASSERTS:
            yield f"line {node.lineno}: `assert {ast.unparse(node.test)}` checks nothing under -O"
        is_door = isinstance(node, ast.Constant) and node.value == "0.0.0.0" and id(node) not in explaining  # noqa: S104
        if is_door and module not in DOORS:
            yield f"line {node.lineno}: listens to everybody"


@holds("D3", "F23")
@pytest.mark.parametrize("path", MODULES, ids=inner)
def test_nothing_runs_what_came_as_data(path: Path) -> None:
    module = inner(path)
    found = list(faults(ast.parse(path.read_text()), module))
    assert not found, f"{module}: {found}"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from dill import loads", "import yaml", "eval(s)", "exec(s)", "torch.load(p)",
        "torch.load(p, weights_only=False)", "torch.load(p, weights_only=flag)", "torch.jit.load(p)", "os.system(c)",
        "subprocess.run(c, shell=True)", "subprocess.run(c, shell=flag)", "np.load(p, allow_pickle=True)",
        "def f(n):\n    assert n > 0", "def f(p):\n    assert p.exists()", "host = '0.0.0.0'",
        "AutoModel.from_pretrained(n, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_gate_refuses(source: str) -> None:
    assert list(faults(ast.parse(source), SAFE_READER))


@pytest.mark.parametrize(
    "source",
    ["torch.load(p, weights_only=True)", "assert x is not None", "assert isinstance(x, int) and y is None",
     "model.eval()", "run(c, shell=False)", '"""Listen on 0.0.0.0."""', "re.compile(p)"],
)  # fmt: skip
def test_the_gate_lets_ordinary_code_pass(source: str) -> None:
    assert not list(faults(ast.parse(source), SAFE_READER))


def test_no_exception_to_the_gate_is_left_over() -> None:
    for module in (*ASSERTS, *DOORS, SAFE_READER):
        assert (ROOT / "nerfstudio_ext" / module).is_file(), module


# -- Versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("package", "version"), [("torch", "2.9.1+cpu"), ("torch", "1.13"), ("torch", "nightly")])
def test_an_old_torch_reads_no_models(
    package: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.pth").write_bytes(torch_archive(os_system(tmp_path / "marker")))
    monkeypatch.setattr(f"{package}.__version__", version)
    for read in (
        lambda: read_torch_file(tmp_path / "model.pth"),
        lambda: parse_tensors(tensor_file({"a": entry()}, bytes(8)), where="a file"),
    ):
        with pytest.raises(UserError, match=rf"torch {re.escape(version)} is too old.*2\.10"):
            read()
    assert not (tmp_path / "marker").exists()


def test_an_old_pillow_opens_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    monkeypatch.setattr("PIL.__version__", "12.1.1")
    images._formats.cache_clear()
    with pytest.raises(UserError, match=r"pillow 12\.1\.1 is too old.*12\.2"):
        images.probe_image(tmp_path / "a.png")


def test_the_versions_here_are_new_enough_and_so_are_the_declared_ones() -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    for package, (floor, _) in floors.FLOORS.items():
        floors.require_floor(package)
        name = {"PIL": "pillow"}.get(package, package)
        assert f'"{name}>={".".join(map(str, floor))}"' in declared
