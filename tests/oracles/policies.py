"""Language policies of tiny models, a game that they play, and a slow twin of their scores."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlrazor.models.transformer import Transformer
from rlrazor.ops.kl import kl
from rlrazor.policies.language import AnswerFormat, Lora, make_language_policy
from rlrazor.runtime.mesh import make_mesh, place, shardings_of
from rlrazor.sampling.decode import Sampling, make_stops
from rlrazor.sampling.episodes import Rollout, deal
from rlrazor.tasks.protocol import Observation, Verdict
from rlrazor.types import Rows
from tests.oracles import tiny_transformers
from tests.oracles.tiny_transformers import quick

# Divides over two or four devices whichever axis has them.
SHAPE = dataclasses.replace(
    tiny_transformers.FULL, vocabulary=32, heads=4, kv_heads=4, rope_scaling=None
)
END, ANSWER, PROMPT = 3, 5, 6
LORA = Lora(2, 4.0, ("layers/.*", "embed"))
V = SHAPE.vocabulary
PLAIN = Sampling()
SPELLING = jnp.arange(33, 33 + V, dtype=jnp.uint8)[:, None], jnp.ones(V, jnp.int32)


@struct.dataclass
class _State:
    tokens: jax.Array
    length: jax.Array
    turn: jax.Array
    terminated: jax.Array
    truncated: jax.Array


@dataclasses.dataclass(frozen=True)
class TwoWords:
    """Prompts of any length up to PROMPT; replies with one or two; some end after one answer."""

    def reset(self, key):
        tokens = jax.random.randint(key, (PROMPT,), 4, V)
        length = 2 + tokens[0] % (PROMPT - 1)
        tokens = jnp.where(jnp.arange(PROMPT) < length, tokens, 0)
        return _State(tokens, length, jnp.int32(0), jnp.bool_(False), jnp.bool_(False))

    def opening(self, state):
        return Observation(state.tokens, state.length)

    def reply(self, state):
        return Observation(jnp.stack([state.tokens[0], jnp.int32(5)]), 1 + state.tokens[1] % 2)

    def step(self, state, answer):
        correct = answer[0] % 4 == 1
        turn = state.turn + 1
        after = dataclasses.replace(
            state, turn=turn, terminated=correct, truncated=~correct & (turn >= 2)
        )
        return after, Verdict(correct * 1.0, correct, {"silent": answer[0] == 0})


TASK = TwoWords()


def keys(count):
    return jax.random.split(jax.random.key(2), count)


@functools.cache
def params_of(seed=0):
    return tiny_transformers.make(SHAPE, seed)[1]


@functools.cache
def make_policy(
    mesh=None, *, forbidden=(), sampling=PLAIN, vocabulary_chunk=64, lora=None, scan_layers=True
):
    answers = AnswerFormat(make_stops([[END]]), SPELLING, ANSWER, 8, forbidden)
    mesh = make_mesh(data=1) if mesh is None else mesh
    return make_language_policy(
        dataclasses.replace(SHAPE, scan_layers=scan_layers),
        mesh,
        answers=answers,
        sampling=sampling,
        vocabulary_chunk=vocabulary_chunk,
        lora=lora,
    )


@functools.cache
def _player(policy, turns, samples):
    @quick
    def run(params, keys, sampling):
        return policy.play(
            params, TASK, deal(TASK, keys), keys, sampling, turns=turns, samples=samples
        )

    return run


def played(policy, sampling=PLAIN, *, turns, prompts=4, samples=1, params=None):
    params = params_of() if params is None else params
    return jax.device_get(_player(policy, turns, samples)(params, keys(prompts), sampling))


def rows_of(rollout: Rollout, *, grouped=True) -> Rows:
    rollout = jax.tree.map(jnp.asarray, rollout)
    return Rows(
        rollout.tokens,
        rollout.length,
        rollout.chosen,
        prompt_count=rollout.answer_start[:, 0],
        behaviour_logprobs=rollout.behaviour_logprobs,
        prompt_size=rollout.prompt_size,
        samples=rollout.samples if grouped else 1,
    )


def scored(rows: Rows) -> np.ndarray:  # bool[B, T]
    place = np.arange(rows.tokens.shape[1])[None]
    start = np.ones(len(rows.tokens)) if rows.prompt_count is None else rows.prompt_count
    return (place >= np.asarray(start)[:, None]) & (place < np.asarray(rows.count)[:, None])


def twin_distributions(params, rows: Rows, sampling: Sampling, keep_chosen=False) -> np.ndarray:
    """f64[B, T, V] of each token given those before it, one token's distribution at a time."""
    model = Transformer(SHAPE)
    tokens = np.asarray(rows.tokens)
    hidden = quick(model.apply)(params, tokens)[0]
    logits = np.asarray(quick(lambda p, h: model.apply(p, h, method="logits"))(params, hidden))
    found = np.zeros((*tokens.shape, V))
    for row, at in np.ndindex(*tokens.shape):
        if at == 0:
            continue
        one = logits[row, at - 1].astype(np.float64)
        found[row, at] = _sampled(one, sampling, tokens[row, at] if keep_chosen else None)
    return found


def _sampled(logits, sampling, chosen):
    greedy = sampling.temperature == 0
    scaled = logits if greedy else logits / sampling.temperature
    order = np.argsort(-scaled, kind="stable")
    kept = order[:1] if greedy else order[: sampling.top_k or V]
    if not greedy and sampling.top_p < 1:
        mass = np.exp(scaled[kept] - scaled.max())
        mass /= mass.sum()
        kept = kept[np.cumsum(mass) - mass < sampling.top_p]
    kept = set(kept) | ({chosen} if chosen is not None else set())
    total = np.log(sum(np.exp(scaled[t] - scaled.max()) for t in kept)) + scaled.max()
    return np.array([scaled[t] - total if t in kept else -np.inf for t in range(V)])


def twin(params, rows: Rows, sampling: Sampling) -> np.ndarray:  # f64[B, T]
    """Log-probabilities of the scored tokens, which are never cut off; 0 elsewhere."""
    found = twin_distributions(params, rows, sampling, keep_chosen=True)
    chosen = np.take_along_axis(found, np.asarray(rows.tokens)[..., None], axis=-1)[..., 0]
    return np.where(scored(rows), chosen, 0.0)


def check_episodes(mesh, prompts, samples):
    """A mesh plays what one device does; how sums of products are rounded is its own."""
    alone, policy = make_policy(), make_policy(mesh)
    params = place(params_of(), shardings_of(params_of(), policy.rules, mesh))
    one = played(alone, turns=2, prompts=prompts, samples=samples)
    found = played(policy, turns=2, prompts=prompts, samples=samples, params=params)
    assert len(one.tokens) == prompts * samples
    assert (one.samples, one.prompt_size) == (found.samples, found.prompt_size)
    np.testing.assert_allclose(one.behaviour_logprobs, found.behaviour_logprobs, atol=1e-5)
    one, found = (dataclasses.replace(x, behaviour_logprobs=None) for x in (one, found))
    jax.tree.map(np.testing.assert_array_equal, one, found)


def check_learning(mesh, lora=None):
    """A mesh scores, compares and learns what one device does."""
    alone, policy = make_policy(lora=lora), make_policy(mesh, lora=lora)
    rows = rows_of(played(make_policy(), turns=2, samples=4))
    trained, other = alone.initial(params_of(), jax.random.key(1)), params_of(seed=5)
    trained = jax.tree.map(lambda x: x + 0.01, trained)

    def learn(policy, trained, base, other, rows):
        def total(trained):
            params = policy.assemble(trained, base)
            reading = policy.read(params, rows)
            apart = policy.over_vocabulary(
                lambda p, q, t: kl(p, q), reading, policy.read(other, rows)
            )
            logprobs = policy.logprobs(reading)
            return jnp.sum(jnp.where(rows.mask, logprobs + apart, 0.0)), (logprobs, apart)

        return jax.value_and_grad(total, has_aux=True)(trained)

    arguments = trained, params_of(), other
    placed = place(arguments, shardings_of(arguments, policy.rules, mesh))
    found = [
        quick(functools.partial(learn, policy))(*weights, rows)
        for policy, weights in ((alone, arguments), (policy, placed))
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-3), *found)
    for one, two in zip(found[0][0][1], found[1][0][1], strict=True):
        np.testing.assert_allclose(one, two, atol=5e-5)
