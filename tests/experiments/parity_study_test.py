"""What a study records, on a tiny one that ran to its end; and that each stage obeys its config."""

import collections
import itertools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.parity import programs
from experiments.parity.arms import ARMS, TEACHERS
from experiments.parity.bases import add_distilled, gather, pretrain, training_data
from experiments.parity.data import check_sizes, load_parity_data
from experiments.parity.measure import evaluation_data, make_measure
from experiments.parity.plan import SweepRun, plan_runs
from experiments.parity.programs import build_programs, train_teachers
from experiments.parity.study import OPERATIONAL, ParityStudy
from rlrazor.models.mlp import MLP
from rlrazor.runtime.mesh import compile_once, make_mesh, replicate
from rlrazor.studies.study import check_plan
from rlrazor.tasks.parity.verifier import judge
from rlrazor.training.state import init_state
from rlrazor.training.sweep import Run
from tests.oracles.tiny_parity import get_config

pytestmark = pytest.mark.usefixtures("quick_compiles")

EVERY_TASK = (
    "accuracy", "base_accuracy", "expected_accuracy", "base_expected_accuracy", "count",
    "kl_base_policy_nats", "kl_policy_base_nats", "total_variation", "l2_distance",
    "activation_l1", "activation_l2", "cka", "cknna",
)  # fmt: skip
COLUMNS = {
    "schema", "study", "run", "arm", "method", "variant", "family", "label", "roles", "seed",
    "base", "step", "updates", "final", "diverged", "hyperparameters", "flops", "flops_teacher",
    "train/loss",
    "prior/permuted_digits/accuracy",
    *(f"{task}/{name}" for task in ("new", "prior") for name in EVERY_TASK),
    *(f"weights/{n}" for n in ("l1", "l2", "fisher_l2", "spectral_norm", "rank", "sparsity")),
    "weights/sparsity_bf16",
}  # fmt: skip


@pytest.fixture(scope="module")
def lines(finished):
    return [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]


def test_every_run_has_its_checkpoints_once_and_in_order(lines):
    planned = {run.name: run for run in plan_runs(get_config(), list(ARMS))}
    steps = collections.defaultdict(list)
    for line in lines:
        steps[line["run"]].append(line["step"])
        assert line["final"] == (line["step"] == 40 * planned[line["run"]].epochs)
    assert set(steps) == set(planned)
    for name, run in planned.items():  # 1,297 images, batches of 32, two checkpoints an epoch
        assert steps[name] == [20 * (n + 1) for n in range(2 * run.epochs)]


def test_every_line_has_every_column(lines):
    for line in lines:
        assert set(line) == COLUMNS
        assert line["hyperparameters"]["learning_rate"] == 1e-2
        assert not line["diverged"]
        assert (line["study"], line["updates"]) == ("razor_parity", line["step"])
        arm = ARMS[line["arm"]]
        assert (line["label"], line["family"], line["roles"]) == (arm.label, arm.family, arm.roles)
        assert (line["new/count"], line["prior/count"]) == (40, 40)
        numbers = {k: v for k, v in line.items() if "/" in k}
        assert all(isinstance(v, int | float) for v in numbers.values()), line


def test_numbers_are_consistent(lines):
    bases = collections.defaultdict(set)
    for line in lines:
        bases[line["seed"]].add(line["new/base_expected_accuracy"])
        assert line["prior/permuted_digits/accuracy"] == line["prior/accuracy"]
        for task in ("new", "prior"):
            value = {name: line[f"{task}/{name}"] for name in EVERY_TASK}
            assert 0 <= value["accuracy"] <= 1
            assert round(value["accuracy"] * 40, 3).is_integer()
            # Pinsker: total variation is at most the square root of half the KL.
            kl = min(value["kl_base_policy_nats"], value["kl_policy_base_nats"])
            assert 0 < value["total_variation"] <= np.sqrt(kl / 2) + 1e-6
            assert 0 < value["cka"] <= 1 + 1e-6
        assert line["weights/l2"] <= line["weights/l1"]
        assert line["weights/spectral_norm"] <= line["weights/l2"] * (1 + 1e-6)
        weights = 65 * 8 + 8 * 10
        distils = line["arm"] == "distilled"
        labelling, teaching = (2 * 1297, 6 * 40 * 32) if distils else (0, 0)
        assert line["flops"] == weights * (6 * 32 * line["step"] + labelling)
        assert line["flops_teacher"] == weights * teaching
    assert all(len(values) == 1 for values in bases.values())
    assert len(set.union(*bases.values())) == 6  # every seed draws a base of its own


def test_training_teaches_the_new_task(lines):
    """Probe: every arm improves on its base, whose task is easy; SFT-1 moves farthest."""
    ends = [line for line in lines if line["final"]]

    def mean_of(arm, name):
        return np.mean([line[f"new/{name}"] for line in ends if line["arm"] == arm])

    for arm in ("sft1", "grpo", "distilled"):
        gain = mean_of(arm, "expected_accuracy") - mean_of(arm, "base_expected_accuracy")
        assert gain > 0.1
    assert mean_of("sft1", "kl_base_policy_nats") > 2 * mean_of("grpo", "kl_base_policy_nats")


def test_more_epochs_are_other_runs_under_cosine(lines):
    at_20 = {
        line["run"]: line["train/loss"] for line in lines if (line["step"], line["seed"]) == (20, 0)
    }
    assert len(set(at_20.values())) == len(at_20) == 6


def test_the_trajectory_has_every_step_and_adds_up(finished, read_lines):
    steps = read_lines(finished / "trajectory.jsonl")
    assert [(s["arm"], s["step"]) for s in steps] == [
        (arm, step) for step in range(1, 5) for arm in ("sft1", "grpo")
    ]
    for arm in ("sft1", "grpo"):
        mine = [s for s in steps if s["arm"] == arm]
        kl = [0.0] + [s["kl_base_policy_nats"] for s in mine]
        changes = [s["kl_base_policy_change_nats"] for s in mine]
        np.testing.assert_allclose(np.diff(kl), changes, atol=1e-6)
        assert all(-1 <= s["update_prior_gradient_cosine"] <= 1 for s in mine)
        assert all(s["update_norm"] > 0 for s in mine)
        # To first order, a step that agrees with the gradient raises the loss.
        signs = [s["update_prior_gradient_cosine"] * s["prior_loss_change"] for s in mine]
        assert np.mean(np.array(signs) > 0) > 0.5


def test_beside_the_results_stand_report_record_and_events(finished, lines):
    record = json.loads((finished / "run.json").read_text())
    assert record["config"]["batch_size"] == 32
    assert record["command"].startswith("razor_parity.py --config=")
    assert "claim" in (finished.parent / "stdout").read_text()
    assert (finished / "report.html").stat().st_size > 10_000
    runs = {line["run"] for line in lines}
    assert {p.name for p in (finished / "tensorboard").iterdir()} == runs


# Stage by stage, without the arms' losses: each of these compiles in a second.


@pytest.fixture(scope="module")
def data():
    return load_parity_data("digits", None)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(data=1)


def model_of(config):
    return MLP(widths=tuple(config.model.widths), classes=10)


def pretrained(data, mesh, keys=((0, 2),), **changes):
    config = get_config()
    config.update_from_flattened_dict({f"base.{name}": value for name, value in changes.items()})
    return pretrain(model_of(config), data, list(keys), config, mesh)


@pytest.fixture(scope="module")
def base(data, mesh):
    return pretrained(data, mesh)


def test_data_are_standardised_and_marked_by_task(data):
    for split, mark in ((data.new_train, 1), (data.prior_train, -1), (data.prior_test, -1)):
        assert split.inputs.dtype == np.float32
        assert np.all(split.inputs[:, -1] == mark)
    pixels = data.new_train.inputs[:, :-1]
    np.testing.assert_allclose([pixels.mean(), pixels.std()], [0, 1], atol=1e-3)
    # The prior task is the new one under one permutation of the pixels.
    np.testing.assert_allclose(
        np.sort(data.prior_test.inputs[:, :-1]), np.sort(data.new_test.inputs[:, :-1]), atol=1e-6
    )


def test_an_unknown_dataset_and_too_few_images_are_named(data):
    with pytest.raises(ValueError, match=r"config.dataset='cifar' must be 'mnist' or 'digits'"):
        load_parity_data("cifar", None)
    for field, most in {
        "base.examples_per_task": 1297, "test_examples": 500, "fisher_examples": 1297,
        "trajectory.examples": 500,
    }.items():  # fmt: skip
        config = get_config()
        config.update_from_flattened_dict({field: most})
        check_sizes(config, data)
        config.update_from_flattened_dict({field: most + 1})
        with pytest.raises(ValueError, match=f"{field}={most + 1} must be at most the {most}"):
            check_sizes(config, data)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 2e-3}, {"weight_decay": 0.5}, {"warmup_fraction": 0.9},
        {"batch_size": 16}, {"examples_per_task": 80},
    ],
    ids=str,
)  # fmt: skip
def test_every_field_of_the_base_is_alive(data, mesh, base, change):
    other = pretrained(data, mesh, **change)
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), base, other)
    assert max(jax.tree.leaves(difference)) > 1e-4


def test_bases_trained_together_are_those_trained_alone(data, mesh, base):
    """The weaker one waits, to the bit, while the stronger goes on; seeds and epochs differ."""
    together = pretrained(data, mesh, keys=((0, 2), (0, 3), (1, 2)))
    rows = [jax.tree.map(lambda leaf, r=r: leaf[r : r + 1], together) for r in range(3)]
    chex.assert_trees_all_equal(rows[0], base)
    kernels = [row["params"]["Dense_0"]["kernel"] for row in rows]
    assert all(np.any(a != b) for a, b in itertools.combinations(kernels, 2))


def test_pretraining_learns_both_tasks(data, mesh):
    params = pretrained(data, mesh, keys=((0, 40),), learning_rate=1e-2)
    one = jax.tree.map(lambda leaf: leaf[0], params)
    for split, right, chance in (
        (data.new_test, lambda answers, labels: answers % 2 == labels % 2, 0.5),
        (data.prior_test, lambda answers, labels: answers == labels, 0.1),
    ):
        logits, _ = model_of(get_config()).apply(one, split.inputs)
        assert np.mean(right(np.argmax(logits, -1), split.labels)) > chance + 0.2


def test_pretraining_refuses_a_batch_larger_than_its_epoch(data, mesh):
    with pytest.raises(ValueError, match=r"base.batch_size=129 must be at most the 128 images"):
        pretrained(data, mesh, batch_size=129)


@pytest.fixture(scope="module")
def arrays(data, base):
    config = get_config()
    return training_data(model_of(config), base, data, [(0, 2)], config)


def test_every_teachers_labels(data, base, arrays):
    """All labels are right; each teacher keeps to its own distribution."""
    digits = data.new_train.labels
    logits, _ = model_of(get_config()).apply(
        jax.tree.map(lambda leaf: leaf[0], base), data.new_train.inputs
    )
    np.testing.assert_allclose(arrays["base_logits"][0], logits, rtol=1e-4, atol=1e-5)
    labels = dict(zip(TEACHERS, arrays["labels"][0], strict=True))
    found = dict(zip(TEACHERS, arrays["has_label"][0], strict=True))
    for name in ("fixed_digit", "random_pair", "oracle", "self_sft"):
        right = np.asarray(jax.vmap(judge)(labels[name], digits).correct)
        assert right[found[name]].all(), name
        assert found[name].all() or name == "self_sft"
    assert np.array_equal(labels["fixed_digit"], digits % 2)
    assert set(np.unique(labels["random_pair"])) == {0, 1, 4, 5}
    assert not jax.vmap(judge)(arrays["wrong_labels"][0], digits).correct.any()
    # Oracle and self-SFT sample the same distribution, base given right: their mean likelihoods
    # under it agree, and differ from the external teacher's.
    logq = np.where(np.arange(10)[None] % 2 == digits[:, None] % 2, logits, -np.inf)
    logq = np.asarray(jax.nn.log_softmax(logq))[np.arange(len(digits))]
    score = {name: logq[np.arange(len(digits)), labels[name]] for name in TEACHERS}
    own = score["self_sft"][found["self_sft"]]
    spread = 4 * np.sqrt(score["oracle"].var() / len(own) + own.var() / len(own))
    assert abs(score["oracle"].mean() - own.mean()) < spread
    assert score["random_pair"].mean() < score["oracle"].mean() - 0.1


def test_self_sft_tries_decide_how_many_labels_are_found(data, base, arrays):
    config = get_config()
    config.self_sft_tries = 1
    once = training_data(model_of(config), base, data, [(0, 2)], config)
    row = TEACHERS.index("self_sft")
    assert once["has_label"][0, row].mean() < arrays["has_label"][0, row].mean()


def test_distilled_labels_are_samples_of_the_teacher(data, base, arrays):
    sure = jax.tree.map(np.zeros_like, base)
    sure["params"]["Dense_1"]["bias"][0, 7] = 100.0  # a teacher that always answers 7
    row = TEACHERS.index("distilled")
    with_teacher = add_distilled(model_of(get_config()), arrays, sure, [(0, 2)])
    assert np.all(with_teacher["labels"][0, row] == 7)
    np.testing.assert_array_equal(
        np.delete(with_teacher["labels"], row, 1), np.delete(arrays["labels"], row, 1)
    )
    assert not np.any(arrays["labels"][0, row])  # the argument is left alone


def test_gather_takes_the_rows_of_the_runs_own_base_and_teacher():
    K, N = 3, 5
    codes = np.arange(K * len(TEACHERS) * N).reshape(K, len(TEACHERS), N)
    data = {
        "inputs": np.arange(N)[:, None], "digits": np.arange(N), "labels": codes,
        "has_label": codes % 2 == 0, "wrong_labels": np.arange(K * N).reshape(K, N),
        "base_logits": np.arange(K * N * 10).reshape(K, N, 10),
    }  # fmt: skip
    rows = np.array([4, 1])
    data = jax.tree.map(jnp.asarray, data)
    for (index, arm), k in itertools.product(enumerate(ARMS.values()), (0, 2)):
        run = _run(arm=index, base=k)
        batch = gather(data, rows, run)
        teacher = TEACHERS.index(arm.teacher or TEACHERS[0])
        np.testing.assert_array_equal(batch.labels, codes[k, teacher, rows])
        np.testing.assert_array_equal(batch.has_label, codes[k, teacher, rows] % 2 == 0)
        np.testing.assert_array_equal(batch.wrong_labels, k * N + rows)
        np.testing.assert_array_equal(batch.base_logits, data["base_logits"][k, rows])
        np.testing.assert_array_equal(batch.digits, rows)
        np.testing.assert_array_equal(batch.inputs[:, 0], rows)


def _run(**fields):
    names = ("arm", "base", "learning_rate", "cosine", "warmup_steps", "total_steps", "seed")
    return Run(**{name: jnp.int32(fields.get(name, 0)) for name in names})


@pytest.fixture(scope="module")
def views(data, base):
    config = get_config()
    return evaluation_data(model_of(config), base, data, config)


def test_sizes_of_what_is_measured(data, base, views):
    assert views["inputs"]["new"].shape == (40, 65)
    assert views["bases"]["activations"]["prior"].shape == (1, 30, 8)
    config = get_config()
    config.test_examples, config.activation_examples = 24, 12
    other = evaluation_data(model_of(config), base, data, config)
    assert other["inputs"]["prior"].shape == (24, 65)
    assert other["bases"]["activations"]["new"].shape == (1, 12, 8)
    np.testing.assert_array_equal(other["inputs"]["new"], data.new_test.inputs[:24])
    config.fisher_examples = 8
    fewer = evaluation_data(model_of(config), base, data, config)
    biases = [view["bases"]["fisher"]["params"]["Dense_1"]["bias"] for view in (fewer, other)]
    assert not np.allclose(*biases)


def test_measurements_of_the_base_itself_are_zero_and_the_knobs_alive(base, views):
    config, params = get_config(), jax.tree.map(lambda leaf: leaf[0], base)

    def measured(params, **changes):
        measure = make_measure(model_of(config), **{**config.measure, **changes})
        state = init_state(params, optax.identity(), jax.random.key(0))
        return jax.device_get(compile_once(measure)(_run(), state, views))

    same = measured(params)
    for task in ("new", "prior"):
        assert same[f"{task}/accuracy"] == same[f"{task}/base_accuracy"]
        for name in ("kl_base_policy_nats", "total_variation", "activation_l2"):
            assert abs(same[f"{task}/{name}"]) < 1e-6
        np.testing.assert_allclose(same[f"{task}/cknna"], 1, rtol=1e-4)
    assert (same["weights/l2"], same["weights/sparsity"]) == (0, 1)

    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda p: p + 0.02 * rng.normal(size=p.shape).astype("f4"), params)
    first = measured(moved)
    assert measured(moved, neighbours=9)["new/cknna"] != first["new/cknna"]
    assert measured(moved, sparsity_threshold=0.3)["weights/sparsity"] > first["weights/sparsity"]


@pytest.fixture
def build(mesh, monkeypatch):
    """(changes) -> config and programs of a study whose arms are one cheap loss."""
    arm_options = {}

    def make_arm_loss(**options):
        arm_options.update(options)
        return lambda arm, log_policy, batch, key: -jnp.take(log_policy, arm % 10, axis=1).mean()

    monkeypatch.setattr(programs, "make_arm_loss", make_arm_loss)

    def build(**changes):
        config = get_config()
        config.update_from_flattened_dict(changes)
        built = build_programs(model_of(config), config, mesh, examples=1297)
        assert arm_options == config.arm.to_dict()
        return config, built

    return build


@pytest.fixture
def steps_of(build, base, arrays, mesh):
    """(changes) -> a weight matrix after one chunk, and the programs."""

    def run(**changes):
        _, built = build(**changes)
        run = built.place([SweepRun("sft2", 0, 2, 1e-2, "cosine", 2)], [(0, 2)])
        state = built.initial(run, None, replicate(base, mesh))
        chex.assert_trees_all_equal(state.params, base)
        state, _ = built.train(run, state, replicate(arrays, mesh))
        return np.asarray(state.params["params"]["Dense_1"]["kernel"]), built

    return run


@pytest.fixture
def teacher_of(build, base, arrays, mesh):
    """(changes) -> a weight matrix of the teacher; all through one compiled program."""
    config, built = build()

    def run(**changes):
        config.update_from_flattened_dict({f"teacher.{k}": v for k, v in changes.items()})
        shared = replicate((base, arrays), mesh)
        params = train_teachers(built, config, [(0, 2)], *shared)
        config.teacher.update(get_config().teacher)
        return np.asarray(params["params"]["Dense_1"]["kernel"])

    return run


def test_every_field_of_the_training_is_alive(steps_of):
    first, built = steps_of()
    assert (built.chunk_steps, built.steps_per_epoch) == (20, 40)
    for changes in (
        {"batch_size": 16}, {"warmup_steps": 20}, {"checkpoints_per_epoch": 4},
        {"optimizer.weight_decay": 0.5}, {"optimizer.clip_by_global_norm": 1e-9},
    ):  # fmt: skip
        other, built = steps_of(**changes)
        assert np.abs(other - first).max() > 1e-4, changes
    assert steps_of(**{"checkpoints_per_epoch": 3})[1].steps_per_epoch == 39  # 40 batches


def test_the_study_plans_at_once_and_records_what_is_learnt(data):
    """Bases are trained when the first block begins, not before."""
    config = get_config()
    study = ParityStudy(config, data)
    blocks = study.plan()
    check_plan(blocks)
    assert [len(block) for block in blocks] == [6] * 6
    assert {block[0].iterations for block in blocks} == {2, 4}
    assert "shared" not in vars(study)
    assert set(study.record) == set(config) - set(OPERATIONAL)
    json.dumps(study.record)


def test_a_chunk_must_hold_a_batch(mesh):
    config = get_config()
    config.checkpoints_per_epoch = 41
    with pytest.raises(ValueError, match="checkpoints_per_epoch=41 must be at most the 40 batches"):
        build_programs(model_of(config), config, mesh, examples=1297)


def test_every_field_of_the_teacher_is_alive(teacher_of):
    first = teacher_of()
    for change in ({"arm": "sft2"}, {"learning_rate": 2e-2}, {"epochs": 2}):
        assert np.abs(teacher_of(**change) - first).max() > 1e-4, change
    with pytest.raises(ValueError, match=r"diverged at config.teacher.learning_rate=inf; lower"):
        teacher_of(learning_rate=np.inf)
