"""Says in one sentence what JAX says in a stack trace when it ends a process because of another.

JAX ends the processes of a run together: who hears no more of another aborts, in a thread of C++
that Python cannot stop, with lines that hold the other's number. This script stands between such a
process and its stderr, passes everything on at once, and adds its sentence behind the last line.
It imports nothing of ours, so that it starts in a moment: `distributed.start` runs it by its path.
"""

import json
import os
import re
import sys
from collections.abc import Sequence

TAIL = 1 << 16  # bytes of stderr that are looked through
ABORTED = "Terminating process because the JAX distributed service detected fatal errors"
SILENT = re.compile(r"unhealthy \(stopped sending heartbeats\):\n(.*?)\nThe tasks have", re.DOTALL)
UNREACHABLE = "Failed to send RPC to coordination service"
EARLY = re.compile(
    r"Shutdown barrier has failed.*?The first task at the barrier: (\S+)\.", re.DOTALL
)
AGAIN = "give the same command again on every host to resume from the newest checkpoint"
MENDED = "once that is mended, the same command resumes from the newest checkpoint"


def last_words(
    stderr: str, *, process: int, hosts: Sequence[str], lost_after_seconds: int
) -> str | None:
    """The sentence for what process `process` wrote last; None if JAX did not end it."""
    _, aborted, said = stderr.partition(ABORTED)
    if not aborted:
        return None

    def named(*numbers: int) -> str:
        return " and ".join(f"process {number} on {hosts[number]}" for number in numbers)

    ended = f"{named(process)} was ended by JAX"
    if early := EARLY.search(said):
        (first,) = _numbers(early[1])
        if first == process:
            return f"{named(process)} failed, as said above, and the others end with it; {MENDED}"
        return f"{named(first)} ended early, for what its own output says; {ended}; {MENDED}"
    if silent := SILENT.search(said):
        lost = _numbers(silent[1])
        return (
            f"{named(*lost)} {'was' if len(lost) == 1 else 'were'} lost: no sign of life for "
            f"{lost_after_seconds} s; {ended}; {AGAIN}"
        )
    if UNREACHABLE in said:
        return f"{named(0)}, which coordinates the others, was lost; {ended}; {AGAIN}"
    return f"the run cannot go on, for what JAX says above; {ended}; {MENDED}"


def _numbers(names: str) -> list[int]:
    """Numbers at the ends of lines: '1', in other versions '/job:jax_worker/replica:0/task:1'."""
    return [int(number) for number in re.findall(r"(\d+)\s*$", names, re.MULTILINE)]


def main() -> None:
    facts = json.loads(sys.argv[1])
    tail = b""
    while chunk := os.read(0, TAIL):
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()
        tail = (tail + chunk)[-TAIL:]
    sentence = last_words(tail.decode(errors="replace"), **facts)
    if sentence:
        sys.stderr.write(f"\n{sentence}\n")


if __name__ == "__main__":
    main()
