"""The parts of accelerator.py that train and sample a language model; each returns its figures.

Its weights are on the device while a part runs, and no longer.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from configs import finetune
from experiments.benchmarks import language_limit
from experiments.benchmarks.language_programs import TINY, Engine, Options, Sizes
from experiments.finetuning.settings import computing_of, optimization_of
from rlrazor.models.released import SHAPES
from rlrazor.runtime.hardware import Accelerator, accelerator_of
from rlrazor.runtime.mesh import compile_once, make_mesh
from rlrazor.studies import host
from rlrazor.studies.host import Encoded, OnHost, Question
from rlrazor.tasks.protocol import Verdict

ROUNDS = 3
SFT = Sizes(rows=16, tokens=2048)
GRPO = Sizes(prompts=8, samples=32, prompt_tokens=256, answer_tokens=512)
DECODE = Sizes(prompts=8, samples=8, prompt_tokens=64, answer_tokens=256)
SMALLER = {"rows": 4, "tokens": 32, "prompts": 2, "samples": 4}
SMALLER |= {"prompt_tokens": 8, "answer_tokens": 8}
# Copies of the parameters in f32 while a step is taken: they themselves, the base, two moments,
# the gradient, that of a microbatch, and what the optimizer adds.
COPIES = 7
SAVING = dict.fromkeys(("param_dtype", "mu_dtype", "nu_dtype"), "bfloat16")

Figures = dict[str, Any]


def make_engine(
    model: str, sizes: Sizes, *, tiny: bool, rows_at_once: int | None = None
) -> tuple[Engine, Figures]:
    """A model as the config of fine-tuning has it, and what of that decides the speed.

    With parameters and moments in bf16, as in the paper, where f32 would not fit.
    """
    config: Any = finetune.get_config("grpo")
    config.rows_at_once = rows_at_once or config.rows_at_once
    shape = SHAPES[f"Qwen/Qwen2.5-{model}"]
    if tiny:
        small = ("vocabulary", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width")
        shape = dataclasses.replace(shape, **{name: getattr(TINY, name) for name in small})
        sizes = dataclasses.replace(sizes, **SMALLER)
    mesh, limit = make_mesh(**config.mesh), peak()
    matrices = language_limit.learnt_flops(shape, 1, 1) / 6
    if limit and 4 * COPIES * matrices > 0.9 * limit.memory * mesh.size:
        config.update(SAVING)
    options = Options(config.rows_at_once, config.vocabulary_chunk, optimization_of(config))
    shape = dataclasses.replace(shape, **computing_of(config))
    engine = Engine(shape, sizes, mesh, options)
    said = {name: config[name] for name in ("rows_at_once", "vocabulary_chunk", "mu_dtype")}
    said |= computing_of(config) | {"attention": engine.policy.model.config.attention}
    return engine, {"parameters": engine.parameters, "mesh": dict(mesh.shape), **said}


def peak() -> Accelerator | None:
    return accelerator_of(jax.devices()[0].device_kind)


def timed(call: Callable[[], Any], rounds: int = ROUNDS) -> tuple[float, float]:
    """Median seconds of a call that waits for what it computes; how much longer the first took."""
    times = []
    for _ in range(1 + rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    median = statistics.median(times[1:])
    return median, times[0] - median


def questions_for(engine: Engine) -> OnHost:
    """Random prompts and conversations, and a judge that costs nothing."""
    s, rng = engine.sizes, np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(engine.shape.vocabulary, size=count, dtype=np.int32)

    def question() -> Question:
        said = Encoded(tokens(s.tokens), np.arange(s.tokens) > 0)
        return Question(tokens(s.prompt_tokens), "", None, said)

    def judge(prompts: Any, answers: Any, truths: Any) -> list[Verdict]:
        # Not above 0: an answer without an end earns no more.
        rewards = [np.float32(-(len(answer) % 7) / 7) for answer in answers]
        return [Verdict(reward, np.bool_(False)) for reward in rewards]  # type: ignore[arg-type]

    def decode(ids: Any) -> str:
        return "".join(map(str, ids))

    questions = [question() for _ in range(max(s.rows, s.prompts))]
    return OnHost(questions, judge, decode, (s.prompt_tokens,), (s.tokens,))


def sft(model: str, *, tiny: bool, rows_at_once: int | None = None) -> Figures:
    """A step as `OnHost.advancing` takes it: rows made on the host, and learnt from."""
    engine, figures = make_engine(model, SFT, tiny=tiny, rows_at_once=rows_at_once)
    s, on_host = engine.sizes, questions_for(engine)
    state, given = engine.begin()
    learning = engine.learning(engine.sft, state)

    def step() -> None:
        nonlocal state
        some = on_host.chosen(engine.sft, 0, 0)
        state, metrics = learning(state, given, on_host.imitated(engine.sft, some))
        if metrics["updates_skipped"] > 0:
            raise ValueError("the gradient is not finite, so speed means nothing")

    seconds, compiling = timed(step)
    rate = language_limit.learnt_flops(engine.shape, s.rows, s.tokens) / seconds / engine.mesh.size
    limit = peak()
    return {
        "mfu": rate / limit.flops if limit else None,
        "flops_per_second_per_device": rate,
        "tokens_per_second_per_device": s.rows * s.tokens / seconds / engine.mesh.size,
        "step_seconds": seconds,
        "compile_seconds": compiling,
        "memory_gib": used_gib(),
        "rows": s.rows,
        "tokens": s.tokens,
        **figures,
    }


def decode(model: str, *, tiny: bool) -> Figures:
    """Answers as fine-tuning samples them, reading the short prompts included."""
    engine, figures = make_engine(model, DECODE, tiny=tiny)
    s, some = engine.sizes, questions_for(engine).questions[: engine.sizes.prompts]
    prompts = host.prompt_rows([q.prompt for q in some], (s.prompt_tokens,), engine.mesh)

    def answer(params: Any, prompts: Any, key: jax.Array) -> Any:
        policy = engine.policy
        return host.answers(policy, params, prompts, key, policy.sampling, s.samples)

    answering, params, key = compile_once(answer), engine.params, jax.random.key(1)
    seconds, compiling = timed(lambda: jax.block_until_ready(answering(params, prompts, key)))
    devices, limit = engine.mesh.size, peak()
    least = language_limit.decoded_bytes(engine.shape, s, engine.parameters, devices)
    rate = least / seconds / devices
    return {
        "bandwidth_share": rate / limit.memory_bandwidth if limit else None,
        "bytes_per_second_per_device": rate,
        "tokens_per_second": s.prompts * s.samples * s.answer_tokens / seconds,
        "milliseconds_per_token": 1e3 * seconds / s.answer_tokens,
        "compile_seconds": compiling,
        "memory_gib": used_gib(),
        "answers": s.prompts * s.samples,
        "prompt_tokens": s.prompt_tokens,
        "answer_tokens": s.answer_tokens,
        **figures,
    }


def grpo(model: str, *, tiny: bool) -> Figures:
    """An iteration as `OnHost.advancing` takes it, each part waited for."""
    engine, figures = make_engine(model, GRPO, tiny=tiny)
    s, setup, on_host = engine.sizes, engine.grpo, questions_for(engine)
    state, given = engine.begin()
    learning = engine.learning(setup, state)
    sampling = compile_once(functools.partial(host.sample, setup))
    parts: dict[str, list[float]] = {"rollout": [], "judging": [], "update": []}

    def iterate() -> None:
        nonlocal state
        some = on_host.chosen(setup, 0, 0)
        times = [time.perf_counter()]
        prompts = host.prompt_rows([q.prompt for q in some], (s.prompt_tokens,), engine.mesh)
        rows = jax.block_until_ready(sampling(state, given, prompts))
        times.append(time.perf_counter())
        rows, _ = on_host.judged(rows, some, s.samples, engine.mesh)
        times.append(time.perf_counter())
        state, _ = jax.block_until_ready(learning(state, given, rows))
        times.append(time.perf_counter())
        for name, seconds in zip(parts, np.diff(times), strict=True):
            parts[name].append(float(seconds))

    seconds, compiling = timed(iterate, ROUNDS - 1)
    return {
        "iteration_seconds": seconds,
        **{f"{name}_seconds": statistics.median(all_[1:]) for name, all_ in parts.items()},
        "compile_seconds": compiling,
        "memory_gib": used_gib(),
        "prompts": s.prompts,
        "samples": s.samples,
        "prompt_tokens": s.prompt_tokens,
        "answer_tokens": s.answer_tokens,
        **figures,
    }


def used_gib() -> float | None:
    """The most that the first device ever held."""
    found: Any = jax.local_devices()[0].memory_stats()
    return found["peak_bytes_in_use"] / 2**30 if found else None
