"""Hostile input: texts, numbers and trees that the fuzz tests put into confs and files."""

from hypothesis import strategies as st

PATHS = [
    "..",
    "../../x",
    "/etc/passwd",
    "a/../../b",
    "~/x",
    "C:\\x",
    "\\\\host\\share",
    ".",
    "",
    " ",
    "nul\0byte",
    "-rf",
    "--env",
]
WORDS = [
    *PATHS,
    "${oc.env:HOME}",
    "${jndi:x}",
    "{{ 7 * 7 }}",
    "{pod.__class__}",
    "???",
    "!!python/object/apply:os.system [id]",
    "null",
    "nan",
    "yes",
    "1e400",
    "0x1f",
    "010",
    "9" * 5000,
    "2024-02-30",
    "0000-01-01",
    "0001-01-01..9999-12-31",
    "2024-12-31..2024-01-01",
    "25:61",
    "'; drop table runs; --",
    "<script>alert(1)</script>",
    "\u202etxt.exe",
    "\x1b[31mred",
    "line\nbreak",
    "\u2028",
    "\ufeff",
    "é" * 300,
]
texts = st.sampled_from(WORDS) | st.text(max_size=40)
numbers = (
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.0, -0.0, 1e-320, 1e308]) | st.integers() | st.floats()
)
scalars = st.none() | st.booleans() | numbers | texts
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
