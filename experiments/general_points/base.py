"""The small base model: pre-training, scoring, the folder it is shipped in."""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from tokenizers import Tokenizer

from experiments.general_points.mixture import Counts, draw_rows, make_mixture, many_rules
from rlrazor.losses.nll import nll
from rlrazor.models.pretrained import parameter_shapes
from rlrazor.models.transformer import Transformer
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.ops.logprobs import token_logprobs
from rlrazor.runtime.distributed import alone
from rlrazor.runtime.mesh import compile_once, make_mesh, replicate, spread
from rlrazor.runtime.tokenizer import load_tokenizer
from rlrazor.runtime.weights import load_weights, save_weights
from rlrazor.studies.drive import drive
from rlrazor.studies.language import each, stacked
from rlrazor.studies.programs import side_by_side
from rlrazor.studies.study import Block, Columns, Run
from rlrazor.training.optimizer import adamw, warmup_schedule
from rlrazor.training.state import TrainState, init_state
from rlrazor.training.step import make_train_step
from rlrazor.types import Metrics, Params, Vocabulary

FOLDER = "base"  # in the workdir of its pre-training
WEIGHTS, TOKENIZER, RECORD = "model.safetensors", "tokenizer.json", "base.json"


@dataclasses.dataclass(frozen=True)
class Base:
    """A base model as read from its folder."""

    model: Transformer
    params: Params
    tokenizer: Tokenizer
    record: dict[str, Any]  # config, command, scores


def row_logprobs(
    model: Transformer,
    params: Params,
    tokens: jax.Array,  # i32[B, T]
) -> jax.Array:  # f32[B, T] log pi(token | those before it); 0 for the first, which has none
    """Scores every token of a row but the first."""
    hidden: Any = model.apply(params, tokens)[0]
    logits: Any = model.apply(params, hidden[:, :-1], method="logits")
    return jnp.pad(token_logprobs(logits, tokens[:, 1:]), ((0, 0), (1, 0)))


def make_chunk(
    model: Transformer, config: Any, mesh: Any
) -> tuple[Callable[..., Any], Callable[..., TrainState]]:
    """`(state, mixture) -> (state, loss)` over a chunk of steps, and `key -> state` to begin."""
    schedule = warmup_schedule(
        config.learning_rate,
        warmup_steps=config.warmup_steps,
        total_steps=config.steps,
        cosine=True,
    )
    tx = adamw(
        schedule,
        weight_decay=config.weight_decay,
        clip_by_global_norm=config.clip_by_global_norm,
    )
    counts = Counts(**config.rows)

    def loss(params, batch, key):
        # Prior answers are a few tokens and would drown among the points' in one mean.
        logprobs = [row_logprobs(model, params, tokens) for tokens, _ in batch]
        *points, prior = [
            (logprob.reshape(1, -1), chosen.reshape(1, -1))
            for logprob, (_, chosen) in zip(logprobs, batch, strict=True)
        ]
        of_prior = nll(*prior)[0]
        if not points:
            return of_prior, {"prior_loss": of_prior}
        together = [jnp.concatenate(parts, axis=1) for parts in zip(*points, strict=True)]
        of_points = nll(*together)[0]
        return (of_points + of_prior) / 2, {"points_loss": of_points, "prior_loss": of_prior}

    step = make_train_step(loss, tx)

    def chunk(state: TrainState, mixture: Any):
        def one(state, _):
            key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
            rows = draw_rows(mixture, key, counts, lambda keys: spread(keys, mesh))
            return step(state, rows)

        state, metrics = jax.lax.scan(one, state, length=config.chunk)
        return state, jax.tree.map(jnp.mean, metrics)

    def initial(key: jax.Array) -> TrainState:
        params = model.init(key, jnp.zeros((1, 2), jnp.int32))
        return init_state(params, tx, key)

    return chunk, initial


class Pretraining:
    """A study of a run for each base and no measurements; an iteration is a chunk.

    What run of a seed has learnt lies in `weights_of(folder, config, seed)`. Several are trained
    side by side in one program on an accelerator, and one after the other on a CPU.
    """

    title = "pretraining"

    def __init__(self, model: Transformer, vocabulary: Vocabulary, config: Any):
        self.config, self.folder, self.record = config, Path(), config.to_dict()
        self.mesh = make_mesh(**config.mesh)
        self.seeds = seeds_of(config)
        together = self.mesh.devices.flat[0].platform != "cpu"
        self.side_by_side = len(self.seeds) if together else 1
        self.mixture = functools.cache(
            lambda seed: make_mixture(
                vocabulary, many_rules(config.rules, seed), config.prior_weights
            )
        )
        chunk, initial = (
            side_by_side(fn, self.side_by_side) for fn in make_chunk(model, config, self.mesh)
        )
        self.train, self.initial = compile_once(chunk, donate=(0,)), compile_once(initial)

    def plan(self) -> Sequence[Block]:
        runs = [self._run(seed) for seed in self.seeds]
        size = self.side_by_side
        return [runs[start : start + size] for start in range(0, len(runs), size)]

    def _run(self, seed: int) -> Run:
        config = self.config
        chunks = math.ceil(config.steps / config.chunk)
        return Run(
            name=f"base-s{seed}",
            arm="base",
            method="pretraining",
            variant="main",
            family="outside",
            label="Pre-training",
            seed=seed,
            learning_rate=config.learning_rate,
            iterations=chunks,
            stops=(chunks,),
            updates_per_iteration=config.chunk,
            steps_per_iteration=config.chunk,
        )

    def begin(self, block: Block) -> TrainState:
        keys = stacked([jax.random.key(run.seed) for run in block])
        return replicate(self.initial(keys), self.mesh)

    def advance(self, block: Block, state: TrainState, done: int) -> tuple[Any, int, Metrics]:
        mixture = stacked([self.mixture(run.seed) for run in block])
        state, metrics = self.train(state, replicate(mixture, self.mesh))
        return state, done + 1, metrics

    def measure(self, block: Block, state: TrainState, at: int) -> Sequence[Columns]:
        return [{} for _ in block]

    def keep(self, block: Block, state: TrainState, at: int) -> None:
        for run, params in zip(block, each(state.params, len(block)), strict=True):
            path = weights_of(self.folder, self.config, run.seed)
            path.parent.mkdir(exist_ok=True)
            save_weights(path, jax.device_get(params))


def seeds_of(config: Any) -> tuple[int, ...]:
    """Seeds of the bases that a config asks for: those of `seeds`, or the one of `seed`."""
    return tuple(config.seeds) or (config.seed,)


def weights_of(workdir: Path, config: Any, seed: int) -> Path:
    """Where the weights of a base lie: in folder `base`, or, of several, in `base-<seed>`."""
    return workdir / (f"{FOLDER}-{seed}" if config.seeds else FOLDER) / WEIGHTS


def pretrain(model: Transformer, vocabulary: Vocabulary, config: Any, workdir: Path) -> list[Path]:
    """Trains or resumes in an opened workdir; the same weights to the bit after any interruption.

    Returns the folders of the bases, which hold the weights alone: `save_base` completes them.
    """
    with alone() as job:
        drive(
            Pretraining(model, vocabulary, config),
            workdir,
            job=job,
            checkpoint_every_seconds=config.checkpoint_every_seconds,
            opened=True,
        )
    return [weights_of(workdir, config, seed).parent for seed in seeds_of(config)]


def save_base(folder: Path, base: Base) -> None:
    """Weights, tokenizer and record; a reader needs nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, base.params)
    base.tokenizer.save(str(folder / TOKENIZER))
    model = dataclasses.asdict(base.model.config)
    (folder / RECORD).write_text(json.dumps({"model": model, **base.record}, indent=2) + "\n")


def load_base(folder: Path) -> Base:
    """Reads what `save_base` wrote; ValueError names the file that is missing or broken."""
    try:
        record = json.loads((folder / RECORD).read_text())
        config = TransformerConfig(**record.pop("model"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / RECORD} is not the record of a base ({error})") from error
    model = Transformer(config)
    params = load_weights(folder / WEIGHTS, parameter_shapes(config))
    return Base(model, params, load_tokenizer(folder / TOKENIZER), record)
