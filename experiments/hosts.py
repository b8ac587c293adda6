"""The flags of a script that runs on many hosts; on Cloud TPU and under SLURM none is needed."""

import contextlib
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:
    from rlrazor.runtime.distributed import Job

COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT at which process 0 listens; a free port, the same everywhere."
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes the run has.")
PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0.")
LOST_AFTER = flags.DEFINE_integer(
    "lost_after_seconds", 60, "A process that is silent for so long is lost, and the others end."
)


def start() -> "contextlib.AbstractContextManager[Job]":
    """Joins the processes of the run, for the length of a `with`; before anything computes."""
    from rlrazor.runtime import distributed

    return distributed.start(
        coordinator=COORDINATOR.value,
        processes=PROCESSES.value,
        process=PROCESS.value,
        lost_after_seconds=LOST_AFTER.value,
    )
