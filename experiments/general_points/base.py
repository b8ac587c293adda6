"""The small base model: pre-training, scoring, the folder it is shipped in."""

import dataclasses
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
    """A study of one run and no measurements, whose end is the base; an iteration is a chunk.

    What it has learnt lies in folder/base.
    """

    title = "pretraining"

    def __init__(self, model: Transformer, vocabulary: Vocabulary, config: Any):
        self.config, self.folder, self.record = config, Path(), config.to_dict()
        mesh = self.mesh = make_mesh(**config.mesh)
        rules = many_rules(config.rules, config.seed)
        self.mixture = replicate(make_mixture(vocabulary, rules, config.prior_weights), mesh)
        chunk, initial = make_chunk(model, config, mesh)
        self.train, self.initial = compile_once(chunk, donate=(0,)), compile_once(initial)

    def plan(self) -> Sequence[Block]:
        config = self.config
        chunks = math.ceil(config.steps / config.chunk)
        run = Run(
            name=f"base-s{config.seed}",
            arm="base",
            method="pretraining",
            variant="main",
            family="outside",
            label="Pre-training",
            seed=config.seed,
            learning_rate=config.learning_rate,
            iterations=chunks,
            stops=(chunks,),
            updates_per_iteration=config.chunk,
            steps_per_iteration=config.chunk,
        )
        return [[run]]

    def begin(self, block: Block) -> TrainState:
        return replicate(self.initial(jax.random.key(self.config.seed)), self.mesh)

    def advance(self, block: Block, state: TrainState, done: int) -> tuple[Any, int, Metrics]:
        state, metrics = self.train(state, self.mixture)
        return state, done + 1, metrics

    def measure(self, block: Block, state: TrainState, at: int) -> Sequence[Columns]:
        return [{}]

    def keep(self, block: Block, state: TrainState, at: int) -> None:
        (self.folder / FOLDER).mkdir(exist_ok=True)
        save_weights(self.folder / FOLDER / WEIGHTS, jax.device_get(state.params))


def pretrain(model: Transformer, vocabulary: Vocabulary, config: Any, workdir: Path) -> Params:
    """Trains or resumes in an opened workdir; the same weights to the bit after any interruption.

    The weights stand in its folder `base`, which `save_base` completes.
    """
    with alone() as job:
        drive(
            Pretraining(model, vocabulary, config),
            workdir,
            job=job,
            checkpoint_every_seconds=config.checkpoint_every_seconds,
            opened=True,
        )
    return load_weights(workdir / FOLDER / WEIGHTS, parameter_shapes(model.config))


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
