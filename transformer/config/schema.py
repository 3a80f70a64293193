"""The schema of the configuration: one class per group, and the type, default, bounds and meaning of each key.

A file of `include/config` is one group: `training.yaml` holds `config.training`. The documentation site shows the
meanings. Rules that span keys are validators below the keys.
"""

import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from transformer.config.checks import (
    Cron,
    Email,
    Image,
    KubernetesName,
    MisfitError,
    ModelName,
    NodeLabel,
    Number,
    OptionalEmail,
    OptionalKubernetesName,
    PodUrl,
    ProfileName,
    QuantileLevels,
    Quantity,
    Seed,
    StudyName,
    Text,
    TimeOfDay,
    TimeZone,
    Toleration,
    Topic,
    Whole,
    is_address,
    is_postgresql,
    is_whole,
    nearest,
    single_value,
)


class Group(BaseModel):
    """Keys that belong together. Unknown keys and values of another type are refused: `"10"` is not a number."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Entry(Group):
    """An entry of a list, with keys of its own. Keys that were left out are also left out of the output."""

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recorded configurations are compared as written, so a new default must not change an old entry.
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}


# --- data.yaml -------------------------------------------------------------------------------------------------------
class RollingConfig(Group):
    """The last service dates that are whole: those before the last `validation` and `test` dates train."""

    train: Whole = Field(
        0, ge=0, description="number of training dates, fewer if there are fewer; 0 = no rolling split"
    )
    validation: Whole = Field(14, gt=0, description="number of validation dates; they follow the training dates")
    test: Whole = Field(14, gt=0, description="number of test dates; the last one is the last whole date")


class SplitConfig(Group):
    """Service dates of each split: ISO dates or ranges `2024-12-16..2024-12-19`.

    All three empty = by order: the last tenth of the dates (at least one) tests, the tenth before it validates.
    `rolling` gives numbers of dates instead.
    """

    train: list[Text] = Field([], description="dates that statistics, embeddings and weights are learned from")
    validation: list[Text] = Field(
        [], description="dates that choose the best epoch, calibrate intervals and rank trials"
    )
    test: list[Text] = Field([], description="dates on which the trained model is evaluated")
    rolling: RollingConfig = Field(default_factory=RollingConfig)

    @model_validator(mode="after")
    def _is_one_split(self) -> Self:
        named = [name for name in ("train", "validation", "test") if getattr(self, name)]
        if self.rolling.train and named:
            key = "data.split.rolling.train"
            raise MisfitError(
                f"{key}={self.rolling.train} and the dates of data.split.{named[0]} are two splits; "
                f"set {key}=0, or leave data.split.train, validation and test empty",
                key,
            )
        return self


class ValidationConfig(Group):
    """Limits of valid events, and of the share of invalid ones."""

    max_delay_s: Whole = Field(43_200, ge=0, description="a larger delay (12 h) is a recording error")
    max_early_s: Whole = Field(
        3_600, ge=0, description="an observation that is earlier than planned by more (1 h) is a recording error"
    )
    max_dropped_share: float = Field(
        0.2, ge=0, le=1, description="with a larger share of unusable events the files are refused"
    )
    max_discarded_share: float = Field(
        0.2, ge=0, le=1, description="with a larger share of discarded observations the files are refused"
    )
    max_unmatched_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="with a larger share of events without a row in op_nodes.parquet or journeys.parquet the files are "
        "refused",
    )
    max_gap_s: Whole = Field(
        43_200,
        gt=0,
        description="a longer time (12 h) between two planned events of a journey means two runs under one train_id",
    )
    observation_order: Literal["discard", "keep"] = Field(
        "discard",
        description="`discard` = observations that would make a train run backwards in time are taken as not observed; "
        "`keep` = they stay labels",
    )
    skip_partial_dates: bool = Field(
        True, description="leave dates with missing hours out of an automatic or rolling split"
    )


MOST_EVENTS = 2**15 - 1  # of a journey: the order of its events and the rank of a prediction are Int16


class SnapshotConfig(Group):
    """The trains of a snapshot at instant t, and the number of events of each."""

    n_prev: Whole = Field(15, gt=0, le=MOST_EVENTS, description="number of last known events of each train")
    n_foll: Whole = Field(15, gt=0, le=MOST_EVENTS, description="number of next events of each train")
    lead_s: Whole = Field(300, ge=0, description="time from which a train takes part before its first planned event")
    end_grace_s: Whole = Field(
        300, ge=0, description="time after its last planned event plus its last known delay at which a train leaves"
    )
    instants: str = Field(
        "",
        description="file of the instants of all splits, such as the `dataset_core_spec.yaml` of a RIDE Gold core; "
        "empty = random instants in training, and those of data.grid in validation and test",
    )
    silence_s: Whole = Field(
        7_200,
        ge=0,
        description="a train without news also leaves this long after its next planned event plus its last known delay",
    )


class GridConfig(Group):
    """Fixed instants of validation and test, in local time of `data.timezone`."""

    start: TimeOfDay = Field(
        "05:00", description="first instant of a date; training draws its instants between the first and the last"
    )
    end: TimeOfDay = Field("23:00", description="last instant of a date")
    step_s: Whole = Field(900, gt=0, description="time between two instants")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start > self.end:
            raise MisfitError(f"data.grid.start={self.start} is after data.grid.end={self.end}")
        return self


class StatisticsConfig(Group):
    """Section and train-number statistics."""

    min_count: Whole = Field(
        8, ge=0, description="number of observations at which a section's own mean weighs as much as its parent's"
    )
    history_min_count: float | None = Field(
        None,
        ge=0,
        description="the same for the usual delay of a train number at an event, against all trains of its type there; "
        "null = a quarter of `min_count`",
    )
    half_life_days: float | None = Field(
        None,
        gt=0,
        description="days after which a training date counts half as much, a quarter after twice as many, and "
        "so on; null = all dates count alike",
    )
    histogram_step_s: Whole = Field(
        30, gt=0, description="bin width of the mergeable histograms behind the middle mean"
    )
    histogram_limit_s: Whole = Field(1_800, gt=0, description="larger changes of delay count in the outermost bins")


class DataConfig(Group):
    local_folder: Text = Field(
        "data/sample", description="folder of event tables, op_nodes.parquet and journeys.parquet"
    )
    bucket_name: Text = Field("", description="S3 bucket of the two transfers below")
    bucket_prefix: Text = Field("", description='folder in the bucket; "" = its root')
    endpoint_url: Text | None = Field(None, description="address of an S3-compatible store other than AWS")
    download_data_from_s3: bool = Field(False, description="fetch event tables, statistics and studies from the bucket")
    save_results_to_s3: bool = Field(False, description="leave statistics, embeddings and studies in the bucket")
    timezone: TimeZone = Field(
        "Europe/Brussels", description="time zone of naive timestamps, service dates and the grid"
    )
    reporting_delay_s: Whole = Field(
        0,
        ge=0,
        description="seconds after which an observation is known, in training and evaluation; column `known_ts` wins",
    )
    split: SplitConfig = Field(default_factory=SplitConfig)
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    snapshot: SnapshotConfig = Field(default_factory=SnapshotConfig)
    grid: GridConfig = Field(default_factory=GridConfig)
    statistics: StatisticsConfig = Field(default_factory=StatisticsConfig)

    @model_validator(mode="after")
    def _bucket_is_named(self) -> Self:
        for name in ("download_data_from_s3", "save_results_to_s3"):
            if getattr(self, name) and not self.bucket_name:
                key = f"data.{name}"
                raise MisfitError(f"{key}=true needs data.bucket_name; set it or switch the transfer off", key)
        return self


# --- embeddings.yaml -------------------------------------------------------------------------------------------------
class LaplacianConfig(Group):
    enabled: bool = Field(True, description="place in the whole railway: eigenvectors of its graph")
    dim: Whole = Field(16, gt=0, description="numbers per point")


class GeographicConfig(Group):
    enabled: bool = Field(True, description="position of a point, and whether it is known")


class RandomEmbeddingConfig(Group):
    """Control: vectors that identify a point and hold nothing about its place."""

    enabled: bool = Field(False, description="random vectors, a control for the other kinds")
    dim: Whole = Field(16, gt=0, description="numbers per point")
    seed: Seed = Field(0, description="seed of the vectors")


class EmbeddingsConfig(Group):
    """Vectors of operational points. Each kind can be switched off; the others are concatenated."""

    laplacian: LaplacianConfig = Field(default_factory=LaplacianConfig)
    geographic: GeographicConfig = Field(default_factory=GeographicConfig)
    random: RandomEmbeddingConfig = Field(default_factory=RandomEmbeddingConfig)


# --- model.yaml ------------------------------------------------------------------------------------------------------
class UseInputsConfig(Group):
    """Input groups of the model, each switched on its own. At least one must stay on."""

    past_delays: bool = Field(True, description="delay and age of the last known events")
    past_points: bool = Field(
        False,
        description="embeddings of the points of the last known events; a few dates are too few to learn from them",
    )
    following_times: bool = Field(True, description="planned and carried-forward times of the next events")
    following_points: bool = Field(True, description="embeddings of the points of the next events")
    event_types: bool = Field(True, description="arrival, departure, pass-through")
    train_type: bool = Field(True, description="type of train, such as long distance or regional")
    calendar: bool = Field(
        False,
        description="time of day and day of week; worth a try with months of data, since a few dates hold no week",
    )
    network_load: bool = Field(True, description="number of running trains, in all and per type, and their mean delay")
    feed_silence: bool = Field(
        False,
        description="age of the newest observation of any train, and the share of departed trains heard of lately",
    )
    section_statistics: bool = Field(True, description="historical delay change and running time of the sections ahead")
    train_history: bool = Field(True, description="historical delay of this train number at the points ahead")
    live_sections: bool = Field(
        True, description="change of delay and running time of the last trains on the sections ahead"
    )
    live_points: bool = Field(True, description="delay of the last trains at the points ahead")
    neighbour_trains: bool = Field(True, description="the trains expected on the same track just before and after")
    imminence: bool = Field(
        True,
        description="the train's silence and its expected times on a scale of minutes, for events of the next minutes",
    )
    weather: bool = Field(False, description="weather at the points ahead; needs `weather.parquet`")
    rotation: bool = Field(
        False,
        description="delay of the journey that the vehicle made before, until departure; needs `rotations.parquet`",
    )
    links: bool = Field(
        False, description="length and number of tracks of the sections ahead; needs `node_links.parquet`"
    )
    cancellations: bool = Field(
        False, description="cancelled trains at the points ahead; needs the column `cancelled` of the events"
    )
    platform: bool = Field(
        False, description="trains at the planned platforms ahead; needs the column `planned_platform` of the events"
    )


# Inputs that read a table or a column of their own. On their own they are no model.
OPTIONAL_INPUTS = ("weather", "rotation", "links", "cancellations", "platform")
# Keys whose values must fit each other: `ModelConfig.misfits` says how.
COMBINED_KEYS = (
    ("model.d_model", "model.n_heads"),
    tuple(f"model.use_inputs.{name}" for name in UseInputsConfig.model_fields if name not in OPTIONAL_INPUTS),
)


class ModelConfig(Group):
    """The network. Sizes were found by studies on six service dates (`docs/log.md`)."""

    d_model: Whole = Field(64, gt=0, description="width of the encoder; n_heads divides it")
    n_heads: Whole = Field(4, gt=0, description="attention heads between trains")
    n_layers: Whole = Field(2, gt=0, description="layers of the encoder")
    d_feedforward: Whole = Field(256, gt=0, description="width inside a layer of the encoder")
    d_point: Whole = Field(16, gt=0, description="dimension that all point embeddings together are projected to")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout on the residual branches of the encoder")
    d_head: Whole = Field(96, gt=0, description="width of the head that predicts each next event")
    head_dropout: float = Field(0.1, ge=0, lt=1, description="dropout in the head")
    n_members: Whole = Field(
        3, gt=0, description="networks trained side by side; their mean predicts, and time grows with their number"
    )
    round_predictions: bool = Field(
        True, description="true = predictions have the resolution of the observations, for example whole minutes"
    )
    quantiles: QuantileLevels = Field(
        [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95],
        description="levels of the distribution predicted with the delay; two that add up to 1 are the ends of a "
        "central interval",
    )
    use_inputs: UseInputsConfig = Field(default_factory=UseInputsConfig)

    def misfits(self) -> Iterator[str]:
        """A line for each combination of `COMBINED_KEYS` whose values are valid but do not fit each other."""
        if self.d_model % self.n_heads:
            yield f"model.d_model={self.d_model} is not divisible by model.n_heads={self.n_heads}; change one of them"
        used = {name for name, on in vars(self.use_inputs).items() if on}
        if not used - set(OPTIONAL_INPUTS):
            but = f" but {', '.join(sorted(used))}" if used else ""
            yield f"model.use_inputs switches every input off{but}; leave at least one on"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for line in self.misfits():
            raise MisfitError(line)
        return self


# --- training.yaml ---------------------------------------------------------------------------------------------------
class MlflowConfig(Group):
    tracking_uri: Text = Field("http://127.0.0.1:5000", description="address at which the pipeline reaches MLflow")
    public_uri: Text | None = Field(None, description="address at which people open MLflow, if it is another one")
    use_mlflow: bool = Field(True, description="false = results stay in paths.runs and no model is registered")
    experiment_name: Text = Field("train-delays", description="MLflow experiment of the runs")

    @model_validator(mode="after")
    def _server_is_named(self) -> Self:
        if self.use_mlflow and not is_address(self.tracking_uri):
            key = "training.mlflow.tracking_uri"
            raise MisfitError(
                f"{key}={self.tracking_uri!r} is no address; give one such as http://127.0.0.1:5000, "
                "with the special characters of a password percent-encoded",
                key,
            )
        if self.use_mlflow and not self.experiment_name.strip():
            key = "training.mlflow.experiment_name"
            raise MisfitError(f"{key} is empty; name the experiment", key)
        return self


class UsePrecomputedConfig(Group):
    """true = reuse what a cache or the bucket holds under the same content hash; false = compute again."""

    statistics: bool = Field(True, description="statistics of sections and train numbers")
    embeddings: bool = Field(True, description="embeddings of operational points")


class LossConfig(Group):
    name: Literal["mixed", "log", "rps"] = Field(
        "mixed",
        description="score of the predicted distribution. log = minus the logarithm of the probability of what was "
        "observed; rps = the ranked probability score, which is its CRPS; mixed = the sum of both",
    )
    ranked_weight: float = Field(
        1.0, gt=0, description="weight of the ranked probability score, in minutes, if the scores are mixed"
    )


class SchedulerConfig(Group):
    name: Literal["cosine", "constant"] = Field(
        "cosine", description="cosine = linear warm-up, then half a cosine down to zero"
    )
    warmup_share: float = Field(0.15, ge=0, lt=1, description="share of all steps in which the learning rate rises")


class EarlyStoppingConfig(Group):
    enabled: bool = Field(True, description="stop before max_epochs when validation does not improve")
    patience: Whole = Field(6, gt=0, description="epochs without a better validation MAE")
    min_delta_s: float = Field(0.1, ge=0, description="a smaller improvement does not count")


class SamplingConfig(Group):
    """The instants that a training learns from. A file of instants (data.snapshot.instants) comes before it."""

    instants: Literal["grid_hours", "running"] = Field(
        "grid_hours",
        description="`grid_hours` = every date alike, and every second between data.grid.start and data.grid.end; "
        "`running` = every second of the training dates at which a train runs, nights included, so that thin dates "
        "count less",
    )
    half_life_days: float | None = Field(
        None,
        gt=0,
        description="a date that is this much older than the newest training date is drawn half as often, since works "
        "and timetables change; null = all dates alike",
    )
    damaged: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the snapshots for which reports are lost or late, so that the network learns how far the "
        "silence of a train can be trusted; for feeds that lose reports",
    )


class TrainingScheduleConfig(Group):
    """Times at which DAG model_training runs by itself, in the environment that TRANSFORMER_ENV of Airflow names."""

    cron: Cron = Field("", description='minute hour day month weekday, in data.timezone; "" = at no fixed time')
    on_degradation: bool = Field(
        False,
        description="true = it also runs when an evaluation that no person started finds that a model has degraded, or "
        "that the data have drifted beyond a limit",
    )
    warm_start: Literal["none", "champion"] = Field(
        "none", description="weights with which such a run begins: random ones, or those of the champion"
    )


class TrainingConfig(Group):
    max_epochs: Whole = Field(8, gt=0, description="largest number of epochs; the learning rate falls over them")
    snapshots_per_epoch: Whole = Field(
        1_024, gt=0, description="snapshots per epoch, at random instants of the training dates"
    )
    batch_size: Whole = Field(
        8, gt=0, description="snapshots per step over all processes; with more GPUs each takes fewer"
    )
    learning_rate: float = Field(1.5e-3, gt=0, description="learning rate of AdamW after the warm-up")
    weight_decay: float = Field(0.04, ge=0, description="decay of weight matrices; biases and norms have none")
    gradient_clip_norm: float = Field(
        1.0, ge=0, description="gradients with a larger norm are scaled down to it; 0 = never"
    )
    seed: Seed = Field(42, description="seed of weights, instants and dropout")
    accelerator: Text = Field("auto", description="Lightning's: auto, cpu, gpu")
    devices: Text = Field("auto", description="Lightning's: auto, a number, or a list of them")
    strategy: Text = Field("auto", description="Lightning's: auto, ddp, …")
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "bf16-true"] = Field(
        "auto", description="auto = bf16-mixed or 16-mixed on a GPU, whichever it has, else 32-true"
    )
    num_workers: Whole | None = Field(
        None,
        ge=0,
        description="processes that build snapshots for each process that trains; null = none without a GPU, and with "
        "GPUs the cores that are left, at most 9 for each",
    )
    log_every_s: float = Field(5.0, gt=0, description="time between progress lines in the task log")
    vary_history: bool = Field(
        True, description="with up to ten training dates, each epoch leaves more of them out of history"
    )
    allow_changes_on_resume: bool = Field(
        False, description="true = a resumed run may have another configuration and other data"
    )
    overfit_batches: Whole = Field(0, ge=0, description="debug: train and validate on this many fixed batches")
    loss: LossConfig = Field(default_factory=LossConfig)
    scheduler: SchedulerConfig = Field(default_factory=SchedulerConfig)
    early_stopping: EarlyStoppingConfig = Field(default_factory=EarlyStoppingConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    use_precomputed: UsePrecomputedConfig = Field(default_factory=UsePrecomputedConfig)
    schedule: TrainingScheduleConfig = Field(default_factory=TrainingScheduleConfig)
    mlflow: MlflowConfig = Field(default_factory=MlflowConfig)


# --- evaluation.yaml -------------------------------------------------------------------------------------------------
class FreshnessConfig(Group):
    """The largest age of the data in an evaluation of the last dates."""

    max_age_s: Whole = Field(0, ge=0, description="largest age of the newest observation; 0 = any age")


class DriftConfig(Group):
    """Limits beyond which a difference between the evaluated events and those of the training dates is a warning."""

    max_observed_drop: float = Field(
        0.1, ge=0, le=1, description="largest drop of the share of observed events below that of the training dates"
    )
    max_unknown_share: float = Field(
        0.01, ge=0, le=1, description="largest share of events at points without events on the training dates"
    )
    psi_noticeable: float = Field(
        0.1,
        gt=0,
        description="population stability index from which on there is a warning; below 0.1 usually counts as stable",
    )
    psi_shifted: float = Field(
        0.25, gt=0, description="population stability index from which on the warning names another distribution"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.psi_noticeable > self.psi_shifted:
            raise MisfitError(
                f"evaluation.drift.psi_noticeable={self.psi_noticeable} is above "
                f"evaluation.drift.psi_shifted={self.psi_shifted}"
            )
        return self


class RegistryConfig(Group):
    """The registered model, and the time limit of one decision about its versions."""

    model_name: ModelName = Field(
        "train-delays", description="registered model whose versions the trained models become"
    )
    turn_expires_s: float = Field(
        300.0,
        gt=0,
        description="a process that holds the registry for longer counts as dead; a promotion takes seconds",
    )


GATE_BREAKDOWNS = (  # few groups each, of many rows
    "horizon",
    "delay_change",
    "train_type",
    "departed",
    "time_of_day",
    "day_type",
)


def _is_breakdown(name: str) -> str:
    if name not in GATE_BREAKDOWNS:
        raise ValueError(f"is no breakdown{nearest(name, GATE_BREAKDOWNS, listed=True)}")
    return name


class GateConfig(Group):
    """When a challenger becomes champion. Differences are of mean absolute errors, on the same rows."""

    confidence: float = Field(0.95, ge=0.5, lt=1, description="confidence of every interval")
    resamples: Whole = Field(5_000, gt=0, description="resamples of the bootstrap")
    seed: Seed = Field(42, description="seed of the bootstrap")
    min_improvement_s: float = Field(
        0.0,
        description="the interval must lie above this improvement; negative = the challenger may be worse by so much",
    )
    must_beat_translation: bool = Field(
        True, description="true = the whole interval must be better than translation, too"
    )
    max_degradation: float = Field(
        0.1, ge=0, description="no group's error may grow by a larger share, unless chance explains it"
    )
    breakdowns: list[Annotated[Text, AfterValidator(_is_breakdown)]] = Field(
        ["train_type", "horizon", "time_of_day", "day_type"], description="groups that are judged"
    )
    min_group_journeys: Whole = Field(30, ge=0, description="a group with fewer journeys is shown and not judged")
    min_service_dates: Whole = Field(
        7, gt=0, description="the bootstrap draws whole dates if there are as many, else journeys"
    )
    min_journeys: Whole = Field(30, gt=0, description="with fewer journeys there is no decision")
    max_discarded_share: float = Field(
        0.2, ge=0, le=1, description="with a larger share of discarded observations the files are refused"
    )
    max_unmatched_share: float = Field(
        0.01, ge=0, le=1, description="largest share of rows that only one of the two models predicts"
    )
    ask_for_approval: bool = Field(False, description="true = a person confirms the gate's decision in Airflow")


class ScheduleConfig(Group):
    """Times at which DAG model_evaluation runs by itself, in the environment that TRANSFORMER_ENV of Airflow names."""

    cron: Cron = Field("", description='minute hour day month weekday, in data.timezone; "" = at no fixed time')
    on_new_model: bool = Field(True, description="true = it also runs when a training has registered a model")
    last_dates: Whole = Field(
        7,
        gt=0,
        description="number of last service dates that it evaluates, and that a run by hand without dates evaluates",
    )


class EvaluationConfig(Group):
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    freshness: FreshnessConfig = Field(default_factory=FreshnessConfig)
    drift: DriftConfig = Field(default_factory=DriftConfig)
    max_skill_drop: float = Field(
        0.1,
        gt=0,
        description="a model has degraded if its skill falls this far below that on its test dates",
    )
    alerts_per_hour: float = Field(
        10.0,
        gt=0,
        description="budget of the alerts of severe growth, whose precision is measured; an alert is a train in a "
        "snapshot",
    )
    registry: RegistryConfig = Field(default_factory=RegistryConfig)
    gate: GateConfig = Field(default_factory=GateConfig)


# --- search.yaml -----------------------------------------------------------------------------------------------------
When = Annotated[
    Text,
    Field(description="KEY=VALUE or KEY=[VALUE, …] of a key searched above: only then is this one searched"),
]


class ChoicesConfig(Entry):
    """A searched key that takes one of some values."""

    key: Text = Field(description="dotted key of the configuration")
    choices: list[Annotated[Any, AfterValidator(single_value)]] = Field(description="values to choose from")
    when: When = ""


class RangeConfig(Entry):
    """A searched key that takes a number of a range."""

    key: Text = Field(description="dotted key of the configuration")
    low: Number = Field(description="lowest value, included; its numbers are whole if the key's are")
    high: Number = Field(description="highest value, included")
    step: Number | None = Field(None, description="null = 1 for whole numbers, continuous for others")
    log: bool = Field(False, description="true = every order of magnitude is as likely as the next")
    when: When = ""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0 and takes no step")
        try:
            leads = self.step is None or (self.step > 0 and is_whole((self.high - self.low) / self.step))
        except OverflowError:  # whole numbers that no float holds
            leads = False
        if not leads:
            raise ValueError(f"step={self.step} does not lead from low={self.low} to high={self.high}")
        return self


def _kind_of_parameter(entry: Any) -> str | None:
    """The kind of an entry; None = neither kind or both."""
    given = entry if isinstance(entry, Mapping) else vars(entry) if isinstance(entry, Entry) else {}
    choices, ends = bool(given.get("choices")), {"low", "high"} & given.keys()
    if choices and not ends:
        return "choices"
    return "range" if ends and not choices else None


SearchedParameter = Annotated[
    Annotated[ChoicesConfig, Tag("choices")] | Annotated[RangeConfig, Tag("range")],
    Discriminator(_kind_of_parameter),
]


class SamplerConfig(Group):
    """The algorithm that proposes the values of the next trial."""

    name: Literal["tpe", "random"] = Field("tpe", description="tpe learns from earlier trials")
    seed: Seed = Field(42, description="each trial derives its own seed from it")
    n_startup_trials: Whole = Field(8, ge=0, description="number of random trials before TPE begins to learn")


class PrunerConfig(Group):
    """The algorithm that ends a trial early when its validation MAE falls behind."""

    name: Literal["median", "hyperband", "none"] = Field("median", description="none = every trial trains to its end")
    n_startup_trials: Whole = Field(4, ge=0, description="median: smallest number of complete trials to compare with")
    n_warmup_epochs: Whole = Field(
        3, gt=0, description="median: epochs that every trial may train; hyperband: epochs of its shortest bracket"
    )
    reduction_factor: Whole = Field(3, gt=1, description="hyperband: one trial in so many goes on to the next rung")


def _searched_keys() -> list[SearchedParameter]:
    return [
        RangeConfig(key="training.learning_rate", low=5e-4, high=3e-3, log=True),
        RangeConfig(key="training.weight_decay", low=0.005, high=0.5, log=True),
        ChoicesConfig(key="training.loss.name", choices=["mixed", "rps"]),
        RangeConfig(key="training.loss.ranked_weight", low=0.25, high=2, step=0.25, when="training.loss.name=mixed"),
        ChoicesConfig(key="model.d_model", choices=[32, 64, 128, 192]),
        ChoicesConfig(key="model.n_heads", choices=[4, 8]),
        RangeConfig(key="model.n_layers", low=1, high=4),
        RangeConfig(key="model.dropout", low=0.1, high=0.5, step=0.05),
        ChoicesConfig(key="model.round_predictions", choices=[True, False]),
        ChoicesConfig(key="model.use_inputs.calendar", choices=[True, False]),
        ChoicesConfig(key="model.use_inputs.past_points", choices=[True, False]),
        ChoicesConfig(key="data.snapshot.n_prev", choices=[10, 15]),
    ]


class SearchConfig(Group):
    study_name: StudyName = Field(
        "train-delays", description="name of the study; an existing study of this name is continued"
    )
    n_trials: Whole = Field(
        20, gt=0, description="trials of the study in all, also after interruptions and new triggers"
    )
    n_workers: Whole = Field(1, gt=0, description="trials at a time; more than one needs storage_url")
    storage_url: Text = Field(
        "",
        description='postgresql://user@host/database, its password in PGPASSWORD; "" = SQLite at paths.optuna_db',
    )
    start_with_defaults: bool = Field(True, description="the first trial is the configuration as it is")
    heartbeat_s: Whole = Field(
        30, gt=0, description="a worker that is silent for four times as long counts as dead, and its trial runs again"
    )
    max_retries: Whole = Field(3, ge=0, description="retries of a trial whose worker died")
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    pruner: PrunerConfig = Field(default_factory=PrunerConfig)
    space: list[SearchedParameter] = Field(
        default_factory=_searched_keys, description="the searched keys; a list given here takes the place of this one"
    )

    @model_validator(mode="after")
    def _has_a_database(self) -> Self:
        if self.n_workers > 1 and not self.storage_url:
            raise MisfitError(
                f"search.n_workers={self.n_workers}: SQLite takes one writer; set search.storage_url to a PostgreSQL "
                "database, or search.n_workers=1",
                "search.n_workers",
            )
        if self.storage_url and not is_postgresql(self.storage_url):
            key = "search.storage_url"  # what follows its `?` may hold a password
            raise MisfitError(
                f"{key}={self.storage_url.partition('?')[0]!r} is no database; write postgresql://user@host/database "
                "with the password in PGPASSWORD, or leave it empty",
                key,
            )
        return self


# --- alerts.yaml -----------------------------------------------------------------------------------------------------
class EmailConfig(Group):
    """Mail through Airflow's SMTP connection."""

    to: list[Email] = Field([], description="addresses of the mail; [] = no mail")
    sender: OptionalEmail = Field("", description='address of the sender; "" = that of the connection')
    connection: Text = Field("smtp_default", description="Airflow connection with the server and its password")


class SnsConfig(Group):
    """Amazon SNS, through Airflow's AWS connection."""

    topic_arn: Topic = Field("", description='ARN of the topic; "" = no message')
    connection: Text = Field("aws_default", description="Airflow connection of the account")


class AlertsConfig(Group):
    """Recipients of alerts: a DAG run failed, its data are stale, or a model has degraded."""

    email: EmailConfig = Field(default_factory=EmailConfig)
    sns: SnsConfig = Field(default_factory=SnsConfig)


# --- compute.yaml ----------------------------------------------------------------------------------------------------
class ProfileConfig(Entry):
    """Size of a pod and the nodes it may run on."""

    name: ProfileName = Field(description="name that compute.kubernetes.stages uses")
    cpu: Whole = Field(1, gt=0, description="reserved cores; a stage uses more if the node has spare ones")
    memory: Quantity = Field("4Gi", description="reserved memory, and its limit")
    gpus: Whole = Field(0, ge=0, description="number of NVIDIA GPUs")
    nodes: Whole = Field(1, gt=0, description="number of such pods that train one model together; train-model only")
    shared_memory: Quantity = Field(
        "1Gi", description="size of /dev/shm for data loaders and NCCL; it counts as memory"
    )
    disk: Quantity = Field("10Gi", description="size of /tmp: event tables, cache, checkpoints")
    node_selector: list[NodeLabel] = Field([], description="labels a node must have, key=value")
    tolerations: list[Toleration] = Field([], description="taints it may have, key:Effect or key=value:Effect")


def _pod_sizes() -> list[ProfileConfig]:
    gpu_nodes: dict[str, Any] = {
        "node_selector": ["nvidia.com/gpu.present=true"],
        "tolerations": ["nvidia.com/gpu:NoSchedule"],
    }
    return [
        ProfileConfig(name="cpu-small", cpu=2, memory="8Gi", disk="50Gi"),
        ProfileConfig(name="cpu-large", cpu=8, memory="32Gi", disk="50Gi"),
        ProfileConfig(name="gpu-1", cpu=10, memory="32Gi", gpus=1, shared_memory="8Gi", disk="50Gi", **gpu_nodes),
        # The four train as one: DistributedDataParallel.
        ProfileConfig(name="gpu-4", cpu=40, memory="128Gi", gpus=4, shared_memory="32Gi", disk="100Gi", **gpu_nodes),
    ]


class StageProfilesConfig(Group):
    """Name of the profile that each stage's pod gets."""

    fetch_files: Text = Field("cpu-small", description="profile of stage fetch-files")
    compute_statistics_and_embeddings: Text = Field(
        "cpu-large", description="profile of stage compute-statistics-and-embeddings"
    )
    train_model: Text = Field("gpu-1", description="profile of stage train-model")
    evaluate_model: Text = Field("cpu-large", description="profile of stage evaluate-model")
    register_model: Text = Field("cpu-small", description="profile of stage register-model")
    tune: Text = Field("gpu-1", description="profile of each worker of stage tune")
    report_study: Text = Field("cpu-small", description="profile of stage report-study")


class KubernetesConfig(Group):
    image: Image = Field(
        "train-delay-transformer:latest", description="image of the stages; give a tag that never moves"
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        "Always", description="pull policy of the image; Always, since a tag that moved must not run old code"
    )
    namespace: KubernetesName = Field("train-delays", description="namespace of the pods")
    service_account: KubernetesName = Field(
        "train-delays", description="service account of the pods: their rights on the bucket"
    )
    secret: OptionalKubernetesName = Field(
        "",
        description='a Kubernetes secret whose keys become environment variables (MLFLOW_…, AWS_…); "" = none',
    )
    priority_class: OptionalKubernetesName = Field(
        "train-delays", description='priority class of the pods; "" = the cluster\'s default'
    )
    pod_url: PodUrl = Field(
        "",
        description='page of a pod in a dashboard, with {pod} and {namespace}: a stage\'s link *Pod*; "" = none',
    )
    schedule_timeout_s: Whole = Field(
        1_200, gt=0, description="time within which a node must be found; a new GPU node takes minutes"
    )
    startup_timeout_s: Whole = Field(
        1_200, gt=0, description="time within which the container must then start; a CUDA image has gigabytes"
    )
    quota_timeout_s: Whole = Field(
        86_400, gt=0, description="time that a stage waits while the quota of its namespace is used up"
    )
    profiles: list[ProfileConfig] = Field(
        default_factory=_pod_sizes, description="sizes of pods; a list given here takes the place of this one"
    )
    stages: StageProfilesConfig = Field(default_factory=StageProfilesConfig)

    def profile(self, stage: str) -> ProfileConfig:
        """Profile of the pod of a stage of the command line, for example `train-model`."""
        name = getattr(self.stages, stage.replace("-", "_"))
        return next(profile for profile in self.profiles if profile.name == name)

    @field_validator("profiles")
    @classmethod
    def _named_once(cls, profiles: list[ProfileConfig]) -> list[ProfileConfig]:
        names = [profile.name for profile in profiles]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"profile {twice[0]!r} is given twice; name each profile once")
        return profiles


class ComputeConfig(Group):
    backend: Literal["local", "kubernetes"] = Field(
        "local", description="local = a process next to the Airflow worker; kubernetes = one pod per stage"
    )
    service_wait_s: float = Field(
        120.0,
        ge=0,
        description="s for which a stage waits for S3, MLflow or PostgreSQL that does not answer; then it ends with "
        "exit status 1, and Airflow tries it again",
    )
    kubernetes: KubernetesConfig = Field(default_factory=KubernetesConfig)

    @model_validator(mode="after")
    def _stages_have_profiles(self) -> Self:
        names = [profile.name for profile in self.kubernetes.profiles]
        for stage, name in vars(self.kubernetes.stages).items() if self.backend == "kubernetes" else ():
            key = f"compute.kubernetes.stages.{stage}"
            if name not in names:
                raise MisfitError(f"{key}={name!r} is no profile{nearest(name, names, listed=True)}", key)
            if stage != "train_model" and self.kubernetes.profile(stage).nodes > 1:
                raise MisfitError(
                    f"{key}={name!r} has several nodes, which only train-model can use; choose a profile with nodes=1",
                    key,
                )
        return self


# --- paths.yaml ------------------------------------------------------------------------------------------------------
class PathsConfig(Group):
    cache: Text = Field("data/cache", description="folder of statistics and embeddings, under content hashes")
    runs: Text = Field("data/runs", description="folder of the checkpoints and reports of each run")
    optuna_db: Text = Field(
        "data/optuna/studies.db", description="SQLite file of the studies; unused with search.storage_url"
    )


class Config(Group):
    data: DataConfig = Field(default_factory=DataConfig)
    embeddings: EmbeddingsConfig = Field(default_factory=EmbeddingsConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    search: SearchConfig = Field(default_factory=SearchConfig)
    alerts: AlertsConfig = Field(default_factory=AlertsConfig)
    compute: ComputeConfig = Field(default_factory=ComputeConfig)
    paths: PathsConfig = Field(default_factory=PathsConfig)


GROUPS = tuple(Config.model_fields)


# --- a configuration as plain values ---------------------------------------------------------------------------------
def to_dict(part: Group) -> dict[str, Any]:
    """A plain nested dictionary of a configuration or one of its parts."""
    return part.model_dump()


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a": {"b": 1}}` → `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= {f"{name}.{key}": leaf for key, leaf in flatten(value).items()}
        else:
            leaves[name] = value
    return leaves


@functools.cache
def defaults(part: type[Group]) -> Mapping[str, Any]:
    """The default of every dotted leaf key of a part."""
    return MappingProxyType(flatten(to_dict(part())))
