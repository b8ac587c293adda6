"""pass@k: how often one of k samples is right."""

import numpy as np


def pass_at(
    correct: np.ndarray,  # i[H] right answers among the samples of each example
    samples: int,  # n
    k: int,
) -> float:
    """Mean of 1 - C(n - c, k) / C(n, k), the unbiased estimate of Chen et al. (arXiv 2107.03374).

    ValueError for k > n, which has no unbiased estimate.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples an example, got {samples}")
    n = np.arange(samples + 1)
    # The product of (n - c - i) / (n - i) over i < k, for every count c at once.
    failing = np.ones(samples + 1)
    for i in range(k):
        failing *= np.clip(samples - n - i, 0, None) / (samples - i)
    return float(np.mean(1.0 - failing[np.asarray(correct)]))
