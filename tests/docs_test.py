"""The commands in docs/ name scripts, configs, fields and flags that exist."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
SCRIPT = re.compile(r"experiments/(?:\w+/)*\w+\.py")


def commands(page):
    """Every command that runs one of our scripts, as one line, with the script's name."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        found = SCRIPT.search(line)
        if found and "pkill" not in line:
            yield found[0], line[found.end() :]


COMMANDS = [(page.name, *command) for page in PAGES for command in commands(page)]


def config_of(arguments):
    """The config that a command names, in its mode; None if it names none."""
    found = re.search(r"--config=(\S+?\.py)(?::(\w+))?\s", arguments)
    if found is None:
        return None
    spec = importlib.util.spec_from_file_location("config", ROOT / found[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(found[2]) if found[2] else module.get_config()


def test_there_are_commands():
    assert {page.name for page in PAGES} >= {"gpu_node.md", "tpu_vm.md"}
    assert len({script for _, script, _ in COMMANDS}) >= 4


@pytest.mark.parametrize(("page", "script", "arguments"), COMMANDS)
def test_a_command_names_what_exists(page, script, arguments):
    source = (ROOT / script).read_text()
    if "hosts" in source:
        source += (ROOT / "experiments" / "hosts.py").read_text()
    config = config_of(arguments + " ")
    for name in re.findall(r"\s--([\w.]+)", arguments):
        if name.startswith("config."):
            if config is not None:  # else the command stands for one with more flags
                value = config
                for part in name.split(".")[1:]:
                    value = value[part]
        elif name != "config":
            assert f'"{name}"' in source, f"{page}: {script} has no flag --{name}"
