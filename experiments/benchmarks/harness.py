"""Documents of a benchmark a second, and their scores, beside the harness's own torch backend.

    pip install -e '.[harness,bench]' accelerate
    python experiments/benchmarks/harness.py --model=FOLDER --data=FOLDER [--limit=40]

`--model` as of `experiments/prepare_model.py`, `--data` with the benchmarks' published files. In
f32 on the CPU, one by one; ours a second time, after compiling. Prints the largest difference
in log-likelihood and how many documents are judged alike; the last line is one JSON object.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

import rlrazor as rr
from rlrazor.api.harness import HarnessModel, evaluate
from rlrazor.api.harness_tasks import local_task

_MODEL = flags.DEFINE_string("model", None, "A model's folder.", required=True)
_DATA = flags.DEFINE_string("data", None, "Where the benchmarks' files lie.", required=True)
_TASKS = flags.DEFINE_list("tasks", ["hellaswag", "mmlu"], "Local tasks.")
_LIMIT = flags.DEFINE_integer("limit", 40, "Documents of each.")


def timed(model: Any, task: dict[str, Any], manager: Any) -> tuple[float, list[Any]]:
    """Seconds, and the harness's record of each document."""
    began = time.perf_counter()
    found: Any = evaluate(model, [task], limit=_LIMIT.value, task_manager=manager)
    (samples,) = found["samples"].values()
    return time.perf_counter() - began, sorted(samples, key=lambda each: each["doc_id"])


def scores(samples: Sequence[Any]) -> np.ndarray:
    return np.array([nats for each in samples for nats, _ in each["filtered_resps"]], float)


def main(argv: Sequence[str]) -> None:
    import torch  # pyright: ignore[reportMissingImports]
    import transformers
    from lm_eval.models import huggingface
    from lm_eval.tasks import TaskManager

    base = rr.load(_MODEL.value, compute_dtype="float32")
    peer = transformers.AutoModelForCausalLM.from_pretrained(_MODEL.value, dtype=torch.float32)
    ours = HarnessModel(base)
    backend: Any = huggingface.HFLM
    theirs = backend(pretrained=peer, tokenizer=base.chat.tokenizer, batch_size=16)
    manager = TaskManager(include_defaults=False)
    table = {}
    for name in _TASKS.value:
        task = local_task(name, _DATA.value)
        timed(ours, task, manager)  # compiles
        seconds, mine = timed(ours, task, manager)
        other, yours = timed(theirs, task, manager)
        table[name] = {
            "documents_a_second": len(mine) / seconds,
            "ratio_to_torch": other / seconds,
            "largest_difference_nats": float(np.abs(scores(mine) - scores(yours)).max()),
            "judged_alike": sum(a["acc"] == b["acc"] for a, b in zip(mine, yours, strict=True)),
            "documents": len(mine),
        }
        print(name, {key: round(value, 5) for key, value in table[name].items()}, flush=True)
    print(json.dumps({"torch": torch.__version__, **table}))


if __name__ == "__main__":
    app.run(main)
