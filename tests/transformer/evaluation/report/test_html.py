from __future__ import annotations

import base64
import re
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from tests.support.messages import assert_names
from tests.support.pages import Page, assert_safe
from transformer.data.reasons import ReadingReport
from transformer.errors import UserError
from transformer.evaluation.drift import Drift, Measure
from transformer.evaluation.measures import Measures
from transformer.evaluation.quality import DataQuality
from transformer.evaluation.report.html import write_html_report
from transformer.evaluation.report.page_tables import Champion
from transformer.evaluation.report.provenance import Provenance
from transformer.evaluation.report.tables import write_evaluation

DAY = date(2024, 12, 20)
EVIL = "<script>alert('x')</script>"
PROVENANCE = Provenance(
    run_id="6c2ee8a9",
    env="prod",
    git_commit="0123abcd",
    data_fingerprint="f1f2f3f4",
    configuration_hash="c1c2c3c4",
    commands=["git checkout 0123abcd", "python -m transformer evaluate-model --env prod --run-id '6c2ee8a9'"],
    run_url="https://mlflow.example.org/#/runs/6c2ee8a9",
    more={"image": "example/trainer:1"},
)


@pytest.fixture
def figures(tmp_path: Path) -> list[Path]:
    names = ["error_map", "error_by_horizon", "calibration", *(f"error_timeline_2024-12-{d:02d}" for d in range(1, 21))]
    paths = [tmp_path / "figures" / f"{name}.png" for name in names]
    paths[0].parent.mkdir()
    for path in paths:
        Image.new("RGB", (6, 4)).save(path, dpi=(192, 192))
    return paths


def written(tmp_path: Path, rows, op_nodes, figures=(), **more) -> Page:
    arguments = {"window": [DAY], "provenance": PROVENANCE} | more
    measures = Measures.of(rows, arguments.pop("timezone", "Europe/Budapest"))
    target = tmp_path / "out" / "report.html"
    assert write_html_report(target, measures, op_nodes, figures, **arguments) == target
    assert list(target.parent.iterdir()) == [target]
    page = Page(target)
    assert page.open == []
    return page


def line_of(page: Page, measure: str) -> list[str]:
    """A line of the table over all predictions."""
    [line] = [line for line in page.tables["All 480 predictions"] if line[0] == measure]
    return line


def test_the_page_holds_all_it_needs_and_fetches_nothing(day_rows, network, figures, tmp_path):
    page = written(tmp_path, day_rows, network[0], figures)
    assert_safe(page)
    links = [attributes["href"] for attributes in page.all("a")]
    assert [link for link in links if not link.startswith("#")] == [PROVENANCE.run_url]
    assert {link[1:] for link in links if link.startswith("#")} <= {a["id"] for _, a in page.tags if "id" in a}
    for image in page.all("img"):
        assert image["src"] == f"data:image/png;base64,{base64.b64encode(figures[0].read_bytes()).decode()}"
        assert (image["width"], image["height"]) == ("3", "2")
    style = (tmp_path / "out" / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style


def test_the_page_is_accessible(day_rows, network, figures, tmp_path):
    page = written(tmp_path, day_rows, network[0], figures)
    assert page.all("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(page.all("img"))
    assert {heading.get("scope") for heading in page.all("th")} == {"col", "row"}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert Counter(ids).most_common(1)[0][1] == 1
    named = {attributes[key] for _, attributes in page.tags for key in ("aria-labelledby",) if key in attributes}
    assert named <= set(ids)


def test_only_the_latest_timelines_are_shown(day_rows, network, figures, tmp_path):
    page = written(tmp_path, day_rows, network[0], figures)
    days = re.findall(r"MAE of each snapshot of (\S+),", page.text)
    assert days == [f"2024-12-{d}" for d in range(14, 21)]


def test_headline_and_tables_against_translation(day_rows, network, tmp_path):
    page = written(tmp_path, day_rows, network[0])
    assert "60.0 s" in page.text and "120.0 s" in page.text and "+50.0%" in page.text
    assert page.tables["All 480 predictions"][:2] == [
        ["measure", "model", "translation", "skill"],
        ["MAE", "60.0 s", "120.0 s", "+50.0%"],
    ]
    header, *types = page.tables["By train type"]
    columns = ["n", "MAE", "translation", "skill", "RMSE", "within 2 min", "bias", "translation's bias"]
    assert header == ["type", *columns]
    assert [line[0] for line in types] == ["long_distance", "other", "regional"]  # as many predictions each
    line = ["regional", "160", "60.0 s", "120.0 s", "+50.0%", "60.0 s", "100.0%", "+0.0 s", "−120.0 s"]
    assert types[2] == line
    assert [line[:2] for line in page.tables["By service date"][1:]] == [["2024-12-20", "480"]]
    assert [line[0] for line in page.tables["By horizon"][1:]] == [
        *("overdue", "0 to 5", "5 to 10", "10 to 20", "20 to 30", "30 to 60", "60 to 120", "≥ 120")
    ]
    assert len(page.tables["By rank: 1 is the first of the train's next events"]) == 16
    assert page.tables["By hour of the snapshot, Europe/Budapest time"][1][0] == "5"  # 04:00 UTC
    assert "champion" not in page.text


def test_the_champion_is_compared_on_the_same_rows(day_rows, network, tmp_path):
    worse = day_rows.with_columns(pl.col("observed_delay_s").alias("predicted_delay_s") + 75).reverse()
    interval = {"low_s": -18.2, "high_s": -11.9, "confidence": 0.95}
    champion = Champion("train-delays version 3", worse, interval)
    verdict = "Promoted: better by at least 5 s."
    page = written(tmp_path, day_rows, network[0], champion=champion, verdict=verdict)
    assert "−15.0 s" in page.text and "MAE against train-delays version 3, 75.0 s" in page.text
    assert "95% interval −18.2 s to −11.9 s" in page.text and verdict in page.text
    assert page.tables["All 480 predictions"][1] == ["MAE", "60.0 s", "120.0 s", "+50.0%", "75.0 s"]
    column = page.tables["By train type"][0].index("vs champion")
    assert {line[column] for line in page.tables["By train type"][1:]} == {"+20.0%"}


def test_the_champion_is_compared_on_the_predictions_that_both_made(day_rows, network, tmp_path):
    # The champion is exact where the model has no prediction, and off by 120 s elsewhere.
    exact = day_rows.filter(pl.col("rank") == 15).with_columns(predicted_delay_s="observed_delay_s")
    off = day_rows.filter(pl.col("rank") < 15).with_columns(pl.col("observed_delay_s").alias("predicted_delay_s") + 120)
    rows = day_rows.filter(pl.col("rank").is_between(2, 14))
    page = written(tmp_path, rows, network[0], champion=Champion("c", pl.concat([exact, off])))
    assert "MAE against c, 120.0 s" in page.text and "−60.0 s" in page.text
    assert f"on the {rows.height:,} predictions that both made" in page.text
    rows = day_rows.filter(pl.col("rank") > 13)
    page = written(tmp_path, rows, network[0], champion=Champion("c", off))
    ranks = {line[0]: line[5] for line in page.tables["By rank: 1 is the first of the train's next events"][1:]}
    assert ranks == {"14": "+50.0%", "15": "−"}


def test_a_champion_of_other_rows_is_refused(day_rows, network, tmp_path):
    with pytest.raises(UserError, match=r"^c ") as caught:
        written(tmp_path, day_rows, network[0], champion=Champion("c", day_rows.with_columns(pl.col("rank") + 50)))
    assert_names(caught.value, "none of the rows", "same window")
    assert not (tmp_path / "out").exists()


def test_worst_points_and_trains_by_name_without_those_of_few_rows(make_rows, network, tmp_path):
    rows = make_rows(
        [0.0] * 8,
        [60, 60, 60, 300, 300, 300, 900, 0],
        [100.0] * 8,
        op_id=[1, 1, 1, 9, 9, 9, 3, 4],
        train_number=["11", "11", "11", "22", "22", "22", "33", "44"],
    )
    page = written(tmp_path, rows, network[0])
    assert [line[:5] for line in page.tables["Worst operational points"][1:]] == [
        ["point 9", "3", "300.0 s", "100.0 s", "−200.0%"],  # unknown to the points table
        ["Aachen", "3", "60.0 s", "100.0 s", "+40.0%"],
    ]
    assert [line[0] for line in page.tables["Worst trains, by train number"][1:]] == ["22 (regional)", "11 (regional)"]
    assert "the half of the 4 points with the most predictions (n at least 2)" in page.text
    worse = [attributes for attributes in page.all("td") if attributes.get("class") == "worse"]
    assert worse, "what is worse than translation is marked"


def test_the_distribution_is_shown_and_judged(day_quantiles, network, tmp_path):
    page = written(tmp_path, day_quantiles, network[0])
    [fact] = [line for line in page.text.splitlines() if line.startswith("80% interval")]
    assert_names(fact, "100.0%", "of the observed delays", "mean width is 3.0 min")
    assert line_of(page, "CRPS")[2] == "120.0 s"
    assert page.tables["Intervals"] == [
        ["interval", "covers", "mean width"],
        ["50%", "0.0%", "1.0 min"],
        ["80%", "100.0%", "3.0 min"],
    ]
    header, *lines = page.tables["Intervals by horizon"]
    intervals = ["50% covers", "50% width", "80% covers", "80% width"]
    assert header == ["planned in (min)", "n", "CRPS", "translation", "skill", *intervals]
    assert [line[0] for line in lines][:2] == ["overdue", "0 to 5"]
    assert {tuple(line[5:]) for line in lines} == {("0.0%", "1.0 min", "100.0%", "3.0 min")}
    assert [line[0] for line in page.tables["Intervals by train type"][1:]] == ["long_distance", "other", "regional"]
    assert [line[:2] for line in page.tables["Intervals by whether an event of the train was known"][1:]] == [
        ["no", "96"],
        ["yes", "384"],
    ]
    assert [line[:2] for line in page.tables["Intervals by traffic of the point"][1:]] == [
        [f"{quarter} quarter", "120"] for quarter in ("busiest", "second", "third", "quietest")
    ]
    assert page.tables["Quantiles by level"][3] == ["50.0%", "50.0%", "50.0%", "30.0 s"]


def test_severe_growth_is_shown_with_its_budget(make_rows, network, tmp_path):
    rows = make_rows([0, 301, 0, 0], [0, 400, 400, 0], [0] * 4, train_id=["a", "b", "c", "d"])
    page = written(tmp_path, rows, network[0])
    assert page.tables["Delays that grow by more than 5 min: 25.0% of the predictions"] == [
        ["measure", "model", "translation", "skill"],
        ["average precision", "0.500", "0.250", ""],
        ["alerts that come true", "25.0%", "25.0%", ""],  # there are fewer trains than alerts
        ["trains found", "100.0%", "100.0%", ""],
        ["Brier score", "0.250", "0.250", "+0.0%"],
    ]
    assert "10 alerts an hour come true" in page.text
    assert not [caption for caption in page.tables if "more than 10 min" in caption]
    worse = rows.with_columns(pl.lit(0.0).alias("predicted_delay_s"))
    compared = written(tmp_path, rows, network[0], champion=Champion("c", worse))
    lines = compared.tables["Delays that grow by more than 5 min: 25.0% of the predictions"]
    assert lines[0][-1] == "champion" and lines[1] == ["average precision", "0.500", "0.250", "", "0.250"]
    quiet = written(tmp_path, rows.filter(observed_delay_s=0), network[0])
    assert "Severe growth" not in quiet.text and "alerts" not in quiet.text


def test_shares_within_some_minutes_are_shown_by_planned_horizon(make_rows, network, tmp_path):
    rows = make_rows([0, 0, 0, 0], [60, 61, 121, 301], [0, 0, 300, 0], horizon_s=[-1.0, 300.0, 300.0, 300.0])
    page = written(tmp_path, rows, network[0])
    header, *lines = page.tables["Predictions within 1, 2 and 5 min, by horizon"]
    columns = ["within 1 min", "translation", "within 2 min", "translation", "within 5 min", "translation"]
    assert header == ["planned in (min)", "n", *columns]
    assert lines == [
        ["overdue", "1", *["100.0%"] * 6],
        ["5 to 10", "3", "0.0%", "66.7%", "33.3%", "66.7%", "66.7%", "100.0%"],
    ]


def test_the_wobble_is_shown_with_that_of_translation(make_rows, network, tmp_path):
    stamps = [datetime(2024, 12, 20, 12, minute, tzinfo=UTC) for minute in (0, 15, 30)]
    rows = make_rows([0, 0, 0], [0, 45, 0], [0, 0, 9], snapshot_ts=stamps, horizon_s=[2_000.0, 1_100.0, 200.0])
    page = written(tmp_path, rows, network[0])
    assert page.tables["All 3 predictions"][-1] == ["wobble per hour", "180.0 s", "18.0 s", ""]
    assert page.tables["Wobble per event and hour, by horizon"] == [
        ["planned in (min)", "changes", "model", "translation"],
        ["0 to 5", "1", "180.0 s", "36.0 s"],
        ["10 to 20", "1", "180.0 s", "0.0 s"],
    ]
    still = rows.with_columns(pl.lit(0.0).alias("predicted_delay_s"))
    compared = written(tmp_path, rows, network[0], champion=Champion("c", still))
    assert compared.tables["All 3 predictions"][-1] == ["wobble per hour", "180.0 s", "18.0 s", "", "0.0 s"]
    alone = written(tmp_path, rows.head(1), network[0])
    assert "wobble" not in alone.text.lower() and "wobble per hour" not in str(alone.tables)


def test_without_a_distribution_nothing_is_said_of_it(day_rows, network, tmp_path):
    page = written(tmp_path, day_rows, network[0])
    assert "Uncertainty" not in page.text and "interval" not in page.text and "CRPS" not in page.text


def test_a_champion_without_a_distribution_is_compared_by_its_point_predictions(
    day_rows, day_quantiles, network, tmp_path
):
    page = written(tmp_path, day_quantiles, network[0], champion=Champion("c", day_rows))
    assert page.tables["All 480 predictions"][1][-1] == "60.0 s"
    assert line_of(page, "CRPS")[-1] == "−"
    page = written(tmp_path, day_quantiles, network[0], champion=Champion("c", day_quantiles))
    crps = line_of(page, "CRPS")
    assert crps[1] == crps[-1] != "−"
    page = written(tmp_path, day_rows, network[0], champion=Champion("c", day_quantiles))
    assert "CRPS" not in [line[0] for line in page.tables["All 480 predictions"]]


def test_data_quality_is_shown_and_warned_of_at_the_top(day_rows, network, tmp_path):
    reading = ReadingReport(events=100, kept=90, unobserved=90)
    reading.dropped["with a duplicate key"] = 10
    drift = Drift(
        (
            Measure("observed_share", "observed events", 0.9, 0.8, "ok", "90 of 100"),
            Measure("delay_psi", "delays", 0.3, 0.25, "beyond limit", "PSI 0.300"),
        ),
        planned=100,
        observed=90,
    )
    quality = DataQuality(reading, drift, datetime(2024, 12, 20, 23, 30, tzinfo=UTC))
    page = written(tmp_path, day_rows, network[0], quality=quality, window=[DAY, date(2024, 12, 21)])
    assert page.tables["Reading"][1:] == [
        ["events read", "100"],
        ["− dropped: with a duplicate key", "10"],
        ["= events kept", "90"],
        ["− not observed", "90"],
        ["= used as labels", "0"],
        ["= used as inputs", "0"],
    ]
    assert page.tables["Against the training dates"][2] == ["delays", "beyond limit", "PSI 0.300"]
    assert page.tables["Freshness"][1] == ["newest observation", "2024-12-21 00:30 CET"]
    care = page.text.partition("Read the result with care")[2]
    assert "delays: PSI 0.300" in care and "No prediction on 2024-12-21" in care and "90 of 100" not in care


def test_without_anything_to_warn_of_nothing_is_said(day_rows, network, tmp_path):
    page = written(tmp_path, day_rows, network[0])
    assert "Read the result with care" not in page.text and "Data quality" not in page.text


def test_run_and_commands_are_written_out(day_rows, network, tmp_path):
    page = written(tmp_path, day_rows, network[0])
    assert dict(page.tables["Evaluated run"][1:]) == {
        "run": "6c2ee8a9",
        "window": "2024-12-20",
        "environment": "prod",
        "commit": "0123abcd",
        "data fingerprint": "f1f2f3f4",
        "configuration hash": "c1c2c3c4",
        "image": "example/trainer:1",
    }
    assert "\n".join(PROVENANCE.commands) in page.text


def test_names_in_the_data_cannot_become_markup(day_rows, network, tmp_path):
    rows = day_rows.with_columns(train_number=pl.lit(EVIL), train_type=pl.lit(f'"{EVIL}'), train_id=pl.lit(EVIL))
    op_nodes = network[0].with_columns(op_name=pl.lit(EVIL))
    provenance = Provenance(EVIL, EVIL, EVIL, EVIL, EVIL, [EVIL], run_url="javascript:alert(1)", more={EVIL: EVIL})
    reading = ReadingReport(events=1, kept=1)
    reading.notes[EVIL] = 1
    measure = Measure("m", EVIL, 1.0, 1.0, "beyond limit", EVIL)
    page = written(
        tmp_path,
        rows,
        op_nodes,
        provenance=provenance,
        champion=Champion(EVIL, rows),
        verdict=EVIL,
        quality=DataQuality(reading, Drift((measure,), 1, 1)),
    )
    assert_safe(page)
    assert page.tables["Worst operational points"][1][0] == EVIL
    assert page.tables["Worst trains, by train number"][1][0] == f'{EVIL} ("{EVIL})'
    assert EVIL in page.text
    assert not [a for a in page.all("a") if not a["href"].startswith("#")]


def test_rows_that_make_no_metric_write_nothing(day_rows, network, tmp_path):
    with pytest.raises(UserError, match="0 labelled rows"):
        written(tmp_path, day_rows.clear(), network[0])
    assert not (tmp_path / "out").exists()


def test_the_figures_of_an_evaluation_all_have_their_place(day_quantiles, network, history, tmp_path):
    result = write_evaluation(
        Measures.of(day_quantiles, "UTC"), *network, tmp_path / "e", prefix="test", history=history
    )
    page = written(tmp_path, day_quantiles, network[0], result.figures)
    assert len(page.all("img")) == len(result.figures)
    assert (tmp_path / "out" / "report.html").stat().st_size < 3_000_000


@pytest.mark.slow
def test_the_report_on_rows_in_files_is_that_on_rows_in_memory(few_dates, in_files, network, tmp_path):
    other = few_dates.with_columns(pl.col("predicted_delay_s") + 7.7).slice(500)
    reports = []
    for name, rows, champion in (("memory", few_dates, other), ("files", in_files(few_dates), in_files(other))):
        measures = Measures.of(rows, "Europe/Budapest")
        result = write_evaluation(measures, *network, tmp_path / name, prefix="test")
        more = {"window": [DAY], "provenance": PROVENANCE, "champion": Champion("the champion", champion)}
        write_html_report(tmp_path / name / "report.html", measures, network[0], result.figures, **more)
        written = [tmp_path / name / "report.html", *result.figures, *result.tables]
        reports.append({path.relative_to(tmp_path / name): path.read_bytes() for path in written})
    in_memory, in_files_ = reports
    assert in_memory.keys() == in_files_.keys()
    assert [str(path) for path, content in in_memory.items() if in_files_[path] != content] == []
    assert len([path for path in in_memory if "timeline" in path.name]) == 4
    assert f"{few_dates.height - 500:,} predictions that both made" in in_memory[Path("report.html")].decode()
