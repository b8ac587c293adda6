"""Every config in every one of its modes: loads, plans runs, and holds no field nobody reads."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from experiments.parity.arms import ARMS, TEACHERS
from experiments.parity.plan import base_keys, plan_runs, split_blocks
from experiments.parity.study import OPERATIONAL
from experiments.parity.trajectory import plan_trajectories

ROOT = Path(__file__).parents[1]
PATHS = sorted(p for p in (ROOT / "configs").glob("*.py") if "def get_config" in p.read_text())
PARITY = ("razor_parity", "razor_digits")
STUDIES = [path for path in PATHS if path.stem != "finetune"]  # which is about no result


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def modes_of(path):
    """The modes that the function accepts: the words it compares `mode` with, and its default."""
    tree = ast.parse(path.read_text())
    (function,) = [
        n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "get_config"
    ]
    (default,) = function.args.defaults
    words = {default.value}
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and getattr(node.left, "id", None) == "mode":
            for value in ast.walk(node.comparators[0]):
                if isinstance(value, ast.Constant):
                    words.add(value.value)
    return sorted(words)


MODES = [(path, mode) for path in PATHS for mode in modes_of(path)]
IDS = [f"{path.stem}:{mode}" for path, mode in MODES]
EVERY = pytest.mark.parametrize(("path", "mode"), MODES, ids=IDS)
EVERY_PARITY = pytest.mark.parametrize(
    ("path", "mode"),
    [pair for pair in MODES if pair[0].stem in PARITY],
    ids=[name for name in IDS if name.split(":")[0] in PARITY],
)


def leaves(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_the_modes_are_found():
    assert len(PATHS) >= 3
    assert [mode for path, mode in MODES if path.stem == "razor_parity"] == ["cpu", "full", "quick"]
    assert {mode for path, mode in MODES if path.stem == "quickstart"} == {"full", "quick"}


@EVERY
def test_loads(path, mode):
    config = load(path).get_config(mode)
    assert isinstance(config, ConfigDict)
    assert config.is_type_safe  # an override of another type is refused
    again = load(path).get_config(mode)
    assert config.to_dict() == again.to_dict()
    allowed = (int, float, str, bool, tuple)
    assert all(isinstance(value, allowed) for _, value in leaves(config))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_default_mode_is_full_and_an_unknown_one_is_named(path):
    module = load(path)
    assert module.get_config().to_dict() == module.get_config("full").to_dict()
    with pytest.raises(ValueError, match=r"mode='fulll' must be .*full.*quick"):
        module.get_config("fulll")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_opening_names_a_command_that_exists_and_every_mode(path):
    opening = ast.get_docstring(ast.parse(path.read_text()))
    assert re.search(r"[Ee]xpected", opening)
    assert re.search(r"minutes|hours|seeds", opening)  # how long, or how much
    script, arguments = re.search(r"python (experiments/\w+\.py)([^\n]*)", opening).groups()
    assert (ROOT / script).is_file()
    text = (ROOT / script).read_text()
    for flag in re.findall(r"--(\w+)", arguments):
        by_absl = re.search(rf'DEFINE_\w+\(\s*"{flag}"', text)
        assert by_absl or (flag == "config" and "cli.config_flag(" in text), flag
    for config in re.findall(r"--config=(configs/\w+\.py)", arguments):
        assert ROOT / config == path
    documented = set(re.findall(r"`:(\w+)`", opening))
    assert documented <= set(modes_of(path))
    if path.stem in PARITY:
        assert documented == set(modes_of(path))


def sources(*folders):
    return "\n".join(
        p.read_text() for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))
    )


@EVERY
def test_every_field_is_read_somewhere(path, mode):
    """By its own name, or by unpacking its group into keywords."""
    text = sources("experiments", "rlrazor")
    unread = []
    for name, _ in leaves(load(path).get_config(mode)):
        *groups, field = name.split(".")
        unpacked = groups and re.search(rf"\*\*\w+(\.\w+)*\.{groups[-1]}\b", text)
        looked_up = re.search(rf'"{field}"', text)  # config[field]
        unpacked = unpacked or (groups and f".{groups[-1]}.items()" in text)
        if not (re.search(rf"\.{field}\b", text) or unpacked or looked_up):
            unread.append(name)
    assert unread == []


@EVERY_PARITY
def test_has_the_fields_of_the_full_study_and_no_others(path, mode):
    full = load(ROOT / "configs" / "razor_parity.py").get_config()
    config = load(path).get_config(mode)
    assert {name for name, _ in leaves(config)} == {name for name, _ in leaves(full)}
    assert set(OPERATIONAL) <= set(config)


@EVERY_PARITY
def test_plans_runs_that_the_study_knows(path, mode):
    config = load(path).get_config(mode)
    runs = plan_runs(config, list(ARMS))
    assert len(runs) > 0
    assert len({run.name for run in runs}) == len(runs)
    assert {run.seed for run in runs} == set(range(config.sweep.seeds))
    assert sum(map(len, split_blocks(runs, config.runs_per_block))) == len(runs)
    keys = base_keys(runs)
    for run in plan_trajectories(config):
        assert run.arm in ARMS
        assert (run.seed, run.base_epochs) in keys
        assert ARMS[run.arm].teacher in (None, *TEACHERS)
    assert ARMS[config.teacher.arm].teacher is None  # a teacher that learns from its own answers


def test_the_full_study_is_the_papers_sweep():
    """15 rates from 3e-6 to 1e-3, two schedules, one and two epochs (RL's Razor, Appendix B.3)."""
    config = load(ROOT / "configs" / "razor_parity.py").get_config()
    runs = [r for r in plan_runs(config, list(ARMS)) if (r.arm, r.seed) == ("sft1", 0)]
    at_its_base = [r for r in runs if r.base_epochs == config.base.epochs]
    rates = sorted({r.learning_rate for r in at_its_base})
    assert (len(rates), rates[0], rates[-1]) == (15, 3e-6, 1e-3)
    # At a constant rate, one epoch is the first half of two.
    assert len(at_its_base) == 15 * 3
    assert config.model.widths == (512, 256)
    assert config.base.examples_per_task == 500
