"""The losses again, as loops over Python floats (float64), each next to its formula."""

import math
import statistics

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


def weighted_nll(logprobs, weights, mask) -> float:
    return kept_mean([-float(weights[b, t]) * float(logprobs[b, t]) for b, t in positions(mask)])


def entropy_gate(log_policy, most_likely: int) -> float:
    """Of one token, by sorting and summing."""
    likely = sorted((math.exp(x) for x in log_policy), reverse=True)[:most_likely]
    shares = [x / sum(likely) for x in likely]
    return -sum(x * math.log(x) for x in shares if x > 0) / math.log(len(likely))


def tempered_weights(logprobs, mask, least: float):
    rows = [[-float(x) for x, kept in zip(*row, strict=True) if kept]
            for row in zip(logprobs, mask, strict=True)]  # fmt: skip
    tau = statistics.median(sum(row) / len(row) for row in rows if row)
    weights = np.zeros(np.shape(mask))
    for b, t in positions(mask):
        weights[b, t] = max(math.exp(float(logprobs[b, t]) / tau), least)
    return weights


def retained(advantages, behaviour, base, correct, mask, samples: int, retention: float):
    """Advantages group by group, from rewards that keep what drifted little."""
    bonus = []
    for b in range(len(mask)):
        nats = [
            math.exp(base[b, t] - behaviour[b, t]) - 1 - (base[b, t] - behaviour[b, t])
            for t in np.flatnonzero(mask[b])
        ]
        drift = sum(nats) / max(len(nats), 1)
        bonus.append(retention * math.exp(-drift) if correct[b] else 0.0)
    out = []
    for start in range(0, len(bonus), samples):
        group = bonus[start : start + samples]
        out += [value - sum(group) / samples for value in group]
    return np.asarray(advantages) + np.array(out)


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


def weighted_mean(values: dict, mask, aggregate: str, length: float = 1.0) -> float:
    """`values` by (b, t), combined in one of the three ways of ops/aggregate.py."""
    if aggregate == "token_mean":
        return kept_mean(list(values.values()))
    of_sequences = []
    for b in range(len(mask)):
        row = [value for (row, _), value in values.items() if row == b]
        if row:
            divisor = len(row) if aggregate == "sequence_mean" else length
            of_sequences.append(sum(row) / divisor)
    return kept_mean(of_sequences)


def clipped_surrogate(ratio: float, advantage: float, low: float, high: float) -> float:
    held = min(max(ratio, 1 - low), 1 + high)
    return -min(ratio * advantage, held * advantage)


def ppo_clip(logprobs, behaviour, advantages, mask, *, low, high, aggregate, length=1.0) -> float:
    values = {}
    for b, t in positions(mask):
        ratio = math.exp(float(logprobs[b, t]) - float(behaviour[b, t]))
        values[b, t] = clipped_surrogate(ratio, float(advantages[b, t]), low, high)
    return weighted_mean(values, mask, aggregate, length)


def ppo_clip_fallback(logprobs, behaviour, advantages, mask, *, low, high, above) -> float:
    values = []
    for b, t in positions(mask):
        ratio, a = math.exp(float(logprobs[b, t]) - float(behaviour[b, t])), float(advantages[b, t])
        held = min(max(ratio, 1 - low), 1 + high)
        values.append(-held * a if ratio > above else -min(ratio * a, held * a))
    return kept_mean(values)


def geometric_mean_ratio(logprobs, behaviour, mask) -> float:
    """Of one sequence: the n-th root of the product of its tokens' ratios."""
    kept = [
        math.exp(float(a) - float(b))
        for a, b, m in zip(logprobs, behaviour, mask, strict=True)
        if m
    ]
    return math.prod(kept) ** (1 / len(kept))


def gspo(logprobs, behaviour, advantages, mask, *, low, high) -> float:
    values = []
    for b in range(len(mask)):
        if mask[b].any():
            ratio = geometric_mean_ratio(logprobs[b], behaviour[b], mask[b])
            values.append(clipped_surrogate(ratio, float(advantages[b]), low, high))
    return kept_mean(values)


def gspo_token(logprobs, frozen, behaviour, advantages, mask, *, low, high) -> float:
    """The stop-gradients made visible: sg(s) and sg(pi) come from `frozen`, which stays put."""
    values = {}
    for b, t in positions(mask):
        s = geometric_mean_ratio(frozen[b], behaviour[b], mask[b])
        ratio = s * math.exp(float(logprobs[b, t]) - float(frozen[b, t]))
        values[b, t] = clipped_surrogate(ratio, float(advantages[b, t]), low, high)
    return weighted_mean(values, mask, "sequence_mean")


def psft(logprobs, previous, mask, *, low: float, high: float) -> float:
    """With both of the paper's bounds."""
    values = []
    for b, t in positions(mask):
        ratio = math.exp(float(logprobs[b, t]) - float(previous[b, t]))
        values.append(clipped_surrogate(ratio, 1.0, low, high))
    return kept_mean(values)


def reinforce(logprobs, advantages, mask) -> float:
    values = {(b, t): -float(advantages[b]) * float(logprobs[b, t]) for b, t in positions(mask)}
    return weighted_mean(values, mask, "scaled_sum")


def value_loss(values, behaviour_values, targets, mask, *, clip: float) -> float:
    losses = []
    for b, t in positions(mask):
        v, old, target = (float(x[b, t]) for x in (values, behaviour_values, targets))
        held = old + min(max(v - old, -clip), clip)
        losses.append(0.5 * max((v - target) ** 2, (held - target) ** 2))
    return kept_mean(losses)


def dpo(chosen, chosen_base, chosen_mask, rejected, rejected_base, rejected_mask, *, beta) -> float:
    def moved(logprobs, base, mask):
        return sum(float(a) - float(b) for a, b, m in zip(logprobs, base, mask, strict=True) if m)

    values = []
    for b in range(len(chosen)):
        if chosen_mask[b].any() and rejected_mask[b].any():
            margin = moved(chosen[b], chosen_base[b], chosen_mask[b])
            margin -= moved(rejected[b], rejected_base[b], rejected_mask[b])
            values.append(math.log(1 + math.exp(-beta * margin)))
    return kept_mean(values)


def on_policy_distillation(logprobs, frozen, teacher, mask, *, aggregate) -> float:
    values = {}
    for b, t in positions(mask):
        advantage = -(float(frozen[b, t]) - float(teacher[b, t]))
        values[b, t] = -advantage * float(logprobs[b, t])
    return weighted_mean(values, mask, aggregate)


def sdft(log_policy, log_teacher, mask, *, aggregate) -> float:
    values = {(b, t): kl(log_policy[b, t], log_teacher[b, t]) for b, t in positions(mask)}
    return weighted_mean(values, mask, aggregate)


def entropy_bonus(log_policy, mask) -> float:
    values = []
    for b, t in positions(mask):
        values.append(sum(math.exp(a) * float(a) for a in log_policy[b, t] if a != -math.inf))
    return kept_mean(values)


def k2(log_p: float, log_q: float) -> float:
    return (log_p - log_q) ** 2 / 2


def k3(log_p: float, log_q: float) -> float:
    ratio = math.exp(log_q) / math.exp(log_p)
    return ratio - 1 - math.log(ratio)


def kl_estimate(estimator, logprobs, base, mask, *, aggregate, behaviour=None) -> float:
    values = {}
    for b, t in positions(mask):
        log_p, log_q = float(logprobs[b, t]), float(base[b, t])
        weight = 1.0 if behaviour is None else math.exp(log_p - float(behaviour[b, t]))
        values[b, t] = weight * estimator(log_p, log_q)
    return weighted_mean(values, mask, aggregate)
