"""The typed configuration and its one loader.

`include/config/base/*.yaml` is overlaid by `include/config/<env>/*.yaml`, then by `--set key=value`. Each file is one
group: `training.yaml` holds what the code reads as `cfg.training`. Anything the schema below does not know is refused.
An address may hold `user:password@`; whatever is shown or recorded goes through `redact` first.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from transformer.errors import UserError
from transformer.text import redact

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "include" / "config"
BASE = "base"
GROUPS = ("data", "embeddings", "model", "training", "evaluation", "search", "alerts", "compute", "paths")


# --- data.yaml -------------------------------------------------------------------------------------------------------
@dataclass
class SplitConfig:
    """Service dates of each split: ISO dates or ranges `2024-12-16..2024-12-19`.

    All three empty = by order: the last tenth of the dates (at least one) tests, the tenth before it validates.
    """

    train: list[str] = field(default_factory=list)  # what statistics, embeddings and weights are learned from
    validation: list[str] = field(default_factory=list)  # choose the best epoch, calibrate intervals, rank trials
    test: list[str] = field(default_factory=list)  # evaluated once the model is trained


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

    start: str = "05:00"  # first instant of a date; training draws its instants from the same hours
    end: str = "23:00"  # last instant
    step_s: int = 900  # between two instants


@dataclass
class StatisticsConfig:
    """Section and train-number statistics."""

    min_count: int = 8  # observations at which a section's own mean weighs as much as its parent's
    histogram_step_s: int = 30  # resolution of the mergeable histograms behind the middle mean
    histogram_limit_s: int = 1_800  # delay changes beyond this land in the outermost bins


@dataclass
class DataConfig:
    local_folder: str = "data/sample"  # event tables, op_nodes.parquet and journeys.parquet
    bucket_name: str = ""  # S3 bucket of the two switches below
    bucket_prefix: str = ""  # folder in the bucket; "" = its root
    endpoint_url: str | None = None  # of an S3-compatible store other than AWS
    download_data_from_s3: bool = False  # fetch event tables, statistics and studies from the bucket
    save_results_to_s3: bool = False  # leave statistics, embeddings and studies in the bucket
    timezone: str = "Europe/Brussels"  # of naive timestamps, service dates and the grid
    split: SplitConfig = field(default_factory=SplitConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)


# --- embeddings.yaml -------------------------------------------------------------------------------------------------
@dataclass
class LaplacianConfig:
    enabled: bool = True  # place in the network at large: eigenvectors of its graph
    dim: int = 16  # numbers a point


@dataclass
class Node2VecConfig:
    enabled: bool = True  # company on random walks through the network
    dim: int = 16  # numbers a point
    walk_length: int = 40  # points of a walk
    walks_per_node: int = 10  # begun at each point
    window: int = 5  # points to either side that count as company
    p: float = 1.0  # return parameter: small = walks stay near their start
    q: float = 1.0  # in-out parameter: small = walks wander far
    epochs: int = 3  # over all walks
    seed: int = 0  # of walks and vectors


@dataclass
class GeographicConfig:
    enabled: bool = True  # position, and whether it is known


@dataclass
class RandomEmbeddingConfig:
    """Control: vectors that say which point it is and nothing about where."""

    enabled: bool = False  # a control for the other kinds
    dim: int = 16  # numbers a point
    seed: int = 0  # of the vectors


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
    train_type: bool = True  # such as long distance or regional
    calendar: bool = True  # time of day, day of week
    network_load: bool = True  # running trains, in all and per type, and the mean delay among them
    section_statistics: bool = True  # historical delay change and running time of the sections ahead
    train_history: bool = True  # historical delay of this train number at the points ahead
    live_sections: bool = True  # what other trains have just done on the sections ahead
    live_points: bool = True  # how late they have just been at the points ahead
    neighbour_trains: bool = True  # the trains expected on the same track just before and after


@dataclass
class ModelConfig:
    d_model: int = 128  # width of the encoder; n_heads divides it
    n_heads: int = 8  # of attention between trains
    n_layers: int = 3  # of the encoder
    d_feedforward: int = 256  # width inside a layer
    d_point: int = 16  # dimension that all point embeddings together are projected to
    dropout: float = 0.25  # on the residual branches of the encoder
    d_head: int = 96  # width of the head that predicts each next event
    head_dropout: float = 0.1  # in the head
    n_members: int = 1  # networks trained side by side, whose mean predicts; time grows with them
    round_predictions: bool = False  # to the resolution of the observations: whole minutes where those are
    # Levels of the distribution predicted beside the delay; two that add up to 1 are the ends of a central interval.
    quantiles: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
    use_inputs: UseInputsConfig = field(default_factory=UseInputsConfig)


# --- training.yaml ---------------------------------------------------------------------------------------------------
@dataclass
class MlflowConfig:
    tracking_uri: str = "http://127.0.0.1:5000"  # where the pipeline reaches MLflow
    public_uri: str | None = None  # where people open MLflow, when that is not where the pipeline reaches it
    use_mlflow: bool = True  # false = results stay in paths.runs and no model is registered
    experiment_name: str = "train-delays"  # of the runs


@dataclass
class UsePrecomputedConfig:
    """true = reuse what a cache or the bucket holds under the same content hash; false = compute again."""

    statistics: bool = True  # of sections and train numbers
    embeddings: bool = True  # of operational points


@dataclass
class LossConfig:
    name: Literal["mae", "huber", "mse"] = "mae"  # of the median: absolute, huber or squared error
    huber_delta_s: float = 120.0  # where huber turns from square to absolute
    quantile_weight: float = 2.0  # of the mean pinball loss of the quantiles other than the median


@dataclass
class SchedulerConfig:
    name: Literal["cosine", "constant"] = "cosine"  # cosine = linear warm-up, then half a cosine down to zero
    warmup_share: float = 0.15  # share of all steps that warms up


@dataclass
class EarlyStoppingConfig:
    enabled: bool = True  # stop before max_epochs when validation gets no better
    patience: int = 6  # epochs without a better validation MAE
    min_delta_s: float = 0.1  # a smaller improvement is none


@dataclass
class TrainingConfig:
    max_epochs: int = 10  # epochs at most; the learning rate comes down over them
    snapshots_per_epoch: int = 1_024  # at instants drawn at random from the training dates
    batch_size: int = 8  # snapshots a step, over all processes: with more GPUs each takes fewer of them
    learning_rate: float = 1e-3  # of AdamW, after warming up
    weight_decay: float = 0.1  # of weight matrices; biases and norms are left alone
    gradient_clip_norm: float = 1.0  # gradients with a greater norm are scaled down to it; 0 = never
    seed: int = 42  # of weights, instants and dropout
    accelerator: str = "auto"  # Lightning's: auto, cpu, gpu
    devices: str = "auto"  # Lightning's: auto, a number, or a list of them
    strategy: str = "auto"  # Lightning's: auto, ddp, …
    # auto = bf16-mixed or 16-mixed on a GPU, whichever it has, else 32-true
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "bf16-true"] = "auto"
    num_workers: int = 0  # snapshots are built in columns; workers pay off beside a GPU
    log_every_s: float = 5.0  # a progress line in the task log
    vary_history: bool = True  # up to ten training dates: each epoch leaves some more of them out of history
    allow_changes_on_resume: bool = False  # true = a resumed training may differ from the one it continues
    overfit_batches: int = 0  # debug: train and validate on this many fixed batches
    loss: LossConfig = field(default_factory=LossConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    use_precomputed: UsePrecomputedConfig = field(default_factory=UsePrecomputedConfig)
    mlflow: MlflowConfig = field(default_factory=MlflowConfig)


# --- evaluation.yaml -------------------------------------------------------------------------------------------------
@dataclass
class FreshnessConfig:
    """How old the data may be where the last dates are evaluated."""

    max_age_s: int = 0  # of the newest observation; 0 = any age


@dataclass
class DriftConfig:
    """From where on a difference between the evaluated events and those of the training dates is a warning."""

    max_observed_drop: float = 0.1  # share of planned events that were observed, below that of the training dates
    max_unknown_share: float = 0.01  # of the events, at points without events on the training dates
    psi_noticeable: float = 0.1  # population stability index that is warned of; below 0.1 is usually called stable
    psi_shifted: float = 0.25  # from here on the warning speaks of another distribution


@dataclass
class RegistryConfig:
    """Where trained models are registered, and how long one decision about them may take."""

    model_name: str = "train-delays"  # of the registered model whose versions the trained models become
    turn_expires_s: float = 300.0  # who holds up the registry for longer is taken for dead; a promotion takes seconds


GATE_BREAKDOWNS = ("horizon", "delay_change", "train_type", "departed")  # few groups each, of many rows


@dataclass
class GateConfig:
    """When a challenger becomes champion. Differences are of mean absolute errors, on the same rows."""

    confidence: float = 0.95  # of every interval
    resamples: int = 5_000  # of the bootstrap
    seed: int = 42  # of the bootstrap
    min_improvement_s: float = 0.0  # the interval must lie beyond it; negative = may be worse by so much
    must_beat_translation: bool = True  # with the whole interval, too
    max_degradation: float = 0.1  # no group's error may grow by a larger share, unless that may be chance
    breakdowns: list[str] = field(default_factory=lambda: ["train_type", "horizon"])  # of these groups
    min_group_journeys: int = 30  # a group with fewer is shown and not judged
    min_service_dates: int = 7  # whole dates are drawn where the rows have as many, else journeys
    min_journeys: int = 30  # with fewer nothing is decided
    max_unmatched_share: float = 0.01  # rows that only one of the two models predicts
    ask_for_approval: bool = False  # a person confirms in Airflow what the gate decided


@dataclass
class ScheduleConfig:
    """When DAG model_evaluation runs by itself: in the environment that TRANSFORMER_ENV names, where Airflow runs."""

    cron: str = ""  # minute hour day month weekday, in data.timezone; "" = at no fixed time
    on_new_model: bool = True  # whenever a training has registered a model
    last_dates: int = 7  # service dates of its window, and of a run by hand that names none


@dataclass
class EvaluationConfig:
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    freshness: FreshnessConfig = field(default_factory=FreshnessConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    max_skill_drop: float = 0.1  # below the skill on the test dates of its training; beyond it a model has degraded
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    gate: GateConfig = field(default_factory=GateConfig)


# --- search.yaml -----------------------------------------------------------------------------------------------------
@dataclass
class ParameterConfig:
    """One searched key: what an entry of `search.space` may say. Either `choices`, or `low` and `high`."""

    key: str = ""  # dotted key of the configuration
    choices: list[Any] = field(default_factory=list)  # one of these values
    low: float | None = None  # both ends belong to the range; its numbers are whole where the key's are
    high: float | None = None  # likewise
    step: float | None = None  # None = 1 for whole numbers, continuous for others
    log: bool = False  # true = every order of magnitude is as likely as the next
    when: str = ""  # KEY=VALUE or KEY=[VALUE, …] of a key searched above: only then is this one searched


@dataclass
class SamplerConfig:
    """What proposes the values of the next trial."""

    name: Literal["tpe", "random"] = "tpe"  # tpe learns from the trials before
    seed: int = 42  # each trial draws from a seed of its own
    n_startup_trials: int = 8  # random ones before TPE has something to learn from


@dataclass
class PrunerConfig:
    """What ends a trial early when its validation MAE falls behind."""

    name: Literal["median", "hyperband", "none"] = "median"  # none = every trial trains to its end
    n_startup_trials: int = 4  # median: complete trials it compares with at least
    n_warmup_epochs: int = 2  # median: epochs every trial may train; hyperband: of its shortest bracket
    reduction_factor: int = 3  # hyperband: one in so many goes on to the next rung


@dataclass
class SearchConfig:
    study_name: str = "train-delays"  # an existing study of this name is continued
    n_trials: int = 20  # of the study in all, however often it is interrupted, retried or triggered again
    n_workers: int = 1  # trials at a time; more than one needs storage_url
    storage_url: str = ""  # postgresql://user@host/database, its password in PGPASSWORD; "" = SQLite at paths.optuna_db
    start_with_defaults: bool = True  # the first trial is the configuration as it is
    heartbeat_s: int = 30  # a worker silent for four times as long is taken for dead and its trial run again
    max_retries: int = 3  # of a trial whose worker died
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    space: list[Any] = field(default_factory=list)  # of the keys of `ParameterConfig`; see `transformer.tuning.space`


# --- alerts.yaml -----------------------------------------------------------------------------------------------------
@dataclass
class EmailConfig:
    """Mail through Airflow's SMTP connection."""

    to: list[str] = field(default_factory=list)  # addresses; [] = no mail
    sender: str = ""  # address it comes from; "" = that of the connection
    connection: str = "smtp_default"  # Airflow connection with the server and its password


@dataclass
class SnsConfig:
    """Amazon SNS, through Airflow's AWS connection."""

    topic_arn: str = ""  # "" = no message
    connection: str = "aws_default"  # Airflow connection of the account


@dataclass
class AlertsConfig:
    """Who is told when a DAG run fails, its data are stale or a model has degraded."""

    email: EmailConfig = field(default_factory=EmailConfig)
    sns: SnsConfig = field(default_factory=SnsConfig)


# --- compute.yaml ----------------------------------------------------------------------------------------------------
@dataclass
class ProfileConfig:
    """Size of a pod and the nodes it may run on: what an entry of `compute.kubernetes.profiles` may say."""

    name: str = ""  # what compute.kubernetes.stages calls it
    cpu: int = 1  # cores reserved; more are used when the node has them to spare
    memory: str = "4Gi"  # reserved, and the limit
    gpus: int = 0  # NVIDIA GPUs
    shared_memory: str = "1Gi"  # /dev/shm of data loaders and NCCL; counts as memory
    disk: str = "10Gi"  # /tmp: event tables, cache, checkpoints
    node_selector: list[str] = field(default_factory=list)  # labels a node must have, key=value
    tolerations: list[str] = field(default_factory=list)  # taints it may have, key:Effect or key=value:Effect


@dataclass
class StageProfilesConfig:
    """Name of the profile that each stage's pod gets."""

    fetch_files: str = "cpu-small"  # of stage fetch-files
    compute_statistics_and_embeddings: str = "cpu-large"  # of stage compute-statistics-and-embeddings
    train_model: str = "gpu-1"  # of stage train-model
    evaluate_model: str = "cpu-large"  # of stage evaluate-model
    register_model: str = "cpu-small"  # of stage register-model
    tune: str = "gpu-1"  # for each worker
    report_study: str = "cpu-small"  # of stage report-study


@dataclass
class KubernetesConfig:
    image: str = "train-delay-transformer:latest"  # of the stages; give a tag that never moves
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "Always"  # a tag that moved must not run old code
    namespace: str = "train-delays"  # of the pods
    service_account: str = "train-delays"  # of the pods: their rights on the bucket
    secret: str = ""  # a Kubernetes secret whose keys become environment variables (MLFLOW_…, AWS_…); "" = none
    priority_class: str = "train-delays"  # "" = the cluster's default
    pod_url: str = ""  # page of a pod in a dashboard, with {pod} and {namespace}: a stage's link *Pod*; "" = none
    schedule_timeout_s: int = 1_200  # a node must be found within; adding one to a GPU pool takes minutes
    startup_timeout_s: int = 1_200  # from then on the container must start within; a CUDA image has gigabytes
    profiles: list[Any] = field(default_factory=list)  # of the keys of `ProfileConfig`
    stages: StageProfilesConfig = field(default_factory=StageProfilesConfig)

    def profile(self, stage: str) -> ProfileConfig:
        """Profile of the pod of a stage of the command line, for example `train-model`."""
        name = getattr(self.stages, stage.replace("-", "_"))
        return _profile(next(entry for entry in self.profiles if entry["name"] == name))


@dataclass
class ComputeConfig:
    backend: Literal["local", "kubernetes"] = "local"  # local = a process beside the Airflow worker; else a pod a stage
    kubernetes: KubernetesConfig = field(default_factory=KubernetesConfig)


# --- paths.yaml ------------------------------------------------------------------------------------------------------
@dataclass
class PathsConfig:
    cache: str = "data/cache"  # statistics and embeddings under content hashes
    runs: str = "data/runs"  # checkpoints and reports of each run
    optuna_db: str = "data/optuna/studies.db"  # SQLite file of the studies; unused with search.storage_url


@dataclass
class Config:
    data: DataConfig = field(default_factory=DataConfig)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
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
            if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_]\w*", key):
                raise yaml.YAMLError(f"{key!r} is no key; nest keys by indentation, `mlflow: {{use_mlflow: true}}`")
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} is given twice")
        return super().construct_mapping(node, deep)


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if not tag.endswith((":timestamp", ":int", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# No leading zeros: YAML 1.1 would read 010 as eight.
_YamlLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][\d_]*)$"), list("-+0123456789"))
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
    """Like `load_config`, and say where each value came from: `schema default`, `<folder>/<file>` or `--set`."""
    try:
        return _load(env, overrides, folder)
    except UserError as error:  # the wrong value it names may be an address with a password
        raise UserError(redact(str(error))) from None


def with_values(config: Config, values: Mapping[str, Any], source: str) -> Config:
    """A copy of `config` with other values at some dotted keys, checked like any other configuration.

    Raises:
        UserError: naming `source` and the key, for an unknown key or a value of the wrong type or range.
    """
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *groups, name = key.split(".")
        functools.reduce(lambda branch, group: branch.setdefault(group, {}), groups, tree)[name] = value
    merged = _merge(OmegaConf.structured(config), tree, source)
    changed = cast(Config, OmegaConf.to_object(merged))
    for _, complaint in _complaints(changed):
        raise UserError(f"{source}: {complaint}")
    return changed


def read_value(text: str) -> Any:
    """A value as configuration files and `--set` write it. Raises yaml.YAMLError or ValueError when it is not YAML."""
    return yaml.load(text, Loader=_YamlLoader)


def valid_keys() -> list[str]:
    """Every dotted leaf key of the schema, in the order of the files."""
    return list(_defaults())


@functools.cache
def _defaults() -> Mapping[str, Any]:
    """The schema's own value of every dotted leaf key."""
    return MappingProxyType(flatten(to_dict(Config())))


@functools.cache
def _known_keys() -> tuple[frozenset[str], frozenset[str]]:
    """Leaf keys and groups of the schema."""
    return frozenset(_defaults()), frozenset(parent for key in _defaults() for parent in _parents(key))


def to_dict(config: Any) -> dict[str, Any]:
    """A plain nested dictionary of a configuration or one of its parts."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """The configuration as YAML, without credentials."""
    return yaml.safe_dump(redact(to_dict(config)), sort_keys=False)


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= {f"{name}.{key}": leaf for key, leaf in flatten(value).items()}
        else:
            leaves[name] = value
    return leaves


_POSITIVE = (
    "data.snapshot.n_prev",
    "data.snapshot.n_foll",
    "data.grid.step_s",
    "data.statistics.histogram_step_s",
    "data.statistics.histogram_limit_s",
    "embeddings.laplacian.dim",
    "embeddings.node2vec.dim",
    "embeddings.node2vec.walk_length",
    "embeddings.node2vec.walks_per_node",
    "embeddings.node2vec.window",
    "embeddings.node2vec.p",
    "embeddings.node2vec.q",
    "embeddings.node2vec.epochs",
    "embeddings.random.dim",
    "model.d_model",
    "model.d_head",
    "model.n_members",
    "model.n_heads",
    "model.n_layers",
    "model.d_feedforward",
    "model.d_point",
    "training.max_epochs",
    "training.snapshots_per_epoch",
    "training.batch_size",
    "training.learning_rate",
    "training.log_every_s",
    "training.loss.huber_delta_s",
    "training.early_stopping.patience",
    "evaluation.schedule.last_dates",
    "evaluation.drift.psi_noticeable",
    "evaluation.drift.psi_shifted",
    "evaluation.max_skill_drop",
    "evaluation.registry.turn_expires_s",
    "evaluation.gate.resamples",
    "evaluation.gate.min_service_dates",
    "evaluation.gate.min_journeys",
    "search.n_trials",
    "search.n_workers",
    "search.heartbeat_s",
    "search.pruner.n_warmup_epochs",
    "compute.kubernetes.schedule_timeout_s",
    "compute.kubernetes.startup_timeout_s",
)
_NOT_NEGATIVE = (
    "data.validation.max_delay_s",
    "data.validation.max_early_s",
    "data.snapshot.lead_s",
    "data.snapshot.end_grace_s",
    "data.snapshot.silence_s",
    "data.statistics.min_count",
    "training.weight_decay",
    "training.loss.quantile_weight",
    "training.gradient_clip_norm",
    "training.num_workers",
    "training.overfit_batches",
    "training.early_stopping.min_delta_s",
    "evaluation.freshness.max_age_s",
    "evaluation.gate.max_degradation",
    "evaluation.gate.min_group_journeys",
    "search.max_retries",
    "search.sampler.n_startup_trials",
    "search.pruner.n_startup_trials",
)
_SHARES = (
    "data.validation.max_dropped_share",
    "evaluation.drift.max_observed_drop",
    "evaluation.drift.max_unknown_share",
    "evaluation.gate.max_unmatched_share",
)
_SEEDS = (
    "embeddings.node2vec.seed",
    "embeddings.random.seed",
    "training.seed",
    "evaluation.gate.seed",
    "search.sampler.seed",
)
_BELOW_ONE = ("model.dropout", "model.head_dropout", "training.scheduler.warmup_share")
_TIMES_OF_DAY = ("data.grid.start", "data.grid.end")
_KUBERNETES_NAMES = ("compute.kubernetes.namespace", "compute.kubernetes.service_account")
_OPTIONAL_KUBERNETES_NAMES = ("compute.kubernetes.secret", "compute.kubernetes.priority_class")


def check(config: Config) -> None:
    """Refuse values that have the right type and make no sense.

    Raises:
        UserError: naming the key, its value and the remedy.
    """
    for _, complaint in _complaints(config):
        raise UserError(complaint)


# Keys whose values must fit each other: `misfits` says how.
COMBINED_KEYS = (
    ("model.d_model", "model.n_heads"),
    tuple(f"model.use_inputs.{entry.name}" for entry in dataclasses.fields(UseInputsConfig)),
)


def misfits(model: ModelConfig) -> Iterator[str]:
    """A line for each combination of `COMBINED_KEYS` that makes no sense, though every value alone does."""
    if model.d_model % model.n_heads:
        yield f"model.d_model={model.d_model} is not divisible by model.n_heads={model.n_heads}; change one of them"
    if not any(vars(model.use_inputs).values()):
        yield "model.use_inputs switches every input off; leave at least one on"


def _complaints(config: Config) -> Iterator[tuple[str, str]]:
    """The line that says what makes no sense, with the key it is about; "" when it is about how several fit."""
    values = flatten(to_dict(config))
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield key, f"{key}={value} is not a finite number"
    for keys, makes_sense, reason in _RULES:
        for key in keys:
            if not makes_sense(values[key]):
                yield key, f"{key}={values[key]!r} {reason}"

    data, model, mlflow = config.data, config.model, config.training.mlflow
    if data.grid.start > data.grid.end:
        yield "", f"data.grid.start={data.grid.start} is after data.grid.end={data.grid.end}"
    for key in ("data.download_data_from_s3", "data.save_results_to_s3"):
        if values[key] and not data.bucket_name:
            yield key, f"{key}=true needs data.bucket_name; set it or switch the transfer off"
    yield from _quantile_complaints(model.quantiles)
    for complaint in misfits(model):
        yield "", complaint
    if mlflow.use_mlflow and not _is_address(mlflow.tracking_uri):
        key = "training.mlflow.tracking_uri"
        yield (
            key,
            f"{key}={mlflow.tracking_uri!r} is no address; give one such as http://127.0.0.1:5000, "
            "with the special characters of a password percent-encoded",
        )
    if mlflow.use_mlflow and not mlflow.experiment_name.strip():
        yield "training.mlflow.experiment_name", "training.mlflow.experiment_name is empty; name the experiment"
    drift = config.evaluation.drift
    if drift.psi_noticeable > drift.psi_shifted:
        yield (
            "",
            f"evaluation.drift.psi_noticeable={drift.psi_noticeable} is above "
            f"evaluation.drift.psi_shifted={drift.psi_shifted}",
        )
    yield from _gate_complaints(config.evaluation.gate)
    yield from _search_complaints(config.search)
    yield from _pod_complaints(config.compute)


def _quantile_complaints(levels: list[float]) -> Iterator[tuple[str, str]]:
    key = "model.quantiles"
    reason = ""
    if not all(0 < level < 1 for level in levels):
        reason = "must lie in (0, 1)"
    elif any(level != round(level, 3) for level in levels):
        reason = "must not be finer than thousandths"  # names of columns and metrics hold them in percent
    elif levels != sorted(set(levels)):
        reason = "must ascend"
    elif 0.5 not in levels:
        reason = "lacks 0.5, the median; add it"
    elif levels != [round(1 - level, 3) for level in reversed(levels)]:
        reason = "is not symmetric; give 1 - level beside each level, for example [0.05, 0.5, 0.95]"
    if reason:
        yield key, f"{key}={levels} {reason}"


def _gate_complaints(gate: GateConfig) -> Iterator[tuple[str, str]]:
    key = "evaluation.gate.breakdowns"
    for name in gate.breakdowns:
        if name not in GATE_BREAKDOWNS:
            yield key, f"{key}: {name!r} is no breakdown{_nearest(name, GATE_BREAKDOWNS, listed=True)}"


def _search_complaints(search: SearchConfig) -> Iterator[tuple[str, str]]:
    if search.n_workers > 1 and not search.storage_url:
        yield (
            "search.n_workers",
            f"search.n_workers={search.n_workers}: SQLite takes one writer; set search.storage_url to a PostgreSQL "
            "database, or search.n_workers=1",
        )
    if search.storage_url and not _is_postgresql(search.storage_url):
        key = "search.storage_url"
        yield (
            key,
            f"{key}={search.storage_url.partition('?')[0]!r} is no database; write postgresql://user@host/database "
            "with the password in PGPASSWORD, or leave it empty",
        )
    if not re.fullmatch(r"[\w.-]+( [\w.-]+)*", search.study_name):
        key = "search.study_name"
        yield key, f"{key}={search.study_name!r} is no name; use letters, digits, hyphens, dots and underscores"
    if search.pruner.reduction_factor < 2:
        key = "search.pruner.reduction_factor"
        yield key, f"{key}={search.pruner.reduction_factor} must be above 1"


def _pod_complaints(compute: ComputeConfig) -> Iterator[tuple[str, str]]:
    key = "compute.kubernetes.profiles"
    names = [entry.get("name") for entry in compute.kubernetes.profiles if isinstance(entry, dict)]
    for entry in compute.kubernetes.profiles:
        if not isinstance(entry, dict):
            yield key, f"{key}: {entry!r} is no profile; write it as {{name: cpu-small, cpu: 2, memory: 8Gi}}"
            return
        name = entry.get("name")
        if not isinstance(name, str) or not name or names.count(name) > 1:
            yield key, f"{key}: name={name!r} is empty or given twice; name each profile once"
        for reason in _profile_complaints(entry):
            yield key, f"{key}: profile {name!r}: {reason}"
    if compute.backend == "kubernetes":
        for stage, name in to_dict(compute.kubernetes.stages).items():
            if name not in names:
                wanted = f"compute.kubernetes.stages.{stage}"
                yield wanted, f"{wanted}={name!r} is no profile{_nearest(name, map(str, names), listed=True)}"


def _profile_complaints(entry: dict[str, Any]) -> Iterator[str]:
    try:
        profile = _profile(entry)
    except OmegaConfBaseException as error:
        yield str(error).splitlines()[0]
        return
    if profile.cpu < 1:
        yield f"cpu={profile.cpu} must be above 0"
    if profile.gpus < 0:
        yield f"gpus={profile.gpus} must not be negative"
    for key in ("memory", "shared_memory", "disk"):
        if not re.fullmatch(r"[1-9]\d*(Mi|Gi|Ti)", quantity := getattr(profile, key)):
            yield f"{key}={quantity!r} is no quantity; write it as 512Mi, 8Gi or 1Ti"
    for label in profile.node_selector:
        if not re.fullmatch(r"[^=:\s]+=[^=:\s]*", label):
            yield f"node_selector: {label!r} is no label; write it as key=value"
    for taint in profile.tolerations:
        if not re.fullmatch(r"[^=:\s]+(=[^=:\s]*)?:(NoSchedule|PreferNoSchedule|NoExecute)", taint):
            yield f"tolerations: {taint!r} is no taint; write it as key:NoSchedule or key=value:NoSchedule"


def _profile(entry: dict[str, Any]) -> ProfileConfig:
    return cast(ProfileConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ProfileConfig), entry)))


def _is_time_of_day(text: str) -> bool:
    return re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text) is not None


def _is_kubernetes_name(name: str) -> bool:
    return re.fullmatch(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?", name) is not None


def _is_pod_url(url: str) -> bool:
    """Whether it is an address with `{pod}`, and no other braces than `{namespace}`; a password would be shown."""
    plain = url.replace("{pod}", "").replace("{namespace}", "")
    try:
        parts = urlsplit(plain)
        known = "{pod}" in url and not set("{}") & set(plain)
        return known and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.password is None
    except ValueError:
        return False


def _is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _is_address(uri: str) -> bool:
    """Whether the address can be taken apart; `http://user:pass/word@host` cannot."""
    try:
        parts = urlsplit(uri)
        return bool(parts.scheme) and (
            parts.scheme not in ("http", "https") or bool(parts.hostname and parts.port != 0)
        )
    except ValueError:
        return False


def _is_email(address: object) -> bool:
    return isinstance(address, str) and re.fullmatch(r"[^@\s,]+@[^@\s,]+", address) is not None


def _is_postgresql(url: str) -> bool:
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or "password" in parts.query.lower()
        return parts.scheme == "postgresql" and bool(parts.path.strip("/")) and parts.port != 0 and not secret
    except ValueError:
        return False


_RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (_POSITIVE, lambda value: value > 0, "must be above 0"),
    (_NOT_NEGATIVE, lambda value: value >= 0, "must not be negative"),
    (_SEEDS, lambda value: 0 <= value < 2**32, "must lie in [0, 4294967295]"),
    (_BELOW_ONE, lambda value: 0 <= value < 1, "must lie in [0, 1)"),
    (_SHARES, lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    (("evaluation.gate.confidence",), lambda value: 0.5 <= value < 1, "must lie in [0.5, 1)"),
    (
        ("evaluation.registry.model_name",),
        lambda value: re.fullmatch(r"[\w-]+([ .][\w-]+)*", value) is not None,
        "is no name; use letters, digits, hyphens, dots and underscores",
    ),
    (
        ("evaluation.schedule.cron",),
        lambda value: re.fullmatch(r"[\w*,/-]+( +[\w*,/-]+){4}", value) is not None if value else True,
        "is no cron expression; write minute hour day month weekday, for example '0 6 * * 1', or leave it empty",
    ),
    (
        ("alerts.email.to",),
        lambda value: all(_is_email(address) for address in value),
        "holds something else than mail addresses; write [name@example.org, …]",
    ),
    (
        ("alerts.email.sender",),
        lambda value: not value or _is_email(value),
        "is no mail address; write name@example.org, or leave it empty",
    ),
    (
        ("alerts.sns.topic_arn",),
        lambda value: re.fullmatch(r"arn:[\w-]+:sns:[\w-]+:\d+:[\w.-]+", value) is not None if value else True,
        "is no topic; write arn:aws:sns:REGION:ACCOUNT:NAME, or leave it empty",
    ),
    (_KUBERNETES_NAMES, _is_kubernetes_name, "is no Kubernetes name; use small letters, digits and hyphens"),
    (
        _OPTIONAL_KUBERNETES_NAMES,
        lambda value: not value or _is_kubernetes_name(value),
        "is no Kubernetes name; use small letters, digits and hyphens, or leave it empty",
    ),
    (
        ("compute.kubernetes.pod_url",),
        lambda value: not value or _is_pod_url(value),
        "is no address of a pod's page; write https://HOST/{namespace}/{pod}, without a password, or leave it empty",
    ),
    (("compute.kubernetes.image",), lambda value: len(value.split()) == 1, "is no image; write registry/name:tag"),
    (_TIMES_OF_DAY, _is_time_of_day, "is not a time of day; write it as HH:MM, for example '05:00'"),
    (("data.timezone",), _is_timezone, "is no time zone; give an IANA name such as Europe/Paris"),
)


def _load(env: str, overrides: Sequence[str], folder: Path) -> LoadedConfig:
    known = environments(folder)
    if env not in known:
        raise UserError(f"unknown environment {env!r}{_nearest(env, known, listed=True)}")
    merged = OmegaConf.structured(Config)
    sources = dict.fromkeys(valid_keys(), "schema default")
    for values, source in _layers(env, overrides, folder):
        merged = _merge(merged, values, source)
        sources |= dict.fromkeys(flatten(values).keys() & sources.keys(), source)
    config = cast(Config, OmegaConf.to_object(merged))
    for key, complaint in _complaints(config):
        raise UserError(f"{sources[key]}: {complaint}" if key else complaint)
    return LoadedConfig(config, sources)


def _merge(merged: Any, values: dict[str, Any], source: str) -> Any:
    """Lay `values`, a nested dictionary from `source`, over a structured configuration, which is used up."""
    leaves = flatten(values)
    _refuse_unknown(leaves, source)
    _refuse_surprises(leaves, source)
    try:
        return OmegaConf.unsafe_merge(merged, values)  # without a copy of the whole for each layer
    except OmegaConfBaseException as error:
        raise UserError(_explain(error, values, source)) from None
    except TypeError:  # OmegaConf's at a mapping where a list belongs; it does not say which
        lists = (key for leaf in leaves for key in (leaf, *_parents(leaf)) if isinstance(_defaults().get(key), list))
        key = next(lists, "a value")
        raise UserError(f"{source}: {key} is not {_kind(_defaults().get(key, []))}, but a mapping") from None


def _layers(env: str, overrides: Sequence[str], folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Configuration layers from weakest to strongest, each with the name of its source."""
    for name in (BASE, env):
        for path in sorted((folder / name).glob("*.y*ml")):
            if values := _read_group(path):
                yield {path.stem: values}, f"{name}/{path.name}"
    for override in overrides:
        yield _parse_override(override), "--set"


def _read_group(path: Path) -> dict[str, Any]:
    source = f"{path.parent.name}/{path.name}"
    if path.stem not in GROUPS or path.suffix != ".yaml":
        raise UserError(f"{source}: a configuration file is named GROUP.yaml{_nearest(path.stem, GROUPS, listed=True)}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)
    except OSError as error:
        raise UserError(f"{source}: not readable: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: not readable as YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{source}: must hold `key: value` lines, found {type(values).__name__}")
    return values


def _parse_override(override: str) -> dict[str, Any]:
    """`training.max_epochs=5` → `{"training": {"max_epochs": 5}}`."""
    key, separator, text = override.partition("=")
    key = key.strip().removeprefix("cfg.")
    if not separator or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
        raise UserError(f"--set {override!r} is not of the form key=value, for example training.max_epochs=5")
    try:
        value = read_value(text)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"--set: {key}: {text!r} is not readable as YAML; quote it") from None
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast(dict[str, Any], value)


def _refuse_unknown(leaves: Mapping[str, Any], source: str) -> None:
    known, groups = _known_keys()
    for key, value in leaves.items():
        if key in groups and value != {}:
            children = [name for name in valid_keys() if name.startswith(f"{key}.")]
            raise UserError(f"{source}: {key} is a group; set one of its keys: {', '.join(children)}")
        if key not in known and key not in groups and known.isdisjoint(_parents(key)):
            raise UserError(f"{source}: unknown key {key!r}{_nearest(key, [*valid_keys(), *sorted(groups)])}")


def _parents(key: str) -> list[str]:
    """`a.b.c` → `["a.b", "a"]`."""
    return [key.rsplit(".", depth)[0] for depth in range(1, key.count(".") + 1)]


def _refuse_surprises(leaves: Mapping[str, Any], source: str) -> None:
    """What OmegaConf would take and turn into something nobody wrote."""
    defaults = _defaults()
    for key, value in leaves.items():
        # `${oc.env:…}` would carry a secret from the environment into logs and artifacts; `???` means "no value".
        if "${" in str(value) or value == "???":
            raise UserError(f"{source}: {key}={value!r}: write the value itself, interpolation is switched off")
        default = defaults.get(key, value)
        if isinstance(value, int | float) and isinstance(value, bool) != isinstance(default, bool):
            raise UserError(f"{source}: {key}={json.dumps(value)} is not {_kind(default)}")


def _explain(error: OmegaConfBaseException, values: Mapping[str, Any], source: str) -> str:
    key = re.sub(r"\[\d+\]$", "", str(error.full_key or error.key or ""))  # of a list's entry: the list
    defaults = _defaults()
    reason = str(error).splitlines()[0]
    if "expected one of" in reason:
        return f"{source}: {key}: {reason}"
    value = functools.reduce(lambda tree, part: tree[part], key.split("."), values)
    return f"{source}: {key}={json.dumps(value, ensure_ascii=False, default=str)} is not {_kind(defaults[key])}"


def _kind(default: Any) -> str:
    """What a value must be, by the default of its key."""
    if default and isinstance(default, list) and isinstance(default[0], float):
        return "a list of numbers, for example [0.05, 0.5, 0.95]"
    kinds = {bool: "true or false", int: "a whole number", float: "a number", list: "a list, for example [2024-12-13]"}
    return kinds.get(type(default), "text; put it in quotes if it is meant")


def _nearest(name: str, known: Iterable[str], listed: bool = False) -> str:
    """`; did you mean 'x'?` when something is near, else nothing, or all known names with `listed`."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not matches:
        last = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        matches = [last[m] for m in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.6)]
    if not matches:
        return f"; known: {', '.join(known)}" if listed else ""
    return f"; did you mean {matches[0]!r}?"


__all__ = [
    "CONFIG_FOLDER",
    "Config",
    "LoadedConfig",
    "check",
    "environments",
    "flatten",
    "load_config",
    "load_config_with_sources",
    "read_value",
    "to_dict",
    "to_yaml",
    "valid_keys",
    "with_values",
]
