"""Devices, meshes and the one way to compile: the only file that says jit, shard and donate."""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rlrazor.runtime.partition import check_divides, specs_of
from rlrazor.types import ROWS, Axes, Layout, Rule

AXES = ("data", "fsdp", "tensor")


def prepare_host() -> None:
    """One single-threaded CPU device a core; call it before the first JAX computation.

    Small networks train fastest on a CPU when every core works on a run of its own: the weights
    stay in its cache and no thread waits for another. Without effect where JAX finds a GPU or TPU.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    if "xla_force_host_platform_device_count" not in flags:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def make_mesh(
    *, data: int, fsdp: int = 1, tensor: int = 1, devices: list[Any] | None = None
) -> Mesh:
    """Mesh(data, fsdp, tensor); an axis of size 0 takes every device that the others leave.

    Neighbours on an axis are neighbours on a TPU's network.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    if min(sizes.values()) < 0 or list(sizes.values()).count(0) > 1:
        raise ValueError(
            f"mesh sizes must be positive, one may be 0 (all devices), got {data=}, {fsdp=}, "
            f"{tensor=}"
        )
    for free in (axis for axis, size in sizes.items() if size == 0):
        others = {axis: size for axis, size in sizes.items() if axis != free}
        if len(devices) % math.prod(others.values()):
            named = " x ".join(f"{axis}={size}" for axis, size in others.items())
            raise ValueError(f"{named} must divide the {len(devices)} devices")
        sizes[free] = len(devices) // math.prod(others.values())
    named, size = " x ".join(f"{a}={n}" for a, n in sizes.items()), math.prod(sizes.values())
    if size > len(devices):
        raise ValueError(
            f"a mesh of {named} needs {size} devices, got {len(devices)} "
            f"({devices[0].platform}); lower a size, or use 0 for all"
        )
    shape = tuple(sizes.values())
    if devices[0].platform == "tpu" and size == len(devices):
        placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(placed, AXES)
    return Mesh(np.array(devices[:size]).reshape(shape), AXES)


def map_runs(
    fn: Callable[[Any, Any, Any], Any],  # (run, state, shared) -> output, for one run
    mesh: Mesh,
    *,
    donate_state: bool = False,
    side_by_side: bool = True,
) -> Callable[[Any, Any, Any], Any]:
    """Compiles `fn` over a leading axis R of runs, spread over every device of the mesh.

    R must be a multiple of the device count (see `pad_runs`); `shared` is replicated. Runs never
    talk to each other, so there are no collectives. Within a device, runs go one after the other
    on a CPU (their weights fit its cache; measured 1.1 to 1.7x faster than `vmap`) and side by
    side under `vmap` on an accelerator, which needs wide work; `side_by_side=False` is for work
    that is wide in one run already, such as measurements over a test set.
    """
    sequential = not side_by_side or mesh.devices.flat[0].platform == "cpu"

    def on_one_device(run, state, shared):
        if sequential:
            return jax.lax.map(lambda mine: fn(mine[0], mine[1], shared), (run, state))
        return jax.vmap(fn, in_axes=(0, 0, None))(run, state, shared)

    on_one_device.__name__ = getattr(fn, "__name__", "run")  # what profiles and logs show
    over_devices = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(P(AXES), P(AXES), P()),
        out_specs=P(AXES),
        check_vma=False,
    )
    return jax.jit(over_devices, donate_argnums=(1,) if donate_state else ())


def shard_runs(tree: Any, mesh: Mesh) -> Any:
    """Places arrays [R, ...] with the runs spread over the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P(AXES)))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a copy of the arrays on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def spread(tree: Any, mesh: Mesh) -> Any:
    """Inside a compiled function: from here on, rows [B, ...] lie spread over the mesh.

    What is computed from them is computed where they lie; sums over them are exchanged.
    """
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P(AXES)))


def compile_once(
    fn: Callable[..., Any], *, donate: tuple[int, ...] = (), out: Any = None
) -> Callable[..., Any]:
    """Jits a function of one run; the arguments at the places `donate` may be overwritten.

    `out` says how results lie (a prefix of their tree), as `shardings_of` and `on_mesh` give it;
    without it the compiler chooses.
    """
    return jax.jit(fn, donate_argnums=donate, out_shardings=out)


def pad_runs(count: int, mesh: Mesh) -> np.ndarray:  # i64[R]
    """Indices 0..count-1, the last one repeated until the mesh divides their number."""
    padded = -(-count // mesh.size) * mesh.size
    return np.minimum(np.arange(padded), count - 1)


def each_alone(fn: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Inside a compiled function: fn(shared, rows) on every device for the rows [B, ...] it holds.

    Devices never wait for each other within it, not even at the end of a loop whose length depends
    on the rows: that is what decoding wants, where `spread` would make every token an exchange.
    """
    return jax.shard_map(fn, mesh=mesh, in_specs=(P(), P(AXES)), out_specs=P(AXES), check_vma=False)


def add_up(fn: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Inside a compiled function: the sum of fn(shared, part) over parts [N, ...].

    Every device adds up its own parts, one after the other, and the sums are exchanged once.
    """

    def on_one_device(shared, mine):
        first = jax.tree.map(lambda leaf: leaf[0], mine)
        zero = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(fn, shared, first)
        )

        def add(total, part):
            return jax.tree.map(jnp.add, total, fn(shared, part)), None

        return jax.lax.psum(jax.lax.scan(add, zero, mine)[0], AXES)

    return jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(P(), P(AXES)), out_specs=P(), check_vma=False
    )


def shardings_of(tree: Any, rules: Sequence[Rule], mesh: Mesh) -> Any:
    """How the arrays (or shapes) of a tree lie by the rules; see `partition.specs_of`.

    With `compile_once(init, out=shardings_of(jax.eval_shape(init, key), rules, mesh))`, parameters
    are born where they belong, and never whole on one device.
    """
    specs = specs_of(tree, rules, mesh.shape)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def on_mesh(mesh: Mesh, *axes: str | tuple[str, ...] | None) -> NamedSharding:
    """Arrays whose first dimensions are cut by these axes: `on_mesh(mesh, ROWS)`; none: whole."""
    return NamedSharding(mesh, P(*axes))


def place(tree: Any, shardings: Any) -> Any:
    """Moves arrays to where they shall lie; one sharding may serve a whole tree."""
    return jax.device_put(tree, shardings)


def global_rows(tree: Any, mesh: Mesh) -> Any:
    """Rows [B, ...] that every process has whole, onto the mesh: cut where B can be shared.

    Each process sends what its own devices hold.
    """

    def put(array: Any) -> jax.Array:
        array = np.asarray(array)
        at = rows_at(len(array), mesh)
        return jax.make_array_from_callback(array.shape, at, lambda index: array[index])

    return jax.tree.map(put, tree)


def rows_at(count: int, mesh: Mesh) -> NamedSharding:
    """How so many rows lie: cut where the devices can share them, else whole on each."""
    return on_mesh(mesh, ROWS) if count % holders_of(mesh) == 0 else on_mesh(mesh)


def shapes_at(tree: Any, shardings: Any) -> Any:
    """What a compiled function's `lower` needs to know of arguments that need not exist."""
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda leaf: shardings, tree)
    return jax.tree.map(
        lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree, shardings
    )


def layout(mesh: Mesh, rules: Sequence[Rule]) -> Layout:
    """What a model is told of the mesh on which its parameters lie by the rules."""

    def constrain(x: jax.Array, axes: Axes) -> jax.Array:
        check_divides(x.shape, axes, mesh.shape)
        return jax.lax.with_sharding_constraint(x, on_mesh(mesh, *axes))

    def on_parts(fn: Callable, in_axes: tuple[Axes, ...], out_axes: Axes) -> Callable:
        return jax.shard_map(
            fn,
            mesh=mesh,
            in_specs=tuple(P(*axes) for axes in in_axes),
            out_specs=P(*out_axes),
            check_vma=False,
        )

    platform = mesh.devices.flat[0].platform
    return Layout(platform, constrain, on_parts, functools.partial(on_rows, mesh=mesh, rules=rules))


def on_rows(
    fn: Callable[[Any, Any], Any], mesh: Mesh, rules: Sequence[Rule]
) -> Callable[[Any, Any], Any]:
    """Inside a compiled function: fn(shared, rows) for the rows [B, ...] of each (data, fsdp).

    `shared` lies by the rules. It is gathered over `fsdp` once, however often fn loops over it, and
    its gradient exchanged once; left to itself, the compiler does both in every turn of the loop.
    Within fn, `shared` is in f32, so that the turns add up in it. What `tensor` cuts stays cut, by
    the compiler.
    """

    def copy(leaf: jax.Array, spec: P) -> jax.Array:
        """[1, ...] of [copies, ...]: one for each group of rows, cut by `tensor` alone."""
        for dimension, axis in enumerate(spec):
            if axis == "fsdp":
                leaf = jax.lax.all_gather(leaf, axis, axis=dimension, tiled=True)
        return leaf[None]

    def over_rows(shared, rows):
        specs = specs_of(shared, rules, mesh.shape)
        shared = jax.tree.map(_widened, shared)
        # Where every axis is written out, so is the exchange; where `tensor` is the compiler's,
        # nothing may be exchanged, or it would gather over `tensor` first.
        gathered = jax.shard_map(
            lambda shared: jax.tree.map(copy, shared, specs),
            mesh=mesh,
            in_specs=(specs,),
            out_specs=jax.tree.map(lambda spec: P(ROWS, *_keep(spec, "tensor")), specs),
            check_vma=False,
        )(shared)
        return jax.shard_map(
            lambda copies, rows: fn(jax.tree.map(lambda leaf: leaf[0], copies), rows),
            mesh=mesh,
            in_specs=P(ROWS),
            out_specs=P(ROWS),
            axis_names=set(ROWS),
            check_vma=False,
        )(gathered, rows)

    return over_rows


def _widened(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _keep(spec: P, *axes: str) -> P:
    return P(*(axis if axis in axes else None for axis in spec))


def for_decoding(
    params: Any,
    rules: Sequence[Rule],
    mesh: Mesh,
    dtype: jax.typing.DTypeLike | None = None,  # of what is gathered; its own if None
) -> Any:
    """Inside a compiled function: the parameters cut by `tensor` alone, gathered over `fsdp` once.

    Decoding reads all parameters at every token: gathered outside its loop, they travel once for an
    answer. With masters in f32, `dtype=jnp.bfloat16` halves that and the reading; what no axis of
    `fsdp` cuts, such as the scale of a norm, is used in f32 and keeps its type.
    """

    def gather(leaf: jax.Array, spec: P) -> jax.Array:
        if "fsdp" not in spec:
            return leaf
        kept = (None if axis == "fsdp" else axis for axis in spec)
        return jax.lax.with_sharding_constraint(
            leaf.astype(dtype or leaf.dtype), on_mesh(mesh, *kept)
        )

    return jax.tree.map(gather, params, specs_of(params, rules, mesh.shape))


def holders_of(mesh: Mesh) -> int:
    """Among how many groups of devices the rows of a batch are divided."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def cut_rows(batch: Any, count: int, mesh: Mesh) -> Any:  # [B, ...] -> [count, B / count, ...]
    """Inside a compiled function: parts of a batch, each from the rows of every device alike.

    A device's rows stay on it and in order, and so together where they are a group.
    """
    holders = holders_of(mesh)

    def cut(leaf: jax.Array) -> jax.Array:
        if len(leaf) % (holders * count):
            raise ValueError(
                f"{len(leaf)} rows cannot be cut into {count} parts over data={mesh.shape['data']} "
                f"x fsdp={mesh.shape['fsdp']}; their number must be a multiple of {holders * count}"
            )
        parts = leaf.reshape(holders, count, -1, *leaf.shape[1:]).swapaxes(0, 1)
        parts = parts.reshape(count, -1, *leaf.shape[1:])
        return jax.lax.with_sharding_constraint(parts, on_mesh(mesh, None, ROWS))

    return jax.tree.map(cut, batch)


def join_rows(parts: Any, mesh: Mesh) -> Any:  # [count, B / count, ...] -> [B, ...]
    """Inside a compiled function: what was worked out of `cut_rows`, in the batch's own order."""
    holders = holders_of(mesh)

    def join(leaf: jax.Array) -> jax.Array:
        count = len(leaf)
        whole = leaf.reshape(count, holders, -1, *leaf.shape[2:]).swapaxes(0, 1)
        whole = whole.reshape(-1, *leaf.shape[2:])
        return jax.lax.with_sharding_constraint(whole, on_mesh(mesh, ROWS))

    return jax.tree.map(join, parts)


def in_turn(
    fn: Callable[[Any, Any], Any], rules: Sequence[Rule], mesh: Mesh
) -> Callable[[Any, Any], Any]:
    """Inside a compiled function: as `add_up`, one part after the other over the whole mesh.

    For parameters that are cut: what is added up lies as the rules say, a gradient as its
    parameter, and every device holds its share of the sum only.
    """

    def total(shared, parts):
        first = jax.tree.map(lambda leaf: leaf[0], parts)
        shapes = jax.eval_shape(fn, shared, first)
        lie = shardings_of(shapes, rules, mesh)
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(sums, part):
            mine = jax.lax.with_sharding_constraint(fn(shared, part), lie)
            return jax.tree.map(jnp.add, sums, mine), None

        return jax.lax.scan(add, jax.lax.with_sharding_constraint(zero, lie), parts)[0]

    return total


def my_rows(rows: int, mesh: Mesh) -> np.ndarray:  # i64[b]
    """Which rows of a global batch [rows, ...] this process feeds, in order.

    Rows are cut by data and fsdp. Where `tensor` reaches over several processes, they feed the
    same rows, and must feed them alike.
    """
    cuts = holders_of(mesh)
    if rows % cuts:
        raise ValueError(
            f"a batch of {rows} rows must be a multiple of data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']}; try {-(-rows // cuts) * cuts}"
        )
    places = on_mesh(mesh, ROWS).addressable_devices_indices_map((rows,))
    return np.unique(np.concatenate([np.arange(rows)[place] for place in places.values()]))


def global_array(local: Any, mesh: Mesh) -> Any:
    """From the rows [b, ...] that each process feeds (`my_rows`), arrays [rows, ...] of all."""
    places = on_mesh(mesh, ROWS)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(places, leaf), local)
