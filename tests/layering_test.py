"""The walls of the house: who may import whom, and where compiling, flax and files may appear."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"rlrazor", "experiments", "configs", "tests"}
# Folder of rlrazor/ -> what of ours it may import besides itself.
MAY_IMPORT = {
    "types": (),
    "lines": ("types",),
    "ops": ("types",),
    "runtime": ("types",),
    "training": ("types",),
    "losses": ("types", "ops"),
    "tasks": ("types", "ops"),
    "models": ("types", "ops", "runtime.tensor_files", "runtime.hub"),
    "analysis": ("types", "ops", "lines"),
    "sampling": ("types", "ops", "tasks.protocol"),
    "evaluation": ("types", "ops", "tasks.protocol", "sampling"),
    "policies": ("types", "ops", "models", "sampling", "tasks.protocol", "runtime.mesh"),
    "methods": (
        "types", "lines", "ops", "losses", "policies", "sampling", "tasks.protocol", "training",
        "models.value_head",
    ),
    "studies": (
        "types", "lines", "ops", "losses", "models", "training", "tasks.protocol", "sampling",
        "evaluation", "runtime", "policies", "methods",
    ),
    "api": (
        "types", "lines", "ops", "models", "policies", "methods", "sampling", "studies", "runtime",
        "tasks.protocol", "tasks.questions", "analysis",
    ),
}  # fmt: skip
# The door, rlrazor/__init__.py, shows what lies in these, and imports nothing when it is opened.
DOOR = (
    "analysis", "api", "losses", "methods", "ops", "policies", "sampling", "studies",
    "tasks.protocol",
)  # fmt: skip
# What a study is made of: no task of ours but by the protocol.
TRUNK = ("studies", "methods", "policies", "api")
PARAMETERS, LINES_OF_FUNCTION, LINES_OF_FILE = 8, 80, 400
# A file a measurement, a judge, a format for two kinds of files, and sizes: each is one argument.
MORE_PARAMETERS = {("rlrazor/api/questions.py", "questions")}
COMPILING_KEYWORDS = {"in_shardings", "out_shardings", "donate_argnums", "donate_argnames"}
COMPILING_NAMES = {"jit", "pjit", "pmap", "shard_map", "device_put", "NamedSharding"}
MESH = Path("rlrazor/runtime/mesh.py")


def files(*folders):
    return [p.relative_to(ROOT) for f in folders for p in sorted((ROOT / f).rglob("*.py"))]


def tree_of(path):
    return ast.parse((ROOT / path).read_text(), str(path))


def imports(tree):
    """Every imported name, fully dotted, wherever in the file; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            yield from (f"{dots}{node.module or ''}.{alias.name}" for alias in node.names)


def within(name, module):
    return name == module or name.startswith(f"{module}.")


def stranger(path, name):
    """Whether the library or config file `path` must not import `name`."""
    if name.startswith("."):
        return True  # relative: the reader should see which wall is crossed
    if name.split(".")[0] not in OURS:
        return False
    if path.parts[0] == "configs":
        return not within(name, "configs")
    folder = Path(path.parts[1]).stem
    allowed = DOOR if folder == "__init__" else (folder, *MAY_IMPORT[folder])
    return not any(within(name, f"rlrazor.{module}") for module in allowed)


def compiles(tree):
    """Names and keywords in the file that compile, shard or donate."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in COMPILING_KEYWORDS:
            yield node.arg
        if isinstance(node, ast.Attribute) and node.attr in COMPILING_NAMES:
            yield node.attr
    yield from (n for n in imports(tree) if n.split(".")[-1] in COMPILING_NAMES)


def dangers(tree):
    """Ways to run text or foreign bytes as code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec"):
            yield ast.unparse(node.func)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield from [] if ast.unparse(node.value) == "False" else ["allow_pickle"]
    loaders = ("pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib")
    yield from (n for n in imports(tree) if n.split(".")[0] in loaders)


def test_every_folder_has_its_row():
    found = {p.stem for p in (ROOT / "rlrazor").iterdir() if not p.name.startswith("__")}
    assert found <= set(MAY_IMPORT)
    assert {"types", "ops", "runtime", "training", "losses", "evaluation"} <= found


@pytest.mark.parametrize("path", files("rlrazor", "configs"), ids=str)
def test_imports_stay_within_the_walls(path):
    assert [name for name in imports(tree_of(path)) if stranger(path, name)] == []


def test_flax_linen_stays_in_models():
    for path in files("rlrazor", "experiments", "configs"):
        if path.parts[:2] == ("rlrazor", "models"):
            continue
        names = [name for name in imports(tree_of(path)) if within(name, "flax")]
        assert all(within(name, "flax.struct") for name in names), path


def test_only_the_mesh_compiles_shards_and_donates():
    # The theory scripts compile small float64 functions of their own, on one device.
    for path in files("rlrazor", "experiments", "configs"):
        if path != MESH and path.parts[:2] != ("experiments", "theory"):
            assert list(compiles(tree_of(path))) == [], path
    assert {"jit", "donate_argnums", "shard_map"} <= set(compiles(tree_of(MESH)))


def test_nothing_runs_text_or_foreign_bytes_as_code():
    for path in files("rlrazor", "experiments", "configs"):
        assert list(dangers(tree_of(path))) == [], path


def names_of(tree):
    """Every name that a file reads or defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ClassDef):
            yield node.name


def kinds_asked_for(tree):
    """The classes that `isinstance` is asked about."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            yield from names_of(node.args[1])


def defaults_of_tables(tree):
    """`TABLE.get(name, default)`: a misspelling would be another study. TABLE is a constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            table = ast.unparse(node.func.value)
            tabled = table.split(".")[-1].isupper() or table.endswith("all_methods()")
            if node.func.attr == "get" and len(node.args) > 1 and tabled:
                yield ast.unparse(node)


def over_budget(path, tree):
    """Functions of too many parameters or lines; `self` is no parameter."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        a = node.args
        count = sum(x.arg != "self" for x in (*a.posonlyargs, *a.args, *a.kwonlyargs))
        if count > PARAMETERS and (str(path), node.name) not in MORE_PARAMETERS:
            yield f"{node.name} has {count} parameters"
        lines = node.end_lineno - node.lineno + 1
        if lines > LINES_OF_FUNCTION:
            yield f"{node.name} has {lines} lines"


def test_there_is_one_loop_one_batch_and_one_line_writer():
    """Parity keeps a sweep of its own, many runs in one program, and arrays of its own."""
    owners = {
        "Checkpoints": {"rlrazor/studies/drive.py"},
        "ResultsFile": {"rlrazor/studies/drive.py"},
        "check_line": {"rlrazor/studies/lines.py", "rlrazor/analysis/results.py"},
    }
    for name, allowed in owners.items():
        users = {
            str(path)
            for path in files("rlrazor", "experiments")
            if name in {one.split(".")[-1] for one in imports(tree_of(path))}
        }
        assert users <= allowed, name
    for path in files("rlrazor", "experiments"):
        classes = {n.name for n in ast.walk(tree_of(path)) if isinstance(n, ast.ClassDef)}
        copies = {c for c in classes if c in ("Rows", "PlannedRun", "Turns", "Critique")}
        assert not copies or path == Path("rlrazor/types.py"), path


def test_nobody_asks_which_task_it_is():
    tasks = {"GeneralPoints", "Procedural", "PromptTask"}
    for path in files("rlrazor", "experiments"):
        assert not tasks & set(kinds_asked_for(tree_of(path))), path


def test_a_misspelt_name_is_never_another_study():
    for path in files(*(f"rlrazor/{folder}" for folder in TRUNK), "experiments"):
        if path.parts[:2] != ("experiments", "planning"):  # of the compiler's words
            assert list(defaults_of_tables(tree_of(path))) == [], path


@pytest.mark.parametrize("path", files(*(f"rlrazor/{folder}" for folder in TRUNK)), ids=str)
def test_the_trunk_keeps_its_budget(path):
    assert len((ROOT / path).read_text().splitlines()) <= LINES_OF_FILE
    assert list(over_budget(path, tree_of(path))) == []


@pytest.mark.parametrize(
    ("path", "code", "found"),
    [
        ("rlrazor/losses/nll.py", "from rlrazor.models.mlp import MLP", True),
        ("rlrazor/losses/nll.py", "def f():\n    import rlrazor.tasks.protocol", True),
        ("rlrazor/losses/nll.py", "from rlrazor.ops.masked import masked_mean", False),
        ("rlrazor/losses/nll.py", "from rlrazor import types, models", True),
        ("rlrazor/losses/nll.py", "from . import dft", True),
        ("rlrazor/types.py", "import rlrazor.ops.kl", True),
        ("rlrazor/evaluation/retention.py", "from rlrazor.tasks.protocol import Verdict", False),
        ("rlrazor/evaluation/retention.py", "from rlrazor.tasks.parity import verifier", True),
        ("rlrazor/studies/drive.py", "from rlrazor.tasks.protocol import Task", False),
        ("rlrazor/studies/drive.py", "from rlrazor.tasks.parity import verifier", True),
        ("rlrazor/studies/drive.py", "from rlrazor.analysis import report", True),
        ("rlrazor/methods/grpo.py", "from rlrazor.runtime.mesh import make_mesh", True),
        ("rlrazor/runtime/mesh.py", "from experiments import cli", True),
        ("rlrazor/__init__.py", "from rlrazor.studies.drive import drive", False),
        ("rlrazor/__init__.py", "from rlrazor.tasks.general_points.task import make", True),
        ("rlrazor/__init__.py", "from rlrazor.runtime.mesh import make_mesh", True),
        ("rlrazor/api/model.py", "from rlrazor.tasks.general_points.task import make", True),
        ("configs/a.py", "from configs import razor_parity", False),
        ("configs/a.py", "import rlrazor", True),
        ("configs/a.py", "import numpy", False),
    ],
)
def test_the_check_of_imports_sees_what_it_should(path, code, found):
    assert any(stranger(Path(path), name) for name in imports(ast.parse(code))) == found


@pytest.mark.parametrize(
    ("check", "code", "found"),
    [
        (compiles, "@jax.jit\ndef f(x): ...", True),
        (compiles, "from jax import jit", True),
        (compiles, "compile_once(f, donate_argnums=0)", True),
        (compiles, "jax.vmap(f)", False),
        (dangers, "eval('1')", True),
        (dangers, "model.eval()", False),
        (dangers, "import pickle as p", True),
        (dangers, "np.load(f, allow_pickle=True)", True),
        (dangers, "np.load(f, allow_pickle=False)", False),
        (kinds_asked_for, "isinstance(task, GeneralPoints)", True),
        (kinds_asked_for, "type(task)", False),
        (defaults_of_tables, "METHODS.get(name, grpo)", True),
        (defaults_of_tables, "methods.all_methods().get(name, None)", True),
        (defaults_of_tables, "METHODS[name]", False),
        (functools.partial(over_budget, "a.py"), "def f(a, b, c, d, e, *, f, g, h, i): ...", True),
        (functools.partial(over_budget, "a.py"), "def f(self, b, c, d, e, f, g, h, i): ...", False),
        (functools.partial(over_budget, "a.py"), "def f():" + "\n    x" * 80, True),
    ],
)
def test_the_other_checks_see_what_they_should(check, code, found):
    assert bool(list(check(ast.parse(code)))) == found
