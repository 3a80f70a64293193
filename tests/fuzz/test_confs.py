"""Hostile confs of each DAG: each is a request that names no path and no option, or one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delay_pipeline.params import (
    evaluation_params,
    read_evaluation_params,
    read_params,
    read_tuning_params,
    training_params,
    tuning_params,
)
from tests.fuzz import hostile
from tests.fuzz.conftest import FUZZ
from transformer.config import load_config, valid_keys
from transformer.errors import UserError
from transformer.text import one_line

pytestmark = pytest.mark.slow

DAGS = [
    (read_params, training_params),
    (read_tuning_params, tuning_params),
    (read_evaluation_params, evaluation_params),
]
ENVIRON = {}
overrides = st.lists(
    st.builds("{}={}".format, st.sampled_from(valid_keys()) | hostile.texts, hostile.scalars) | hostile.texts,
    max_size=2,
)
sensible = {
    "env": st.sampled_from(["local", "optuna", "dev"]),
    "overrides": overrides,
    "resume_run": st.booleans(),
    "train_best": st.booleans(),
    "run_id": st.sampled_from(["a" * 32, "b" * 32]),
    "warm_start_run_id": st.sampled_from(["a" * 32, "b" * 32]),
}


def confs(keys):
    values = {key: sensible.get(key, st.nothing()) | hostile.trees for key in keys}
    return st.fixed_dictionaries({}, optional=values) | st.dictionaries(
        st.sampled_from(sorted(keys)) | hostile.texts, hostile.trees, max_size=4
    )


@pytest.mark.parametrize(("read", "params"), DAGS, ids=["training", "tuning", "evaluation"])
def test_a_conf_is_a_request_or_one_line(read, params):
    understood = refused = 0

    @FUZZ
    @given(confs(list(params(ENVIRON))))
    def check(conf):
        nonlocal understood, refused
        try:
            request = read(conf, ENVIRON)
            for run_id in filter(None, [getattr(request, "run_id", None), request.warm_start_run_id]):
                assert run_id.isprintable() and not run_id.startswith(("-", ".")) and not set("/\\ ") & set(run_id)
            load_config(request.env, request.overrides)
            understood += 1
        except UserError as error:
            line = one_line(str(error))
            assert line and len(line.splitlines()) == 1 and len(line) < 2100
            refused += 1

    check()
    assert understood > 10 and refused > 100
