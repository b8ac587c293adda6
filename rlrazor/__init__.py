"""Does RL-based training generalize, and does it forget less? Measured in JAX, on any model.

    import rlrazor as rr

    base = rr.load("Qwen/Qwen2.5-0.5B-Instruct")
    world = rr.questions(base, train="train.jsonl", new="test.jsonl", prior={"mmlu": "mmlu.jsonl"})
    study = rr.LanguageStudy(
        base, world, arms=[rr.methods.sft, rr.methods.grpo],
        learning_rates={"sft": [1e-5], "grpo": [1e-6]}, seeds=range(3), steps=500,
    )
    rr.report(rr.drive(study, "runs/mine"), "runs/mine")

Names are looked up when they are first used, so that `import rlrazor` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlrazor import losses as losses
    from rlrazor import ops as ops
    from rlrazor.analysis.building import build as report  # noqa: F401
    from rlrazor.analysis.results import load_results as load_results
    from rlrazor.api.harness import harness as harness
    from rlrazor.api.harness_tasks import local_task as local_task
    from rlrazor.api.model import Template as Template
    from rlrazor.api.model import load as load
    from rlrazor.api.questions import Asked as Asked
    from rlrazor.api.questions import Format as Format
    from rlrazor.api.questions import questions as questions
    from rlrazor.methods import methods as methods
    from rlrazor.methods.method import Method as Method
    from rlrazor.policies.function import FunctionPolicy as FunctionPolicy
    from rlrazor.policies.language import Lora as Lora
    from rlrazor.sampling.decode import Sampling as Sampling
    from rlrazor.sampling.decode import make_stops as make_stops
    from rlrazor.studies import measurements as measurements
    from rlrazor.studies.device import OnDevice as OnDevice
    from rlrazor.studies.device import itself as itself
    from rlrazor.studies.device import versions as versions
    from rlrazor.studies.drive import drive as drive
    from rlrazor.studies.language import Base as Base
    from rlrazor.studies.language import LanguageStudy as LanguageStudy
    from rlrazor.studies.language import Settings as Settings
    from rlrazor.studies.plan import Arm as Arm
    from rlrazor.studies.programs import Optimization as Optimization
    from rlrazor.studies.programs import Sizes as Sizes
    from rlrazor.studies.world import World as World
    from rlrazor.tasks.protocol import Observation as Observation
    from rlrazor.tasks.protocol import Task as Task
    from rlrazor.tasks.protocol import Verdict as Verdict

_WHERE = {
    "Arm": "studies.plan",
    "Asked": "api.questions",
    "Base": "studies.language",
    "Format": "api.questions",
    "FunctionPolicy": "policies.function",
    "LanguageStudy": "studies.language",
    "Lora": "policies.language",
    "Method": "methods.method",
    "Observation": "tasks.protocol",
    "OnDevice": "studies.device",
    "Optimization": "studies.programs",
    "Sampling": "sampling.decode",
    "Settings": "studies.language",
    "Sizes": "studies.programs",
    "Task": "tasks.protocol",
    "Template": "api.model",
    "Verdict": "tasks.protocol",
    "World": "studies.world",
    "drive": "studies.drive",
    "harness": "api.harness",
    "itself": "studies.device",
    "load": "api.model",
    "local_task": "api.harness_tasks",
    "load_results": "analysis.results",
    "make_stops": "sampling.decode",
    "questions": "api.questions",
    "report": "analysis.building:build",
    "versions": "studies.device",
}
_MODULES = {
    "losses": "losses",
    "measurements": "studies.measurements",
    "methods": "methods.methods",
    "ops": "ops",
}
__all__ = [*_WHERE, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        module, _, renamed = _WHERE[name].partition(":")
        return getattr(importlib.import_module(f"rlrazor.{module}"), renamed or name)
    if name in _MODULES:
        return importlib.import_module(f"rlrazor.{_MODULES[name]}")
    raise AttributeError(f"rlrazor has no {name!r}; it has {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted(__all__)
