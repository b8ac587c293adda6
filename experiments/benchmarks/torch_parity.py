"""The parity study's SFT and GRPO as a plain PyTorch loop, the yardstick of the benchmark.

Written as one would by hand: data in a tensor on the device, one batch selected by index, autograd,
clipping, AdamW. It has no schedule and keeps no metrics, which only makes it faster.
"""

import itertools
from collections.abc import Callable

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]


def synthetic_mnist(examples: int, width: int, device: str):
    """Inputs f32[N, D] and digits i64[N], random."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, width, generator=generator)
    digits = torch.randint(10, (examples,), generator=generator)
    return inputs.to(device), digits.to(device)


def sft_loss(logits, digits):
    """SFT-1: even digits are labelled 0, odd digits 1."""
    return nn.functional.cross_entropy(logits, digits % 2)


def grpo_loss(logits, digits, *, group_size: int):
    """Policy gradient on `group_size` answers a prompt, rewards centred over the group."""
    policy = torch.distributions.Categorical(logits=logits)
    answers = policy.sample((group_size,))
    rewards = (answers % 2 == digits % 2).float()
    advantages = rewards - rewards.mean(dim=0)
    return -(advantages * policy.log_prob(answers)).mean()


def make_training(
    loss: Callable,  # (logits, digits) -> scalar
    inputs,  # f32[N, D]
    digits,  # i64[N]
    *,
    widths: list[int],  # D, hidden widths, V
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    clip_by_global_norm: float,
    fused: bool,
) -> Callable[[int], None]:
    """Returns `train(steps)`, which goes on from where the last call stopped."""
    layers = []
    for inner, outer in itertools.pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).to(inputs.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=fused
    )

    def train(steps: int) -> None:
        order = torch.randperm(len(inputs), device=inputs.device)
        for rows in order[: steps * batch_size].split(batch_size):
            value = loss(model(inputs[rows]), digits[rows])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip_by_global_norm)
            optimizer.step()
        if inputs.is_cuda:
            torch.cuda.synchronize()

    return train
