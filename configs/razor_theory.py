"""RL's Razor (arXiv 2509.04259), Theorem A.3 and Proposition A.4, exactly, on small policies.

    python experiments/razor_theory.py --config=configs/razor_theory.py --workdir=DIR

Hardware: CPU, two cores, about three minutes (`:quick`: under one). Expected, float64: the
proposition holds on the full simplex and wherever the correct actions form a face of the feature
polytope (to 1e-6), and fails by log(4/3) = 0.2877 nats on three actions and one parameter.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "full") -> ConfigDict:
    """`--config=configs/razor_theory.py:quick` is what the tests run."""
    if mode not in ("full", "quick"):
        raise ValueError(f"mode={mode!r} must be 'full' or 'quick'")
    quick = mode == "quick"
    config = ConfigDict()
    config.seed = 0
    # 1 - J at which policies are compared; the last stands for the limit
    config.failures = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)

    config.tabular = ConfigDict()
    config.tabular.bases = 8 if quick else 100  # pi0 ~ Dirichlet(1)
    config.tabular.actions = 6
    config.tabular.correct = 3
    config.tabular.step_length = 0.02  # of the flow, in logits
    config.tabular.flow_steps = 1200
    config.tabular.learning_rates = (1.0, 10.0) if quick else (0.1, 1.0, 10.0, 100.0)
    config.tabular.ascent_steps = 1000 if quick else 4000
    # gradient steps per I-projection
    config.tabular.m_steps = (1, 64) if quick else (1, 4, 16, 64, 256, 1024)
    config.tabular.sampled = ConfigDict()
    config.tabular.sampled.seeds = 16 if quick else 200
    config.tabular.sampled.samples = 8
    config.tabular.sampled.learning_rate = 1.0
    config.tabular.sampled.steps = 200 if quick else 4000
    # the pi0 of the step-by-step trace; the last action is wrong
    config.tabular.trace_base = (0.3, 0.2, 0.5)

    config.log_linear = ConfigDict()
    config.log_linear.instances = 12 if quick else 200
    config.log_linear.states = 2
    config.log_linear.actions = 4
    config.log_linear.features = 3
    config.log_linear.failure = 1e-4  # compared at this 1 - J
    config.log_linear.rounds = 60 if quick else 300
    config.log_linear.newton_steps = 30
    config.log_linear.step_length = 0.05
    config.log_linear.flow_steps = 600
    config.log_linear.lines = 40 if quick else 500  # random families with a single parameter
    # Counterexamples: one state; features f[V, K] in natural parameters, pi0, correct actions.
    config.log_linear.cases = ConfigDict()
    config.log_linear.cases.farther = ConfigDict(
        {"base": (0.3, 0.3, 0.4), "features": ((-1.0,), (0.5,), (1.0,)), "correct": (1, 0, 1)}
    )
    config.log_linear.cases.stalled = ConfigDict(
        {
            "base": (0.3, 0.39, 0.3, 0.01),
            "features": ((-1.0,), (0.0,), (1.0,), (2.0,)),
            "correct": (0, 1, 0, 1),
        }
    )
    config.log_linear.cases.triangle = ConfigDict(
        {
            "base": (0.35, 0.25, 0.2, 0.2),
            "features": ((0.0, 2.0), (-2.0, -1.0), (2.0, -1.0), (0.0, 0.0)),
            "correct": (1, 1, 1, 0),
        }
    )

    config.curved = ConfigDict()
    config.curved.mixture = ConfigDict()
    config.curved.mixture.families = 10 if quick else 100
    config.curved.mixture.actions = 5
    config.curved.mixture.correct = 3
    config.curved.mixture.failing = 0.5  # weight of the component with wrong actions, at the start
    config.curved.mixture.starts = (0.1, 0.5, 0.9)  # share of the first of the two that solve it
    config.curved.mlp = ConfigDict()
    config.curved.mlp.seeds = 1 if quick else 10
    config.curved.mlp.hidden = 8
    config.curved.mlp.init_scale = 0.5
    config.curved.mlp.failure = 1e-3  # compared at this 1 - J
    config.curved.mlp.step_length = 0.02
    config.curved.mlp.flow_steps = 1500
    return config
