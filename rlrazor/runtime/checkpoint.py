"""Checkpoints through Orbax that survive being cut off in the middle of a save."""

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from rlrazor.runtime.distributed import is_writer, tell_all, wait_for_all
from rlrazor.runtime.workdir import write_whole

log = logging.getLogger(__name__)
DIGEST = "rlrazor-digest"  # file in a checkpoint's folder
READERS = 8  # files hashed at a time: hashing is slower than a good disk


def _without_keys(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _shapes(tree: Any) -> Any:
    """What Orbax is told of the arrays that it shall make: shape, type and where they lie."""

    def one(leaf: Any) -> Any:
        if not _is_key(leaf):
            return ocp.utils.to_shape_dtype_struct(leaf)
        plain = jax.eval_shape(jax.random.key_data, leaf)
        return jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=leaf.sharding)

    return jax.tree.map(one, tree)


def _digest(folder: Path) -> str:
    """One hash of the names and contents of every file below the folder."""

    def of(path: Path) -> str:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
        return f"{path.relative_to(folder)} {content}\n"

    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != DIGEST]
    with ThreadPoolExecutor(READERS) as pool:
        lines = "".join(pool.map(of, paths))
    return hashlib.blake2b(lines.encode()).hexdigest()


class Checkpoints:
    """The newest few checkpoints of a run: a pytree of arrays and a JSON note of the position.

    Orbax writes to a temporary folder and renames it, so a killed save is never the newest. A
    checkpoint damaged later (torn disk, stray edit) is reported, deleted and the one before it
    used; a digest tells, as Orbax notices some damage late and noisily, a flipped bit not at all.
    One that is whole and cannot be restored (too little memory, another model) is kept.
    Saving is synchronous: on a CPU, donating arrays that are still being written corrupts them.

    Where a run has several processes, all of them save and restore together, into a folder that
    all see. Each writes and reads what its own devices hold.
    """

    def __init__(self, folder: Path, *, keep: int = 2):
        # Orbax logs its internals, and every error with its traceback before it raises it.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=False
            ),
        )

    def save(self, position: int, state: Any, note: dict[str, Any]) -> None:
        """Saves durably before it returns. Positions must grow."""
        self._manager.save(
            position,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_without_keys(state)), note=ocp.args.JsonSave(note)
            ),
            force=True,
        )
        if is_writer():
            folder = self._folder(position)
            write_whole(folder / DIGEST, _digest(folder))
        wait_for_all(f"checkpoint {position}")

    def restore_newest(
        self, like: Callable[[dict[str, Any]], Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """The newest checkpoint that is whole, as (state, note); None if there is none.

        `like(note)` gives arrays, or `jax.ShapeDtypeStruct`s, of the shapes, types and shardings
        that the restored state shall have: the devices may be others than those that saved it.
        """
        position = self._newest_whole()
        if position is None:
            return None
        note = self._restore(position, note=ocp.args.JsonRestore())["note"]
        template = like(note)
        state = self._restore(position, state=ocp.args.StandardRestore(_shapes(template)))["state"]
        state = jax.tree.map(
            lambda old, new: jax.random.wrap_key_data(new) if _is_key(old) else new,
            template,
            state,
        )
        return state, note

    def _newest_whole(self) -> int | None:
        """Its position; on the way there, damaged ones are reported and deleted.

        The writer looks and tells the others: all must restore the same one.
        """
        while True:
            position = tell_all(max(self._manager.all_steps(), default=-1))
            if position < 0:
                return None
            damage = self._damage(position) if is_writer() else ""
            if not tell_all(bool(damage)):
                return position
            if is_writer():
                log.warning(
                    "checkpoint %d cannot be read (%s); going back to the one before it",
                    position,
                    damage,
                )
            self._manager.delete(position)

    def _folder(self, position: int) -> Path:
        return Path(self._manager.directory) / str(position)

    def _damage(self, position: int) -> str:
        """What is wrong with a checkpoint; nothing if it is as it was saved."""
        path = self._folder(position) / DIGEST
        if not path.exists():  # the last thing that `save` writes
            return "it was not saved to the end"
        if path.read_text() != _digest(path.parent):
            return "its files have changed since they were written"
        return ""

    def _restore(self, position: int, **items: Any) -> Any:
        return self._manager.restore(position, args=ocp.args.Composite(**items))

    def close(self) -> None:
        self._manager.close()
