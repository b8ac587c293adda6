"""Speed of fine-tuning at scale: the programs of experiments/finetune.py on the devices at hand.

    python experiments/benchmarks/scale.py [--rounds=5] [--models=0.5B,1.5B,3B] [--peer_python=PATH]

On a GPU or TPU: shapes of Qwen2.5 in bf16 with random weights. An SFT step of 16 rows of 2,048
tokens as a share of the peak FLOPs (model FLOPs: what is worked out twice counts once), decoding
for 64 to 512 rows as a share of the memory's bandwidth, and a GRPO iteration of 8 prompts x 64 in
its parts. On a CPU: the 4M-parameter shape of language.py, beside transformers and TRL in the same
run. What a TPU slice could do at most, experiments/plan.py says. The last line is one JSON object.
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from experiments import cli
from experiments.benchmarks import language  # defines --rounds and --peer_python
from experiments.benchmarks.language_programs import SMALL, Sizes
from experiments.benchmarks.language_scale import decoded_bytes

MODELS = flags.DEFINE_list("models", ["0.5B", "1.5B", "3B"], "Sizes of Qwen2.5 on a GPU or TPU.")
BATCHES = (64, 128, 256, 512)


AT_SCALE = Sizes(
    rows=16,
    tokens=2048,
    prompts=8,
    samples=64,
    prompt_tokens=256,
    answer_tokens=768,
    rows_at_once=1,
)


class Bench:
    """A model of random weights on the mesh, and what is timed of it."""

    def __init__(self, config: Any, shape: Any, mesh: Any, sizes: Sizes):
        import jax
        import jax.numpy as jnp

        from experiments.finetuning.programs import Prompts, Rows, build
        from experiments.finetuning.settings import knobs_for, optimizer_for
        from rlrazor.models.transformer import Transformer
        from rlrazor.runtime.mesh import compile_once, on_mesh, place
        from rlrazor.sampling.decode import make_stops

        self.shape, self.mesh, self.sizes = shape, mesh, sizes
        stops = make_stops([[shape.vocabulary]])  # no token: answers have their full length
        tx = optimizer_for(config)
        self._programs = programs = build(shape, tx, stops, knobs_for(config, mesh), mesh)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(programs.state.params))
        lie = jax.tree.map(lambda leaf: leaf.sharding, programs.state.params)
        init = compile_once(Transformer(shape).init, out=lie)
        key = jax.random.key(0)
        self._state = programs.initial(init(key, jnp.zeros((1, 2), jnp.int32)), key)
        rng = jax.random.split(key, 3)

        def random(key: Any, rows: int, tokens: int) -> Any:
            return jax.random.randint(key, (rows, tokens), 0, shape.vocabulary)

        tokens = random(rng[0], sizes.rows, sizes.tokens)
        rows = Rows(tokens, jnp.full(sizes.rows, sizes.tokens), jnp.ones_like(tokens, bool))
        self._rows = place(rows, programs.rows_at)
        asked = random(rng[1], sizes.prompts, sizes.prompt_tokens)
        prompts = Prompts(asked, jnp.full(sizes.prompts, sizes.prompt_tokens))
        self._prompts = place(prompts, on_mesh(mesh))
        self._how = key, jnp.float32(1.0)
        self._answers = self._sample()
        count = sizes.prompts * sizes.samples
        self._rewards = place(jnp.arange(count) % 2 * 1.0, programs.rows_at)

    def _sample(self) -> Any:
        return self._programs.sample(self._state.params, self._prompts, *self._how)

    def calls(self) -> dict[str, Callable[[], Any]]:
        """By name; each returns when all is computed."""
        import jax

        def sft() -> None:
            self._state, metrics = self._programs.imitate(self._state, None, self._rows)
            jax.block_until_ready(metrics)

        def sample() -> None:
            self._answers = jax.block_until_ready(self._sample())

        def update() -> None:
            self._state, metrics = self._programs.reinforce(
                self._state, None, self._answers, self._rewards
            )
            jax.block_until_ready(metrics)

        return {"sft_step": sft, "grpo_rollout": sample, "grpo_update": update}

    def score(self) -> None:
        """KL and entropy of the answers, as at a checkpoint."""
        import jax

        from experiments.finetuning.programs import Rows

        a = self._answers
        rows = Rows(a.tokens, a.count, a.mask)
        jax.block_until_ready(self._programs.measure(self._state.params, self._state.params, rows))


def median_seconds(call: Callable[[], Any], rounds: int) -> float:
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def config_for(sizes: Sizes, **changes: Any) -> Any:
    from configs.finetune import get_config

    config = get_config("grpo")
    config.rows, config.row_buckets = sizes.rows, (sizes.tokens,)
    config.prompts, config.samples = sizes.prompts, sizes.samples
    config.prompt_buckets, config.answer_tokens = (sizes.prompt_tokens,), sizes.answer_tokens
    config.rows_at_once = sizes.rows_at_once
    with config.ignore_type():
        config.update(changes)
    return config


def at_scale(rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Utilisation by each model, on every device of the machine."""
    import jax

    from experiments.finetuning.run import flops_per_token
    from experiments.finetuning.settings import shape_for
    from rlrazor.models.released import SHAPES
    from rlrazor.runtime.hardware import accelerator_of
    from rlrazor.runtime.mesh import make_mesh

    accelerator = accelerator_of(jax.devices()[0].device_kind)
    mesh = make_mesh(data=1, fsdp=jax.device_count())
    for name in MODELS.value:
        config = config_for(AT_SCALE)
        shape = shape_for(config, SHAPES[f"Qwen/Qwen2.5-{name}"])
        bench = Bench(config, shape, mesh, AT_SCALE)
        found: dict[str, float | None] = {
            name: median_seconds(call, rounds) for name, call in bench.calls().items()
        }
        found["grpo_scoring"] = median_seconds(bench.score, rounds)
        s = AT_SCALE
        seconds: Any = found["sft_step"]
        done = flops_per_token(shape, s.tokens) * s.rows * s.tokens / seconds / mesh.size
        found["sft_mfu"] = done / accelerator.flops if accelerator else None
        for rows in BATCHES:
            del bench
            sizes = dataclasses.replace(s, prompts=rows // 8, samples=8, prompt_tokens=64)
            config = config_for(sizes)
            bench = Bench(config, shape, mesh, sizes)
            seconds = median_seconds(bench.calls()["grpo_rollout"], rounds)
            rate = decoded_bytes(shape, sizes, bench.parameters, mesh.size) / seconds / mesh.size
            found[f"decode_{rows}_bandwidth"] = (
                rate / accelerator.memory_bandwidth if accelerator else None
            )
        yield name, found


def beside_peers(rounds: int) -> dict[str, Any]:
    """Medians of all, in turns, and their ratios."""
    from rlrazor.runtime.mesh import make_mesh

    mesh, sizes = make_mesh(data=0), Sizes()
    config = config_for(sizes, param_dtype="float32", compute_dtype="float32", remat="none")
    bench = Bench(config, SMALL, mesh, sizes)
    calls: dict[str, Callable[[], language.Seconds]] = {
        f"rlrazor, {part}": functools.partial(language.timed, part, call)
        for part, call in bench.calls().items()
    }
    peers, of_peers = language.start_peers(SMALL, sizes, language.about_peers(), gpu=False)
    calls |= of_peers
    try:
        times = language.measure(calls, rounds)
    finally:
        for peer in peers:
            peer.end()
    medians = {
        f"{name.split(', ')[0]}_{name.split(': ')[1]}": statistics.median(values)
        for name, values in times.items()
    }
    iteration = medians["rlrazor_grpo_rollout"] + medians["rlrazor_grpo_update"]
    medians["rlrazor_grpo_iteration"] = iteration
    ratios = {
        f"{part}_ratio_to_{who}": medians[f"{who}_{part}"] / medians[f"rlrazor_{part}"]
        for who in ("transformers", "trl")
        for part in ("sft_step", "grpo_iteration")
        if f"{who}_{part}" in medians
    }
    return medians | ratios


def main(argv: Any) -> None:
    from rlrazor.runtime.mesh import prepare_host

    prepare_host()
    import jax

    rounds = language.ROUNDS.value
    if jax.default_backend() == "cpu":
        found = beside_peers(rounds)
    else:
        found = {}
        for name, numbers in at_scale(rounds):
            print(f"Qwen2.5-{name}", json.dumps(language.rounded(numbers)), flush=True)
            found[name] = numbers
        found["device"] = jax.devices()[0].device_kind
    print(json.dumps(language.rounded(found)))


if __name__ == "__main__":
    cli.run(main)
