from transformer.tracking.json_tags import overrides_text, split_text


def test_values_in_words() -> None:
    assert overrides_text(["training.seed=1", "model.d_model=16"]) == "training.seed=1, model.d_model=16"
    assert overrides_text([]) == "none"
    split = {"train": ["2025-01-06..2025-01-10", "2025-01-13"], "test": ["2025-01-14"]}
    assert split_text(split) == "train 2025-01-06..2025-01-10, 2025-01-13; test 2025-01-14"
