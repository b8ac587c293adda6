"""Who is trained in the rule-shift study: the small base, or a released model's folder."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.general_points.base import load_base
from experiments.rule_shift.world import Speech
from rlrazor.api.model import load
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.policies.language import AnswerFormat, LanguagePolicy, Lora, make_language_policy
from rlrazor.runtime.mesh import make_mesh, replicate
from rlrazor.runtime.tokenizer import END, token_bytes, vocabulary
from rlrazor.sampling.decode import Sampling, make_stops
from rlrazor.studies.language import Base
from rlrazor.tasks.general_points.pieces import FORMULA, PIECES

ROW = 4096  # tokens; no row of the small base is longer
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclasses.dataclass(frozen=True)
class Spoken:
    """A base, or each seed's own, and how they speak."""

    base: Base | Mapping[int, Base]
    policy: LanguagePolicy  # of every base
    speech: Speech

    @property
    def weights(self) -> int:
        """Parameters of a base."""
        one = self.base if isinstance(self.base, Base) else next(iter(self.base.values()))
        return one.weights


def load_spoken(config: Any) -> Spoken:
    """The base of a rule-shift config: `config.model`, or each seed's own, or `config.base`."""
    if config.bases and not len(config.bases) == len(config.base_kinds) == len(config.seeds):
        raise ValueError(
            f"config.bases has {len(config.bases)} folders and config.base_kinds "
            f"{len(config.base_kinds)} words; they must be one for each of the "
            f"{len(config.seeds)} config.seeds"
        )
    if config.bases and config.model:
        raise ValueError("config.bases and config.model are two answers to one question; give one")
    mesh = make_mesh(**config.mesh)
    return _released(config, mesh) if config.model else _small(config, mesh)


def _small(config: Any, mesh: Any) -> Spoken:
    """Bases of experiments/gp_base.py, whose words the tasks are written in."""
    several = bool(config.bases)
    folders: dict[int, str] = {0: config.base}  # of each seed, or of all
    if several:
        folders = dict(zip(config.seeds, config.bases, strict=True))
    read = {seed: load_base(_folder(name)) for seed, name in folders.items()}
    first = next(iter(read.values()))
    words = vocabulary(first.tokenizer)
    policy = small_policy(
        first.model.config,
        first.tokenizer,
        mesh,
        answer_tokens=config.answer_tokens,
        temperature=config.temperature,
    )
    bases = {}
    for place, (seed, mine) in enumerate(read.items()):
        if mine.tokenizer.get_vocab() != first.tokenizer.get_vocab():
            raise ValueError(
                f"base {folders[seed]} has another vocabulary than {config.bases[0]}; make them "
                "anew by one version of experiments/gp_base.py"
            )
        about: dict[str, Any] = {}
        if several:
            about = {"seed": mine.record["config"]["seed"], "kind": config.base_kinds[place]}
        params = replicate(mine.params, mesh)
        bases[seed] = Base(digest(mine.params), policy, params, about=about)
    formula = words.encode_inside(PIECES[FORMULA])
    return Spoken(
        bases if several else next(iter(bases.values())),
        policy,
        Speech(words, END, formula[0] if len(formula) == 1 else None),
    )


def _folder(name: str) -> Path:
    return Path(name) if Path(name).is_dir() else ROOT / name


def small_policy(
    shape: TransformerConfig, tokenizer: Any, mesh: Any, *, answer_tokens: int, temperature: float
) -> LanguagePolicy:
    """A policy of a closed vocabulary, whose logits of whole rows fit in memory."""
    # Layers in a row have a cache each: in a loop, that of all is copied at every token.
    shape = dataclasses.replace(shape, scan_layers=False)
    table, lengths = token_bytes(tokenizer, size=shape.vocabulary)
    answers = AnswerFormat(
        stops=make_stops([[END]]),
        spelling=(jnp.asarray(table), jnp.asarray(lengths)),
        tokens=answer_tokens,
        bytes=4 * answer_tokens,
    )
    return make_language_policy(
        shape, mesh, answers=answers, sampling=Sampling(temperature), vocabulary_chunk=ROW
    )


def _released(config: Any, mesh: Any) -> Spoken:
    """A released model's folder, spoken to through its own chat template."""
    from rlrazor.runtime.chat_vocabulary import chat_vocabulary

    lora = config.lora
    base = load(
        config.model,
        answer_tokens=config.answer_tokens,
        sampling=Sampling(config.temperature),
        lora=Lora(lora.rank, lora.alpha, tuple(lora.targets)) if lora.rank else None,
        mesh=mesh,
        vocabulary_chunk=config.vocabulary_chunk,
        compute_dtype=config.compute_dtype,
        remat=config.remat,
    )
    words = chat_vocabulary(base.chat)
    return Spoken(base, base.language, Speech(words.vocabulary, words.end, None))


def digest(params: Any) -> str:
    """A name by what a base is: a base made anew between two commands is another one."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()[:8]
