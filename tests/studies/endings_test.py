"""Likelihoods of endings, beside a forward pass of each whole row by itself."""

import jax
import numpy as np
import pytest

import rlrazor as rr
from rlrazor.runtime.mesh import global_rows, make_mesh
from rlrazor.studies.endings import MOST_ENDINGS, batches, collected, rows_of, scorer
from tests.oracles import tiny_models
from tests.oracles.whole_rows import distribution_of, ending_by_hand

pytestmark = pytest.mark.usefixtures("quick_compiles")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save(tmp_path_factory.mktemp("endings") / "model")


@pytest.fixture(scope="module", params=["one", "replicated", "sharded"])
def base(request, folder):
    shape = {"one": (1, 1), "replicated": (2, 1), "sharded": (1, 2)}[request.param]
    devices = jax.devices()[: np.prod(shape)]
    mesh = make_mesh(data=shape[0], fsdp=shape[1], devices=devices)
    # Trained at another temperature: likelihoods are of the model as it is.
    return rr.load(folder, mesh=mesh, sampling=rr.Sampling(0.5), compute_dtype="float32")


def requests():
    """Contexts with one, four and more endings than fit together, of many lengths."""

    def ids(count):
        return RNG.integers(3, 20, count).tolist()

    found = []
    for length, endings in [(1, [3]), (5, [1, 1, 1, 1]), (12, [9, 2, 30]), (3, [2] * 11)]:
        context = ids(length)
        found += [(context, ids(count)) for count in endings]
    return [found[i] for i in RNG.permutation(len(found))]


@pytest.fixture(scope="module")
def distribution(folder):
    return distribution_of(folder)


def scores(base, asked, rows):
    score = scorer(base.policy)
    planned = list(batches(asked, rows=rows, policy=base.policy))
    mesh = base.policy.mesh
    found = [
        (batch, score(base.params, rows_of(batch, lambda tree: global_rows(tree, mesh))))
        for batch in planned
    ]
    return planned, collected(found, len(asked))


def test_scores_are_those_of_whole_rows(base, distribution):
    asked = requests()
    context = asked[0][0]  # and one ending that is greedy
    asked.append((context, [int(distribution(context)[len(context) - 1].argmax())]))
    planned, found = scores(base, asked, rows=4)
    assert found[-1][1]
    for (context, ending), (nats, greedy) in zip(asked, found, strict=True):
        expected, likely = ending_by_hand(distribution, context, ending)
        np.testing.assert_allclose(nats, expected, rtol=1e-4, atol=1e-4)
        assert greedy == likely
    assert len({(b.tokens.shape, b.prompt_size, b.samples) for b in planned}) < len(asked)


def test_a_context_is_read_once_for_all_its_endings(folder):
    base = rr.load(folder, mesh=make_mesh(data=1, devices=jax.devices()[:1]))
    four = [([5, 6, 7], [n]) for n in range(3, 7)]
    (batch,) = batches(four, rows=4, policy=base.policy)
    assert (batch.samples, len(batch.tokens)) == (4, 4)
    assert sorted(batch.places) == [0, 1, 2, 3]
    eleven = [([5, 6, 7], [n, n]) for n in range(3, 14)]
    planned = list(batches(eleven, rows=4, policy=base.policy))
    assert [batch.samples for batch in planned] == [MOST_ENDINGS, 4]
    assert sorted(p for b in planned for p in b.places if p >= 0) == list(range(11))


@pytest.mark.parametrize("empty", [([], [3]), ([3], [])])
def test_nothing_has_no_likelihood(folder, empty):
    base = rr.load(folder, mesh=make_mesh(data=1, devices=jax.devices()[:1]))
    with pytest.raises(ValueError, match="request 0 has a context or an ending without a token"):
        list(batches([empty], rows=4, policy=base.policy))
