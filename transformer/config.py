"""The typed configuration and its one loader.

`include/config/base/*.yaml` is overlaid by `include/config/<env>/*.yaml`, then by `--set key=value`. Each file is one
group: `training.yaml` holds what the code reads as `cfg.training`. Anything the schema below does not know is refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from transformer.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "include" / "config"
BASE = "base"
GROUPS = ("data", "embeddings", "model", "training", "compute", "paths")


# --- data.yaml -------------------------------------------------------------------------------------------------------
@dataclass
class SplitConfig:
    """Service dates of each split: ISO dates or ranges `2024-12-16..2024-12-19`.

    All three empty = by order: the last tenth of the dates (at least one) tests, the tenth before it validates.
    """

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)


@dataclass
class ValidationConfig:
    """What reading the event tables drops, and when it gives up."""

    max_delay_s: int = 43_200  # later than this (12 h) is a recording error, not a delay
    max_early_s: int = 3_600  # earlier than this (1 h) likewise
    max_dropped_share: float = 0.2  # more than this share of events unusable: refuse the file set
    skip_partial_dates: bool = True  # leave dates with missing hours out of an automatic split


@dataclass
class SnapshotConfig:
    """Which trains a snapshot at instant t holds, and how many events of each."""

    n_prev: int = 15  # last known events per train
    n_foll: int = 15  # next events per train
    lead_s: int = 300  # a train enters this long before its first planned event
    end_grace_s: int = 300  # it leaves this long after its last planned event plus its last known delay
    silence_s: int = 7_200  # or this long after its next planned event plus its last known delay, unheard of


@dataclass
class GridConfig:
    """Fixed instants of validation and test, in local time of `data.timezone`."""

    start: str = "05:00"
    end: str = "23:00"
    step_s: int = 900


@dataclass
class StatisticsConfig:
    """Section and train-number statistics."""

    min_count: int = 8  # observations at which a section's own mean weighs as much as its parent's
    histogram_step_s: int = 30  # resolution of the mergeable histograms behind the middle mean
    histogram_limit_s: int = 1_800  # delay changes beyond this land in the outermost bins


@dataclass
class DataConfig:
    local_folder: str = "data/sample"
    bucket_name: str = ""
    bucket_prefix: str = ""
    endpoint_url: str | None = None
    download_data_from_s3: bool = False
    save_results_to_s3: bool = False
    timezone: str = "Europe/Brussels"
    split: SplitConfig = field(default_factory=SplitConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)


# --- embeddings.yaml -------------------------------------------------------------------------------------------------
@dataclass
class LaplacianConfig:
    enabled: bool = True
    dim: int = 16


@dataclass
class Node2VecConfig:
    enabled: bool = True
    dim: int = 16
    walk_length: int = 40
    walks_per_node: int = 10
    window: int = 5
    p: float = 1.0  # return parameter: small = walks stay near their start
    q: float = 1.0  # in-out parameter: small = walks wander far
    epochs: int = 3
    seed: int = 0


@dataclass
class GeographicConfig:
    enabled: bool = True


@dataclass
class RandomEmbeddingConfig:
    """Control: vectors that say which point it is and nothing about where."""

    enabled: bool = False
    dim: int = 16
    seed: int = 0


@dataclass
class EmbeddingsConfig:
    laplacian: LaplacianConfig = field(default_factory=LaplacianConfig)
    node2vec: Node2VecConfig = field(default_factory=Node2VecConfig)
    geographic: GeographicConfig = field(default_factory=GeographicConfig)
    random: RandomEmbeddingConfig = field(default_factory=RandomEmbeddingConfig)


# --- model.yaml ------------------------------------------------------------------------------------------------------
@dataclass
class UseInputsConfig:
    """Input groups of the model, each switched on its own. At least one must stay on."""

    past_delays: bool = True  # delay and age of the last known events
    past_points: bool = True  # embeddings of their operational points
    following_times: bool = True  # planned and carried-forward times of the next events
    following_points: bool = True  # embeddings of their operational points
    event_types: bool = True  # arrival, departure, pass-through
    train_type: bool = True
    calendar: bool = True  # time of day, day of week
    network_load: bool = True  # running trains, in all and per type, and the mean delay among them
    section_statistics: bool = True  # historical delay change and running time of the sections ahead
    train_history: bool = True  # historical delay of this train number at the points ahead


@dataclass
class ModelConfig:
    d_model: int = 128
    n_heads: int = 8
    n_layers: int = 3
    d_feedforward: int = 256
    d_point: int = 16  # dimension that all point embeddings together are projected to
    dropout: float = 0.1
    use_inputs: UseInputsConfig = field(default_factory=UseInputsConfig)


# --- training.yaml ---------------------------------------------------------------------------------------------------
@dataclass
class MlflowConfig:
    tracking_uri: str = "http://127.0.0.1:5000"
    use_mlflow: bool = True
    experiment_name: str = "train-delays"


@dataclass
class UsePrecomputedConfig:
    """true = reuse what a cache or the bucket holds under the same content hash; false = compute again."""

    statistics: bool = True
    embeddings: bool = True


@dataclass
class LossConfig:
    name: Literal["mae", "huber", "mse"] = "mae"
    huber_delta_s: float = 120.0  # where huber turns from square to absolute


@dataclass
class SchedulerConfig:
    name: Literal["cosine", "constant"] = "cosine"  # cosine = linear warm-up, then half a cosine down to zero
    warmup_share: float = 0.15  # share of all steps that warms up


@dataclass
class EarlyStoppingConfig:
    enabled: bool = True
    patience: int = 6  # epochs without a better validation MAE
    min_delta_s: float = 0.1


@dataclass
class TrainingConfig:
    max_epochs: int = 20
    snapshots_per_epoch: int = 1_024
    batch_size: int = 8  # snapshots a step
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    gradient_clip_norm: float = 1.0
    seed: int = 42
    accelerator: str = "auto"
    devices: str = "auto"
    strategy: str = "auto"
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "bf16-true"] = "auto"
    num_workers: int = 0  # snapshots are built in columns; workers pay off beside a GPU
    log_every_s: float = 5.0  # a progress line in the task log
    overfit_batches: int = 0  # debug: train and validate on this many fixed batches
    loss: LossConfig = field(default_factory=LossConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    use_precomputed: UsePrecomputedConfig = field(default_factory=UsePrecomputedConfig)
    mlflow: MlflowConfig = field(default_factory=MlflowConfig)


# --- compute.yaml ----------------------------------------------------------------------------------------------------
@dataclass
class KubernetesConfig:
    image: str = "train-delay-transformer:latest"
    namespace: str = "train-delays"
    service_account: str = "train-delays"


@dataclass
class ComputeConfig:
    backend: Literal["local", "kubernetes"] = "local"
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)


# --- paths.yaml ------------------------------------------------------------------------------------------------------
@dataclass
class PathsConfig:
    cache: str = "data/cache"  # statistics and embeddings under content hashes
    runs: str = "data/runs"  # checkpoints and reports of each run
    optuna_db: str = "data/optuna/studies.db"


@dataclass
class Config:
    data: DataConfig = field(default_factory=DataConfig)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass(frozen=True)
class LoadedConfig:
    """A merged configuration and, for each leaf key, the file or option its value came from."""

    config: Config
    sources: Mapping[str, str]


class _YamlLoader(yaml.SafeLoader):
    """Safe YAML that reads `2024-12-13` and `05:00` as text, `1e-3` as a number, and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} is given twice")
        return super().construct_mapping(node, deep)


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if not tag.endswith((":timestamp", ":int", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_YamlLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d[\d_]*$"), list("-+0123456789"))
_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def environments(folder: Path = CONFIG_FOLDER) -> list[str]:
    """Names that `--env` and the DAG param `env` accept: the folders beside `base`, sorted."""
    if not folder.is_dir():
        raise UserError(f"configuration folder {folder} does not exist")
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and path.name != BASE and not path.name.startswith(".")
    )


def load_config(env: str, overrides: Sequence[str] = (), folder: Path = CONFIG_FOLDER) -> Config:
    """Return the merged configuration of `env`, checked against the schema.

    Raises:
        UserError: unknown environment, unreadable YAML, unknown key, or a value of the wrong type or range.
    """
    return load_config_with_sources(env, overrides, folder).config


def load_config_with_sources(env: str, overrides: Sequence[str] = (), folder: Path = CONFIG_FOLDER) -> LoadedConfig:
    """Like `load_config`, and say where each value came from."""
    known = environments(folder)
    if env not in known:
        raise UserError(f"unknown environment {env!r}{_nearest(env, known) or f"; known: {', '.join(known)}"}")
    merged = OmegaConf.structured(Config)
    sources = {key: "schema default" for key in valid_keys()}
    for values, source in _layers(env, overrides, folder):
        leaves = flatten(values)
        for key, value in leaves.items():
            _refuse_interpolation(key, value, source)
        try:
            merged = OmegaConf.merge(merged, values)
        except OmegaConfBaseException as error:
            raise UserError(_explain(error, source)) from None
        sources.update(dict.fromkeys(leaves, source))
    try:
        config = cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise UserError(_explain(error, f"environment {env!r}")) from None
    check(config)
    return LoadedConfig(config, {key: sources[key] for key in valid_keys()})


def valid_keys() -> list[str]:
    """Every dotted leaf key of the schema, in the order of the files."""
    return list(_leaf_keys(to_dict(Config())))


def to_dict(config: Any) -> dict[str, Any]:
    """A plain nested dictionary of a configuration or one of its parts."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def content_hash(*parts: Any) -> str:
    """16 hex digits that identify JSON-able `parts` by content (SHA-256 over canonical JSON)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`."""
    return {key: _get(tree, key) for key in _leaf_keys(tree)}


def check(config: Config) -> None:
    """Refuse values that have the right type and make no sense.

    Raises:
        UserError: naming the key, its value and the remedy.
    """
    model, training, data = config.model, config.training, config.data
    for key, value in flatten(to_dict(config)).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value} is not a finite number")
    if model.d_model % model.n_heads:
        raise UserError(
            f"model.d_model={model.d_model} is not divisible by model.n_heads={model.n_heads}; change one of them"
        )
    if not any(to_dict(model.use_inputs).values()):
        raise UserError("model.use_inputs switches every input off; leave at least one on")
    if not 0 <= model.dropout < 1:
        raise UserError(f"model.dropout={model.dropout} must lie in [0, 1)")
    positive = {
        "data.snapshot.n_prev": data.snapshot.n_prev,
        "data.snapshot.n_foll": data.snapshot.n_foll,
        "data.grid.step_s": data.grid.step_s,
        "data.statistics.histogram_step_s": data.statistics.histogram_step_s,
        "data.statistics.histogram_limit_s": data.statistics.histogram_limit_s,
        "model.d_model": model.d_model,
        "model.n_heads": model.n_heads,
        "model.n_layers": model.n_layers,
        "model.d_feedforward": model.d_feedforward,
        "model.d_point": model.d_point,
        "training.max_epochs": training.max_epochs,
        "training.snapshots_per_epoch": training.snapshots_per_epoch,
        "training.batch_size": training.batch_size,
        "training.learning_rate": training.learning_rate,
        "training.log_every_s": training.log_every_s,
        "training.loss.huber_delta_s": training.loss.huber_delta_s,
        "training.early_stopping.patience": training.early_stopping.patience,
        "embeddings.laplacian.dim": config.embeddings.laplacian.dim,
        "embeddings.node2vec.dim": config.embeddings.node2vec.dim,
        "embeddings.node2vec.walk_length": config.embeddings.node2vec.walk_length,
        "embeddings.node2vec.walks_per_node": config.embeddings.node2vec.walks_per_node,
        "embeddings.node2vec.window": config.embeddings.node2vec.window,
        "embeddings.node2vec.p": config.embeddings.node2vec.p,
        "embeddings.node2vec.q": config.embeddings.node2vec.q,
        "embeddings.node2vec.epochs": config.embeddings.node2vec.epochs,
        "embeddings.random.dim": config.embeddings.random.dim,
    }
    for key, value in positive.items():
        if value <= 0:
            raise UserError(f"{key}={value} must be above 0")
    not_negative = {
        "data.snapshot.lead_s": data.snapshot.lead_s,
        "data.snapshot.end_grace_s": data.snapshot.end_grace_s,
        "data.snapshot.silence_s": data.snapshot.silence_s,
        "data.statistics.min_count": data.statistics.min_count,
        "training.weight_decay": training.weight_decay,
        "training.gradient_clip_norm": training.gradient_clip_norm,
        "training.num_workers": training.num_workers,
        "training.overfit_batches": training.overfit_batches,
        "training.seed": training.seed,
        "embeddings.node2vec.seed": config.embeddings.node2vec.seed,
        "embeddings.random.seed": config.embeddings.random.seed,
    }
    for key, value in not_negative.items():
        if value < 0:
            raise UserError(f"{key}={value} must not be negative")
    if not 0 <= training.scheduler.warmup_share < 1:
        raise UserError(f"training.scheduler.warmup_share={training.scheduler.warmup_share} must lie in [0, 1)")
    for key, value in {"data.grid.start": data.grid.start, "data.grid.end": data.grid.end}.items():
        if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
            raise UserError(f"{key}={value!r} is not a time of day; write it as HH:MM, for example '05:00'")
    if data.grid.start > data.grid.end:
        raise UserError(f"data.grid.start={data.grid.start} is after data.grid.end={data.grid.end}")
    try:
        ZoneInfo(data.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UserError(
            f"data.timezone={data.timezone!r} is no time zone; give an IANA name such as Europe/Paris"
        ) from None
    needs_bucket = [
        key for key in ("download_data_from_s3", "save_results_to_s3") if getattr(data, key) and not data.bucket_name
    ]
    if needs_bucket:
        raise UserError(f"data.{needs_bucket[0]}=true needs data.bucket_name; set it or switch the transfer off")


def _layers(env: str, overrides: Sequence[str], folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Configuration layers from weakest to strongest, each with the name of its source."""
    for name in (BASE, env):
        for path in sorted((folder / name).glob("*.y*ml")):
            source = f"{name}/{path.name}"
            if path.stem not in GROUPS or path.suffix != ".yaml":
                files = [f"{group}.yaml" for group in GROUPS]
                raise UserError(f"{source}: not a configuration file{_nearest(path.name, files) or f"; known: {', '.join(files)}"}")
            try:
                values = yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise UserError(f"{source}: not readable as YAML: {' '.join(str(error).split())}") from None
            if values is None:
                continue
            if not isinstance(values, dict):
                raise UserError(f"{source}: must hold `key: value` lines, found {type(values).__name__}")
            yield {path.stem: values}, source
    for override in overrides:
        key, separator, text = override.partition("=")
        key = key.strip().removeprefix("cfg.")
        source = f"--set {key}"
        if not separator or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
            raise UserError(f"--set {override!r} is not of the form key=value, for example training.max_epochs=5")
        if key not in (known := valid_keys()):
            groups = sorted({k.rsplit(".", depth)[0] for k in known for depth in range(1, k.count(".") + 1)})
            if key in groups:
                children = [k for k in known if k.startswith(key + ".")]
                raise UserError(f"{source}: is a group; set one of its keys: {', '.join(children)}")
            raise UserError(f"{source}: unknown key {key!r}{_nearest(key, known)}")
        try:
            value = yaml.load(text, Loader=_YamlLoader)
        except yaml.YAMLError:
            raise UserError(f"{source}: value {text!r} is not readable as YAML; quote it") from None
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        yield nested, source


def _leaf_keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaf_keys(value, f"{key}.")
        else:
            yield key


def _get(tree: Mapping[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value


def _refuse_interpolation(key: str, value: Any, source: str) -> None:
    """No `${oc.env:…}`: it would carry a secret from the environment into logs and artifacts."""
    if "${" in str(value):
        raise UserError(f"{source}: {key} contains '${{'; write the value itself, interpolation is switched off")


def _explain(error: OmegaConfBaseException, source: str) -> str:
    key = str(error.full_key or error.key or "")
    known = valid_keys()
    reason = str(error).splitlines()[0]
    groups = {k.rsplit(".", depth)[0] for k in known for depth in range(1, k.count(".") + 1)}
    if key not in known and key not in groups:
        return f"{source}: unknown key {key!r}{_nearest(key, [*known, *sorted(groups)])}"
    if key in groups:
        return f"{source}: {key} is a group of keys, not a value"
    return f"{source}: {key}: {reason}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when something is near, by its last part first."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not matches:
        last = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        matches = [last[m] for m in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.6)]
    return f"; did you mean {matches[0]!r}?" if matches else ""


__all__ = [
    "CONFIG_FOLDER",
    "Config",
    "LoadedConfig",
    "check",
    "content_hash",
    "environments",
    "flatten",
    "load_config",
    "load_config_with_sources",
    "to_dict",
    "to_yaml",
    "valid_keys",
]
