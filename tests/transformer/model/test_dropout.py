"""Dropout by bytes: right share, independent units, unchanged expectation, and no effect in evaluation mode."""

import pytest
import torch

from transformer.model.dropout import ByteDropout

ONES = torch.ones(1_000, 808)


def dropped(p, values=ONES):
    torch.manual_seed(0)
    return ByteDropout(p)(values)


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_it_drops_the_share_and_keeps_the_expectation(p):
    result = dropped(p)
    assert (result == 0).double().mean().item() == pytest.approx(p, abs=0.003)  # steps of 1/256
    assert result.mean().item() == pytest.approx(1.0, abs=0.02)
    assert len(result.unique()) == 2


def test_every_byte_of_a_word_has_the_same_chance():
    shares = (dropped(0.75) == 0).double().reshape(-1, 8).mean(0)  # the sign bit among them
    assert shares.min() > 0.74 and shares.max() < 0.76


def test_units_drop_by_themselves():
    gone = (dropped(0.5) == 0).double().flatten()
    for distance in (1, 8, 808):
        both = (gone[distance:] * gone[:-distance]).mean().item()
        assert both == pytest.approx(0.25, abs=0.005), distance


def test_the_same_seed_drops_the_same_units_and_the_next_call_others():
    assert torch.equal(dropped(0.5), dropped(0.5))
    assert not torch.equal(dropped(0.5), ByteDropout(0.5)(ONES))


def test_gradients_flow_where_values_did():
    values = torch.ones(7, 3, requires_grad=True)
    result = dropped(0.5, values)
    result.sum().backward()
    assert torch.equal(values.grad, result.detach())


@pytest.mark.parametrize("shape", [(0, 96), (1,), (3, 5), (2, 3, 4)])
def test_any_shape(shape):
    assert dropped(0.5, torch.ones(shape)).shape == shape


def test_nothing_is_dropped_in_evaluation_mode_or_by_zero_and_nearly_everything_by_nearly_one():
    assert ByteDropout(0.5).eval()(ONES) is ONES
    assert ByteDropout(0.0)(ONES) is ONES
    assert torch.isfinite(dropped(0.9999)).all()
