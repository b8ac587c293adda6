"""The rim: flags, one clear sentence for a mistake, and an exit code."""

import errno
import keyword
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's own log lines are not for users
# What took long to compile is kept for the next run of the same program.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "rlrazor" / "jax"),
)

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

FLAG_MISTAKES = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in text:
        return (
            "the disk is full; what was recorded is intact: free some space and give the same "
            "command again to resume"
        )
    return text or type(error).__name__


def out_of_memory(error: BaseException) -> str | None:
    """A sentence on what to lower; None for another trouble."""
    text = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in text:
        return None
    wanted = re.search(r"allocat\w+ ([\d.,]+ ?\w+)|\(([\d.]+\w)\) exceeds|Used ([\d.]+\w) of", text)
    size = next((part for part in wanted.groups() if part), "") if wanted else ""
    return (
        f"out of memory{size and f' ({size.strip()} asked for)'}: lower config.rows_at_once, "
        "config.vocabulary_chunk, config.test_at_once, config.answer_tokens or prompts x samples, "
        "where the config has them, or take more devices; before a run, --config.dry_run=True says "
        "what it needs here, and experiments/plan.py on any TPU slice"
    )


def _flag_sentence(error: BaseException) -> str:
    if isinstance(error, AttributeError | KeyError):  # ml_collections wraps one into the other
        name = error.args[0]
        while isinstance(name, BaseException):
            name = name.args[0]
        return f"the config has no field {'; '.join(str(name).splitlines())}"
    text = str(error).strip()
    misnamed = _misnamed(sys.argv[1:])
    if misnamed:
        return misnamed
    if "Traceback" in text:  # of the config file, whose own sentence comes last
        text = text.splitlines()[-1].partition("Error: ")[2] or text
    return " ".join(text.split())


def _misnamed(arguments: Sequence[str]) -> str | None:
    """On the first field of a config whose name Python cannot read, such as one with a dash."""
    for argument in arguments:
        path = argument.lstrip("-").partition("=")[0]
        for name in path.split(".")[1:] if path.startswith("config.") else ():
            plain = re.sub(r"\[\d+\]$", "", name)  # a place in a tuple
            if not plain.isidentifier() or keyword.iskeyword(plain):
                other = re.sub(r"\W", "_", plain)
                other = other if other.isidentifier() and other != plain else f"my_{other}"
                return (
                    f"--{path}: {name!r} cannot be a name in a config; names are letters, digits "
                    f"and _, without a digit in front, and no word of Python's own; try {other!r}"
                )
    return None


def config_flag(default: Path) -> Any:
    """Defines --config; overrides of the default are read, and may be mistaken, in this moment."""
    try:
        return config_flags.DEFINE_config_file("config", str(default))
    except FLAG_MISTAKES as error:
        _stop(_flag_sentence(error))


def run(main: Callable[[Any], None]) -> None:
    """Runs `main(argv)` after parsing flags; users' mistakes end in one sentence and status 2."""

    def guarded(argv: list[str]) -> None:
        absl_logging.set_verbosity(absl_logging.WARNING)
        absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
        if len(argv) > 1:
            _stop(f"{argv[1]!r} is not a flag; flags look like --name=value (see --help)")
        try:
            main(argv)
        except (ValueError, OSError) as error:
            _stop(_sentence(error))
        except (RuntimeError, MemoryError) as error:  # jax.errors.JaxRuntimeError is one
            sentence = out_of_memory(error)
            if sentence is None:
                raise
            _stop(sentence)
        except KeyboardInterrupt:
            print("\ninterrupted; give the same command again to resume", file=sys.stderr)
            sys.exit(130)

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except FLAG_MISTAKES as error:
            _stop(_flag_sentence(error))

    app.run(guarded, flags_parser=parse)


def _stop(sentence: str) -> NoReturn:
    # Threads of Orbax and TensorBoard that the mistake left behind have nothing to add to it.
    sys.unraisablehook = threading.excepthook = lambda details: None
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)
