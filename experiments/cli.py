"""The rim: flags, one clear sentence for a mistake, and an exit code."""

import errno
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's own log lines are not for users

from absl import app, flags
from absl import logging as absl_logging


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in text:
        return (
            "the disk is full; what was recorded is intact: free some space and give the same "
            "command again to resume"
        )
    return text or type(error).__name__


def run(main: Callable[[Any], None]) -> None:
    """Runs `main(argv)` after parsing flags; users' mistakes end in one sentence and status 2."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)

    def guarded(argv: list[str]) -> None:
        absl_logging.set_verbosity(absl_logging.WARNING)
        if len(argv) > 1:
            _stop(f"{argv[1]!r} is not a flag; flags look like --name=value (see --help)")
        try:
            main(argv)
        except (ValueError, OSError) as error:
            _stop(_sentence(error))
        except KeyboardInterrupt:
            print("\ninterrupted; give the same command again to resume", file=sys.stderr)
            sys.exit(130)

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            _stop(_sentence(error))

    app.run(guarded, flags_parser=parse)


def _stop(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)
