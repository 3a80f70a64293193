"""Hostile configuration folders: each is a configuration, or one line that names the file."""

import copy
import shutil
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import hostile
from tests.fuzz.conftest import FUZZ
from transformer.config import CONFIG_FOLDER, GROUPS, flatten, load_config, to_dict
from transformer.errors import UserError
from transformer.text import one_line

pytestmark = pytest.mark.slow

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\ne: [*d, *d]\n"
DEEP = "a: " + "[" * 3000 + "]" * 3000
FILES = [
    BOMB,
    DEEP,
    "a: b: c",
    "a: 1\na: 2",
    "\t- x",
    "!!python/object/apply:os.system [id]",
    "&a [*a]",
    "? [x]\n: y",
    "%YAML 9",
    "--- 1\n--- 2",
]
contents = (
    st.sampled_from([text.encode() for text in FILES])
    | st.binary(max_size=200)
    | hostile.texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.dictionaries(hostile.texts, hostile.trees, max_size=3).map(
        lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode()
    )
)


LOCAL = to_dict(load_config("local"))


@st.composite
def groups(draw):
    """Draw a group of the schema with one hostile value, and the name of its file."""
    group = draw(st.sampled_from(sorted(GROUPS)))
    tree = copy.deepcopy(LOCAL[group])
    key = draw(st.sampled_from(sorted(flatten(tree))))
    *parents, name = key.split(".")
    branch = tree
    for parent in parents:
        branch = branch[parent]
    branch[name] = draw(hostile.trees)
    return f"{group}.yaml", yaml.safe_dump(tree, allow_unicode=True).encode()


files = groups() | st.tuples(
    st.sampled_from([f"{group}.yaml" for group in sorted(GROUPS)] + ["x.yaml", "data.yml"]), contents
)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "config"
        shutil.copytree(CONFIG_FOLDER, folder)
        yield folder


def test_a_folder_is_a_configuration_or_one_line(folder):
    understood = refused = 0

    @FUZZ
    @given(files)
    def check(file):
        nonlocal understood, refused
        name, content = file
        path = folder / "fuzzed" / name
        path.parent.mkdir()
        path.write_bytes(content)
        try:
            load_config("fuzzed", folder=folder)
            understood += 1
        except UserError as error:
            line = one_line(str(error))
            assert line and len(line.splitlines()) == 1 and len(line) < 2100
            refused += 1
        finally:
            shutil.rmtree(path.parent)

    check()
    assert understood > 2 and refused > 100


@pytest.mark.parametrize(
    "content", [*FILES, "split: 1" + "0" * 5000, "split: {train: {}}", "split: {train: 9" + "9" * 5000 + "}"]
)
def test_a_hostile_file_is_one_line(folder, content):
    path = folder / "hostile" / "data.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(UserError, match=r"hostile/data\.yaml"):
        load_config("hostile", folder=folder)


def test_a_file_that_is_a_folder_is_one_line(folder):
    (folder / "odd" / "data.yaml").mkdir(parents=True)
    with pytest.raises(UserError, match=r"odd/data\.yaml"):
        load_config("odd", folder=folder)
