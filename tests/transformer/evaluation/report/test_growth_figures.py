"""The figures of severe growth: curves, dots, and texts."""

from __future__ import annotations

import pytest

from tests.transformer.evaluation.report.test_figures import texts
from transformer.evaluation.growth import severe_growth
from transformer.evaluation.report.growth_figures import growth_precision, growth_reliability


def test_precision_by_recall_of_model_and_translation(make_rows) -> None:
    # The first and the third highest growth are true.
    rows = make_rows([301, 0, 301, 0], [400, 300, 200, 0], [0.0] * 4)
    growth = severe_growth(rows)
    figure = growth_precision(growth.curves, growth.seen)
    model, translation = figure.axes[0].lines
    assert model.get_xydata().ravel().tolist() == pytest.approx([0, 1, 0.5, 1, 0.5, 0.5, 1, 2 / 3, 1, 0.5])
    assert translation.get_xydata().tolist() == [[0, 0.5], [1, 0.5]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "model, > 5 min",
        "translation, > 5 min",
    ]


def test_reliability_by_predicted_probability(make_rows) -> None:
    # The probability of more than 300 s is 0.5 in all rows, and of more than 600 s it is 0.1.
    rows = make_rows([301, 301, 0, 601], [300.0] * 4, [0.0] * 4, quantiles={0.1: 0.0, 0.5: 300.0, 0.9: 600.0})
    figure = growth_reliability(severe_growth(rows).reliability)
    _, five, ten = figure.axes[0].lines
    assert five.get_xydata().tolist() == [pytest.approx([0.5, 0.75], abs=0.001)]
    assert ten.get_xydata().tolist() == [pytest.approx([0.1, 0.25], abs=0.001)]
    assert "4 predictions" in texts(figure)
