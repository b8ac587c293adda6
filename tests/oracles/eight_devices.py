"""Programs in a process of their own, which has eight CPU devices."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEFORE = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
"""


def lines_of(program):
    """What it prints; fails with the end of what it said where it fails."""
    run = subprocess.run(
        [sys.executable, "-c", BEFORE + program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert run.returncode == 0, run.stdout[-500:] + run.stderr[-2000:]
    return run.stdout.splitlines()
