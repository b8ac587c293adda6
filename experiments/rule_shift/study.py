"""The whole rule-shift study: runs, measurements, results.jsonl; interrupted at will."""

import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.general_points.base import Base
from experiments.general_points.language import make_player
from experiments.rule_shift.arms import ARMS, VARIANTS, Variant
from experiments.rule_shift.flops import compiled_flops, flops_per_iteration
from experiments.rule_shift.lines import result_line
from experiments.rule_shift.measure import build_measure
from experiments.rule_shift.objectives import make_context
from experiments.rule_shift.plan import PlannedRun, check_config, plan_runs
from experiments.rule_shift.programs import Given, RunState, build_run
from experiments.rule_shift.tasks import make_tests, training_tasks
from rlrazor.runtime.checkpoint import Checkpoints
from rlrazor.runtime.mesh import compile_once, make_mesh, replicate
from rlrazor.runtime.metrics import training_means, write_tensorboard
from rlrazor.runtime.tokenizer import vocabulary
from rlrazor.runtime.weights import load_weights, save_weights
from rlrazor.runtime.workdir import ResultsFile
from rlrazor.types import Params

# Config fields that say how a study runs and leave every number as it is.
OPERATIONAL = ("checkpoint_every_seconds", "mesh", "tensorboard")


class Study:
    """The compiled programs of a config and a base, each made when it is first needed."""

    def __init__(self, config: Any, base: Base, workdir: Path):
        check_config(config)
        self.config, self.base, self.workdir = config, base, workdir
        self.mesh = make_mesh(**config.mesh)
        self.words = vocabulary(base.tokenizer)
        size = config.answer_tokens
        self.player = make_player(
            base.model, base.tokenizer, answer_size=size, answer_bytes=4 * size
        )
        self.context = make_context(base.model, self.words, config)
        measure = build_measure(self.context, self.player, config, self.mesh)
        self.base_samples = compile_once(measure.base_samples)
        self.checkpoint = compile_once(measure.checkpoint)
        self.turns = compile_once(measure.turns)
        self.repeated = compile_once(measure.repeated)
        self.params = replicate(base.params, self.mesh)
        self.weights = sum(leaf.size for leaf in jax.tree.leaves(base.params))

    @functools.cached_property
    def runs(self) -> list[PlannedRun]:
        sizes = {arm: self.row_size(arm) for arm in ARMS}
        return plan_runs(self.config, weights=self.weights, tokens=sizes)

    @functools.cache  # noqa: B019  # a study lives as long as its process
    def tasks(self, variant: str) -> Any:
        rules = self.config.diverse_rules
        tasks = training_tasks(VARIANTS[variant], self.words, rules=rules, seed=0)
        return replicate(tasks, self.mesh)

    @functools.cache  # noqa: B019
    def tests(self, direction: str, terse: bool) -> Any:
        tests = make_tests(Variant(direction=direction, terse=terse), self.words)
        return replicate(tests, self.mesh)

    @functools.lru_cache(maxsize=1)  # noqa: B019  # on a CPU a process cannot hold those of 40 arms
    def programs(self, arm: str) -> tuple[Any, Any]:
        run = build_run(ARMS[arm], self.context, self.player, self.config, self.mesh)
        return compile_once(run.initial), compile_once(run.iterate, donate=(0,))

    def row_size(self, arm: str) -> int:
        """Tokens of a row, padding included: the D of the paper's formula."""
        task, turns = self.tasks("main"), ARMS[arm].setting.turns
        return task.prompts.size + (turns - 1) * task.words_size + turns * self.config.answer_tokens

    @functools.cache  # noqa: B019
    def flops(self, arm: str) -> dict[str, float]:
        """Of one iteration, by the formula and as compiled."""
        tasks = self.tasks(ARMS[arm].variant)
        return {
            "flops": flops_per_iteration(
                ARMS[arm], self.config, weights=self.weights, tokens=self.row_size(arm)
            ),
            "flops_compiled": compiled_flops(
                ARMS[arm], self.context, self.player, self.config, self.mesh, tasks, self.params
            ),
        }

    @functools.cache  # noqa: B019
    def of_base(self, seed: int, direction: str, terse: bool) -> dict[str, Any]:
        """The base's own samples and scores, on the hands of a seed."""
        tests, key = self.tests(direction, terse), measuring_key(seed)
        samples = self.base_samples(self.params, tests, key)
        settings = {run.arm: ARMS[run.arm].setting for run in self.runs}
        arms = {arm for arm, s in settings.items() if (s.direction, s.terse) == (direction, terse)}
        return {"samples": samples, **self.scores(self.params, samples, tests, key, arms)}

    def scores(
        self, policy: Params, samples: Any, tests: Any, key: jax.Array, arms: set[str]
    ) -> dict[str, Any]:
        """Scores of a policy; by turns and for repeated samples where one of the arms wants it."""
        sizes = self.config.measure
        found = {"scores": self.checkpoint(policy, self.params, tests, samples, key)}
        if arms & {*sizes.turn_arms}:
            found["turns"] = self.turns(policy, tests, key)
        if arms & {*sizes.pass_arms}:
            found["repeated"] = self.repeated(policy, tests, key)
        return jax.device_get(found)

    def policy_file(self, arm: str, seed: int, share: float) -> tuple[Path, int]:
        """Where a needed arm's policy is kept, of the checkpoint nearest to a share of its run."""
        run = next(run for run in self.runs if (run.arm, run.seed) == (arm, seed))
        iteration = run.checkpoint_at(share)
        return self.workdir / "policies" / f"{run.name}-{iteration}.safetensors", iteration

    def load_policy(self, arm: str, seed: int, share: float) -> Params:
        path, _ = self.policy_file(arm, seed, share)
        return replicate(load_weights(path, self.base.params), self.mesh)

    def given(self, run: PlannedRun) -> Given:
        teacher = ARMS[run.arm].teacher
        return Given(
            tasks=self.tasks(ARMS[run.arm].variant),
            base=self.params,
            teacher=None if teacher is None else self.load_policy(teacher, run.seed, 1.0),
            learning_rate=jnp.float32(run.learning_rate),
            iterations=jnp.int32(run.iterations),
            seed=jnp.int32(run.seed),
        )

    def begin(self, run: PlannedRun, given: Given) -> RunState:
        start = ARMS[run.arm].setting.start
        policy = self.params if start is None else self.load_policy(start[0], run.seed, start[1])
        return replicate(self.programs(run.arm)[0](given, policy), self.mesh)

    def line(self, run: PlannedRun, iteration: int, state: RunState, means: Any) -> dict[str, Any]:
        """Measures a run and writes down what was found."""
        setting = ARMS[run.arm].setting
        base = self.of_base(run.seed, setting.direction, setting.terse)
        found = base
        if iteration > 0 or setting.start is not None:
            arms = {run.arm} if iteration == run.iterations else set()
            policy, tests = (
                state.train.params["policy"],
                self.tests(setting.direction, setting.terse),
            )
            key = measuring_key(run.seed)
            found = self.scores(policy, base["samples"], tests, key, arms)
        return result_line(
            run, iteration, found, base, means, self.config, flops=self.flops(run.arm)
        )

    def keep(self, run: PlannedRun, iteration: int, state: RunState) -> None:
        """Saves a policy that another run starts from or learns from."""
        for other in self.runs:
            arm = ARMS[other.arm]
            wanted = [(arm.teacher, 1.0), arm.setting.start or (None, 1.0)]
            for needed, share in wanted:
                if (needed, other.seed) == (run.arm, run.seed):
                    path, at = self.policy_file(needed, run.seed, share)
                    if at == iteration and path.name.startswith(run.name):
                        path.parent.mkdir(exist_ok=True)
                        save_weights(path, jax.device_get(state.train.params["policy"]))


def measuring_key(seed: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), 99)


def run_study(config: Any, workdir: Path, base: Base) -> None:
    """Runs or resumes a study in an opened workdir, which gains results.jsonl and the rest.

    Every number in results.jsonl is a function of config and base alone: after any interruption the
    same command ends with the same bytes.
    """
    study = Study(config, base, workdir)
    results = ResultsFile(workdir / "results.jsonl")
    checkpoints = Checkpoints(workdir / "checkpoints")

    def fresh(index: int) -> RunState:
        return study.begin(study.runs[index], study.given(study.runs[index]))

    restored = checkpoints.restore_newest(lambda note: fresh(note["run"]))
    state, note = restored or (None, {"run": 0, "iteration": 0, "bytes": 0, "means": {}})
    results.cut(note["bytes"])
    saved_at = time.monotonic()
    before = np.cumsum([0, *(run.iterations for run in study.runs)])
    size = note["bytes"]
    with tqdm(
        total=int(before[-1]),
        initial=int(before[note["run"]]) + note["iteration"],
        desc=f"{len(study.runs)} runs",
        unit=" iterations",
    ) as bar:
        for index in range(note["run"], len(study.runs)):
            run = study.runs[index]
            given, (_, iterate) = study.given(run), study.programs(run.arm)
            iteration, means = 0, {}
            if restored and index == note["run"]:
                iteration, means = note["iteration"], note["means"]
            else:
                state = study.begin(run, given)
                size = results.append([study.line(run, 0, state, {})])
            bar.set_postfix_str(run.name)
            while iteration < run.iterations:
                state, metrics = iterate(state, given)
                iteration += 1
                means = training_means(means, jax.device_get(metrics))
                bar.update()
                if iteration in run.checkpoints:
                    size = results.append([study.line(run, iteration, state, means)])
                    study.keep(run, iteration, state)
                    means = {}
                ended = iteration == run.iterations
                if ended and config.tensorboard:
                    mine = [line for line in results.read() if line["run"] == run.name]
                    write_tensorboard(mine, workdir / "tensorboard")
                if ended or time.monotonic() - saved_at >= config.checkpoint_every_seconds:
                    position = int(before[index]) + iteration
                    place = {"run": index, "iteration": iteration, "bytes": size, "means": means}
                    checkpoints.save(position, state, place)
                    saved_at = time.monotonic()
    checkpoints.close()
