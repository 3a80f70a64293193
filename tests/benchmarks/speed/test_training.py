"""The plain encoder is measured on the same task, and the time that the loop waits is a share."""

import pytest
import torch

from benchmarks.speed.bench_training import (
    PlainEncoder,
    PlainNetwork,
    count_weights,
    inputs_per_train,
    padding,
    waiting_share,
)
from benchmarks.speed.railways import Railway
from benchmarks.speed.steps import TrainingSteps, predict


def test_plain_encoder_predicts_in_the_same_shape(network: Railway):
    (batch,) = network.batches(network.builder("train"), network.random_instants(2), 2)
    n_inputs, n_outputs = inputs_per_train(batch), batch["label"].shape[-1]
    plain = PlainEncoder(network.config.model, n_inputs, n_outputs).eval()
    tokens = {**batch, "tokens": torch.randn(*batch["train_mask"].shape, n_inputs)}
    assert predict(plain, tokens).shape == predict(network.module().eval(), batch).shape == batch["label"].shape


def test_the_plain_network_predicts_in_the_same_shape_and_has_as_many_weights(network: Railway):
    (batch,) = network.batches(network.builder("train"), network.random_instants(2), 2)
    member = network.module().network.members[0]
    plain = PlainNetwork(member, network.config.model).eval()
    trains, events = batch["train_mask"].shape, batch["label"].shape
    n_inputs, n_event = member.token[0].in_features, member.head_event.in_features
    inputs = {"tokens": torch.randn(*trains, n_inputs), "events": torch.randn(*events, n_event)}
    assert predict(plain, {**batch, **inputs}).shape == events
    assert count_weights(plain) == pytest.approx(count_weights(member), rel=0.05)


def test_steps_train_the_network(network: Railway):
    batches = network.batches(network.builder("train"), network.random_instants(4), 2)
    module = network.module()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    TrainingSteps(module, batches)()
    assert any(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


def test_padding_is_what_no_train_fills():
    full, half = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[True, True, False, False]])
    assert padding([{"train_mask": full}]) == (0, 0)
    assert padding([{"train_mask": half}, {"train_mask": half}]) == (0.5, 0.75)


@pytest.mark.slow
def test_waiting_is_a_share_of_the_loop(network: Railway):
    assert 0 < waiting_share(network) < 1
