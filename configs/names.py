"""A part of a config whose fields may have any name, such as a user's own files."""

from typing import Any

from ml_collections import ConfigDict


class Names(ConfigDict):
    """Where a flag may add a field: `--config.prior.arc=FILE`, `--config.methods.grpo.clip_low=.1`.

    A field that is asked for and not there is another such part, empty.
    """

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and not key.startswith("_") and key not in self._fields:
            self[key] = Names()
        return super().__getitem__(key)

    def get_type(self, key: Any, **options: Any) -> Any:
        """Of a new field, whatever the flag's value is in Python."""
        return super().get_type(key, **options) if key in self._fields else object

    def lock(self) -> "Names":
        return self
