"""`habana_frameworks.torch.hpu.random`."""

import torch


def manual_seed_all(seed: int) -> None:
    torch.manual_seed(seed)


def manual_seed(seed: int) -> None:
    torch.manual_seed(seed)


def get_rng_state() -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor) -> None:
    torch.set_rng_state(state)


def initial_seed() -> int:
    return torch.initial_seed()
