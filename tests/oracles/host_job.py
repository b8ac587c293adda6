"""A tiny training run of one or several processes: what the tests of many hosts start and kill.

The batch of a step is a function of the step, parameters lie whole on every device but for one
kernel and its moments, which `fsdp` cuts, and the loss draws from the state's key.
"""

import hashlib
import time

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
from rlrazor.runtime.checkpoint import Checkpoints
from rlrazor.runtime.mesh import global_array, make_mesh, my_rows
from rlrazor.runtime.metrics import write_tensorboard
from rlrazor.runtime.workdir import ResultsFile, open_workdir
from rlrazor.training.optimizer import adamw
from rlrazor.training.state import init_state
from rlrazor.training.step import make_train_step

B, D, V = 8, 6, 4
WORKDIR = flags.DEFINE_string("workdir", None, "Where it writes; without it, rows are shared out.")
DEVICES = flags.DEFINE_integer("devices", 2, "CPU devices of this process.")
STEPS = flags.DEFINE_integer("steps", 12, "How many there are in all.")
SAVE_EVERY = flags.DEFINE_integer("save_every", 4, "Steps from checkpoint to checkpoint.")
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


def train(job):
    mesh = make_mesh(data=0, fsdp=min(2, jax.device_count()))
    shapes = jax.eval_shape(initial)
    places = jax.tree_util.tree_map_with_path(lambda *at: lies(*at, mesh), shapes)
    like = jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), shapes, places
    )
    step = jax.jit(
        make_train_step(loss, TX),
        donate_argnums=0,
        out_shardings=(places, NamedSharding(mesh, P())),
    )
    with open_workdir(WORKDIR.value, {}) as folder:
        results, checkpoints = (
            ResultsFile(folder / "results.jsonl"),
            Checkpoints(folder / "checkpoints"),
        )
        restored = checkpoints.restore_newest(lambda note: like)
        state, note = restored or (
            jax.jit(initial, out_shardings=places)(),
            {"step": 0, "bytes": 0},
        )
        results.cut(note["bytes"])
        print("begins at", note["step"], digest(state.params), flush=True)
        for position in range(note["step"] + 1, STEPS.value + 1):
            if position == 3 and job.process == FAILS.value:
                raise ValueError("a mistake of one process alone")
            state, metrics = step(state, batch_of(position, mesh))
            values = {f"train/{name}": float(value) for name, value in metrics.items()}
            size = results.append([{"run": "tiny", "step": position, **values}])
            time.sleep(STEP_SECONDS.value)
            stops = job.stops_at(position)
            if stops or position % SAVE_EVERY.value == 0 or position == STEPS.value:
                checkpoints.save(position, state, {"step": position, "bytes": size})
            if stops:
                job.stop(position)
        checkpoints.close()
        write_tensorboard(results.read(), folder / "tensorboard")
        if job.process == 0:
            time.sleep(REPORT_SECONDS.value)
        print("ends with", digest(state.params), flush=True)


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
