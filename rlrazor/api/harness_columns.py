"""What a line of results keeps of a benchmark that lm-evaluation-harness has scored."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlrazor.lines import OUTCOMES, pack_outcomes

# Whether a document was answered rightly, by the first of these that its task scores.
RIGHT = ("acc", "exact_match", "prompt_level_strict_acc", "pass@1", "pass_at_1")


def columns_of(results: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What is kept of one task's (or group's) results, over its documents."""
    documents = [each for samples in results["samples"].values() for each in samples]
    metrics = sorted({name for each in documents for name in each["metrics"]})
    right = next((name for name in RIGHT if name in metrics), None)
    if right is None:
        raise ValueError(
            f"{prefix}: the harness scores {', '.join(metrics)} and none of {', '.join(RIGHT)}; "
            "give a task that says whether a document was answered rightly"
        )
    filters = list(dict.fromkeys(each["filter"] for each in documents))
    documents = [each for each in documents if each["filter"] == filters[0]]
    values = np.array([float(each[right]) for each in documents])
    columns: dict[str, Any] = {f"{prefix}/accuracy": values.mean(), f"{prefix}/count": len(values)}
    if np.isin(values, (0.0, 1.0)).all():
        columns[f"{OUTCOMES}/{prefix}"] = pack_outcomes(values == 1)
    for name in metrics:
        numbers = [each[name] for each in documents if isinstance(each.get(name), int | float)]
        if numbers and name != right:
            columns[f"{prefix}/{name}"] = float(np.mean(numbers))
    gold = [_gold_nats(each) for each in documents]
    if all(nats is not None for nats in gold):
        columns[f"{prefix}/gold_nats"] = float(np.mean([nats for nats in gold if nats is not None]))
    return columns


def _gold_nats(document: Mapping[str, Any]) -> float | None:
    """NLL of the right choice; None of a document that has no choices."""
    scores, target = document["filtered_resps"], document["target"]
    if not all(isinstance(score, list | tuple) and len(score) == 2 for score in scores):
        return None
    if not isinstance(target, int) or not 0 <= target < len(scores):
        return None
    return -float(scores[target][0])
