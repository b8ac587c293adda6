"""A tiny training run of one or several processes: what the tests of many hosts start and kill.

The batch of a step is a function of the step, parameters lie whole on every device but for one
kernel and its moments, which `fsdp` cuts, and the loss draws from the state's key.
"""

import hashlib
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from experiments import cli, hosts
from rlrazor.models.mlp import MLP
from rlrazor.runtime.mesh import global_array, make_mesh, my_rows
from rlrazor.studies.drive import drive
from rlrazor.studies.study import Run
from rlrazor.training.optimizer import adamw
from rlrazor.training.state import init_state
from rlrazor.training.step import make_train_step

B, D, V = 8, 6, 4
WORKDIR = flags.DEFINE_string("workdir", None, "Where it writes; without it, rows are shared out.")
DEVICES = flags.DEFINE_integer("devices", 2, "CPU devices of this process.")
STEPS = flags.DEFINE_integer("steps", 12, "How many there are in all.")
SAVE_EVERY = flags.DEFINE_float("save_every", 0, "Seconds from checkpoint to checkpoint.")
STEP_SECONDS = flags.DEFINE_float("step_seconds", 0, "A step takes so long, at least.")
REPORT_SECONDS = flags.DEFINE_float("report_seconds", 0, "The writer's report takes so long.")
FAILS = flags.DEFINE_integer("fails", None, "Number of a process that fails in the third step.")


def loss(params, batch, key):
    x, labels = batch
    x = x + 0.1 * jax.random.normal(key, x.shape)
    logits, _ = MODEL.apply({"params": params}, x)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), {}


MODEL = MLP(widths=(16, 8), classes=V)
TX = adamw(optax.constant_schedule(0.03), weight_decay=0.1, clip_by_global_norm=1.0)


def initial():
    key = jax.random.key(3)
    return init_state(MODEL.init(key, jnp.zeros((1, D)))["params"], TX, key)


def batch_of(step, mesh):
    """Only the rows that this process feeds are made, as if reading them were expensive."""
    rows = my_rows(B, mesh)
    x = np.stack([np.random.default_rng((step, row)).normal(size=D) for row in rows])
    return global_array((x.astype(np.float32), (x[:, 0] > 0).astype(np.int32)), mesh)


def lies(path, leaf, mesh):
    cut = "Dense_0" in jax.tree_util.keystr(path) and leaf.ndim == 2
    return NamedSharding(mesh, P(None, "fsdp") if cut else P())


def digest(params):
    whole = multihost_utils.process_allgather(params, tiled=True)
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(whole))).hexdigest()


class Tiny:
    """A study of one run, measured after every step."""

    title, record, folder = "tiny", {}, Path()

    def __init__(self, job):
        self.job, self.began = job, False
        self.mesh = make_mesh(data=0, fsdp=min(2, jax.device_count()))
        shapes = jax.eval_shape(initial)
        places = jax.tree_util.tree_map_with_path(lambda *at: lies(*at, self.mesh), shapes)
        self.initial = jax.jit(initial, out_shardings=places)
        self.step = jax.jit(
            make_train_step(loss, TX),
            donate_argnums=0,
            out_shardings=(places, NamedSharding(self.mesh, P())),
        )

    def plan(self):
        steps = STEPS.value
        run = Run(
            "tiny", arm="tiny", method="tiny", variant="main", family="outside", label="Tiny",
            seed=3, learning_rate=0.03, iterations=steps, stops=tuple(range(1, steps + 1)),
        )  # fmt: skip
        return [[run]]

    def begin(self, block):
        return self.initial()

    def advance(self, block, state, done):
        if not self.began:
            print("begins at", done, digest(state.params), flush=True)
            self.began = True
        if done == 2 and self.job.process == FAILS.value:
            raise ValueError("a mistake of one process alone")
        state, metrics = self.step(state, batch_of(done + 1, self.mesh))
        time.sleep(STEP_SECONDS.value)
        return state, done + 1, metrics

    def measure(self, block, state, at):
        return [{}]

    def keep(self, block, state, at):
        if at == STEPS.value:
            print("ends with", digest(state.params), flush=True)


def train(job):
    drive(Tiny(job), WORKDIR.value, job=job, checkpoint_every_seconds=SAVE_EVERY.value)
    if job.process == 0:
        time.sleep(REPORT_SECONDS.value)


def share_out():
    """Prints which rows this process feeds on several meshes, and that they arrive in order."""
    swapped = [jax.devices()[i] for i in (0, 2, 1, 3)]
    for sizes in [
        {"data": 4},
        {"data": 2, "tensor": 2},
        {"data": 1, "tensor": 4},
        {"data": 1, "fsdp": 2, "tensor": 2, "devices": swapped},
        {"data": 2, "fsdp": 2, "devices": swapped},
    ]:
        mesh = make_mesh(**sizes)
        rows = my_rows(B, mesh)
        whole = multihost_utils.process_allgather(global_array(10 * rows, mesh), tiled=True)
        assert whole.tolist() == [10 * row for row in range(B)]
        print("feeds", *rows, flush=True)


def main(argv):
    jax.config.update("jax_num_cpu_devices", DEVICES.value)
    with hosts.start() as job:
        if WORKDIR.value is None:
            share_out()
        else:
            train(job)


if __name__ == "__main__":
    cli.run(main)
