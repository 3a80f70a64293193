"""The weights are those of the model: they reproduce each layer's output, and the network does not change."""

import pytest
import torch
from torch import Tensor

from tests.transformer.model.test_network import CONFIG, batch, network, padded
from transformer.exploration.attention import attention_weights
from transformer.model.member import EncoderLayer
from transformer.model.network import DelayTransformer

TRAINS = [6, 2]


def uneven() -> dict[str, Tensor]:
    """A snapshot of six trains and one of two, padded with junk."""
    full, other = batch(1, 6), padded(batch(1, 2, seed=5), 4, 1.0)
    return {name: torch.cat([full[name], other[name]]) for name in full}


def states(made: DelayTransformer, given: dict[str, Tensor]) -> list[tuple[EncoderLayer, Tensor, Tensor]]:
    """Return every encoder layer in order, with its input and output [T, D] in a normal forward pass."""
    seen: list[tuple[EncoderLayer, Tensor, Tensor]] = []
    layers = [layer for member in made.members for layer in member.encoder]
    hooks = [layer.register_forward_hook(lambda m, inputs, out: seen.append((m, inputs[0], out))) for layer in layers]
    made.changes(given)
    for hook in hooks:
        hook.remove()
    assert [layer for layer, _, _ in seen] == layers
    return seen


def test_a_train_gives_all_its_attention_to_the_trains_of_its_snapshot():
    weights = attention_weights(network(), uneven())
    assert weights.shape == (2, CONFIG.n_members, CONFIG.n_layers, CONFIG.n_heads, 6, 6)
    for one, count in zip(weights, TRAINS, strict=True):
        torch.testing.assert_close(one[..., :count, :count].sum(-1), torch.ones(*one.shape[:3], count))
        assert (one[..., :count, :count] > 0).all()
        assert not one[..., count:, :].any() and not one[..., :, count:].any()
    assert weights[0].std() > 0.01  # equal weights would pass the assertions above


@torch.inference_mode()
def test_from_the_weights_every_layer_has_the_output_that_it_has():
    made, given = network(), uneven()
    weights = attention_weights(made, given).flatten(1, 2)
    for at, (layer, x_TD, out_TD) in enumerate(states(made, given)):
        values_Td = layer.query_key_value(layer.norm_attention(x_TD)).unflatten(-1, (3, layer.n_heads, -1))[:, 2]
        first, rows = 0, []
        for one, count in zip(weights[:, at], TRAINS, strict=True):
            values = values_Td[first : first + count]
            rows.append(torch.einsum("hij,jhd->ihd", one[:, :count, :count], values).flatten(1))
            first += count
        again = x_TD + layer.attention_out(torch.cat(rows))
        again = again + layer.feedforward(layer.norm_feedforward(again))
        torch.testing.assert_close(again, out_TD, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_other_weights_would_not():
    """The output that the test above compares depends on the weights."""
    made, given = network(), uneven()
    (layer, x_TD, out_TD), *_ = states(made, given)
    values_Td = layer.query_key_value(layer.norm_attention(x_TD)).unflatten(-1, (3, layer.n_heads, -1))[:6, 2]
    even = values_Td.mean(0, keepdim=True).expand_as(values_Td).flatten(1)
    other = x_TD[:6] + layer.attention_out(even)
    other = other + layer.feedforward(layer.norm_feedforward(other))
    assert (other - out_TD[:6]).abs().max() > 1e-3


def test_the_network_predicts_what_it_did_and_keeps_no_hook():
    made, given = network(), batch()
    before = made(given)
    attention_weights(made, given)
    assert torch.equal(made(given), before)
    assert not [name for name, module in made.named_modules() if module._forward_hooks or module._forward_pre_hooks]


def test_no_hook_stays_when_the_pass_fails():
    made, given = network(), batch()
    del given["next_live"]
    with pytest.raises(KeyError):
        attention_weights(made, given)
    assert not [name for name, module in made.named_modules() if module._forward_hooks]


def test_a_network_that_is_being_trained_is_refused():
    with pytest.raises(AssertionError, match="dropout"):
        attention_weights(network().train(), batch())
