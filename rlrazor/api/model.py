"""A released model, ready to be trained and measured."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlrazor.models.lora_files import check_lora, save_lora
from rlrazor.models.pretrained import load_pretrained, parameter_shapes, save_pretrained
from rlrazor.models.pretrained_config import read_config
from rlrazor.models.transformer_config import TransformerConfig
from rlrazor.policies.language import AnswerFormat, LanguagePolicy, Lora, make_language_policy
from rlrazor.runtime.chat import check_vocabulary, load_chat
from rlrazor.runtime.chat_text import Chat
from rlrazor.runtime.distributed import is_writer
from rlrazor.runtime.hub import find_model
from rlrazor.runtime.mesh import make_mesh, shapes_at, shardings_of
from rlrazor.runtime.tokenizer import load_tokenizer, token_bytes
from rlrazor.sampling.decode import Sampling, make_stops
from rlrazor.studies.language import Base
from rlrazor.types import Params

BYTES_OF_TOKEN = 8  # of the text that a task judges, for each token that an answer may have


@dataclasses.dataclass(frozen=True)
class Template:
    """How conversations become text, where the model's own way does not do."""

    template: str | None = None  # a Jinja file, its text, or "plain"; None: the model's own
    date: str | None = None  # what a template that asks for the day is told
    variables: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained(Base):
    """A base that came from a folder, with the chat by which it is spoken to."""

    chat: Chat
    config: TransformerConfig
    folder: Path

    def decode(self, tokens: Any) -> str:
        """What tokens say, special ones left out."""
        return self.chat.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def save(self, folder: Path, trained: Params) -> None:
        """The model as transformers reads it; adapters also alone, as peft does."""
        policy, lora = self.language, self.language.lora
        if lora is not None:
            save_lora(
                folder / "adapter", self.config, trained, lora.scale, base=self.name, overwrite=True
            )
        params = policy.merged(trained, self.params)
        save_pretrained(folder / "model", self.config, params, source=self.folder, overwrite=True)

    @property
    def language(self) -> LanguagePolicy:
        policy = self.policy
        if not isinstance(policy, LanguagePolicy):
            raise ValueError(f"{self.name} is no language model")
        return policy


@dataclasses.dataclass(frozen=True, eq=False)
class Description:
    """A model before its weights are read."""

    name: str
    policy: LanguagePolicy
    chat: Chat
    config: TransformerConfig
    folder: Path


def load(
    model: str | Path,
    *,
    answer_tokens: int = 1024,
    sampling: Sampling = Sampling(1.0),  # noqa: B008  # numbers, never changed
    template: Template = Template(),
    lora: Lora | None = None,
    mesh: Mesh | None = None,
    vocabulary_chunk: int = 256,
    **computing: Any,  # fields of TransformerConfig: param_dtype, compute_dtype, remat, attention
) -> Pretrained:
    """A folder, or an id of the Hugging Face hub, on a mesh; all devices on `fsdp` unless given.

    ValueError names the file, the field or the token that does not fit, before weights are read.
    """
    found = described(
        model, answer_tokens=answer_tokens, sampling=sampling, template=template, lora=lora,
        mesh=make_mesh(data=1, fsdp=0) if mesh is None else mesh,
        vocabulary_chunk=vocabulary_chunk, **computing,
    )  # fmt: skip
    at = jax.tree.map(lambda leaf: leaf.sharding, base_shapes(found.policy))
    _, params, reading = load_pretrained(
        found.folder, shardings=at, param_dtype=found.config.param_dtype
    )
    if is_writer():
        print(f"read {reading.bytes_read / 1e9:.3g} of {reading.bytes_stored / 1e9:.3g} GB")
    return Pretrained(
        name=found.name, policy=found.policy, params=params, chat=found.chat, config=found.config,
        folder=found.folder,
    )  # fmt: skip


def described(
    model: str | Path,
    *,
    answer_tokens: int,
    sampling: Sampling,
    template: Template,
    lora: Lora | None,
    mesh: Mesh,
    vocabulary_chunk: int,
    **computing: Any,
) -> Description:
    """All of a model but its weights."""
    folder = find_model(str(model))
    config = dataclasses.replace(read_config(folder), **computing)
    chat = load_chat(
        folder, template=template.template, date=template.date, variables=template.variables
    )
    check_vocabulary(chat, config.vocabulary)
    if lora is not None:
        check_lora(config, lora.targets)
    policy = pretrained_policy(
        config, mesh, chat, folder, answer_tokens=answer_tokens, sampling=sampling, lora=lora,
        vocabulary_chunk=vocabulary_chunk,
    )  # fmt: skip
    return Description(str(model), policy, chat, config, folder)


def base_shapes(policy: LanguagePolicy) -> Params:
    """The parameters of a model as shapes that say where they lie."""
    shapes = parameter_shapes(policy.model.config)
    return shapes_at(shapes, shardings_of(shapes, policy.rules, policy.mesh))


def pretrained_policy(
    config: TransformerConfig,
    mesh: Mesh,
    chat: Chat,
    folder: Path,
    *,
    answer_tokens: int,
    **how: Any,
) -> LanguagePolicy:
    """The policy of a released model: its answers end where its chat ends a turn."""
    table, lengths = token_bytes(load_tokenizer(folder), size=config.vocabulary)
    answers = AnswerFormat(
        stops=make_stops([[token] for token in chat.stop_ids]),
        spelling=(jnp.asarray(table), jnp.asarray(lengths)),
        tokens=answer_tokens,
        bytes=BYTES_OF_TOKEN * answer_tokens,
    )
    return make_language_policy(config, mesh, answers=answers, **how)
