"""Checkpoints through Orbax that survive being cut off in the middle of a save."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from rlrazor.runtime.workdir import write_whole

log = logging.getLogger(__name__)
DIGEST = "rlrazor-digest"  # file in a checkpoint's folder


def _without_keys(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(folder: Path) -> str:
    """One hash of the names and contents of every file below the folder."""
    whole = hashlib.blake2b()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != DIGEST:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "blake2b").hexdigest()
            whole.update(f"{path.relative_to(folder)} {content}\n".encode())
    return whole.hexdigest()


class Checkpoints:
    """The newest few checkpoints of a run: a pytree of arrays and a JSON note of the position.

    Orbax writes to a temporary folder and renames it, so a killed save is never the newest. A
    checkpoint damaged later (torn disk, stray edit) is reported, deleted and the one before it
    used; a digest tells, as Orbax notices some damage late and noisily, a flipped bit not at all.
    Saving is synchronous: on a CPU, donating arrays that are still being written corrupts them.
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
        folder = self._folder(position)
        write_whole(folder / DIGEST, _digest(folder))

    def restore_newest(
        self, like: Callable[[dict[str, Any]], Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """The newest checkpoint that can be read whole, as (state, note); None if there is none.

        `like(note)` gives a state of the shapes and shardings that the restored one shall have.
        """
        for position in sorted(self._manager.all_steps(), reverse=True):
            try:
                self._check_digest(position)
                note = self._restore(position, note=ocp.args.JsonRestore())["note"]
                template = like(note)
                shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, _without_keys(template))
                plain = self._restore(position, state=ocp.args.StandardRestore(shapes))["state"]
            except Exception as error:  # Orbax and TensorStore raise many kinds for a torn file
                reason = str(error).strip().splitlines() or [type(error).__name__]
                log.warning(
                    "checkpoint %d cannot be read (%s); going back to the one before it",
                    position,
                    reason[0][:200],
                )
                self._manager.delete(position)
                continue
            state = jax.tree.map(
                lambda old, new: jax.random.wrap_key_data(new) if _is_key(old) else new,
                template,
                plain,
            )
            return state, note
        return None

    def _folder(self, position: int) -> Path:
        return Path(self._manager.directory) / str(position)

    def _check_digest(self, position: int) -> None:
        path = self._folder(position) / DIGEST
        if not path.exists():  # the last thing that `save` writes
            raise ValueError("it was not saved to the end")
        if path.read_text() != _digest(path.parent):
            raise ValueError("its files have changed since they were written")

    def _restore(self, position: int, **items: Any) -> Any:
        return self._manager.restore(position, args=ocp.args.Composite(**items))

    def close(self) -> None:
        self._manager.close()
