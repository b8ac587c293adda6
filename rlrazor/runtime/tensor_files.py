"""Folders of safetensors files: read by slices, written one tensor after the other.

The layout is Hugging Face's: one file, or shards and an index that says which tensor is where.
"""

import dataclasses
import json
import math
import os
import re
import shutil
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from safetensors import SafetensorError, safe_open

SUFFIX, INDEX_SUFFIX = ".safetensors", ".safetensors.index.json"
STORED_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a file's header says of a tensor."""

    shape: tuple[int, ...]
    dtype: str  # as safetensors names it: F32, BF16, ...
    file: Path
    name: str  # in the file


class TensorFolder:
    """The tensors of a folder by name; opening it reads the headers and nothing else.

    As transformers does, one file is taken where there is one, whatever an index beside it says:
    who saves a smaller model over shards may leave their index behind.

    ValueError names a file that is missing, truncated or no safetensors, a tensor that the index
    promises and no file has, and one that a file has and the index does not know.
    """

    def __init__(self, folder: Path, stem: str = "model"):
        self.folder = folder
        self.bytes_read = 0  # of tensors, by this process; the disk is read in whole pages
        self.stored: dict[str, Stored] = {}
        self._open: dict[Path, Any] = {}
        promised = _read_index(folder, stem)
        for file in (
            [folder / (stem + SUFFIX)] if promised is None else sorted(set(promised.values()))
        ):
            if not file.is_file():
                needed = [name for name, where in (promised or {}).items() if where == file]
                what = f", which its index names for {min(needed)!r}" if needed else ""
                raise ValueError(f"{folder} lacks the file {file.name}{what}; fetch it again")
            self._read_header(file, promised)
        for name, file in (promised or {}).items():
            if name not in self.stored:
                raise ValueError(f"{file} lacks the tensor {name!r}, which its index promises")

    def _read_header(self, file: Path, promised: dict[str, Path] | None) -> None:
        try:
            # Files are mapped into memory: a slice touches the pages it lies on.
            self._open[file] = opened = safe_open(file, "np")
            for name in opened.keys():  # noqa: SIM118  # not a dict
                if promised is not None and promised.get(name) != file:
                    raise ValueError(f"{file} holds the tensor {name!r}, which its index ignores")
                header = opened.get_slice(name)
                shape = tuple(header.get_shape())
                self.stored[name] = Stored(shape, header.get_dtype(), file, name)
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"{file} cannot be read as safetensors ({error}); fetch it again"
            ) from error

    @property
    def bytes_stored(self) -> int:
        """Of all tensors, which must be of the types that this project writes."""
        size = {stored: jnp.dtype(name).itemsize for name, stored in STORED_NAMES.items()}
        return sum(math.prod(s.shape) * size[s.dtype] for s in self.stored.values())

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self._open)

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """The slice of the tensor, and no more of the file than it."""
        stored = self.stored[name]
        part = self._open[stored.file].get_slice(stored.name)[index]
        self.bytes_read += part.nbytes
        return part

    def rename(self, known_as: Callable[[str], str | None]) -> None:
        """Gives tensors the names that their reader knows; those with None are left out."""
        renamed: dict[str, Stored] = {}
        for old, stored in self.stored.items():
            new = known_as(old)
            if new is None:
                continue
            if new in renamed:
                raise ValueError(
                    f"{self.folder} holds {renamed[new].name!r} and {stored.name!r}, which are "
                    f"both {new!r}; save the model again"
                )
            renamed[new] = stored
        self.stored = renamed


def _read_index(folder: Path, stem: str) -> dict[str, Path] | None:
    """Which file has which tensor; None for a model in one file."""
    single, index_name = stem + SUFFIX, stem + INDEX_SUFFIX
    if (folder / single).exists():
        return None
    if not (folder / index_name).exists():
        others = sorted(path.name for path in folder.glob(f"{stem}*{SUFFIX}"))
        if others:
            raise ValueError(f"{folder} has {others[0]} but no {index_name}; fetch the index too")
        raise ValueError(
            f"{folder} has neither {single} nor {index_name}; weights of another format, such as "
            "those of torch.save, must be saved as safetensors first"
        )
    index = read_json(folder / index_name).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ValueError(f"{folder / index_name} has no weight_map; fetch it again")
    for name, file in index.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(
                f"{folder / index_name} puts {name!r} into {file!r}; it must lie in that folder"
            )
    return {name: folder / file for name, file in index.items()}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError names a file that is not there or not one."""
    try:
        fields = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(fields).__name__}")
    return fields


def to_host(array: Any) -> np.ndarray:
    """The whole array in this process; every process that has a part of it must call this."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_folder(
    folder: Path,
    planned: Sequence[Planned],
    arrays: Iterable[np.ndarray],  # in the order of `planned`; only one is held at a time
    beside: Mapping[str, str | Path],  # other files: their text, or which file to copy
    *,
    max_shard_bytes: int,
    stem: str = "model",
    overwrite: bool = False,
) -> None:
    """Writes a new folder of tensors and files, the whole of it or none.

    A save that is cut off leaves a folder beside it, `....partial`, which the next one replaces. An
    earlier save there is replaced only with `overwrite`, and anything else never. With several
    processes all must call it, for they gather the arrays; the first one writes.
    """
    _check_place(folder, beside, stem, overwrite=overwrite)
    if jax.process_index():
        deque(arrays, maxlen=0)
        return
    partial, earlier = (folder.with_name(f"{folder.name}.{what}") for what in ("partial", "old"))
    if partial.exists():
        shutil.rmtree(partial)  # of a save that was cut off
    partial.mkdir(parents=True)
    write_tensors(partial, planned, arrays, max_shard_bytes=max_shard_bytes, stem=stem)
    for name, content in beside.items():
        if isinstance(content, str):
            (partial / name).write_text(content)
        else:
            shutil.copyfile(content, partial / name)
    if folder.exists():
        if earlier.exists():
            shutil.rmtree(earlier)
        folder.replace(earlier)
    partial.replace(folder)
    if earlier.exists():
        shutil.rmtree(earlier)


def _check_place(
    folder: Path, beside: Mapping[str, str | Path], stem: str, *, overwrite: bool
) -> None:
    """Nothing lies there, or (with `overwrite`) nothing but an earlier save."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise ValueError(
            f"{folder} exists and is not empty; give a new folder to save to, or overwrite=True to "
            "replace an earlier save"
        )
    ours = re.compile(rf"{stem}((-\d+-of-\d+)?{re.escape(SUFFIX)}|{re.escape(INDEX_SUFFIX)})")
    for path in folder.iterdir() if folder.is_dir() else [folder]:
        if not path.is_file() or not (path.name in beside or ours.fullmatch(path.name)):
            raise ValueError(
                f"{folder} holds {path.name!r}, which is no part of what is saved, so it is not "
                "overwritten; give another folder"
            )


def write_tensors(
    folder: Path,
    planned: Sequence[Planned],
    arrays: Iterable[np.ndarray],
    *,
    max_shard_bytes: int,
    stem: str = "model",
) -> None:
    """Writes one file, or shards of at most so many bytes of tensors, and their index."""
    shards: list[list[Planned]] = [[]]
    for tensor in planned:
        if shards[-1] and sum(t.nbytes for t in [*shards[-1], tensor]) > max_shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    n = len(shards)
    names = [f"{stem}-{i + 1:05}-of-{n:05}{SUFFIX}" for i in range(n)]
    if n == 1:
        names = [stem + SUFFIX]
    remaining = iter(arrays)
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard, remaining)
    if n > 1:
        index = {
            "metadata": {"total_size": sum(tensor.nbytes for tensor in planned)},
            "weight_map": {t.name: f for f, s in zip(names, shards, strict=True) for t in s},
        }
        (folder / (stem + INDEX_SUFFIX)).write_text(json.dumps(index, indent=2) + "\n")


def _write_file(path: Path, planned: Sequence[Planned], arrays: Iterator[np.ndarray]) -> None:
    """One safetensors file: the header's length in eight bytes, the header, the tensors' bytes.

    By hand, for the library's own writers want all tensors of a file in memory at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for this one
    end = 0
    for tensor in planned:
        start, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": STORED_NAMES[tensor.dtype.name],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that tensors begin at whole words
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in planned:
            array = next(arrays)
            if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(
                    f"{tensor.name!r} was planned as {tensor.dtype}{list(tensor.shape)}, got "
                    f"{array.dtype}{list(array.shape)}"
                )
            file.write(np.ascontiguousarray(array).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
