"""Everything measured of a policy at a checkpoint, on both tasks' test inputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.parity.data import ParityData
from rlrazor.evaluation.accuracy import class_scores
from rlrazor.evaluation.activations import activation_change
from rlrazor.evaluation.divergence import divergences
from rlrazor.evaluation.fisher import diagonal_fisher
from rlrazor.evaluation.weights import weight_change
from rlrazor.runtime.mesh import compile_once
from rlrazor.tasks.parity.verifier import CLASSES, correct_answers
from rlrazor.training.state import TrainState
from rlrazor.training.sweep import Run
from rlrazor.types import Metrics, Params


def evaluation_data(model: Any, base_params: Params, data: ParityData, config: Any) -> dict:
    """Test inputs, which answers are right, and each base's own view of them (leaves [K, ...])."""
    new, prior = (split.take(config.test_examples) for split in (data.new_test, data.prior_test))
    probes = data.prior_train.take(config.fisher_examples).inputs

    def of_one_base(params):
        def log_probs(params, inputs):
            return jax.nn.log_softmax(model.apply(params, inputs)[0])

        fisher = diagonal_fisher(log_probs, params, jnp.asarray(probes), chunk=1)
        new_view, prior_view = model.apply(params, new.inputs), model.apply(params, prior.inputs)
        activations = [
            features[: config.activation_examples] for _, features in (new_view, prior_view)
        ]
        return {
            "params": params,
            "fisher": fisher,
            "logits": {"new": new_view[0], "prior": prior_view[0]},
            "activations": {"new": activations[0], "prior": activations[1]},
        }

    # Mapped, not vmapped: the Fisher of one base at a time is memory enough.
    bases = compile_once(lambda params: jax.lax.map(of_one_base, params))(base_params)
    return {
        "inputs": {"new": jnp.asarray(new.inputs), "prior": jnp.asarray(prior.inputs)},
        "correct": {
            "new": jax.vmap(correct_answers)(jnp.asarray(new.labels)),
            "prior": jnp.arange(CLASSES)[None] == jnp.asarray(prior.labels)[:, None],
        },
        "bases": bases,
    }


def make_measure(
    model: Any, *, neighbours: int, sparsity_threshold: float
) -> Callable[[Run, TrainState, dict], Metrics]:
    """Returns a pure `(run, state, evaluation_data) -> metrics` for one run."""

    def measure(run: Run, state: TrainState, shared: dict) -> Metrics:
        base = jax.tree.map(lambda leaf: leaf[run.base], shared["bases"])
        metrics = {}
        for task in ("new", "prior"):
            logits, features = model.apply(state.params, shared["inputs"][task])
            activations = features[: len(base["activations"][task])]
            correct = shared["correct"][task]
            of_base = class_scores(base["logits"][task], correct)
            measured = {
                **class_scores(logits, correct),
                **{f"base_{name}": value for name, value in of_base.items()},
                **divergences(base["logits"][task], logits),
                **activation_change(base["activations"][task], activations, neighbours=neighbours),
            }
            metrics |= {f"{task}/{name}": value for name, value in measured.items()}
        change = weight_change(
            base["params"], state.params, base["fisher"], sparsity_threshold=sparsity_threshold
        )
        return metrics | {f"weights/{name}": value for name, value in change.items()}

    return measure
