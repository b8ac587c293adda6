"""All that methods and measurements ask of a model; every kind of policy answers it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from flax import struct
from jax.sharding import Mesh

from rlrazor.sampling.decode import Sampling
from rlrazor.sampling.episodes import Rollout
from rlrazor.tasks.protocol import Task
from rlrazor.types import Params, Rows, Rule

# Of log-probabilities f32[B, n, V] of one or more readings, and the tokens i32[B, n] that were
# said: a tree of [B, n].
OverVocabulary = Callable[..., Any]


@struct.dataclass
class Reading:
    """A forward pass over rows: states from which each scored token was, or may be, predicted.

    Scored are all tokens behind the prompt, whether the response mask holds them or not; without
    `Rows.prompt_count`, all but the first.
    """

    params: Params
    states: Any  # [B, A, D], or whatever the policy makes its logits from
    tokens: jax.Array  # i32[B, A] what was said next
    place: jax.Array  # i32[B, A] where in the row that token stands; the row's size: nowhere
    size: int = struct.field(pytree_node=False)  # T, tokens of a row
    # Whether the first scored token is the first behind the prompt, else the second of the row.
    behind_prompt: bool = struct.field(pytree_node=False, default=False)


class Policy(Protocol):
    """A model that answers, as pure functions of its parameters.

    `trained` is what a method changes: all parameters, or adapters beside those of the base.
    Every function may be called inside a compiled one. Where `replicated`, every device holds all
    parameters and `read` is called on its share of the rows (see `runtime.mesh.add_up`); else rows
    and parameters lie on the mesh by `rules` and the compiler exchanges what is needed.
    """

    @property
    def sampling(self) -> Sampling:
        """Of training; `logprobs` and `over_vocabulary` are of this distribution."""
        ...

    @property
    def mesh(self) -> Mesh: ...

    @property
    def rules(self) -> Sequence[Rule]: ...

    @property
    def replicated(self) -> bool: ...

    @property
    def width(self) -> int:
        """D of the states of a Reading, for a critic."""
        ...

    @property
    def answer_tokens(self) -> int:
        """Of a turn, at most."""
        ...

    def initial(self, base: Params, key: jax.Array) -> Params:
        """What is trained, before the first step."""
        ...

    def assemble(self, trained: Params, base: Params) -> Params:
        """All parameters, as `read` and `play` take them; differentiable in `trained`."""
        ...

    def read(self, params: Params, rows: Rows) -> Reading:
        """One forward pass. Prompts that G = `rows.samples` rows share are read once."""
        ...

    def logprobs(self, reading: Reading) -> jax.Array:
        """f32[B, T] log-probability of every scored token, as sampled; 0 elsewhere.

        A token that was said counts as one that is sampled, even where a cut of the vocabulary
        (top-k, top-p, greedy) would now leave it out.
        """
        ...

    def over_vocabulary(self, fn: OverVocabulary, *readings: Reading) -> Any:
        """fn(*log_probabilities, tokens) of every scored token: a tree of [B, T], 0 elsewhere.

        Some tokens at a time, so that [B, T, V] is never in memory. Readings are of the same
        tokens in the same order, by several parameters or behind several prompts: the j-th scored
        token of each is the same. So rows behind another prompt (`Rows.demonstrated`) have in
        their `prompt_count` all that precedes what both hold. Places and `tokens` are the first
        one's, and what it does not score is not compared. At temperature 0 or with a cut of the
        vocabulary the log-probabilities are -inf where nothing is sampled.
        """
        ...

    def play(
        self,
        params: Params,
        task: Task,
        dealt: Any,  # states [P] of the task
        keys: jax.Array,  # key[P]
        sampling: Sampling,
        *,
        turns: int,
        samples: int = 1,
    ) -> Rollout:
        """Episodes of any task, see `sampling.episodes.play`; any P, whatever the devices."""
        ...
