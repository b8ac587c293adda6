"""Base models, and everything that training reads from them: logits, labels, an RL teacher."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.parity.arms import ARMS, TEACHERS, Batch
from experiments.parity.data import ParityData
from experiments.parity.plan import SweepRun, run_arrays
from rlrazor.losses.nll import nll
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.runtime.mesh import compile_once, map_runs, pad_runs, replicate, shard_runs
from rlrazor.tasks.parity import labels as teachers
from rlrazor.training.state import init_state
from rlrazor.training.sweep import Run, make_chunk, run_optimizer
from rlrazor.types import Params


def pretrain(
    model: Any, data: ParityData, keys: list[tuple[int, int]], config: Any, mesh: Mesh
) -> Params:  # leaves [K, ...]
    """Trains one base for each (seed, epochs), jointly on both tasks.

    Each seed draws its own images, initial weights, parity labels and order. A parity image's
    label is one digit of its parity, drawn once, uniformly (RL's Razor, Appendix B.3).
    """
    count = config.base.examples_per_task
    inputs, labels = [], []
    for seed, _ in keys:
        order = [jax.random.fold_in(jax.random.key(seed), stream) for stream in (11, 12, 13)]
        new = np.asarray(jax.random.permutation(order[0], len(data.new_train.labels)))[:count]
        prior = np.asarray(jax.random.permutation(order[1], len(data.prior_train.labels)))[:count]
        parity = jax.vmap(teachers.uniform_correct)(
            jax.random.split(order[2], count), jnp.asarray(data.new_train.labels[new])
        )
        inputs.append(np.concatenate([data.new_train.inputs[new], data.prior_train.inputs[prior]]))
        labels.append(np.concatenate([parity, data.prior_train.labels[prior]]))

    steps = 2 * count // config.base.batch_size
    if steps < 1:
        raise ValueError(
            f"config.base.batch_size={config.base.batch_size} must be at most the "
            f"{2 * count} images of an epoch; lower it"
        )

    def loss(params, batch, key, run):
        logits, _ = model.apply(params, batch[0])
        logprobs = token_logprobs(logits, batch[1])[:, None]
        return nll(logprobs, jnp.ones_like(logprobs, bool))

    optimizer = functools.partial(
        run_optimizer, weight_decay=config.base.weight_decay, clip_by_global_norm=float("inf")
    )
    epoch = make_chunk(
        loss,
        optimizer,
        lambda data, rows, run: jax.tree.map(lambda array: array[run.base, rows], data),
        steps=steps,
        batch_size=config.base.batch_size,
        examples=2 * count,
    )

    def initial(run: Run, _, inputs):
        key = jax.random.key(run.seed)
        params = model.init(jax.random.fold_in(key, 10), inputs)
        return init_state(params, optimizer(run), key)

    planned = [
        SweepRun("base", seed, epochs, config.base.learning_rate, "cosine", epochs)
        for seed, epochs in keys
    ]
    run = run_arrays(planned, arms=["base"], bases=keys, warmup_steps=0, steps_per_epoch=steps)
    warmup_steps = run.total_steps * config.base.warmup_fraction
    run = dataclasses.replace(run, warmup_steps=warmup_steps.astype(np.int32))
    run = shard_runs(jax.tree.map(lambda leaf: leaf[pad_runs(len(keys), mesh)], run), mesh)
    state = map_runs(initial, mesh)(run, None, jnp.zeros((1, inputs[0].shape[-1])))
    train = map_runs(epoch, mesh, donate_state=True)
    shared = replicate((np.stack(inputs), np.stack(labels).astype(np.int32)), mesh)
    # The cosine ends at a rate of exactly zero, so a weaker base waits unchanged for a stronger.
    for _ in range(max(epochs for _, epochs in keys)):
        state, metrics = train(run, state, shared)
        if not np.all(np.asarray(metrics["finite"])):
            raise ValueError(
                f"pre-training diverged at config.base.learning_rate={config.base.learning_rate}; "
                "lower it"
            )
    return jax.tree.map(lambda leaf: np.asarray(leaf[: len(keys)]), state.params)


def training_data(
    model: Any, base_params: Params, data: ParityData, keys: list[tuple[int, int]], config: Any
) -> dict[str, Any]:
    """Inputs, base logits and every teacher's labels, K bases side by side.

    The rows of `distilled` are empty until `add_distilled`.
    """
    inputs, digits = jnp.asarray(data.new_train.inputs), jnp.asarray(data.new_train.labels)
    examples = len(digits)

    def of_one_base(params, seed):
        logits, _ = model.apply(params, inputs)
        key = jax.random.fold_in(jax.random.key(seed), 20)
        streams = [jax.random.split(jax.random.fold_in(key, n), examples) for n in range(4)]
        oracle = jax.vmap(teachers.oracle_log_probs)(logits, digits)
        tries = jax.vmap(
            lambda key, row: jax.random.categorical(key, row, shape=(config.self_sft_tries,))
        )(streams[3], logits)
        own, found = jax.vmap(teachers.first_correct)(tries, digits)
        labels = {
            "fixed_digit": jax.vmap(teachers.fixed_digit)(digits),
            "random_pair": jax.vmap(teachers.random_pair)(streams[0], digits),
            "oracle": jax.vmap(jax.random.categorical)(streams[2], oracle),
            "self_sft": own,
            "distilled": jnp.zeros_like(digits),
        }
        everywhere = jnp.ones(examples, bool)
        return {
            "base_logits": logits,
            "labels": jnp.stack([labels[name].astype(jnp.int32) for name in TEACHERS]),
            "has_label": jnp.stack([found if n == "self_sft" else everywhere for n in TEACHERS]),
            "wrong_labels": jax.vmap(teachers.wrong_pair)(streams[1], digits),
        }

    stacked = _of_each_base(of_one_base, base_params, keys)
    return {"inputs": data.new_train.inputs, "digits": data.new_train.labels, **stacked}


def add_distilled(
    model: Any,
    data: dict[str, Any],
    teacher_params: Params,  # leaves [K, ...]: an RL policy trained from each base
    keys: list[tuple[int, int]],
) -> dict[str, Any]:
    """Labels every image once by a sample of the finished RL policy (RL's Razor, Figure 9)."""
    inputs = jnp.asarray(data["inputs"])

    def label(params, seed):
        key = jax.random.fold_in(jax.random.key(seed), 30)
        return jax.random.categorical(key, model.apply(params, inputs)[0])

    labels = data["labels"].copy()
    labels[:, TEACHERS.index("distilled")] = _of_each_base(label, teacher_params, keys)
    return {**data, "labels": labels}


def gather(data: dict[str, Any], rows: jax.Array, run: Run) -> Batch:
    """One batch of a run, as its own base and its arm's teacher see it."""
    teacher = jnp.array([TEACHERS.index(arm.teacher or TEACHERS[0]) for arm in ARMS.values()])
    mine = teacher[run.arm]
    return Batch(
        inputs=data["inputs"][rows],
        digits=data["digits"][rows],
        base_logits=data["base_logits"][run.base, rows],
        labels=data["labels"][run.base, mine, rows],
        has_label=data["has_label"][run.base, mine, rows],
        wrong_labels=data["wrong_labels"][run.base, rows],
    )


def _of_each_base(fn: Any, params: Params, keys: list[tuple[int, int]]) -> Any:
    """Stacks fn(params, seed) of every base on the host, one base in memory at a time."""
    compiled = compile_once(fn)
    rows = [
        jax.device_get(compiled(jax.tree.map(lambda leaf, k=k: leaf[k], params), seed))
        for k, (seed, _) in enumerate(keys)
    ]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
