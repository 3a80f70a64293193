"""Rules for values that a bound cannot state, each with its remedy.

A rule is a type for `transformer.config.schema`: `zone: TimeZone = "UTC"`.
"""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, ValidatorFunctionWrapHandler, WrapValidator


class MisfitError(ValueError):
    """Each value is valid, but the values do not fit each other. The line names their keys."""

    def __init__(self, line: str, key: str = "") -> None:
        """`key` is the key whose source the line names; "" = the line is about several keys."""
        super().__init__(line)
        self.key = key


def nearest(name: str, known: Iterable[str], *, listed: bool = False) -> str:
    """`; did you mean 'x'?` if a known name is similar; else "", or all known names with `listed`."""
    import difflib  # only needed after a mistake

    known = list(known)
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not matches:
        last = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        matches = [last[m] for m in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.6)]
    if not matches:
        return f"; known: {', '.join(known)}" if listed else ""
    return f"; did you mean {matches[0]!r}?"


def is_address(uri: str) -> bool:
    """Whether the address can be parsed; `http://user:pass/word@host` cannot."""
    try:
        parts = urlsplit(uri)
        return bool(parts.scheme) and (
            parts.scheme not in ("http", "https") or bool(parts.hostname and parts.port != 0)
        )
    except ValueError:
        return False


def is_postgresql(url: str) -> bool:
    """Whether `url` is the address of a PostgreSQL database, without a password."""
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or "password" in parts.query.lower()
        return parts.scheme == "postgresql" and bool(parts.path.strip("/")) and parts.port != 0 and not secret
    except ValueError:
        return False


def is_whole(value: float) -> bool:
    """Whether a number is whole, up to the rounding of sums of steps such as 0.1."""
    return abs(value - round(value)) < 1e-9 * max(1.0, abs(value))


def single_value(value: Any) -> Any:
    """Refuse lists and mappings, because a searched key takes none."""
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("is not a single value; give numbers, texts, true or false")
    return _as_text(value) if isinstance(value, str) else value


def _as_written(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Keep a whole number whole for a key that takes any number: 30 stays 30."""
    number = handler(value)
    return value if isinstance(value, int) else number


def _as_text(value: Any) -> Any:
    """Take a number for a key that takes text: `devices: 2` needs no quotes.

    Earlier versions replaced `${oc.env:…}` by an environment variable, and read `???` as "no value". Both are refused
    now, because nothing replaces them, and a secret must not enter logs and artifacts that way.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and ("${" in value or value == "???"):
        raise ValueError("is refused, because values are not interpolated; write the value itself")
    return value


def _holds(makes_sense: Callable[[str], bool], reason: str, *, optional: bool = False) -> AfterValidator:
    """A rule for text. With `optional`, empty text is allowed."""

    def check(value: str) -> str:
        if not (optional and not value) and not makes_sense(value):
            raise ValueError(f"{reason}, or leave it empty" if optional else reason)
        return value

    return AfterValidator(check)


def _like(pattern: str) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(pattern, value) is not None


def is_timezone(name: str) -> bool:
    """Whether both Python and Polars know the zone.

    Polars has the zones of the IANA database. Python also takes other files of the machine: its own zone, the zones
    with leap seconds, and a second copy of the others.
    """
    if name in ("localtime", "posixrules", "Factory") or name.startswith(("right/", "posix/")):
        return False
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _is_pod_url(url: str) -> bool:
    """Whether `url` is an address with `{pod}`, and with no other braces than those of `{namespace}`.

    A password is refused, because everyone would see it in the link.
    """
    plain = url.replace("{pod}", "").replace("{namespace}", "")
    try:
        parts = urlsplit(plain)
        known = "{pod}" in url and not set("{}") & set(plain)
        return known and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.password is None
    except ValueError:
        return False


def _fits_columns(value: int) -> int:
    """Refuse what a column of 32 bits cannot hold. Times in seconds are such columns, and 2^31 s are 68 years."""
    if value > _LARGEST_WHOLE:
        raise ValueError(f"must be at most {_LARGEST_WHOLE}")
    return value


def _quantile_levels(levels: list[float]) -> list[float]:
    reason = ""
    if not all(0 < level < 1 for level in levels):
        reason = "must lie in (0, 1)"
    elif any(level != round(level, 3) for level in levels):
        reason = "must not be finer than thousandths"  # names of columns and metrics hold the level in percent
    elif levels != sorted(set(levels)):
        reason = "must ascend"
    elif 0.5 not in levels:
        reason = "lacks 0.5, the median; add it"
    elif levels != [round(1 - level, 3) for level in reversed(levels)]:
        reason = "is not symmetric; add 1 - level for each level, for example [0.05, 0.5, 0.95]"
    if reason:
        raise ValueError(reason)
    return levels


Text = Annotated[str, BeforeValidator(_as_text)]
Number = Annotated[float, WrapValidator(_as_written)]
_LARGEST_WHOLE = 2**31 - 1
Whole = Annotated[int, AfterValidator(_fits_columns)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
QuantileLevels = Annotated[list[Annotated[float, Field(allow_inf_nan=True)]], AfterValidator(_quantile_levels)]
TimeOfDay = Annotated[
    Text, _holds(_like(r"([01]\d|2[0-3]):[0-5]\d"), "is not a time of day; write it as HH:MM, for example '05:00'")
]
TimeZone = Annotated[Text, _holds(is_timezone, "is no time zone; give an IANA name such as Europe/Paris")]
Cron = Annotated[
    Text,
    _holds(
        _like(r"[\w*,/-]+( +[\w*,/-]+){4}"),
        "is no cron expression; write minute hour day month weekday, for example '0 6 * * 1'",
        optional=True,
    ),
]
_NAME = "is no name; use letters, digits, hyphens, dots and underscores"
ModelName = Annotated[Text, _holds(_like(r"[\w-]+([ .][\w-]+)*"), _NAME)]
StudyName = Annotated[Text, _holds(_like(r"[\w.-]+( [\w.-]+)*"), _NAME)]
_EMAIL = r"[^@\s,]+@[^@\s,]+"
Email = Annotated[Text, _holds(_like(_EMAIL), "is no mail address; write name@example.org")]
OptionalEmail = Annotated[Text, _holds(_like(_EMAIL), "is no mail address; write name@example.org", optional=True)]
Topic = Annotated[
    Text,
    _holds(
        _like(r"arn:[\w-]+:sns:[\w-]+:\d+:[\w.-]+"),
        "is no topic; write arn:aws:sns:REGION:ACCOUNT:NAME",
        optional=True,
    ),
]
_KUBERNETES_NAME = r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?"
_KUBERNETES_REASON = "is no Kubernetes name; use small letters, digits and hyphens"
KubernetesName = Annotated[Text, _holds(_like(_KUBERNETES_NAME), _KUBERNETES_REASON)]
OptionalKubernetesName = Annotated[Text, _holds(_like(_KUBERNETES_NAME), _KUBERNETES_REASON, optional=True)]
Image = Annotated[Text, _holds(lambda value: len(value.split()) == 1, "is no image; write registry/name:tag")]
PodUrl = Annotated[
    Text,
    _holds(
        _is_pod_url,
        "is no address of a pod's page; write https://HOST/{namespace}/{pod}, without a password",
        optional=True,
    ),
]
Quantity = Annotated[Text, _holds(_like(r"[1-9]\d*(Mi|Gi|Ti)"), "is no quantity; write it as 512Mi, 8Gi or 1Ti")]
ProfileName = Annotated[Text, _holds(bool, "is empty; name the profile")]
NodeLabel = Annotated[Text, _holds(_like(r"[^=:\s]+=[^=:\s]*"), "is no label; write it as key=value")]
Toleration = Annotated[
    Text,
    _holds(
        _like(r"[^=:\s]+(=[^=:\s]*)?:(NoSchedule|PreferNoSchedule|NoExecute)"),
        "is no taint; write it as key:NoSchedule or key=value:NoSchedule",
    ),
]
