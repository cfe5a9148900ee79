"""Tests of the package structure: imports point down, and the command line imports little."""

import ast
import builtins
import importlib
import subprocess
import sys
from pkgutil import resolve_name

import pytest

from stpp.run.code import ENTRY, PACKAGE, import_closure, imports, source_path

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [f"stpp.{'.'.join(f.relative_to(PACKAGE).with_suffix('').parts)}" for f in FILES if f.stem != "__init__"]

LAYERS = {
    "store": 0,
    "params": 1,
    "run": 2,
    "tracking": 3,
    "data": 3,
    "ingest": 4,
    "models": 4,
    "engine": 5,
    "selftrain": 6,
    "deploy": 6,
    "report": 6,
    "audit": 6,
    "paper": 7,
    "api": 7,
    "stages": 8,
    "cli": 9,
    "__main__": 10,
}


TABLES = {
    "stpp.engine.optimizers",
    "stpp.models.networks",
    "stpp.selftrain.rankings",
    "stpp.selftrain.scoring.criteria",
    "stpp.selftrain.online.methods",
    "stpp.ingest.formats",
    "stpp.ingest.layouts",
    "stpp.data.augmentations",
    "stpp.deploy.task_formats",
}
"""Tables (name -> MODULE:OBJECT). They import nothing, so every module may import them."""


def room(module: str) -> str:
    return module.split(".")[1]


def test_imports_point_down() -> None:
    for module in MODULES:
        for name in imports(module):
            if room(name) != room(module) and name not in TABLES:
                assert LAYERS[room(name)] < LAYERS[room(module)], f"{module} imports {name}"


def test_every_room_has_a_layer() -> None:
    assert {room(m) for m in MODULES} == set(LAYERS)


def test_tables_import_nothing_and_all_their_entries_exist() -> None:
    for module in TABLES:
        tree = ast.parse(source_path(module).read_text())
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)], module
        for table in vars(importlib.import_module(module)).values():
            for entry in table.values() if isinstance(table, dict) and table is not vars(builtins) else ():
                if isinstance(entry, str) and ENTRY.fullmatch(entry):
                    assert callable(resolve_name(entry)), entry


def test_only_stages_import_tracking() -> None:
    for module in MODULES:
        if room(module) not in ("stages", "tracking"):
            assert not any(room(name) == "tracking" for name in imports(module)), module


def test_only_tracking_and_served_import_mlflow_and_no_module_imports_dvc() -> None:
    for path in FILES:
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        assert "dvc" not in names, path
        tracks = path.parent.name == "tracking" or path.stem == "served"  # stpp.deploy.served runs inside MLflow
        assert "mlflow" not in names or tracks, path


def test_init_files_hold_a_docstring_at_most() -> None:
    for path in FILES:
        if path.stem == "__init__":
            assert all(isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body), path


def test_no_module_has_a_catch_all_name() -> None:
    assert not {f.stem for f in FILES} & {"utils", "helpers", "common", "misc", "base", "manager"}


def test_the_command_line_imports_no_heavy_package() -> None:
    heavy = ("torch", "mlflow", "matplotlib", "cv2", "numpy", "pydantic", "ruamel.yaml")
    code = f"import sys, stpp.cli; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "stpp.store.files",
        "stpp.params.models",
        "stpp.ingest.splits",
        "stpp.tracking.run",
        "stpp.stages.report",
        "stpp.stages.select",
    ],
)
def test_modules_for_files_and_tables_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_the_training_core_needs_neither_mlflow_nor_dvc() -> None:
    reached = (
        import_closure("stpp.engine.fit")
        | import_closure("stpp.selftrain.scoring.stability")
        | import_closure("stpp.models.build")
    )
    assert not any(room(name) == "tracking" for name in reached)
    code = (
        "import sys; sys.modules['mlflow'] = sys.modules['dvc'] = None\nimport stpp.engine.fit, stpp.selftrain.pseudo"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_import_closure_includes_imports_inside_functions() -> None:
    reached = import_closure("stpp.stages.train")
    assert {"stpp.engine.fit", "stpp.data.transforms", "stpp.models.backbone", "stpp.engine.optim"} <= reached
    assert not any(m.startswith("stpp.report") for m in reached)
