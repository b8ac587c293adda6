"""One run step by step: does a step that raises the KL also push against the prior task?

RL's Razor, Figure 10: along a trajectory, the cosine between an update and the gradient of the
prior task's loss, beside the change of the KL on the new task's inputs in that step.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.parity.data import ParityData
from experiments.parity.plan import SweepRun
from experiments.parity.programs import Programs, training_chunk
from rlrazor.evaluation.divergence import divergences
from rlrazor.evaluation.gradients import update_gradient_alignment
from rlrazor.losses.nll import nll
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.runtime.mesh import map_runs, replicate
from rlrazor.runtime.workdir import json_lines, write_whole
from rlrazor.training.state import TrainState
from rlrazor.training.sweep import Run
from rlrazor.types import Metrics


def plan_trajectories(config: Any) -> list[SweepRun]:
    """One run for each of `config.trajectory.arms`: first seed, constant rate."""
    return [
        SweepRun(arm, 0, config.base.epochs, config.trajectory.learning_rate, "constant", 1)
        for arm in config.trajectory.arms
    ]


def make_traced_chunk(
    model: Any, chunk: Callable[..., Any]
) -> Callable[[Run, TrainState, dict], tuple[TrainState, Metrics]]:
    """Wraps a one-step chunk into `(run, state, shared) -> (state, metrics)` of that step."""

    def prior_loss(params, probes):
        logits, _ = model.apply(params, probes["prior_inputs"])
        logprobs = token_logprobs(logits, probes["prior_labels"])[:, None]
        return nll(logprobs, jnp.ones_like(logprobs, bool))[0]

    def kl(params, probes, base):
        logits, _ = model.apply(params, probes["new_inputs"])
        return divergences(base, logits)["kl_base_policy_nats"]

    def traced(run: Run, state: TrainState, shared: dict) -> tuple[TrainState, Metrics]:
        probes = shared["probes"]
        base = probes["base_logits"][run.base]
        loss, gradient = jax.value_and_grad(prior_loss)(state.params, probes)
        before = kl(state.params, probes, base)
        state_after, _ = chunk(run, state, shared["data"])
        update = jax.tree.map(jnp.subtract, state_after.params, state.params)
        alignment = update_gradient_alignment(update, gradient)
        after = kl(state_after.params, probes, base)
        return state_after, {
            "update_prior_gradient_cosine": alignment["update_prior_gradient_cosine"],
            "update_norm": alignment["update_norm"],
            "kl_base_policy_nats": after,
            "kl_base_policy_change_nats": after - before,
            "prior_loss_change": prior_loss(state_after.params, probes) - loss,
        }

    return traced


def record_trajectories(
    model: Any,
    config: Any,
    programs: Programs,
    keys: list[tuple[int, int]],
    bases: Any,  # base parameters, leaves [K, ...]
    arrays: dict[str, Any],  # training data, see parity/bases.py
    data: ParityData,
    mesh: Mesh,
    path: Path,
) -> None:
    """Writes trajectory.jsonl, one line a step and run, unless it is there already."""
    planned = plan_trajectories(config)
    if path.exists() or not planned:
        return
    chunk = training_chunk(model, config, steps=1, examples=len(data.new_train.labels))
    traced = map_runs(make_traced_chunk(model, chunk), mesh)
    new, prior = (
        split.take(config.trajectory.examples) for split in (data.new_test, data.prior_train)
    )
    logits = jax.vmap(lambda params: model.apply(params, new.inputs)[0])(bases)
    probes = {
        "new_inputs": new.inputs,
        "prior_inputs": prior.inputs,
        "prior_labels": prior.labels,
        "base_logits": logits,
    }
    shared = replicate({"data": arrays, "probes": probes}, mesh)
    run = programs.place(planned, keys)
    state = programs.initial(run, None, bases)
    lines = []
    for step in range(1, config.trajectory.steps + 1):
        state, metrics = traced(run, state, shared)
        metrics = jax.device_get(metrics)
        if not all(np.all(np.isfinite(values)) for values in metrics.values()):
            raise ValueError(
                f"a trajectory diverged in step {step} at config.trajectory.learning_rate="
                f"{config.trajectory.learning_rate}; lower it (in another workdir)"
            )
        lines += [
            {"run": f"trajectory-{mine.name}", "arm": mine.arm, "seed": mine.seed, "step": step}
            | {name: float(values[row]) for name, values in metrics.items()}
            for row, mine in enumerate(planned)
        ]
    write_whole(path, json_lines(lines))
