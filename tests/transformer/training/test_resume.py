"""Which differences between two trainings count when one continues the other."""

from transformer.training.resume import changed_settings

OFF = {"embeddings.node2vec.enabled": "False", "embeddings.node2vec.dim": "16"}
ON = {**OFF, "embeddings.node2vec.enabled": "True"}


def test_every_difference_is_named():
    before, now = {"training.seed": "1", "model.d_model": "64"}, {"training.seed": "2", "model.n_layers": "2"}
    assert changed_settings(before, before) == []
    assert changed_settings(before, now) == [
        "model.d_model: 64 → absent",
        "model.n_layers: absent → 2",
        "training.seed: 1 → 2",
    ]


def test_a_former_kind_of_embeddings_counts_where_it_was_on():
    assert changed_settings({"training.seed": "1", **OFF}, {"training.seed": "1"}) == []
    assert changed_settings({"training.seed": "1", **OFF}, {"training.seed": "2"}) == ["training.seed: 1 → 2"]
    assert changed_settings(ON, {}) == [
        "embeddings.node2vec.dim: 16 → absent",
        "embeddings.node2vec.enabled: True → absent",
    ]


def test_an_input_that_an_earlier_release_did_not_know_changes_nothing_while_it_is_off():
    before = {"model.use_inputs.calendar": "False"}
    assert changed_settings(before, before | {"model.use_inputs.weather": "False"}) == []
    assert changed_settings(before, before | {"model.use_inputs.weather": "True"}) == [
        "model.use_inputs.weather: absent → True"
    ]
