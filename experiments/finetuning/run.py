"""A fine-tuning run: load, learn, measure, save; stopped and resumed at will, on any mesh."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.finetuning.calls import buckets_of, calls
from experiments.finetuning.data import Encoded
from experiments.finetuning.examples import Feed, conversations, prompts_of, put, questions
from experiments.finetuning.measuring import Measure, texts
from experiments.finetuning.programs import Answers, Rows, build
from experiments.finetuning.progress import Progress, timed
from experiments.finetuning.settings import check, knobs_for, optimizer_for, shape_for
from experiments.planning.flops import count_flops
from rlrazor.models.lora_files import save_lora
from rlrazor.models.pretrained import load_pretrained, parameter_shapes, save_pretrained
from rlrazor.models.pretrained_config import read_config
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.runtime.chat import load_chat
from rlrazor.runtime.checkpoint import Checkpoints
from rlrazor.runtime.distributed import Job, is_writer, tell_all
from rlrazor.runtime.hub import find_model
from rlrazor.runtime.mesh import holders_of, make_mesh, on_mesh
from rlrazor.runtime.workdir import ResultsFile
from rlrazor.sampling.decode import make_stops
from rlrazor.tasks.questions.final_answer import is_right
from rlrazor.training.state import TrainState
from rlrazor.types import Params

# Config fields that say how a run is carried out, and not what it learns.
OPERATIONAL = (
    "checkpoint_every_seconds", "dry_run", "log_every", "mesh", "profile", "save_model",
    "tensorboard",
)  # fmt: skip


class FineTuning:
    """Everything of a run but its state."""

    def __init__(self, config: Any):
        check(config)
        self.config, self.mesh = config, make_mesh(**config.mesh)
        self.folder = find_model(config.model)
        self.shape = shape_for(config, read_config(self.folder))
        self.chat = load_chat(self.folder)
        self.key = jax.random.key(config.seed)
        self.programs = build(
            self.shape,
            optimizer_for(config),
            make_stops([[token] for token in self.chat.stop_ids]),
            knobs_for(config, self.mesh),
            self.mesh,
        )

    def load(self) -> None:
        """Reads data and weights; everything that may be mistaken in a config is found here."""
        self.feed, tests = self._feed(), self._tests()
        started = time.monotonic()
        _, self.base, reading = load_pretrained(
            self.folder,
            shardings=jax.tree.map(lambda leaf: leaf.sharding, self.programs.params),
            param_dtype=self.config.param_dtype,
        )
        print(
            f"process {jax.process_index()} read {reading.bytes_read / 1e9:.3g} of "
            f"{reading.bytes_stored / 1e9:.3g} GB in {time.monotonic() - started:.1f} s"
        )
        # What is trained is all there is, or adapters beside it.
        self.frozen = self.base if self.config.lora.rank else None
        self.measure = Measure(
            self.programs,
            self.chat,
            self.base,
            tests,
            count=self.config.test_prompts,
            share=holders_of(self.mesh),
            buckets=self.config.prompt_buckets,
            key=jax.random.fold_in(self.key, 1),
        )

    def _feed(self) -> Feed:
        config = self.config
        if config.method == "sft":
            examples = self._examples(conversations, config.data.path)
            return Feed(
                examples, config.rows, config.row_buckets, config.seed, self.programs.rows_at
            )
        examples = self._examples(questions, config.data.path)
        # Prompts are few and need not divide among the devices; their answers do.
        at = on_mesh(self.mesh)
        return Feed(examples, config.prompts, config.prompt_buckets, config.seed, at)

    def _tests(self) -> dict[str, list[Encoded]]:
        """Questions by the name under which results.jsonl has their accuracy."""
        paths = {"new": self.config.data.test_path}
        paths |= {f"prior/{name}": path for name, path in self.config.prior.items()}
        return {name: self._examples(questions, path) for name, path in paths.items() if path}

    def _examples(self, read: Callable[..., Any], path: str) -> list[Encoded]:
        found, left_out = read(self.config, self.chat, path)
        if left_out and is_writer():
            print(f"{path}: {left_out} of {left_out + len(found)} are too long and left out")
        return found

    def step(
        self, state: TrainState, number: int, rows: Rows, truths: list[str], found: dict[str, Any]
    ) -> TrainState:
        """One update; what is worth knowing of it goes into `found`."""
        if self.config.method == "sft":
            with timed(found, "update"):
                state, metrics = self.programs.imitate(state, self.frozen, rows)
                found |= _numbers(metrics)
            found["row_tokens"] = _total(rows.count)
            return state
        with timed(found, "sample"):
            key = jax.random.fold_in(jax.random.fold_in(self.key, 2), number)
            temperature = jnp.float32(self.config.temperature)
            policy = self.programs.policy(state.params, self.frozen)
            answers = self.programs.sample(policy, prompts_of(rows), key, temperature)
            del policy
            found["row_tokens"] = _total(answers.count)
        with timed(found, "judge"):
            rewards = self._rewards(answers, truths)
        with timed(found, "update"):
            state, metrics = self.programs.reinforce(state, self.frozen, answers, rewards)
            found |= _numbers(metrics)
        return state

    def _rewards(self, answers: Answers, truths: list[str]) -> jax.Array:  # f32[B]
        wanted = [truth for truth in truths for _ in range(self.config.samples)]
        right = [
            is_right(text, truth)
            for text, truth in zip(texts(answers, self.chat), wanted, strict=True)
        ]
        return put(np.array(right, np.float32), self.programs.rows_at)

    def line(self, number: int, trained: Params, means: dict[str, float]) -> dict[str, Any]:
        """A line of results.jsonl."""
        config = self.config
        arm = f"{config.method}_lora" if config.lora.rank else config.method
        policy = self.programs.policy(trained, self.frozen) if number else self.base
        return {
            "run": f"{arm}-lr{config.learning_rate:.3g}-s{config.seed}",
            "arm": arm,
            "seed": config.seed,
            "step": number,
            "final": number == config.steps,
            "hyperparameters": {
                "learning_rate": config.learning_rate,
                "model": config.model,
                "lora_rank": config.lora.rank,
            },
            **self.measure(policy),
            **{f"train/{name}": value for name, value in means.items()},
        }

    def save(self, workdir: Path, trained: Params) -> None:
        """The model as transformers reads it; adapters also alone, as peft does."""
        lora = self.config.lora
        if lora.rank:
            scale = lora.alpha / lora.rank
            save_lora(workdir / "adapter", self.shape, trained, scale, base=self.config.model)
        policy = self.programs.policy(trained, self.frozen)
        save_pretrained(workdir / "model", self.shape, policy, source=self.folder)

    def dry_run(self) -> None:
        """Compiles what a run would call, and says how long that takes and what it needs."""
        for size in buckets_of(self.config):
            for name, arguments in calls(self.config, self.programs, self.mesh, size):
                started = time.monotonic()
                memory = getattr(self.programs, name).lower(*arguments).compile().memory_analysis()
                needs = memory.argument_size_in_bytes + memory.temp_size_in_bytes
                print(
                    f"{name} for {size} tokens: compiled in {time.monotonic() - started:.1f} s, "
                    f"{needs / 2**30:.2f} GiB a device"
                )


def run_finetuning(config: Any, workdir: Path, job: Job) -> None:
    """Runs or resumes in an opened workdir; results.jsonl, TensorBoard and the model lie in it."""
    tuning = FineTuning(config)
    if config.dry_run:
        tuning.dry_run()
        return
    tuning.load()
    if is_writer():
        sizes = buckets_of(config)
        print(
            f"lengths are padded to {sizes}: every program is compiled {len(sizes)} times at most"
        )
    checkpoints = Checkpoints(workdir / "checkpoints")
    restored = checkpoints.restore_newest(lambda note: tuning.programs.state)
    state, note = restored or (
        tuning.programs.initial(tuning.base, tuning.key),
        {"bytes": 0, "sums": {}},
    )
    done, size = int(state.step), note["bytes"]
    results = ResultsFile(workdir / "results.jsonl")
    results.cut(size)
    progress = Progress(
        config,
        workdir,
        start=done,
        sums=note["sums"],
        flops_per_token=flops_per_token(tuning.shape),
    )

    def measured(number: int) -> int:
        line = tuning.line(number, state.params, progress.means())
        progress.write("test", number, line)
        return results.append([line])

    if done == 0:
        size = measured(0)
    saved_at = time.monotonic()
    batches = tuning.feed.batches(done)
    for number in range(done + 1, config.steps + 1):
        rows, truths = next(batches)
        with progress.step(number) as found:
            state = tuning.step(state, number, rows, truths, found)
        last = number == config.steps
        if last or number % config.test_every == 0:
            size = measured(number)
        stopping = job.stops_at(number)
        due = tell_all(time.monotonic() - saved_at > config.checkpoint_every_seconds)
        if last or stopping or due:
            checkpoints.save(number, state, {"bytes": size, "sums": progress.sums})
            saved_at = time.monotonic()
        if stopping and not last:
            progress.close()
            job.stop(number)
    progress.close()
    checkpoints.close()
    if config.save_model and not (workdir / "model").exists():
        tuning.save(workdir, state.params)


def flops_per_token(shape: TransformerConfig, tokens: int = 1024) -> float:
    """Of a forward and a backward pass over a row of that many tokens, nothing worked out twice."""
    shape = dataclasses.replace(shape, attention="einsum")
    model, params = Transformer(shape), parameter_shapes(shape)

    def forward(params: Params, row: jax.Array) -> Any:
        return model.apply(params, model.apply(params, row)[0], method="logits")  # type: ignore

    row = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
    return 3 * count_flops(forward, params, row) / tokens


def _numbers(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in jax.device_get(metrics).items()}


def _total(counts: jax.Array) -> float:
    return float(jnp.sum(counts))
