import dataclasses
import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import language_limit as limit
from experiments.benchmarks.language import about_peers, measure, start_peers, summary
from experiments.benchmarks.language_programs import QUICK, SMALL, TINY, Engine, Options, Sizes
from rlrazor.methods import methods
from rlrazor.models.released import SHAPES
from rlrazor.models.transformer import Transformer
from rlrazor.runtime.mesh import global_rows, make_mesh
from rlrazor.studies.count import count_flops
from rlrazor.studies.device import OnDevice
from rlrazor.studies.host import Encoded, OnHost, Question, batch, conversation_rows
from rlrazor.studies.language import Base, LanguageStudy, Settings
from rlrazor.studies.plan import Arm
from rlrazor.studies.programs import Optimization
from rlrazor.studies.world import World
from tests.oracles.scripts import Script

NO_PYTHON = "--peer_python=false"  # the command that always fails
OPTIONS = Options(rows_at_once=4, vocabulary_chunk=8, optimization=Optimization())
PARTS = ("sft_step", "grpo_iteration", "grpo_rollout", "grpo_update")


@pytest.fixture(scope="module")
def engine(quick_compiles):
    return Engine(TINY, QUICK, make_mesh(data=1), OPTIONS)


def advanced(engine, setup, train):
    """What the study makes of the engine's base in one iteration."""
    arm = Arm(setup.method.name, setup.method, World(train, ()), setup.sizes, (1e-5,))
    study = LanguageStudy(
        Base("random", engine.policy, engine.params),
        arm.world,
        [arm],
        steps=10_000,
        settings=Settings(optimization=OPTIONS.optimization, matched_flops=False),
    )
    (block,) = study.plan()
    state, _, metrics = study.advance(block, study.begin(block), 0)
    return state, metrics


def assert_same(found, truth):
    (state, metrics), (other, others) = found, truth
    jax.tree.map(np.testing.assert_array_equal, state.train.params, other.train.params)
    for name, value in metrics.items():
        np.testing.assert_array_equal(value, others[name], name)


def moved(engine, state):
    start, end = jax.tree.leaves(engine.params), jax.tree.leaves(state.train.params)
    return any(not np.array_equal(a, b) for a, b in zip(start, end, strict=True))


def test_the_iteration_is_that_of_a_study_and_its_parts_are_the_iteration(engine):
    truth = advanced(engine, engine.grpo, OnDevice(engine.tasks))
    state, given = engine.begin()
    rows = engine.drawing()(state, given, engine.tasks)
    assert rows.tokens.shape == (8, 16)
    assert np.all(np.sum(rows.mask, axis=1) == QUICK.answer_tokens)  # none stops early
    assert np.std(rows.rewards) > 0
    parts = engine.learning(engine.grpo, state)(state, given, rows)
    whole = engine.iterating(truth[0])(*engine.begin(), engine.tasks)
    assert moved(engine, whole[0])
    assert_same(whole, truth)
    assert_same(parts, truth)


def test_the_sft_step_is_that_of_a_study(engine):
    rows = engine.demonstrations(jax.random.key(1))
    said = [Encoded(*row) for row in zip(*map(np.asarray, (rows.tokens, rows.mask)), strict=True)]
    questions = [Question(np.zeros(1, np.int32), "", None, one) for one in said]
    train = OnHost(questions, None, None, (1,), (QUICK.tokens,))
    truth = advanced(engine, engine.sft, train)
    order = batch(len(said), QUICK.rows, seed=0, number=0)
    rows = jax.tree.map(lambda leaf: np.asarray(leaf)[order], rows)
    imitated = conversation_rows([said[i] for i in order], (QUICK.tokens,), engine.mesh)
    for mine, its in zip(jax.tree.leaves(rows), jax.tree.leaves(imitated), strict=True):
        np.testing.assert_array_equal(mine, its)
    state, given = engine.begin()
    found = engine.learning(engine.sft, state)(state, given, global_rows(rows, engine.mesh))
    assert moved(engine, found[0])
    assert_same(found, truth)


def test_sharded_weights_are_born_where_they_belong():
    shape = dataclasses.replace(TINY, vocabulary=32)
    engine = Engine(shape, QUICK, make_mesh(data=1, fsdp=2), OPTIONS)
    embedding = engine.params["params"]["embed"]["embedding"]
    assert embedding.size == 2 * embedding.addressable_shards[0].data.size
    assert engine.parameters == sum(leaf.size for leaf in jax.tree.leaves(engine.params))


def test_the_small_model_has_the_size_it_is_said_to_have():
    assert round(Engine(SMALL, QUICK, make_mesh(data=1), OPTIONS).parameters / 1e6, 2) == 4.07


@pytest.mark.parametrize("shape", [SMALL, TINY, SHAPES["Qwen/Qwen2.5-0.5B"]])
def test_the_limit_has_every_matrix_once(shape):
    shapes = jax.eval_shape(
        Transformer(shape).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
    )
    flat = jax.tree.leaves_with_path(shapes)
    matrices = sum(leaf.size for path, leaf in flat if path[-1].key in ("kernel", "embedding"))
    widths = limit.chain(shape)
    assert sum(a * b for a, b in itertools.pairwise(widths)) == matrices
    counted = limit.useful_flops(shape, Sizes(1, 1, 1, 1, 0, 1))
    assert counted["sft_step"] == counted["grpo_update"] == 6 * matrices
    assert counted["grpo_rollout"] == 2 * matrices
    assert limit.useful_flops(shape, Sizes(1, 1, 1, 8, 5, 2))["grpo_rollout"] == 42 * matrices


def test_model_flops_are_those_of_the_gradient():
    """All but the half of attention's products that causality hides."""
    rows, tokens, model = 3, 10, Transformer(TINY)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))

    def loss(params, ids):
        hidden = model.apply(params, ids)[0]
        return jnp.sum(model.apply(params, hidden, method="logits"))

    counted = count_flops(jax.grad(loss), shapes, jax.ShapeDtypeStruct((rows, tokens), jnp.int32))
    hidden = 6 * rows * tokens**2 * TINY.layers * TINY.heads * TINY.head_dim
    assert limit.learnt_flops(TINY, rows, tokens) + hidden == counted


def test_decoding_reads_the_weights_and_what_was_said():
    c, s = TINY, Sizes(prompts=3, samples=2, prompt_tokens=5, answer_tokens=40)
    read = 0
    for said in range(s.prompt_tokens, s.prompt_tokens + s.answer_tokens):
        keys = s.prompts * s.samples * said * c.layers * c.kv_heads * c.head_dim
        read += 2 * (1000 * 4 + 2 * keys)
    assert limit.decoded_bytes(c, s, 1000, 4) == pytest.approx(read, rel=0.03)


@pytest.mark.parametrize("devices", [1, 2, 3, 12, 16, 64, 96])
def test_the_limit_is_of_as_many_rows_on_any_number_of_devices(devices):
    sizes = Sizes()
    for rows in limit.ROWS:
        each, steps = limit.in_steps(sizes, devices, rows)
        assert each * steps * devices == pytest.approx(sizes.rows * sizes.tokens, rel=0.01)
    assert limit.in_steps(sizes, 2, 512) == (512, 8)


def test_calls_are_measured_in_turns_and_first_calls_show_the_compiling():
    said = []

    def call(name, parts):
        def measured():
            said.append(name)
            return {part: 9.0 if said.count(name) == 1 else 2.0 for part in parts}

        return measured

    calls = {"we, a": call("a", ["step"]), "they, b": call("b", ["rollout", "update"])}
    times, compiling = measure(calls, 2)
    assert said == ["a", "a", "b", "b", "a", "b", "a", "b"]
    assert times == {"we: step": [2, 2], "they: rollout": [2, 2], "they: update": [2, 2]}
    assert compiling == {"we: step": 7, "they: rollout": 7, "they: update": 7}


def test_summary_compares_with_the_faster_peer_and_with_the_limit():
    times = {f"rlrazor: {part}": [2.0, 1.0, 9.0] for part in PARTS}
    times |= {"gemm: 512 rows": [4.0], "gemm: 1024 rows": [2.0]}
    times |= {"transformers: sft_step": [6.0], "trl: sft_step": [5.0], "trl: grpo_update": [8.0]}
    flops = dict.fromkeys(PARTS, 1e9) | {"gemm": 4e9}
    table, numbers = summary(times, flops)
    assert len(table.splitlines()) == 1 + len(times)
    assert numbers["gemm_gflops"] == 2
    assert numbers["sft_step_seconds"] == 2
    assert numbers["sft_step_fraction_of_limit"] == 0.25
    assert numbers["sft_step_ratio_to_transformers"] == 3
    assert numbers["sft_step_ratio_to_trl"] == numbers["sft_step_ratio_to_faster_peer"] == 2.5
    assert numbers["grpo_update_ratio_to_faster_peer"] == 4
    assert numbers["grpo_rollout_ratio_to_faster_peer"] is None


@pytest.mark.slow
def test_last_line_is_one_json_object(tmp_path, cache):
    done = Script(
        "benchmarks/language.py", "--quick", "--rounds=1", NO_PYTHON, folder=tmp_path, cache=cache
    ).wait()
    assert done.status == 0, done.stderr
    options, no_peer, *table, last = done.stdout.splitlines()
    assert options.startswith("options: ")
    assert "nothing to compare with" in no_peer
    assert len(table) == 1 + len(PARTS) + len(limit.ROWS)
    numbers = json.loads(last)
    assert all(numbers[f"{part}_seconds"] > 0 for part in PARTS)
    assert all(numbers[f"{part}_fraction_of_limit"] > 0 for part in PARTS)
    assert numbers["options"] == json.loads(options.removeprefix("options: "))
    assert numbers["options"]["rows_at_once"] == 8  # of the config for a CPU
    assert numbers["device"]


INTERPRETER = """#!{python}
import json, sys
assert sys.argv[1].endswith("torch_language.py")
role = sys.argv[2]
if role == "about":
    versions = {{"torch": "1", "transformers": "2", "trl": "3"}}
    print(json.dumps({{"versions": versions, "cuda": False}}))
    sys.exit()
settings = json.loads(sys.argv[3])
assert settings["clip"] == 0.2 and settings["sizes"]["rows"] == 64, settings
known = {{"transformers": ("sft", "grpo"), "trl_sft": ("sft",), "trl_grpo": ("grpo",)}}
for line in sys.stdin:
    assert json.loads(line)["task"] in known[role]
    print(json.dumps({{"seconds": 3.0, "rollout": 1.0, "update": 2.0}}), flush=True)
"""


@pytest.fixture
def peer_python(tmp_path):
    """Says what torch_language.py would."""
    path = tmp_path / "python"
    path.write_text(INTERPRETER.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


def test_peers_are_asked_in_processes_of_their_own(peer_python):
    settings = {"clip": 0.2, "sizes": dataclasses.asdict(Sizes()), "gpu": False}
    peers, calls = start_peers(peer_python, settings, about_peers(peer_python))
    try:
        times, _ = measure(calls, 2)
    finally:
        for peer in peers:
            peer.end()
    assert set(times) == {f"{who}: {part}" for who in ("transformers", "trl") for part in PARTS}
    assert times["trl: grpo_iteration"] == [3, 3]
    assert times["transformers: grpo_update"] == [2, 2]


def test_peers_without_a_gpu_are_not_compared_with_one(peer_python, capsys):
    assert start_peers(peer_python, {"gpu": True}, about_peers(peer_python)) == ([], {})
    assert "sees no GPU" in capsys.readouterr().out


def test_a_wrong_flag_is_one_sentence(tmp_path, cache):
    done = Script("benchmarks/language.py", "--rounds=0", folder=tmp_path, cache=cache).wait()
    assert done.status == 2
    assert "--rounds" in done.sentence


def test_peers_clip_as_we_do():
    assert methods.grpo.knobs == {"clip_low": 0.2, "clip_high": 0.2}
