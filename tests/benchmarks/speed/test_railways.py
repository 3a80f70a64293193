"""Copies of a railway form a larger railway, whose number of trains grows by the same factor."""

import numpy as np
import torch

from benchmarks.speed.railways import Railway, count_trains


def test_copies_multiply_trains_and_keep_their_events(network: Railway):
    one, three = network.builder(), network.side_by_side(3)
    instant, trains = network.busiest(one)
    assert trains > 0 and count_trains(three, np.array([instant]))[0] == 3 * trains
    single, triple = (builder.build(np.array([instant])) for builder in (one, three))
    assert len(np.unique(triple.journey[0])) == 3 * trains  # trains of their own
    np.testing.assert_array_equal(np.sort(np.tile(single.label.sum(-1), 3)), np.sort(triple.label.sum(-1)))


def test_batches_follow_the_instants(network: Railway):
    instants = network.random_instants(5)
    batches = network.batches(network.builder("train"), instants, 2)
    assert [len(batch["instant"]) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch["instant"] for batch in batches]).tolist() == instants.tolist()
