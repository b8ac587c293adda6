"""A study of language policies: any methods, in any worlds, from one base."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.methods.method import Demonstrations, Method, Pairs
from rlrazor.policies.policy import Policy
from rlrazor.runtime.distributed import is_writer, to_host, wait_for_all
from rlrazor.runtime.mesh import compile_once, place
from rlrazor.runtime.weights import load_weights, save_weights
from rlrazor.studies.flops import flops_per_iteration
from rlrazor.studies.plan import Arm, check_arms, plan_runs
from rlrazor.studies.programs import (
    ADAPTERS,
    Given,
    Optimization,
    RunState,
    Setup,
    Sizes,
    initial,
    state_shardings,
)
from rlrazor.studies.study import Block, Columns, Run
from rlrazor.studies.world import Measurement, World
from rlrazor.types import Metrics, Params

MEASURING = 99  # what a seed is folded with for the examples that it is measured on
KEPT = "policies"  # folder of policies that other runs begin with or learn from


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """A model to begin with: a policy, its parameters on the policy's mesh, and a name."""

    name: str
    policy: Policy
    params: Params

    @property
    def weights(self) -> int:
        """N of the FLOP formula."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def save(self, folder: Path, trained: Params) -> None:
        """What was trained, for others to read."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder / "trained.safetensors", jax.device_get(trained))


class LanguageStudy:
    """The arms' runs from one base, measured in their worlds; what `drive` drives.

    `arms` are `Arm`s, or methods alone, which are trained in `world` at the `learning_rates` of
    their names. Every arm gets the FLOPs of `iterations` of the dearest one, or, with
    `matched_flops=False`, as many iterations.
    """

    def __init__(
        self,
        base: Base,
        world: World,
        arms: Sequence[Method | Arm],
        *,
        learning_rates: Mapping[str, Sequence[float]] | None = None,
        seeds: Sequence[int] = (0,),
        steps: int,
        settings: "Settings | None" = None,
    ):
        self.base, self.settings = base, settings or Settings()
        rates = learning_rates or {}
        self.arms = check_arms([self._arm(arm, world, rates) for arm in arms])
        self.title = self.settings.study
        for arm in self.arms.values():
            refusal = arm.world.train.refusal(self.setup(arm))
            if refusal:
                raise ValueError(f"arm {arm.name!r}: {arm.method.label} {refusal}")
        self.runs = self._plan(tuple(seeds), steps)
        self.folder = Path()  # of the run; `drive` tells it

    def _arm(self, arm: Method | Arm, world: World, rates: Mapping[str, Sequence[float]]) -> Arm:
        if isinstance(arm, Arm):
            return arm
        if arm.name not in rates:
            raise ValueError(
                f"learning_rates lacks {arm.name!r}; it has {', '.join(rates) or 'none'}"
            )
        sizes = self.settings.sizes
        if isinstance(arm.source, Demonstrations | Pairs):
            sizes = dataclasses.replace(sizes, samples=1)
        return Arm(arm.name, arm, world, sizes, tuple(rates[arm.name]), teacher=arm.teacher)

    def _plan(self, seeds: tuple[int, ...], steps: int) -> list[Run]:
        def cost(arm: Arm) -> float:
            setup = self.setup(arm)
            tokens = arm.world.train.row_tokens(setup)
            return flops_per_iteration(setup, weights=self.base.weights, tokens=tokens)

        reference = self.settings.reference_flops
        if self.settings.matched_flops and reference is None:
            reference = max(cost(arm) for arm in self.arms.values())
        return plan_runs(
            [*self.arms.values()],
            seeds,
            iterations=steps,
            reference=reference if self.settings.matched_flops else None,
            cost=cost,
            checkpoints=self.settings.checkpoints,
            base=self.base.name,
            record=self._apart_from_arms(),
        )

    @property
    def record(self) -> dict[str, Any]:
        """All that is learnt, as JSON has it."""
        return {
            "study": self.title,
            "runs": [run.name for run in self.runs],
            "iterations": {run.name: run.iterations for run in self.runs},
            "arms": {name: arm.record for name, arm in self.arms.items()},
            "worlds": {name: dict(arm.world.record) for name, arm in self.arms.items()},
            "checkpoints": self.settings.checkpoints,
            **self._apart_from_arms(),
        }

    def _apart_from_arms(self) -> dict[str, Any]:
        """What is learnt, beside the arms."""
        return {
            "base": self.base.name,
            "sampling": vars(self.base.policy.sampling),
            "answer_tokens": self.base.policy.answer_tokens,
            "optimization": dataclasses.asdict(self.settings.optimization),
            **self.settings.record,
        }

    def setup(self, arm: Arm) -> Setup:
        return Setup(
            self.base.policy, arm.method, arm.sizes, self.settings.optimization, arm.turns,
            arm.fixed,
        )  # fmt: skip

    # What `drive` asks for.

    def plan(self) -> Sequence[Block]:
        """One run a block."""
        return [(run,) for run in self.runs]

    def begin(self, block: Block) -> RunState:
        (run,) = block
        arm = self.arms[run.arm]
        if arm.start is None:
            start = self.base_trained(run.seed)
        else:
            start = self.loaded(arm.start.arm, run.seed, arm.start.share)
        begin, _ = self.programs(run.arm)
        return begin(self.given(run), start)

    def advance(self, block: Block, state: RunState, done: int) -> tuple[RunState, int, Metrics]:
        (run,) = block
        _, advance = self.programs(run.arm)
        state, metrics = advance(run, state, self.given(run), done)
        return state, done + 1, metrics

    def measure(self, block: Block, state: RunState, at: int) -> Sequence[Columns]:
        (run,) = block
        arm = self.arms[run.arm]
        of_base = self.of_base(run.seed, run.arm)
        if at == 0 and arm.start is None:
            return [self._beside(arm, of_base, of_base)]
        policy = self.policy(state.train.params["policy"])
        key, found = measuring_key(run.seed), {}
        for measurement in self.measurements(arm):
            if measurement.when == "every" or at == run.iterations:
                kept = self.kept(measurement, run.seed)
                found |= measurement.of(policy, self.base.params, kept, key)
        return [self._beside(arm, found, of_base)]

    def keep(self, block: Block, state: RunState, at: int) -> None:
        """Saves a policy that another run of the same seed begins with or learns from."""
        (run,) = block
        for arm in self.arms.values():
            wanted = [(arm.teacher, 1.0)]
            if arm.start is not None:
                wanted.append((arm.start.arm, arm.start.share))
            for needed, share in wanted:
                if needed == run.arm and run.stop_at(share) == at:
                    path = self.path(run, at)
                    kept = to_host(state.train.params["policy"])
                    if is_writer():
                        path.parent.mkdir(exist_ok=True)
                        save_weights(path, kept)
                    wait_for_all(path.name)
        if self.settings.save_model and at == run.iterations:
            alone = len(self.runs) == 1
            folder = self.folder if alone else self.folder / "models" / run.name
            self.base.save(folder, state.train.params["policy"])

    # What is compiled or read once.

    def measurements(self, arm: Arm) -> list[Measurement]:
        return [m for m in arm.world.measurements if m.arms is None or arm.name in m.arms]

    @functools.cache  # noqa: B019  # a study lives as long as its process
    def kept(self, measurement: Measurement, seed: int) -> Any:
        """What a measurement keeps of the base."""
        keep = measurement.keep
        return None if keep is None else keep(self.base.params, measuring_key(seed))

    @functools.cache  # noqa: B019
    def _of_base(self, measurement: Measurement, seed: int) -> Columns:
        kept = self.kept(measurement, seed)
        return measurement.of(self.base.params, self.base.params, kept, measuring_key(seed))

    def of_base(self, seed: int, arm: str) -> dict[str, float]:
        """The base's own numbers; measured once a seed, shared by the arms of a world."""
        found: dict[str, float] = {}
        for measurement in self.measurements(self.arms[arm]):
            found |= self._of_base(measurement, seed)
        return found

    def _beside(self, arm: Arm, found: Mapping[str, float], of_base: Mapping[str, float]):
        """The numbers of a policy with those of its base beside them."""
        columns = dict(found)
        for measurement in self.measurements(arm):
            for name in measurement.beside:
                whole = f"{measurement.prefix}/{name}"
                place, _, what = whole.rpartition("/")
                if whole in of_base:
                    columns[f"{place}/base_{what}"] = of_base[whole]
        return columns

    @functools.cache  # noqa: B019
    def base_trained(self, seed: int) -> Params:
        """What is trained of the base before its first step; adapters are drawn by the seed."""
        key = jax.random.fold_in(jax.random.key(seed), ADAPTERS)
        return self.base.policy.initial(self.base.params, key)

    @functools.lru_cache(maxsize=1)  # noqa: B019  # a CPU process cannot hold those of 40 arms
    def programs(self, arm: str) -> tuple[Any, Any]:
        setup = self.setup(self.arms[arm])
        run = next(run for run in self.runs if run.arm == arm)
        trained = jax.eval_shape(lambda: self.base_trained(run.seed))
        begin = functools.partial(initial, setup)
        shapes = jax.eval_shape(begin, self.given(run, of_shapes=True), trained)
        at = state_shardings(setup, shapes)
        return compile_once(begin, out=at), self.arms[arm].world.train.advancing(setup, shapes)

    def given(self, run: Run, of_shapes: bool = False) -> Given:
        """What the run reads: shapes of it are asked for before there is a teacher."""
        teacher = self.arms[run.arm].teacher
        if teacher is None:
            learnt = None
        elif of_shapes:
            learnt = self.base_trained(run.seed)
        else:
            learnt = self.loaded(teacher, run.seed, 1.0)
        return Given(
            base=self.base.params,
            teacher=learnt,
            learning_rate=jnp.float32(run.learning_rate),
            iterations=jnp.int32(run.iterations),
            seed=jnp.int32(run.seed),
        )

    def policy(self, trained: Params) -> Params:
        """All parameters of what was trained, as measurements take them.

        Not compiled: a compiled function would return copies of what it was given, and there would
        be one model more in memory.
        """
        return self.base.policy.assemble(trained, self.base.params)

    def path(self, run: Run, at: int) -> Path:
        return self.folder / KEPT / f"{run.name}-{at}.safetensors"

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def loaded(self, arm: str, seed: int, share: float) -> Params:
        """The policy of another arm, of the checkpoint nearest to a share of its run."""
        run = next(run for run in self.runs if (run.arm, run.seed) == (arm, seed))
        like = self.base_trained(seed)
        read = load_weights(self.path(run, run.stop_at(share)), like)
        return jax.tree.map(lambda leaf, mine: place(leaf, mine.sharding), read, like)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a study is trained and measured; nothing of it is about one arm."""

    study: str = "language"  # its name in every line; reports compare some with papers by it
    # Of arms that are methods alone.
    sizes: Sizes = dataclasses.field(default_factory=lambda: Sizes(rows=64, samples=8))
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
    checkpoints: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)  # shares of a run
    matched_flops: bool = True
    reference_flops: float | None = None  # of an iteration; None: of the dearest arm
    save_model: bool = False  # of every run that is done
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def measuring_key(seed: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), MEASURING)
