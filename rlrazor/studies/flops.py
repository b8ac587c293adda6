"""What an iteration costs by the papers' formula; `count.count_flops` counts what really runs."""

from rlrazor.studies.programs import Setup


def flops_per_iteration(setup: Setup, *, weights: int, tokens: int) -> float:
    """By the count of SFT Memorizes, RL Generalizes: 6N a token trained on, 2N a token read.

    Its formula 6N D_RL + 2N D_buffer has D_buffer = 6 D_RL on GeneralPoints, for the turns of
    episodes that are sampled and not learnt from; here every sampled row is learnt from, and
    D_buffer is D_RL. N = `weights`, `tokens` those of a row. Sampling reads every token once. That
    prompts are shared is not in it, nor is a teacher's own training.
    """
    method = setup.method
    passes = method.passes
    read = (not method.imitates) + passes.base + passes.teacher + passes.policy
    read += 2 * passes.average  # of rows behind a demonstration, twice as long
    rows = setup.sizes.rows * (2 if method.paired else 1)
    of_token = 6 * method.epochs + 2 * read
    if method.anchored:  # the base samples and reads the anchor alone
        of_token = 2 * 6 * method.epochs + 2 * (1 + passes.base)
    return float(weights * of_token * rows * tokens)
