"""What README, docs/ and CONTRIBUTING say exists: scripts, flags, fields, files, methods, links."""

import ast
import importlib.util
import json
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from rlrazor.methods import methods

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *GUIDES]
SCRIPT = re.compile(r"experiments/(?:\w+/)*\w+\.py")
FOLDERS = ("rlrazor", "experiments", "configs", "docs", "tests")
BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page, language=r"\w*"):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page):
    """Every command that runs one of our scripts, as one line, with the script's name."""
    for line in "\n".join(blocks(page)).replace("\\\n", " ").splitlines():
        found = SCRIPT.search(line)
        if found and "pkill" not in line:
            yield found[0], line[found.end() :].partition(" #")[0]


COMMANDS = [(page.name, *command) for page in PAGES for command in commands(page)]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config_of(arguments):
    """The config that a command names, in its mode; None if it names none."""
    found = re.search(r"--config=(\S+?\.py)(?::(\w+))?\s", arguments)
    if found is None:
        return None
    module = load(ROOT / found[1])
    return module.get_config(found[2]) if found[2] else module.get_config()


CONFIGS = [load(path).get_config() for path in sorted((ROOT / "configs").glob("*.py"))
           if "def get_config" in path.read_text()]  # fmt: skip


def has(config, name):
    """Whether a config has the field `a.b.c`; parts in capitals, as in `prior.NAME`, are any."""
    value = config
    for part in name.split("."):
        if not (isinstance(value, ConfigDict) and (part.isupper() or part in open_to(value, part))):
            return False
        value = ConfigDict() if part.isupper() else value[part]
    return True


def open_to(config, part):
    """The fields of a config; of a part whose fields may have any name, `part` too."""
    return [*config, part] if type(config).__name__ == "Names" else [*config]


def test_there_are_commands():
    assert {page.name for page in GUIDES} >= {"gpu_node.md", "methods.md", "tpu_vm.md"}
    assert len({script for _, script, _ in COMMANDS}) >= 8


@pytest.mark.parametrize(("page", "script", "arguments"), COMMANDS)
def test_a_command_names_what_exists(page, script, arguments):
    source = (ROOT / script).read_text()
    for shared in ("hosts", "language"):  # modules that define flags of others
        if re.search(rf"import .*\b{shared}\b", source):
            source += "".join(p.read_text() for p in (ROOT / "experiments").rglob(f"{shared}.py"))
    config = config_of(arguments + " ")
    for name in re.findall(r"\s--([\w.]+)", arguments):
        if name.startswith("config."):
            if config is not None:  # else the command stands for one with more flags
                assert has(config, name.removeprefix("config.")), f"{page}: no field {name}"
        elif name != "config":
            assert f'"{name}"' in source, f"{page}: {script} has no flag --{name}"


@BY_NAME
def test_a_field_that_is_named_exists_in_a_config(page):
    for name in re.findall(r"`(?:--)?config\.([\w.]*\w)", page.read_text()):
        assert any(has(config, name) for config in CONFIGS), name


@BY_NAME
def test_a_path_that_is_named_exists(page):
    text = page.read_text()
    named = re.findall(
        rf"\b((?:{'|'.join(FOLDERS)})/[\w./-]*\w/?)", re.sub(r"https?://\S+", "", text)
    )
    assert [path for path in named if not (ROOT / path).exists()] == []
    linked = re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", text)
    assert [path for path in linked if not (page.parent / path).exists()] == []


@BY_NAME
def test_a_heading_that_is_linked_exists(page):
    for path, anchor in re.findall(r"\]\(([^)#:]*)#([\w-]+)\)", page.read_text()):
        headings = re.findall(r"^#+ (.+)$", (page.parent / (path or page.name)).read_text(), re.M)
        slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
        assert anchor in slugs, f"{path}#{anchor}"


@BY_NAME
def test_programs_are_python_and_data_are_json(page):
    for program in blocks(page, "python"):
        ast.parse(program)
    for lines in blocks(page, "json"):
        assert all(isinstance(json.loads(line), dict) for line in lines.splitlines())


@BY_NAME
def test_what_programs_take_of_rr_exists(page):
    import rlrazor as rr

    for name in re.findall(r"\brr\.(\w+)", page.read_text()):
        assert name in dir(rr), name


def test_readme_is_one_page():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 100] == []


def rows(text):
    """Table rows by the name in backticks that they begin with."""
    return {found[1]: found[0] for found in re.finditer(r"^\| `(\w+)` \|.*$", text, re.MULTILINE)}


def test_every_method_is_described_with_its_knobs():
    text = (ROOT / "docs" / "methods.md").read_text()
    described = rows(text)
    known = methods.all_methods()
    assert set(described) == set(known)
    for name, method in known.items():
        where = text if name == "ppo" else described[name]
        assert [knob for knob in method.knobs if f"`{knob}`" not in where] == [], name


def test_the_readme_counts_every_method():
    readme = (ROOT / "README.md").read_text()
    assert f"[all {len(methods.all_methods())}](docs/methods.md)" in readme


def test_the_programs_of_the_methods_page_make_methods():
    space = {}
    for program in blocks(ROOT / "docs" / "methods.md", "python"):
        exec(program, space)
    assert space["better"].advantage is space["only_better"]
    assert space["soft"].tuned(coefficient=0.1).knobs == {"coefficient": 0.1}
