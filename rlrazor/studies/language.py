"""A study of language policies: any methods, in any worlds, from one base."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlrazor.methods.method import Method
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
    side_by_side,
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
    # What sets it apart from other bases of a study, such as {"seed": 3}: in every line.
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)

    @property
    def weights(self) -> int:
        """N of the FLOP formula."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def save(self, folder: Path, trained: Params) -> None:
        """What was trained, for others to read."""
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(folder / "trained.safetensors", jax.device_get(trained))


class LanguageStudy:
    """The arms' runs from a base, measured in their worlds; what `drive` drives.

    `base` is one for all seeds, or each seed's own: then the independent unit of the study is a
    base, as a claim about bases wants. Bases of a study share a policy.

    `arms` are `Arm`s, or methods alone, which are trained in `world` at the `learning_rates` of
    their names. Every arm gets the FLOPs of `iterations` of the dearest one, or, with
    `matched_flops=False`, as many iterations.
    """

    def __init__(
        self,
        base: Base | Mapping[int, Base],
        world: World,
        arms: Sequence[Method | Arm],
        *,
        learning_rates: Mapping[str, Sequence[float]] | None = None,
        seeds: Sequence[int] = (0,),
        steps: int,
        settings: "Settings | None" = None,
    ):
        self.settings = settings or Settings()
        self.bases = _of_seeds(base, tuple(seeds))
        # Whose policy is that of all; without a seed the plan says what is missing.
        self.base = base if isinstance(base, Base) else next(iter(self.bases.values()))
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
        if arm.imitates:
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
            bases={seed: (base.name, base.about) for seed, base in self.bases.items()},
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
            "bases": {str(seed): base.name for seed, base in self.bases.items()},
            **self._apart_from_arms(),
        }

    def _apart_from_arms(self) -> dict[str, Any]:
        """What is learnt, beside the arms."""
        return {
            "sampling": vars(self.base.policy.sampling),
            "answer_tokens": self.base.policy.answer_tokens,
            "optimization": dataclasses.asdict(self.settings.optimization),
            **self.settings.record,
        }

    def setup(self, arm: Arm) -> Setup:
        return Setup(
            self.base.policy, arm.method, arm.sizes, self.settings.optimization, arm.turns,
            arm.fixed, self.settings.side_by_side,
        )  # fmt: skip

    # What `drive` asks for.

    def plan(self) -> Sequence[Block]:
        """Runs of an arm, as many to a block as are trained side by side."""
        size, blocks = self.settings.side_by_side, []
        for _, runs in itertools.groupby(self.runs, key=lambda run: run.arm):
            of_arm = [*runs]
            blocks += [of_arm[start : start + size] for start in range(0, len(of_arm), size)]
        return blocks

    def begin(self, block: Block) -> RunState:
        begin, _ = self.programs(block[0].arm, len(block))
        return begin(self.given(block), stacked([self._start(run) for run in block]))

    def _start(self, run: Run) -> Params:
        start = self.arms[run.arm].start
        if start is None:
            return self.base_trained(run.seed)
        return self.loaded(start.arm, run.seed, start.share)

    def advance(self, block: Block, state: RunState, done: int) -> tuple[RunState, int, Metrics]:
        _, advance = self.programs(block[0].arm, len(block))
        state, metrics = advance(block[0], state, self.given(block), done)
        return state, done + 1, metrics

    def measure(self, block: Block, state: RunState, at: int) -> Sequence[Columns]:
        trained = each(state.train.params["policy"], len(block))
        return [self._measure(run, mine, at) for run, mine in zip(block, trained, strict=True)]

    def _measure(self, run: Run, trained: Params, at: int) -> Columns:
        arm, base = self.arms[run.arm], self.bases[run.seed]
        of_base = self.of_base(run.seed, run.arm)
        if at == 0 and arm.start is None:
            return self._beside(arm, of_base, of_base)
        policy = self.policy(trained, run.seed)
        key, found = measuring_key(run.seed), {}
        for measurement in self.measurements(arm):
            if measurement.when == "every" or at == run.iterations:
                kept = self.kept(measurement, run.seed)
                found |= measurement.of(policy, base.params, kept, key)
        return self._beside(arm, found, of_base)

    def keep(self, block: Block, state: RunState, at: int) -> None:
        """Saves a policy that another run of the same seed begins with or learns from."""
        trained = each(state.train.params["policy"], len(block))
        for run, mine in zip(block, trained, strict=True):
            self._keep(run, mine, at)

    def _keep(self, run: Run, trained: Params, at: int) -> None:
        for arm in self.arms.values():
            wanted = [(arm.teacher, 1.0)]
            if arm.start is not None:
                wanted.append((arm.start.arm, arm.start.share))
            for needed, share in wanted:
                if needed == run.arm and run.stop_at(share) == at:
                    path = self.path(run, at)
                    kept = to_host(trained)
                    if is_writer():
                        path.parent.mkdir(exist_ok=True)
                        save_weights(path, kept)
                    wait_for_all(path.name)
        if self.settings.save_model and at == run.iterations:
            alone = len(self.runs) == 1
            folder = self.folder if alone else self.folder / "models" / run.name
            self.base.save(folder, trained)

    # What is compiled or read once.

    def measurements(self, arm: Arm) -> list[Measurement]:
        return [m for m in arm.world.measurements if m.arms is None or arm.name in m.arms]

    @functools.cache  # noqa: B019  # a study lives as long as its process
    def kept(self, measurement: Measurement, seed: int) -> Any:
        """What a measurement keeps of the base."""
        keep = measurement.keep
        return None if keep is None else keep(self.bases[seed].params, measuring_key(seed))

    @functools.cache  # noqa: B019
    def _of_base(self, measurement: Measurement, seed: int) -> Columns:
        kept, params = self.kept(measurement, seed), self.bases[seed].params
        return measurement.of(params, params, kept, measuring_key(seed))

    def of_base(self, seed: int, arm: str) -> dict[str, Any]:
        """The base's own numbers; measured once a seed, shared by the arms of a world."""
        found: dict[str, Any] = {}
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
        return self.base.policy.initial(self.bases[seed].params, key)

    @functools.lru_cache(maxsize=1)  # noqa: B019  # a CPU process cannot hold those of 40 arms
    def programs(self, arm: str, runs: int) -> tuple[Any, Any]:
        """To begin so many runs of the arm, and an iteration of them."""
        setup = dataclasses.replace(self.setup(self.arms[arm]), side_by_side=runs)
        block = [run for run in self.runs if run.arm == arm][:runs]
        # Read before anything is traced: what is cached within a trace is no array.
        trained = jax.eval_shape(stacked, [self.base_trained(run.seed) for run in block])
        begin = side_by_side(functools.partial(initial, setup), runs)
        given = jax.eval_shape(stacked, [self._given(run, of_shapes=True) for run in block])
        shapes = jax.eval_shape(begin, given, trained)
        at = state_shardings(setup, shapes)
        return compile_once(begin, out=at), self.arms[arm].world.train.advancing(setup, shapes)

    def given(self, block: Block) -> Given:
        """What the runs of a block read."""
        return self._given_to(tuple(run.name for run in block))

    @functools.lru_cache(maxsize=1)  # noqa: B019  # put together once a block
    def _given_to(self, names: tuple[str, ...]) -> Given:
        by_name = {run.name: run for run in self.runs}
        return stacked([self._given(by_name[name]) for name in names])

    def _given(self, run: Run, of_shapes: bool = False) -> Given:
        """Shapes of it are asked for before there is a teacher."""
        arm = self.arms[run.arm]
        if arm.teacher is None:
            learnt = None
        elif of_shapes:
            learnt = self.base_trained(run.seed)
        else:
            learnt = self.loaded(arm.teacher, run.seed, 1.0, arm.teacher_rate)
        return Given(
            base=self.bases[run.seed].params,
            teacher=learnt,
            learning_rate=jnp.float32(run.learning_rate),
            iterations=jnp.int32(run.iterations),
            seed=jnp.int32(run.seed),
        )

    def policy(self, trained: Params, seed: int) -> Params:
        """All parameters of what was trained, as measurements take them.

        Not compiled: a compiled function would return copies of what it was given, and there would
        be one model more in memory.
        """
        return self.base.policy.assemble(trained, self.bases[seed].params)

    def path(self, run: Run, at: int) -> Path:
        return self.folder / KEPT / f"{run.name}-{at}.safetensors"

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def loaded(self, arm: str, seed: int, share: float, rate: float | None = None) -> Params:
        """The policy of another arm, of the checkpoint nearest to a share of its run.

        `rate` says which run, of an arm with several.
        """
        of_arm = [run for run in self.runs if (run.arm, run.seed) == (arm, seed)]
        run = next(run for run in of_arm if rate is None or run.learning_rate == rate)
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
    # Runs of an arm that one program trains: what fills a GPU or TPU with a small model. The same
    # numbers up to rounding; a CPU is faster with 1, as is any device that one run fills.
    side_by_side: int = 1
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def stacked(trees: Sequence[Any]) -> Any:
    """Of many runs one tree, leaves [R, ...]; of one run its own."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def each(tree: Any, runs: int) -> list[Any]:
    """What `stacked` put together."""
    if runs == 1:
        return [tree]
    return [jax.tree.map(lambda leaf: leaf[place], tree) for place in range(runs)]  # noqa: B023


def _of_seeds(base: Base | Mapping[int, Base], seeds: tuple[int, ...]) -> dict[int, Base]:
    """The base of each seed; ValueError unless they are alike."""
    if isinstance(base, Base):
        return dict.fromkeys(seeds, base)
    missing = [seed for seed in seeds if seed not in base]
    if missing or not seeds:
        raise ValueError(f"seeds {missing or seeds} have no base; there are some of {[*base]}")
    first, shapes = base[seeds[0]], jax.tree.map(jnp.shape, base[seeds[0]].params)
    for seed in seeds:
        mine = base[seed]
        if mine.policy is not first.policy or jax.tree.map(jnp.shape, mine.params) != shapes:
            raise ValueError(
                f"base {mine.name!r} of seed {seed} is of another policy than {first.name!r}; "
                "bases of one study share one"
            )
    return {seed: base[seed] for seed in seeds}


def measuring_key(seed: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), MEASURING)
