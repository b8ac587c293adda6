"""The losses again, as loops over Python floats (float64), each next to its formula."""

import math

import numpy as np


def kept_mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def positions(mask: np.ndarray):  # bool[B, T] -> the kept (b, t)
    return [(b, t) for b, t in np.ndindex(mask.shape) if mask[b, t]]


def nll(logprobs, mask) -> float:
    return kept_mean([-float(logprobs[b, t]) for b, t in positions(mask)])


def soft_cross_entropy(log_policy, target_probs, mask) -> float:
    values = []
    for b, t in positions(mask):
        value = 0.0
        for log_pi, q in zip(log_policy[b, t], target_probs[b, t], strict=True):
            if q > 0:
                value -= float(q) * float(log_pi)
        values.append(value)
    return kept_mean(values)


def policy_gradient(logprobs, advantages, mask) -> float:
    return kept_mean([-float(advantages[b]) * float(logprobs[b, t]) for b, t in positions(mask)])


def dft(logprobs, frozen_logprobs, mask) -> float:
    """The stop-gradient made visible: weights come from `frozen_logprobs`, which stay put."""
    return kept_mean(
        [-math.exp(frozen_logprobs[b, t]) * float(logprobs[b, t]) for b, t in positions(mask)]
    )


def simpo(chosen, chosen_mask, rejected, rejected_mask, *, beta: float, margin: float) -> float:
    values = []
    for b in range(len(chosen)):
        if chosen_mask[b].any() and rejected_mask[b].any():
            log_pi_w = sum(float(x) for x, m in zip(chosen[b], chosen_mask[b], strict=True) if m)
            log_pi_l = sum(
                float(x) for x, m in zip(rejected[b], rejected_mask[b], strict=True) if m
            )
            sigmoid = 1 / (1 + math.exp(-(beta * (log_pi_w - log_pi_l) - margin)))
            values.append(-math.log(sigmoid))
    return kept_mean(values)


def kl(log_p, log_q) -> float:
    """sum p log(p / q) by cases, for one distribution."""
    total = 0.0
    for a, b in zip(log_p, log_q, strict=True):
        if a == -math.inf:
            continue
        if b == -math.inf:
            return math.inf
        total += math.exp(a) * (float(a) - float(b))
    return total


def kl_penalty(log_p, log_q, mask) -> float:
    return kept_mean([kl(log_p[b, t], log_q[b, t]) for b, t in positions(mask)])
