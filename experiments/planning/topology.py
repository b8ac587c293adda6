"""Chips that are not there, as the TPU compiler knows them."""

import importlib.util
import re
from typing import Any

KINDS = ("v4", "v5e", "v5p", "v6e")


def chips_of(topology: str) -> list[Any]:
    """Devices of a slice such as "v5e:4x4"; ValueError says what a topology looks like."""
    kind, _, shape = topology.partition(":")
    if kind not in KINDS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise ValueError(
            f"--topology={topology!r} must be one of {', '.join(KINDS)} and a shape, such as "
            "v5e:4x4 or v5p:2x2x1"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError("the TPU compiler is not installed: pip install -e '.[tpu]'")
    from jax.experimental import topologies

    # A v4's two cores are one device, as JAX sees them on the real ones; newer chips are so here.
    settings = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        slice_ = topologies.get_topology_desc(platform="tpu", topology_name=topology, **settings)
        return list(slice_.devices)
    except Exception as error:  # the plugin raises a runtime error of its own
        if "lockfile" in str(error):
            raise ValueError(
                "another process is using the TPU compiler; wait for it to end"
            ) from error
        raise ValueError(
            f"the TPU compiler knows no topology {topology!r} ({str(error).splitlines()[0]}); "
            "v4 and v5p are shaped like 2x2x4, v5e and v6e like 4x4"
        ) from error
