"""The network: it reads a set of trains, ignores padding and inputs switched off, and predicts no past time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from transformer.config import LossConfig, ModelConfig, UseInputsConfig, load_config
from transformer.features.history import FEATURES, HISTORY_FEATURES, SECTION_FEATURES
from transformer.features.inputs.catalogue import INPUTS, input_columns
from transformer.features.live_state import (
    LIVE_FEATURES,
    LIVE_POINT_FEATURES,
    LIVE_SECTION_FEATURES,
    NEIGHBOUR_FEATURES,
)
from transformer.model.coherence import coherent, earliest_delay
from transformer.model.losses import distribution_loss
from transformer.model.network import (
    HEAD_HISTORY,
    TOKEN_HISTORY,
    DelayTransformer,
    NetworkShape,
    asinh,
    feed_silence,
    squash,
)

SCALES = {"delay": 300.0, "change": 80.0, "running_trains": 20.0, "resolution": 60.0}
SHAPE = NetworkShape(
    n_prev=4,
    n_foll=5,
    train_types=["long_distance", "regional"],
    op_ids=list(range(1, 9)),
    embedding_dims={"laplacian": 4, "random": 2},
    scales=SCALES,
)
GROUPS_OF_EVENTS = [name for name in UseInputsConfig.model_fields if name not in INPUTS]  # these read the event tables
EVERY_INPUT = UseInputsConfig(**dict.fromkeys(GROUPS_OF_EVENTS, True))
CONFIG = ModelConfig(
    d_model=16,
    n_heads=2,
    n_layers=2,
    d_feedforward=16,
    d_point=4,
    dropout=0.0,
    d_head=12,
    head_dropout=0.0,
    n_members=2,
    round_predictions=False,
    use_inputs=EVERY_INPUT,
)
MEDIAN = CONFIG.quantiles.index(0.5)


def network(config: ModelConfig = CONFIG, shape: NetworkShape = SHAPE) -> DelayTransformer:
    torch.manual_seed(0)
    vectors = torch.randn(shape.n_points, shape.d_embedding)
    made = DelayTransformer(config, shape, vectors).eval()
    for member in made.members:
        torch.nn.init.normal_(
            member.head_out.weight
        )  # an untrained member predicts the translation and would hide every difference
    return made


def batch(n_snapshots: int = 2, n_trains: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random snapshots in which every train exists and some events do not."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return 200 * torch.randn(*shape, generator=g)

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=g)

    past, following = (n_snapshots, n_trains, SHAPE.n_prev), (n_snapshots, n_trains, SHAPE.n_foll)
    past_mask = torch.arange(SHAPE.n_prev) >= integers(SHAPE.n_prev, *past[:2], 1)
    next_mask = torch.arange(SHAPE.n_foll) <= integers(SHAPE.n_foll, *following[:2], 1)
    return {
        "instant": integers(10**9, n_snapshots),
        "train_mask": torch.ones(n_snapshots, n_trains, dtype=torch.bool),
        "train_type": integers(3, n_snapshots, n_trains),
        "departed": past_mask.any(-1),
        "last_delay": normal(n_snapshots, n_trains),
        "translation": normal(n_snapshots, n_trains),
        "past_mask": past_mask,
        "past_delay": normal(*past) * past_mask,
        "past_observed": -normal(*past).abs() * past_mask,
        "past_point": integers(9, *past) * past_mask,
        "past_type": integers(4, *past) * past_mask,
        "next_mask": next_mask,
        "next_planned": normal(*following).abs() * next_mask,
        "next_point": integers(9, *following) * next_mask,
        "next_type": integers(4, *following) * next_mask,
        "next_features": normal(*following, len(FEATURES)) * next_mask[..., None],
        "next_live": normal(*following, len(LIVE_FEATURES)) * next_mask[..., None],
        "time_of_day": torch.rand(n_snapshots, generator=g),
        "day_of_week": integers(7, n_snapshots),
    }


def padded(given: dict[str, torch.Tensor], extra: int, fill: float) -> dict[str, torch.Tensor]:
    """The same snapshots with `extra` slots that hold no train but random values."""
    result = {}
    for name, values in given.items():
        if values.ndim == 1:
            result[name] = values
            continue
        junk = torch.full((values.shape[0], extra, *values.shape[2:]), fill).to(values.dtype)
        if name.endswith("_mask") or name == "departed":
            junk = torch.zeros_like(junk) if name == "train_mask" else torch.ones_like(junk)
        result[name] = torch.cat([values, junk], 1)
    return result


def test_untrained_it_predicts_the_translation():
    given = batch()
    given["next_planned"] = given["next_planned"].cumsum(-1) * given["next_mask"] - 300
    fresh = DelayTransformer(CONFIG, SHAPE, torch.randn(9, 6)).eval()
    since = torch.maximum(given["translation"], earliest_delay(given["next_planned"], 60.0)[..., 0])
    expected = coherent(since[..., None, None].expand(-1, -1, 5, 1), given["next_planned"], 60.0)[..., 0]
    predicted, spread = fresh.predict(given)
    exists = given["next_mask"]
    assert (predicted - expected)[exists].abs().max() <= 30  # half a minute, the resolution
    assert (spread[exists].diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("fill", [0.0, 1.0, 2.0])
def test_padding_never_changes_a_prediction(fill: float):
    made, given = network(), batch()
    torch.testing.assert_close(made(padded(given, 7, fill))[:, :6], made(given), rtol=1e-5, atol=1e-3)


def test_padding_may_differ_per_snapshot():
    made, given = network(), batch(1, 6)
    other = batch(1, 2, seed=5)
    together = {
        name: torch.cat([given[name], padded(other, 4, 1.0)[name] if given[name].ndim > 1 else other[name]])
        for name in given
    }
    torch.testing.assert_close(made(together)[0], made(given)[0], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(made(together)[1, :2], made(other)[0], rtol=1e-5, atol=1e-3)


def test_trains_are_a_set():
    made, given = network(), batch()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = {name: values if values.ndim == 1 else values[:, order] for name, values in given.items()}
    torch.testing.assert_close(made(shuffled), made(given)[:, order], rtol=1e-5, atol=1e-3)


def test_trains_influence_each_other():
    made, given = network(), batch()
    changed = {name: values.clone() for name, values in given.items()}
    changed["past_delay"][:, 0] += 3_000 * changed["past_mask"][:, 0]
    changed["translation"][:, 0] += 3_000
    assert ((made(changed) - made(given))[:, 1:].abs() > 1e-3).any()


def test_snapshot_without_a_train_gives_numbers():
    given = batch()
    full = network()(given)
    given["train_mask"] = torch.zeros_like(given["train_mask"])
    assert torch.isfinite(network()(given)).all()
    given["train_mask"][1] = True  # the other snapshot has trains
    torch.testing.assert_close(network()(given)[1], full[1], rtol=1e-5, atol=1e-3)


def test_never_in_the_past():
    given = batch()
    given["next_planned"] = (given["next_planned"] - 5_000 * given["next_mask"]).round()
    predicted, spread = network().predict(given)
    earliest = earliest_delay(given["next_planned"], 60.0)
    assert (predicted >= earliest).all() and (spread >= earliest[..., None]).all()
    assert (earliest > -given["next_planned"]).all()


@pytest.mark.parametrize("round_predictions", [True, False])
def test_no_time_runs_backwards_along_a_train_and_quantiles_stay_ordered(round_predictions: bool) -> None:
    config = CONFIG.model_copy(update={"round_predictions": round_predictions})
    raw_backwards = 0
    for seed in range(20):
        given, made = batch(seed=seed), network(config)
        given["next_planned"] = given["next_planned"].cumsum(-1).round() * given["next_mask"] - 600
        for member in made.members:
            torch.nn.init.normal_(member.head_out.weight, std=float(1 + seed))
        made.correction += torch.randn(made.correction.shape, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            predicted, spread = made.predict(given)
            raw = made.quantiles(given)
        planned, last_two = given["next_planned"], given["next_mask"][..., 1:]
        for values in (predicted[..., None], spread):
            assert ((planned[..., None] + values).diff(dim=-2)[last_two] >= 0).all()
        raw_backwards += int(((planned[..., None] + raw).diff(dim=-2)[last_two] < 0).sum())
        assert (spread.diff(dim=-1) >= 0).all()
    assert raw_backwards > 1_000


GROUPS = {
    "past_delays": ["past_delay", "past_observed"],
    "past_points": ["past_point"],
    "following_times": ["next_planned"],
    "following_points": ["next_point"],
    "event_types": ["past_type", "next_type"],
    "train_type": ["train_type"],
    "calendar": ["time_of_day", "day_of_week"],
    "feed_silence": ["past_observed"],
    "section_statistics": ["next_features"],
    "train_history": ["next_features"],
    "live_sections": ["next_live"],
    "live_points": ["next_live"],
    "neighbour_trains": ["next_live"],
    "imminence": ["past_type"],
}
SHARED = {  # groups that are columns of one array: the names of all its columns, and of the group's
    "section_statistics": (FEATURES, SECTION_FEATURES),
    "train_history": (FEATURES, HISTORY_FEATURES),
    "live_sections": (LIVE_FEATURES, LIVE_SECTION_FEATURES),
    "live_points": (LIVE_FEATURES, LIVE_POINT_FEATURES),
    "neighbour_trains": (LIVE_FEATURES, NEIGHBOUR_FEATURES),
}


def test_every_column_of_a_shared_array_is_of_one_group():
    for array in (FEATURES, LIVE_FEATURES):
        grouped = [name for names, group in SHARED.values() if names is array for name in group]
        assert sorted(grouped) == sorted(array)


def with_columns(
    given: dict[str, torch.Tensor], array: str, values: torch.Tensor, columns: list[int]
) -> dict[str, torch.Tensor]:
    """The same snapshots, with some columns of an array from `values`."""
    mixed = given[array].clone()
    mixed[..., columns] = values[..., columns]
    return {**given, array: mixed}


def far_ahead(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same snapshots, with all events later, so that every bin of a change is possible."""
    return {**given, "next_planned": given["next_planned"] + 36_000}


@pytest.mark.parametrize("group", GROUPS_OF_EVENTS)
def test_each_input_group_counts_when_on_and_not_when_off(group: str):
    only = UseInputsConfig(**{name: name == group for name in UseInputsConfig.model_fields})
    without = EVERY_INPUT.model_copy(update={group: False})
    if group == "train_type":  # the network's load counts the trains of each type
        without = without.model_copy(update={"network_load": False})
    if group in ("past_delays", "feed_silence"):  # both read the ages of observations
        without = without.model_copy(update={"past_delays": False, "feed_silence": False})
    given, other = batch(seed=1), batch(seed=2)
    mixed = dict(given)
    if group == "network_load":  # the other trains see one train fewer
        mixed["train_mask"] = given["train_mask"].clone()
        mixed["train_mask"][:, -1] = False
        neither = only.model_copy(update={"network_load": False, "calendar": True})
        with_it, without_it = (network(CONFIG.model_copy(update={"use_inputs": use})) for use in (only, neither))
        for made in (with_it, without_it):
            for member in made.members:  # without attention, only the load depends on other trains
                for layer in member.encoder:
                    torch.nn.init.zeros_(layer.attention_out.weight)
        fewer, all_of_them = far_ahead(mixed), far_ahead(given)
        assert not torch.allclose(with_it.quantiles(fewer)[:, :-1], with_it.quantiles(all_of_them)[:, :-1])
        torch.testing.assert_close(without_it.quantiles(fewer)[:, :-1], without_it.quantiles(all_of_them)[:, :-1])
        return
    for name in GROUPS[group]:
        if group in SHARED:
            names, own = SHARED[group]
            mixed = with_columns(mixed, name, other[name], [names.index(column) for column in own])
        else:
            mixed[name] = other[name]
    mixed["translation"] = given["translation"]
    without = without.model_copy(update={"imminence": False})  # it reads the tensors of other groups too
    if group == "imminence":
        without = without.model_copy(update={"event_types": False})

    def scores(use: UseInputsConfig, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = inputs if group == "imminence" else far_ahead(inputs)
        return network(CONFIG.model_copy(update={"use_inputs": use})).changes(inputs).log_probability

    assert not torch.allclose(scores(only, mixed), scores(only, given)), f"{group} on its own says nothing"
    torch.testing.assert_close(scores(without, mixed), scores(without, given))


@pytest.mark.parametrize(
    ("array", "name"),
    [("next_features", name) for name in HISTORY_FEATURES] + [("next_live", name) for name in LIVE_FEATURES],
)
def test_history_but_for_a_little_and_live_state_are_read_by_the_head_of_their_event_alone(array: str, name: str):
    """If the token read the rest, the network would learn it by heart."""
    made, given = network(), batch()
    names = FEATURES if array == "next_features" else LIVE_FEATURES
    changed = given[array].clone()
    changed[:, 0, 0] += 1_000  # the first event ahead of the first train
    before, after = made.quantiles(given), made.quantiles(with_columns(given, array, changed, [names.index(name)]))
    assert not torch.allclose(after[:, 0, 0], before[:, 0, 0])
    there = given["next_mask"].clone()
    there[:, 0, 0] = False
    assert torch.allclose(after[there], before[there]) == (name not in TOKEN_HISTORY)
    assert {*TOKEN_HISTORY, *HEAD_HISTORY} == set(HISTORY_FEATURES)


@pytest.mark.parametrize("name", list(INPUTS))
def test_an_optional_input_is_read_by_the_head_of_its_event_alone(name: str):
    use = EVERY_INPUT.model_copy(update={name: True})
    columns, given = input_columns(use), batch()
    assert len(columns) == len(INPUTS[name].features) + 1
    made, plain = network(CONFIG.model_copy(update={"use_inputs": use})), network()
    given["next_inputs"] = torch.randn(*given["next_mask"].shape, len(columns)) * given["next_mask"][..., None]
    before = made.quantiles(given)
    elsewhere = given["next_mask"].clone()
    elsewhere[:, 0, 0] = False
    for column in range(len(columns)):
        changed = given["next_inputs"].clone()
        changed[:, 0, 0, column] += 1_000  # the first event ahead of the first train
        after = made.quantiles({**given, "next_inputs": changed})
        assert not torch.allclose(after[:, 0, 0], before[:, 0, 0]), columns[column]
        assert torch.allclose(after[elsewhere], before[elsewhere])
    assert torch.equal(plain.quantiles(given), plain.quantiles(batch()))  # off: the array is not read


def test_snapshots_without_live_features_do_for_a_network_without_them():
    blind = EVERY_INPUT.model_copy(update={"live_sections": False, "live_points": False, "neighbour_trains": False})
    given = batch()
    bare = {**given, "next_live": given["next_live"][..., :0]}
    made = network(CONFIG.model_copy(update={"use_inputs": blind}))
    assert torch.equal(made(bare), made(given))


# --- the distribution ------------------------------------------------------------------------------------------------
def test_quantiles_ascend():
    given, made = batch(), network()
    for member in made.members:
        torch.nn.init.normal_(member.head_out.weight, std=0.1)
    assert (made.quantiles(given)[given["next_mask"]].diff(dim=-1) > 0).all()


def test_an_overdue_event_has_its_distribution_from_the_next_minute_on():
    given, made = batch(), network()
    given["next_planned"][:, :, 0] = -600.0
    given["last_delay"][:] = 120.0
    changes = made.changes(given)
    torch.testing.assert_close(changes.since, torch.full_like(changes.since, 660.0))
    assert (made.quantiles(given)[:, :, 0, 0] >= 660 - 30).all()  # a bin of a minute begins half a minute before


def test_quantiles_never_cross_and_stay_numbers_whatever_comes_in():
    wild = {
        name: values * 1e5 if values.is_floating_point() and name != "time_of_day" else values
        for name, values in batch().items()
    }
    predicted, spread = network().predict(wild)
    assert torch.isfinite(predicted).all() and torch.isfinite(spread).all()
    assert (spread.diff(dim=-1) >= 0).all()


def test_median_as_it_was_learned_is_the_prediction():
    given, made = batch(), network()
    learned = made.quantiles(given)[..., MEDIAN]
    made.correction += torch.linspace(-1, 1, len(CONFIG.quantiles)) + 0.3
    predicted, spread = made.predict(given)
    torch.testing.assert_close(predicted, coherent(learned[..., None], given["next_planned"], 60.0)[..., 0])
    torch.testing.assert_close(predicted, made(given))
    assert not torch.allclose(spread[..., MEDIAN], predicted)


def test_levels_other_than_the_median_may_be_left_out():
    given = batch()
    predicted, spread = network(CONFIG.model_copy(update={"quantiles": [0.5]})).predict(given)
    torch.testing.assert_close(spread[..., 0], predicted)


# --- members ---------------------------------------------------------------------------------------------------------
def test_the_large_preset_for_ride_has_nineteen_million_weights():
    made = network(load_config("ride-large").model, replace(SHAPE, n_prev=15, n_foll=15))
    assert sum(parameter.numel() for parameter in made.parameters()) == pytest.approx(19.5e6, rel=0.02)


@pytest.mark.parametrize("n_members", [1, 3])
def test_prediction_is_the_mean_of_the_members(n_members: int):
    given, together = batch(), network(CONFIG.model_copy(update={"n_members": n_members}))
    alone = []
    for member in together.members:
        single = network(CONFIG.model_copy(update={"n_members": 1}))
        single.point_projection.load_state_dict(together.point_projection.state_dict())
        single.members[0].load_state_dict(member.state_dict())
        alone.append(single.changes(given).log_probability.exp())
    probability = together.changes(given).log_probability.exp()
    torch.testing.assert_close(probability, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-6)
    assert all(not torch.allclose(alone[0], other) for other in alone[1:])
    mean = together.bins.quantiles(probability.mean(1), CONFIG.quantiles)
    found = together.quantiles(given)[given["next_mask"]] - together.changes(given).since[:, None]
    torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-2)


def test_each_member_learns_as_if_the_others_were_not_there():
    given = batch()
    change = torch.linspace(-300, 600, int(given["next_mask"].sum()))

    def gradients(made: DelayTransformer) -> list[torch.Tensor]:
        log_probability = made.changes(given).log_probability
        (distribution_loss(LossConfig(), made.bins, log_probability, change) * log_probability.shape[1]).backward()
        return [parameter.grad for parameter in made.members[0].parameters()]

    expected = gradients(network())
    other = network()
    for parameter in other.members[1].parameters():
        torch.nn.init.normal_(parameter)
    assert any(gradient.abs().max() > 0 for gradient in expected)
    for gradient, wanted in zip(gradients(other), expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_no_point_embeddings_at_all():
    shape = replace(SHAPE, embedding_dims={})
    assert torch.isfinite(network(shape=shape)(batch())).all()


def test_the_silence_of_the_feed_spelled_out():
    """Three trains: observed 60 s ago, observed 1,000 s ago, not departed; and a slot without a train."""
    given = {
        "train_mask": torch.tensor([[True, True, True, False], [True, False, False, False]]),
        "past_mask": torch.tensor([[[True], [True], [False], [True]], [[False], [True], [True], [True]]]),
        "past_observed": torch.tensor([[[-60.0], [-1_000.0], [0.0], [-1.0]], [[0.0], [-1.0], [-1.0], [-1.0]]]),
    }
    age, heard = feed_silence(given).unbind(-1)
    torch.testing.assert_close(age, asinh(torch.tensor([60.0, 14_400.0]) / 600))
    assert heard.tolist() == [0.5, 0.0]


def test_squash_is_linear_near_zero_and_logarithmic_far_out():
    values = torch.tensor([0.0, 1.0, 1e6])
    np.testing.assert_allclose(squash(values, 100.0), [0, 0.01, np.log(2e4)], rtol=1e-3)


def test_predictions_are_rounded_to_the_resolution_of_the_observations():
    given = batch()
    given["next_planned"] = (given["next_planned"] / 60).round() * 60  # a timetable of the same resolution
    plain, rounding = network(), network(CONFIG.model_copy(update={"round_predictions": True}))
    with torch.inference_mode():
        (exact, spread), (rounded, same_spread) = plain.predict(given), rounding.predict(given)
        assert torch.equal(plain.quantiles(given), rounding.quantiles(given))  # what the loss sees
    assert torch.equal(spread, same_spread)  # quantiles are calibrated but not rounded
    free = exact > 60 - given["next_planned"]  # not raised to the present
    assert free.any()
    assert torch.equal(rounded[free] % 60, torch.zeros(int(free.sum())))
    assert (rounded - exact)[free].abs().max() <= 30
    assert (rounded >= -given["next_planned"]).all()
    by_second = replace(SHAPE, scales={**SCALES, "resolution": 1.0})
    fine = network(CONFIG.model_copy(update={"round_predictions": True}), by_second)
    with torch.inference_mode():
        learned = fine.quantiles(given)[..., MEDIAN]
        raised = torch.maximum(learned, 1 - given["next_planned"]) + given["next_planned"]
        assert (fine(given) + given["next_planned"] - raised.cummax(-1).values).abs().max() <= 0.5


def test_asinh_is_that_of_pytorch_from_tiny_to_huge_values():
    values = torch.cat([sign * torch.logspace(-8, 8, 500) for sign in (-1, 1)] + [torch.zeros(1)])
    assert torch.allclose(asinh(values), torch.asinh(values), rtol=1e-6, atol=3e-7)
