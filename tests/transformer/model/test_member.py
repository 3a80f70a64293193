"""A member's attention gives the same on a CPU and on a GPU, and stays within each snapshot."""

import pytest
import torch

from transformer.model.member import attend_in_turn, attend_padded


def heads_of(present: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(int(present.sum()), 3, 2, 4, generator=generator)


@pytest.mark.parametrize("trains", [[3, 5, 1], [4, 0, 2], [0, 0], [6]])
def test_both_ways_to_attend_agree(trains: list[int]):
    present = torch.arange(7) < torch.tensor(trains)[:, None]
    heads = heads_of(present)
    torch.testing.assert_close(attend_in_turn(heads, present), attend_padded(heads, present), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attend", [attend_in_turn, attend_padded])
def test_trains_of_another_snapshot_are_not_seen(attend):
    present = torch.arange(4) < torch.tensor([3, 2])[:, None]
    heads, changed = heads_of(present), heads_of(present)
    changed[3:] = heads_of(present, seed=1)[3:]
    torch.testing.assert_close(attend(changed, present)[:3], attend(heads, present)[:3])
    assert not torch.allclose(attend(changed, present)[3:], attend(heads, present)[3:])
