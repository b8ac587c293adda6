"""Processes that PyTorch and NumPy are timed in, away from JAX and its threads.

A worker reads one JSON request a line, does the work and answers with one JSON line. It idles in
between without using a core, so that the measurements of one round do not disturb each other.
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from typing import Any


def torch_variants(cores: int, *, gpu: bool) -> dict[str, dict[str, Any]]:
    """What an honest user might try, by name: processes side by side, threads of each, AdamW."""
    layouts = {"GPU": (1, 1)} if gpu else {"processes": (cores, 1), "threads": (1, cores)}
    return {
        f"{'' if gpu else f'{cores} '}{name}, {'fused' if fused else 'default'} AdamW": {
            "processes": processes,
            "threads": threads,
            "fused": fused,
        }
        for name, (processes, threads) in layouts.items()
        for fused in (True, False)
    }


class Workers:
    """`count` processes; a context manager that ends them."""

    def __init__(self, count: int, settings: dict[str, Any]):
        # One BLAS thread for NumPy, which cannot change it later; PyTorch is told at each request.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "experiments.benchmarks.workers", json.dumps(settings)]
        self._processes = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for _ in range(count)
        ]

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self._processes:
            process.communicate()  # closes its input, at which it ends

    def about(self) -> dict[str, Any]:
        """What the workers found: versions, and whether PyTorch sees a GPU."""
        return self._ask({"task": "about"}, len(self._processes))[0]

    def run(self, request: dict[str, Any], processes: int) -> None:
        """Returns when the first `processes` workers have all done the request."""
        self._ask(request, processes)

    def _ask(self, request: dict[str, Any], processes: int) -> list[dict[str, Any]]:
        asked = self._processes[:processes]
        for process in asked:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        answers = []
        for process in asked:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"a benchmark worker ended while it did {request}; see above")
            answers.append(json.loads(line))
        return answers


def _serve(settings: dict[str, Any]) -> None:
    import numpy as np

    from experiments.benchmarks import gemm

    widths, batch_size = tuple(settings["widths"]), settings["batch_size"]
    has_torch = importlib.util.find_spec("torch") is not None
    about: dict[str, Any] = {"numpy": np.__version__, "torch": None, "cuda": False}
    if has_torch:
        import torch  # pyright: ignore[reportMissingImports]

        from experiments.benchmarks import torch_parity

        about |= {"torch": torch.__version__, "cuda": torch.cuda.is_available()}
        device = "cuda" if settings["gpu"] and about["cuda"] else "cpu"
        if device == "cuda":
            # JAX multiplies float32 in TF32 there by default: the same for both.
            torch.set_float32_matmul_precision("high")
        losses = {
            "sft1": torch_parity.sft_loss,
            "grpo": functools.partial(torch_parity.grpo_loss, group_size=settings["group_size"]),
        }

    @functools.cache
    def data():
        return torch_parity.synthetic_mnist(settings["examples"], widths[0], device)

    @functools.cache
    def training(arm: str, fused: bool):
        return torch_parity.make_training(
            losses[arm],
            *data(),
            widths=list(widths),
            batch_size=batch_size,
            learning_rate=settings["learning_rate"],
            **settings["optimizer"],
            fused=fused,
        )

    @functools.cache
    def products(library: str):
        if library == "numpy":
            return gemm.make_eager(np.matmul, np.asarray, widths, batch_size)
        return gemm.make_eager(torch.mm, torch.from_numpy, widths, batch_size)

    for line in sys.stdin:
        request = json.loads(line)
        if has_torch:
            torch.set_num_threads(request.get("threads", 1))
        if request["task"] == "train":
            training(request["arm"], request["fused"])(request["steps"])
        elif request["task"] == "gemm":
            products(request["library"])(request["steps"])
        print(json.dumps(about), flush=True)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
