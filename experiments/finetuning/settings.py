"""What a fine-tuning config says, checked, as the arguments of the library."""

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlrazor.api.model import Pretrained, Template, load
from rlrazor.api.questions import Asked, Fields, Format, questions
from rlrazor.methods import methods
from rlrazor.methods.method import Method
from rlrazor.policies.language import Lora
from rlrazor.runtime.mesh import make_mesh
from rlrazor.sampling.decode import Sampling
from rlrazor.studies.host import Judge
from rlrazor.studies.language import LanguageStudy, Settings
from rlrazor.studies.plan import Arm
from rlrazor.studies.programs import Optimization, Sizes
from rlrazor.studies.world import Measurement, World
from rlrazor.tasks.questions import final_answer

# Config fields that say how a run is carried out, and not what it learns.
OPERATIONAL = (
    "checkpoint_every_seconds", "dry_run", "log_every", "mesh", "profile", "save_model",
    "tensorboard", "test_at_once",
)  # fmt: skip
SWEPT = ("arms", "seeds", "learning_rates", "study")  # that a run's name tells by itself
FIELDS = Fields("config.data.path", "config.data.test_path", "config.shift", "config.prior")
POSITIVE = (
    "steps", "rows", "prompts", "samples", "minibatches", "answer_tokens", "rows_at_once",
    "vocabulary_chunk", "temperature", "log_every", "test_examples", "test_at_once",
    "clip_by_global_norm",
)  # fmt: skip
NOT_NEGATIVE = ("warmup_steps", "weight_decay", "profile", "checkpoint_every_seconds")


def check(config: Any) -> None:
    """Refuses what would otherwise fail after minutes of compiling, unclearly, or not at all."""
    for name in POSITIVE:
        if not config[name] > 0:
            raise ValueError(f"config.{name}={config[name]} must be above 0")
    for name in NOT_NEGATIVE:
        if not config[name] >= 0:
            raise ValueError(f"config.{name}={config[name]} must not be negative")
    if config.lora.rank and not config.lora.alpha > 0:
        raise ValueError(f"config.lora.alpha={config.lora.alpha} must be above 0")
    for name in ("row_buckets", "prompt_buckets"):
        if not config[name] or min(config[name]) < 2:
            raise ValueError(f"config.{name}={config[name]} must be one or more lengths above 1")
    if not 0 < config.top_p <= 1 or config.top_k < 0:
        raise ValueError(
            f"config.top_p={config.top_p} must be above 0 and at most 1, config.top_k="
            f"{config.top_k} not negative"
        )
    for method in (*config.arms, *config.methods, *config.learning_rates):
        methods.named(method)
    for name, knobs in config.methods.to_dict().items():
        if not isinstance(knobs, dict):
            raise ValueError(
                f"config.methods.{name}={knobs} is no knob; write config.methods.{name}.KNOB=..., "
                f"one of {', '.join(methods.named(name).knobs) or 'none'}"
            )


def check_files(config: Any) -> None:
    """Refuses what is not there before a model is read, which takes minutes."""
    if not config.data.path:
        raise ValueError("config.data.path is empty; give a file of JSON lines")
    for field, path in _named_files(config).items():
        if not Path(path).is_file():
            raise ValueError(f"{field}={path!r} is no file; give a file of JSON lines")


def chosen_methods(config: Any) -> list[Method]:
    """The methods of the arms, with the knobs that the config changes."""
    return [
        methods.named(name).tuned(**config.methods.to_dict().get(name, {})) for name in config.arms
    ]


def sizes_of(method: Method, config: Any) -> Sizes:
    """Rows of a step."""
    if method.imitates:
        return Sizes(config.rows, 1, config.minibatches, config.rows_at_once)
    rows = config.prompts * config.samples
    return Sizes(rows, config.samples, config.minibatches, config.rows_at_once)


def optimization_of(config: Any) -> Optimization:
    names = (
        "warmup_steps", "cosine", "weight_decay", "clip_by_global_norm", "mu_dtype", "nu_dtype",
        "masters",
    )  # fmt: skip
    return Optimization(**{name: config[name] for name in names})


def computing_of(config: Any) -> dict[str, Any]:
    """Fields of a TransformerConfig that say how to compute."""
    names = ("param_dtype", "compute_dtype", "remat", "attention")
    return {name: config[name] for name in names}


def lora_of(config: Any) -> Lora | None:
    lora = config.lora
    return Lora(lora.rank, lora.alpha, tuple(lora.targets)) if lora.rank else None


def sampling_of(config: Any) -> Sampling:
    return Sampling(config.temperature, config.top_k, config.top_p)


def loading(config: Any) -> dict[str, Any]:
    """How a model is read, as `rlrazor.api.model` takes it."""
    chat = config.chat
    return {
        "answer_tokens": config.answer_tokens,
        "sampling": sampling_of(config),
        "template": Template(
            chat.template or None, chat.date or None, config.template_variables.to_dict()
        ),
        "lora": lora_of(config),
        "vocabulary_chunk": config.vocabulary_chunk,
        **computing_of(config),
    }


def load_base(config: Any) -> Pretrained:
    return load(config.model, mesh=make_mesh(**config.mesh), **loading(config))


def judge_of(config: Any) -> Judge:
    """The user's own, or by the final answer."""
    if not config.judge:
        return final_answer.judge
    module, _, name = config.judge.partition(":")
    sys.path.insert(0, os.getcwd())  # of a script, Python looks in the script's own folder
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"config.judge={config.judge!r} cannot be imported ({error}); give module:function of "
            "a module that lies in this folder, or that Python finds"
        ) from error
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ValueError(f"config.judge={config.judge!r} is no function")
    judge: Any = found
    return judge


def world_of(config: Any, base: Pretrained) -> World:
    chosen = chosen_methods(config)
    sizes = Asked(
        prompt_buckets=tuple(config.prompt_buckets),
        row_buckets=tuple(config.row_buckets),
        test_examples=config.test_examples,
        at_once=config.test_at_once,
        rows_at_once=config.rows_at_once,
        seed=config.test_seed,
        pairs=any(method.paired for method in chosen),
        demonstrated=any(method.demonstrated for method in chosen),
        imitated=any(method.imitates for method in chosen),
        judged=not all(method.imitates for method in chosen),
        fields=FIELDS,
    )
    return questions(
        base,
        train=config.data.path,
        new=config.data.test_path,
        shifts=_files(config.shift),
        prior={**_files(config.prior), **_harness(config.harness, base)},
        judge=judge_of(config),
        format=_format(config.data),
        prior_format=_format(config.prior_data),
        sizes=sizes,
    )


def _named_files(config: Any) -> dict[str, str]:
    """Every file that is to be read, by the field that names it."""
    named = {FIELDS.train: config.data.path}
    named |= {FIELDS.new: config.data.test_path} if config.data.test_path else {}
    named |= {f"{FIELDS.shifts}.{name}": path for name, path in _files(config.shift).items()}
    named |= {f"{FIELDS.prior}.{name}": path for name, path in _files(config.prior).items()}
    return {field: str(path) for field, path in named.items()}


def _files(named: Any) -> dict[str, str]:
    return {name: str(path) for name, path in named.to_dict().items() if path}


def _harness(config: Any, base: Pretrained) -> dict[str, Measurement]:
    """One measurement of all its tasks; nothing where none is asked for."""
    if not config.tasks:
        return {}
    try:
        from rlrazor.api.harness import harness
        from rlrazor.api.harness_tasks import local_task
    except ImportError as error:
        raise ValueError(f"config.harness.tasks: {error}") from error
    tasks: dict[str, Any] = {}
    for task in config.tasks:
        name = Path(task).stem if task.endswith(".yaml") else task
        tasks[name] = local_task(task, config.data) if config.data else task
    limit = config.limit or None
    return {"harness": harness(base, tasks, limit=limit, rows_at_once=config.rows_at_once)}


def _format(data: Any) -> Format:
    return Format(data.asked, data.answer, data.system)


def make_study(config: Any, base: Pretrained, world: World) -> LanguageStudy:
    """Every arm, rate and seed of the config; a run's name tells all that it learns from."""
    learnt = _learnt(config)
    arms = []
    for method in chosen_methods(config):
        rates = config.learning_rates.to_dict().get(method.name, ())
        rates = tuple(rates) if isinstance(rates, tuple | list) else (rates,)
        if not rates or not all(isinstance(r, int | float) and r > 0 for r in rates):
            raise ValueError(
                f"config.learning_rates.{method.name}={rates} must be one or more rates above 0"
            )
        arms.append(
            Arm(method.name, method, world, sizes_of(method, config), rates, teacher=method.teacher)
        )
    settings = Settings(
        study=config.study,
        optimization=optimization_of(config),
        checkpoints=tuple(config.checkpoints),
        matched_flops=config.matched_flops,
        save_model=config.save_model,
        record=learnt,
    )
    return LanguageStudy(
        base, world, arms, seeds=tuple(config.seeds), steps=config.steps, settings=settings
    )


def _learnt(config: Any) -> dict[str, Any]:
    """All that is learnt beside what a run's name says: two runs that differ in it are two."""
    fields: Mapping[str, Any] = config.to_dict()
    return {name: value for name, value in fields.items() if name not in (*OPERATIONAL, *SWEPT)}
