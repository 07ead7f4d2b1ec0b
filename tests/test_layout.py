"""House rules that a program can check: which way imports point, what they load, sizes."""

import ast
import os
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gopd_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))

# From the rooms that know least to the commands. A module may import from its own layer or from a
# lower one; the longest matching prefix decides. Modules named __main__ are commands.
LAYERS = (
    ("types",),
    ("runtime",),
    ("cli", "objective", "rewards", "kernels"),
    ("models",),
    ("data", "rollout"),
    ("learner",),
    ("evaluate.settings", "check.settings"),
    ("config", "tiny"),
    ("generate",),
    ("evaluate",),
    ("check",),
    ("presets", "train", "export", "expo", "report"),
    ("benchmark", "plan", "preview", "reproduce", "tiny.make"),
)
COMMAND = len(LAYERS)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ROOMS_OF_ONE_LAYER = ("objective", "rewards", "kernels", "data", "rollout")


def name_of(path):
    """The dotted name of a module within gopd_jax; a package goes by its own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(p) for p in MODULES}


def rank(name):
    if name.split(".")[-1] == "__main__":
        return COMMAND
    parts = name.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next(RANK[prefix] for prefix in prefixes if prefix in RANK)


def imports_of(path):
    """(line, dotted name within gopd_jax) of every import of the package, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gopd_jax":
            module = node.module.removeprefix("gopd_jax").removeprefix(".")
            for alias in node.names:
                submodule = f"{module}.{alias.name}".removeprefix(".")
                target = submodule if submodule in NAMES else module
                if target:
                    yield node.lineno, target
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("gopd_jax."):
                    yield node.lineno, alias.name.removeprefix("gopd_jax.")


def upward_imports(paths):
    found = []
    for path in paths:
        importer = name_of(path)
        for line, target in imports_of(path):
            room, other = importer.split(".")[0], target.split(".")[0]
            sideways = room != other and {room, other} <= set(ROOMS_OF_ONE_LAYER)
            if importer and (
                rank(target) > rank(importer) or sideways and not allowed(room, other)
            ):
                found.append(f"{path.relative_to(ROOT)}:{line} imports {target}")
    return found


def allowed(room, other):
    """Rooms of one layer are independent, but data knows the answers that rewards can verify."""
    return rank(room) > rank(other) or (room, other) == ("data", "rewards")


def test_no_import_points_upward():
    assert upward_imports(MODULES) == []


def test_an_upward_import_would_be_seen(tmp_path, monkeypatch):
    """The check itself: settings, functions, submodules and rooms side by side."""
    source = "from gopd_jax.learner import step\nfrom gopd_jax.types import Prompt\n"
    source += (
        "def f():\n    from gopd_jax.train.run import run\n    import gopd_jax.rollout.engine\n"
    )
    package = tmp_path / "gopd_jax"
    (package / "models").mkdir(parents=True)
    (package / "models" / "bad.py").write_text(source)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", package)
    found = upward_imports([package / "models" / "bad.py"])
    assert [line.split()[-1] for line in found] == ["learner.step", "train.run", "rollout.engine"]


def test_importing_the_config_loads_no_kernel_and_no_transformers():
    program = (
        "import sys, gopd_jax.config\n"
        "heavy = ('jax', 'flax', 'transformers', 'tensorflow', 'grain')\n"
        "print([m for m in sys.modules if m in heavy or 'pallas' in m])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[]\n"


def test_a_package_is_a_docstring():
    """Importing a settings module must not load the room around it."""
    for path in PACKAGE.rglob("*/__init__.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        code = [n for n in tree.body[1:] if not isinstance(n, (ast.Assign, ast.FunctionDef))]
        assert not [n for n in code if name_of(path) != "tiny"], path


@pytest.mark.parametrize("folder", ["gopd_jax", "tests", "configs", "examples"])
def test_files_have_at_most_400_lines(folder):
    long = {
        str(p.relative_to(ROOT)): p.read_text().count("\n")
        for p in (ROOT / folder).rglob("*.*")
        if p.suffix in (".py", ".js", ".css", ".sh") and p.read_text().count("\n") > 400
    }
    assert long == {}


def test_long_functions_say_why():
    """Over 60 lines besides its docstring, a function has the comment `# Long: reason`."""
    unexplained = []
    for path in MODULES:
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(node, ast.FunctionDef):
                continue
            docstring = node.body[0] if ast.get_docstring(node) else None
            described = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
            body = lines[node.lineno - 1 : node.end_lineno]
            explained = any(line.strip().startswith("# Long: ") for line in body)
            if len(body) - described > 60 and not explained:
                unexplained.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert unexplained == []


def test_no_two_files_of_tests_have_one_name():
    """pytest imports them by name, and stops at the second of two."""
    names = [p.name for p in (ROOT / "tests").rglob("*.py") if p.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))


def test_tests_use_no_private_name():
    """Neither `from gopd_jax.x import _name` nor an attribute `thing._name`."""
    found = []
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gopd_jax"):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                names = [] if own else [node.attr]
            else:
                continue
            found += [
                f"{path.relative_to(ROOT)}:{node.lineno} {n}"
                for n in names
                if n.startswith("_") and not n.startswith("__")
            ]
    assert found == []
