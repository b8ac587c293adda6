"""A part of a config whose fields may have any name, such as a user's own files."""

from typing import Any

from ml_collections import ConfigDict


class Names(ConfigDict):
    """Where a flag may add a field: `--config.prior.arc=FILE`, `--config.methods.grpo.clip_low=.1`.

    A field that is asked for and not there is another such part, empty.
    """

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str) or key.startswith("_") or key in self.keys():
            return super().__getitem__(key)
        empty = Names()
        object.__setattr__(empty, "_belongs", (self, key))
        return empty

    def __setitem__(self, key: Any, value: Any) -> None:
        # Only what is given a field of its own becomes one: to look is not to add.
        parent, name = self.__dict__.get("_belongs", (None, ""))
        if parent is not None:
            object.__setattr__(self, "_belongs", (None, ""))
            parent[name] = self
        super().__setitem__(key, value)

    def get_type(self, key: Any, **options: Any) -> Any:
        """Of a new field, whatever the flag's value is in Python."""
        return super().get_type(key, **options) if key in self._fields else object

    def lock(self) -> "Names":
        return self
