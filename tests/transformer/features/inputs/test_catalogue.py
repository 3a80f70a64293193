"""The catalogue: names of switches, tables and columns agree, and nothing is on by default."""

from datetime import timedelta

import polars as pl
import pytest
import torch

from tests.support.input_railway import Railway
from transformer.config import ModelConfig, UseInputsConfig
from transformer.config.schema import OPTIONAL_INPUTS
from transformer.data.input_tables import EVENT_COLUMNS_OF, TABLES
from transformer.data.points import read_op_nodes
from transformer.errors import UserError
from transformer.features.batches import pack, unpack
from transformer.features.inputs.catalogue import INPUTS, input_columns


def test_nothing_is_on_by_default() -> None:
    assert input_columns(UseInputsConfig()) == []
    assert not any(getattr(UseInputsConfig(), name) for name in INPUTS)


def test_every_table_has_an_input_and_every_input_a_switch() -> None:
    assert {*TABLES, *EVENT_COLUMNS_OF} == set(INPUTS) <= set(UseInputsConfig.model_fields)
    assert set(OPTIONAL_INPUTS) == set(INPUTS)
    columns = input_columns(UseInputsConfig(**dict.fromkeys(INPUTS, True)))
    names = [column.name for column in columns]
    assert len(set(names)) == len(names) == sum(len(kind.features) + 1 for kind in INPUTS.values())


@pytest.mark.parametrize("name", list(TABLES))
def test_a_missing_table_is_refused(railway: Railway, name: str) -> None:
    with pytest.raises(UserError, match=rf"{TABLES[name].file} does not exist.*set model.use_inputs.{name}=false"):
        railway.inputs(name)


def test_a_packed_batch_has_the_same_columns(railway: Railway) -> None:
    at = pl.datetime_range(pl.lit(railway.days[0]), pl.lit(railway.days[-1] + timedelta(days=1)), "1h", time_zone="UTC")
    points = read_op_nodes(railway.folder).select("op_id", pl.lit(12.5).alias("temperature_c"))
    points.join(pl.select(ts=at), how="cross").write_parquet(railway.folder / "weather.parquet")
    builder, instants = railway.builder("weather"), railway.instants[:6]
    packed = unpack(pack(builder.trains(instants), instants, railway.config.data.timezone))["next_inputs"]
    wanted = torch.from_numpy(builder.build(instants).next_inputs)
    assert torch.equal(packed, wanted) and (packed[..., 0] == 12.5).any()


def test_optional_inputs_alone_are_refused() -> None:
    only = {name: name == "weather" for name in UseInputsConfig.model_fields}
    with pytest.raises(ValueError, match="switches every input off but weather; leave at least one on"):
        ModelConfig(use_inputs=UseInputsConfig(**only))


def test_without_inputs_a_batch_has_no_column(railway: Railway) -> None:
    batch = railway.batch("feed_silence")
    assert batch.next_inputs.shape == (*batch.next_mask.shape, 0)
