"""The language programs at scale: larger models on a GPU, and compiled for a TPU."""

import dataclasses
import time
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.benchmarks.language_limit import useful_flops
from experiments.benchmarks.language_programs import Compiled, Sizes, build, demonstrations
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.hardware import accelerator_of
from rlrazor.runtime.mesh import make_mesh

TOPOLOGY = "v5e:2x4"
_BFLOAT16 = {"compute_dtype": "bfloat16", "tied_head": True, "vocabulary": 32_768, "head_dim": 64}
MODELS = {
    "100M": TransformerConfig(
        width=768, layers=10, heads=12, kv_heads=4, mlp_width=2048, **_BFLOAT16
    ),
    "1B": TransformerConfig(
        width=2048, layers=18, heads=32, kv_heads=8, mlp_width=7168, remat="full", **_BFLOAT16
    ),
}
GPU_SIZES = Sizes(
    rows=64,
    tokens=1024,
    prompts=16,
    samples=16,
    prompt_tokens=256,
    answer_tokens=256,
    rows_at_once=16,
)


def utilisation(mesh: Mesh) -> dict[str, Any]:
    """Shares of the GPU's peak: FLOPs of an SFT step, and bytes read by decoding.

    Attention's products are not counted. Decoding reads all weights, once in bfloat16, and the
    whole cache at every token.
    """
    peak = accelerator_of(jax.devices()[0].device_kind)
    found: dict[str, Any] = {}
    for name, config in MODELS.items():
        s = GPU_SIZES
        compiled = Compiled(config, s, mesh)
        sft, rollout = (_seconds(compiled.calls[n]) for n in ("sft_step", "grpo_rollout"))
        flops = useful_flops(config, s)["sft_step"] / sft
        bandwidth = decoded_bytes(config, s, compiled.parameters, mesh.size) / rollout
        found[name] = {
            "parameters": compiled.parameters,
            "sft_step_seconds": sft,
            "rollout_seconds": rollout,
            "sft_flops_per_second": flops,
            "decode_bytes_per_second": bandwidth,
            "compile_seconds": compiled.compile_seconds,
            "sft_flops_utilisation": flops / peak.flops / mesh.size if peak else None,
            "decode_bandwidth_utilisation": (
                bandwidth / peak.memory_bandwidth / mesh.size if peak else None
            ),
        }
    return found


def decoded_bytes(config: TransformerConfig, sizes: Sizes, parameters: int, devices: int) -> float:
    """Least bytes that a rollout reads: all weights on every device, and the cache, in bfloat16."""
    c, s = config, sizes
    slots = s.prompt_tokens + s.answer_tokens
    cache = 2 * c.layers * s.prompts * s.samples * slots * c.kv_heads * c.head_dim * 2
    return float(s.answer_tokens * (2 * parameters * devices + cache))


def _seconds(call: Any, repeats: int = 3) -> float:
    call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def compile_for_tpu(config: TransformerConfig, sizes: Sizes) -> dict[str, Any]:
    """Compile seconds of both programs."""
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
    mesh = make_mesh(data=0, devices=topology.devices)
    sizes = dataclasses.replace(sizes, rows_at_once=max(1, sizes.rows // mesh.size))
    if sizes.prompts % mesh.size:
        raise ValueError(f"prompts={sizes.prompts} must be a multiple of {mesh.size} chips")
    programs = build(config, sizes, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    keys = jax.ShapeDtypeStruct((sizes.prompts,), key.dtype)
    state = jax.eval_shape(programs.initial, key)
    batch = jax.eval_shape(lambda key: demonstrations(config, sizes, key), key)
    found: dict[str, Any] = {"topology": TOPOLOGY, "jax": jax.__version__}
    for name, program, given in (
        ("sft", programs.sft, batch),
        ("grpo", programs.iterate, keys),
    ):
        start = time.perf_counter()
        program.lower(state, given).compile()  # type: ignore[attr-defined]
        found[f"{name}_compile_seconds"] = time.perf_counter() - start
    return found
