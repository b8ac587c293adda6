"""What an accelerator can do at most: the limits that measured and planned times are held against.

Vendors' figures for one device as JAX counts them (a TPU chip, a GPU), dense bf16.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Accelerator:
    name: str  # as in the name of a TPU topology, or the product's
    flops: float  # bf16 floating-point operations a second
    memory: float  # bytes that a program may have; on a TPU, what its compiler gives it
    memory_bandwidth: float  # bytes a second
    link_bandwidth: float  # bytes a second out of a device to its neighbours, all links together


GIB = 2**30
# By `jax.Device.device_kind`. A TPU's links as documented by Google Cloud, in one direction.
ACCELERATORS = {
    "TPU v4": Accelerator("v4", 275e12, 30.75 * GIB, 1228e9, 300e9),
    "TPU v5 lite": Accelerator("v5e", 197e12, 15.75 * GIB, 819e9, 200e9),
    "TPU v5": Accelerator("v5p", 459e12, 95.73 * GIB, 2765e9, 600e9),
    "TPU v5p": Accelerator("v5p", 459e12, 95.73 * GIB, 2765e9, 600e9),
    "TPU v6 lite": Accelerator("v6e", 918e12, 31.24 * GIB, 1640e9, 400e9),
    "NVIDIA A100-SXM4-40GB": Accelerator("A100", 312e12, 40 * GIB, 1555e9, 300e9),
    "NVIDIA A100-SXM4-80GB": Accelerator("A100", 312e12, 80 * GIB, 2039e9, 300e9),
    "NVIDIA H100 80GB HBM3": Accelerator("H100", 989e12, 80 * GIB, 3350e9, 450e9),
    "NVIDIA H200": Accelerator("H200", 989e12, 141 * GIB, 4800e9, 450e9),
}


def accelerator_of(device_kind: str) -> Accelerator | None:
    """None for a device that is not listed, such as a CPU: it has no limit to compare with."""
    return ACCELERATORS.get(device_kind)
