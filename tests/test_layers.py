"""The architecture as tests: who may import whom, how large things may grow, what may never appear."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nerfstudio_ext"

LAYERS = {
    "errors": 0,
    "cameras": 1, "lenses": 1, "rays": 1, "progress": 1, "strict_json": 1,
    "camera_paths": 1, "metrics": 1, "colormaps": 1, "normals": 1,
    "floors": 1, "tensor_files": 1, "memory": 1, "array_files": 1,
    "kernels": 2,
    "fields": 3, "renderer": 3, "scenes": 3,
    "methods": 4,
    "training": 5, "stages": 5,
    "viewer": 6, "exporters": 6, "worlds": 6,
    "bench": 7, "bench_gnt": 7, "viewer_bench": 7, "cluster": 7, "bench_cluster": 7, "cli": 7, "__main__": 7,
}  # fmt: skip
NEIGHBOURS = {
    ("cameras", "lenses"), ("cameras", "rays"), ("camera_paths", "cameras"), ("camera_paths", "lenses"),
    ("camera_paths", "strict_json"), ("normals", "cameras"),
    ("tensor_files", "floors"), ("tensor_files", "strict_json"),
    ("stages", "training"), ("viewer", "exporters"), ("cli", "bench"), ("cli", "viewer_bench"),
    ("viewer_bench", "bench"), ("__main__", "cli"), ("cli", "bench_gnt"), ("bench_gnt", "viewer_bench"),
    ("cli", "cluster"), ("cli", "bench_cluster"), ("bench_cluster", "bench"), ("bench_cluster", "cluster"),
}  # fmt: skip
"""Imports inside one layer that are wanted; every other module of the same layer is out of reach."""
WINDOW_ONLY = {"viewer", "exporters"}
"""These see layers 0 and 1 and the renderer, nothing of how scenes are represented or trained."""
MAX_FILE, MAX_CLASS, MAX_FUNCTION = 400, 200, 60
SIZE_EXCEPTIONS: dict[str, str] = {
    "nerfstudio_ext/kernels/cpu_step.py::seen_samples": "one loop over shared scratch; its parts need 20 arguments",
    "nerfstudio_ext/kernels/cpu_step.py::field_step_kernel": "scratch, and the loop that calls the parts",
}
"""`path` or `path::name` -> reason."""

MODULES = sorted(PACKAGE.rglob("*.py"))
ALL_CODE = sorted([*MODULES, *(p for d in ("apps", "data", "tests") for p in (ROOT / d).rglob("*.py"))])


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def component(path: Path) -> str:
    """First name below the package: `kernels` for kernels/cpu.py, "" for the package's own __init__."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0].removeprefix("__init__")


def imported_components(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """(component of ours, line) of every import statement, wherever it stands in the file."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(dotted, package) if node.level else dotted
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "nerfstudio_ext" and len(parts) > 1 and parts[1] != "__version__":
                yield parts[1], node.lineno


def refusal(importer: str, imported: str) -> str:
    """Why this import is not allowed; empty when it is."""
    if imported == importer:
        return ""
    if imported not in LAYERS:
        return f"'{imported}' has no layer: add it to LAYERS"
    is_neighbour = (importer, imported) in NEIGHBOURS
    if importer in WINDOW_ONLY and LAYERS[imported] > 1 and imported != "renderer" and not is_neighbour:
        return f"{importer} sees layers 0-1 and renderer only"
    if LAYERS[imported] > LAYERS[importer]:
        return f"layer {LAYERS[importer]} imports layer {LAYERS[imported]}"
    if LAYERS[imported] == LAYERS[importer] and not is_neighbour:
        return "same layer, and not a named neighbour"
    return ""


@pytest.mark.parametrize("path", [p for p in MODULES if component(p)], ids=label)
def test_imports_respect_the_layers(path: Path) -> None:
    importer = component(path)
    assert importer in LAYERS, f"{importer} has no layer: add it to LAYERS"
    parts = ("nerfstudio_ext", *path.relative_to(PACKAGE).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    found = imported_components(ast.parse(path.read_text()), module, is_package)
    wrong = [f"{label(path)}:{line} imports {name}: {why}" for name, line in found if (why := refusal(importer, name))]
    if path.name == "stega_extract.py":
        wrong += [f"{label(path)}: extraction reads images only" for name, _ in found if name in ("fields", "methods")]
    assert not wrong, "\n".join(wrong)


def test_the_rule_itself_refuses() -> None:
    tree = ast.parse("from ..fields import hash_field\nfrom .. import methods\nimport nerfstudio_ext.viewer.server")
    found = [name for name, _ in imported_components(tree, "nerfstudio_ext.viewer.server", False)]
    assert found == ["fields", "methods", "viewer"]
    assert refusal("viewer", "fields") and refusal("viewer", "training") and refusal("exporters", "scenes")
    assert refusal("rays", "cameras") and refusal("kernels", "fields") and refusal("errors", "rays")
    assert not refusal("viewer", "renderer") and not refusal("methods", "kernels") and not refusal("kernels", "kernels")


@pytest.mark.parametrize("path", ALL_CODE, ids=label)
def test_sizes(path: Path) -> None:
    text = path.read_text()
    too_large = []
    if len(text.splitlines()) > MAX_FILE:
        too_large.append((label(path), len(text.splitlines()), MAX_FILE))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            limit = MAX_CLASS if isinstance(node, ast.ClassDef) else MAX_FUNCTION
            if lines > limit:
                too_large.append((f"{label(path)}::{node.name}", lines, limit))
    wrong = [f"{name}: {lines} lines, limit {limit}" for name, lines, limit in too_large if name not in SIZE_EXCEPTIONS]
    assert not wrong, "\n".join(wrong)


def forbidden(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, reason) of everything that may not appear: it hides errors or runs code that came as data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield node.lineno, "star import"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            if names & {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}:
                yield node.lineno, "pickle runs code from data"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "bare except"
        if isinstance(node, ast.Call):
            yield from ((node.lineno, reason) for reason in _forbidden_call(node))


FORBIDDEN_CALLS = {
    "eval", "exec", "os.system", "os.popen", "torch.load", "torch.jit.load", "torch.export.load",
    "yaml.load", "yaml.unsafe_load",
}  # fmt: skip


def _forbidden_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in FORBIDDEN_CALLS:
        yield f"{name}() runs code from data"
    for keyword in node.keywords:
        is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        if keyword.arg in ("shell", "allow_pickle") and is_true:
            yield f"{keyword.arg}=True runs code from data"


SAFE_READER = "nerfstudio_ext/methods/torch_files.py"
"""The one module that may call torch.load, and only in its restricted mode; checkpoints of others come in there."""


def is_allowed(path: Path, line: int) -> bool:
    """Whether a forbidden call is the safe reader's own."""
    source = path.read_text().splitlines()[line - 1]
    return label(path) == SAFE_READER and "torch.load(" in source and "weights_only=True" in source


@pytest.mark.parametrize("path", ALL_CODE, ids=label)
def test_nothing_forbidden(path: Path) -> None:
    found = [(line, reason) for line, reason in forbidden(ast.parse(path.read_text())) if not is_allowed(path, line)]
    wrong = [f"{label(path)}:{line}: {reason}" for line, reason in found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "from x import *", "import pickle", "from pickle import loads", "try:\n  f()\nexcept:\n  g()", "torch.load(p)",
        "yaml.load(f)", "run(c, shell=True)", "eval(s)", "np.load(p, allow_pickle=True)", "os.system(c)",
    ],
)  # fmt: skip
def test_the_gate_itself_refuses(source: str) -> None:
    assert list(forbidden(ast.parse(source)))


def test_the_gate_lets_ordinary_code_pass() -> None:
    assert not list(forbidden(ast.parse("from x import y\nnp.load(p)\nmodel.eval()\nrun(c, shell=False)")))
