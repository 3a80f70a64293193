"""The model registry: the registered versions, the champion, and how the champion changes.

A version of the MLflow model `evaluation.registry.model_name` is a trained model. Three aliases name versions:
`challenger` is the newest version until it is promoted, `champion` is the version to predict with, and
`previous_champion` is the version to go back to. Tags of a version record the last decision on the version, its reason,
its time and who decided.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from transformer.config import Config
from transformer.errors import ServiceError, UserError
from transformer.registry.lock import RegistryLock, locked
from transformer.text import redact
from transformer.tracking.client import check_server, connect, mlflow_errors
from transformer.tracking.description import with_notes
from transformer.tracking.logged_models import CONTENT, model_location

log = logging.getLogger(__name__)

CHALLENGER, CHAMPION, PREVIOUS_CHAMPION = "challenger", "champion", "previous_champion"
MODEL_CARD = """\
Predicts for every running train how late it will be at each of its next stops.

- `champion`: the version that predicts
- `challenger`: the newest version, until it is promoted
- `previous_champion`: the version to go back to

    model = mlflow.pyfunc.load_model("models:/NAME@champion")
    model.predict(events, params={"at": "2024-12-21T08:00+01:00"})

The description of a version shows its results. Its tags say why it became champion, or why not."""
_EARLIER_CARD = "Trained by MLflow run "  # begins the description that an earlier release wrote of a version
MODEL_ID = "model_id"  # tag: the logged model
DECISION = (
    "decision"  # tag: `promoted`, `declined`, `replaced` or `rolled back`; tags `decision_…` say why, when and by whom
)
PROMOTED = "promoted"
MODELS = (
    "model"  # artifact folder of a run, where earlier releases kept a folder for each model registered from the run
)
TRAINED = "artifacts/trained"  # folder inside a packed model; it has the files of the trained model


class ChampionChangedError(ServiceError):
    """The champion changed after a model was compared with it. A new comparison may still promote the model."""


@dataclass(frozen=True)
class Registered:
    """A version of the registered model."""

    version: int
    run_id: str  # MLflow run of its training; "" = it names none
    tags: Mapping[str, str]

    @property
    def foreign(self) -> str:
        """Why this program cannot use the version, in one line; "" = this program registered it.

        MLflow's own button and its client register any model, and set any alias.
        """
        if self.run_id and self.tags.get(CONTENT):
            return ""
        missing = f"it has no tag {CONTENT!r}" if self.run_id else "it names no run"
        return (
            f"version {self.version} was not registered by this program: {missing}; register its training with "
            "`register-model --run-id RUN`, and promote that version with `promote --version N`"
        )

    @property
    def model_id(self) -> str:
        """The logged model with the files of this version; "" = an earlier release registered it, from its run."""
        return self.tags.get(MODEL_ID, "")

    @property
    def folder(self) -> str:
        """Folder with the files of this version in the layout of a run folder: in the logged model, or else in the run.

        The other files of the run are newer if its training was resumed after the registration.

        Raises:
            UserError: this program did not register the version.
        """
        if self.foreign:
            raise UserError(self.foreign)
        return TRAINED if self.model_id else f"{MODELS}/{self.tags[CONTENT]}/{TRAINED}"


def challenger(config: Config) -> Registered | None:
    """The newest version, until it is promoted."""
    return _named(config, CHALLENGER)


def champion(config: Config) -> Registered | None:
    """The version to predict with."""
    return _named(config, CHAMPION)


def version_of(config: Config, run_id: str, content: str) -> Registered | None:
    """The version of a run's trained model; None = it is not registered.

    Args:
        content: hash of the trained model's files, see `package.content_of`.
    """
    with ModelVersions.open(config) as models:
        return models.of_content(run_id, content)


def promote(config: Config, version: int | str, *, why: str, by: str, instead_of: int | None = None) -> Registered:
    """Make a version champion. The old champion becomes `previous_champion`.

    Args:
        version: number or alias of the version.
        why: the reason for tags and messages, one line.
        by: the person or process that decided, for example a name or an Airflow run.
        instead_of: the champion's version that the version was compared with, 0 = there was none. The version is
            promoted only if `instead_of` is still champion. None = promote the version in any case.

    Returns:
        The champion. A version that is already champion stays unchanged.

    Raises:
        UserError: there is no such version, or this program did not register it.
        ChampionChangedError: the champion is not `instead_of`.
        ServiceError: the server stopped answering, or this process lost the lock on the registry.
    """
    with ModelVersions.open(config) as models, models.locked(f"promoting {version}") as lock:
        aliases = models.aliases()
        chosen = models.usable(aliases.get(str(version), version))
        current = aliases.get(CHAMPION, 0)
        if current == chosen.version and chosen.tags.get(DECISION) == PROMOTED:
            return chosen
        if instead_of not in (None, current) and current != chosen.version:
            raise ChampionChangedError(
                f"the champion is now {_called(current)}, but version {chosen.version} was compared with "
                f"{_called(instead_of)}; compare them again"
            )
        lock.confirm()
        if current not in (0, chosen.version):
            models.name(PREVIOUS_CHAMPION, current)
        models.name(CHAMPION, chosen.version)
        lock.confirm()
        if current not in (0, chosen.version):
            models.decide(current, "replaced", f"by version {chosen.version}: {why}", by)
        if aliases.get(CHALLENGER) == chosen.version:
            models.unname(CHALLENGER)
        models.decide(chosen.version, PROMOTED, why, by)  # last: without this tag, a retry repeats every step
        log.info("champion of %s: %s → version %d", models.model_name, _called(current), chosen.version)
        return models.version(chosen.version)


def decline(config: Config, version: int | str, *, why: str, by: str) -> Registered:
    """Record that a version does not become champion. It keeps its alias, and `promote` can overrule the decision.

    Raises:
        UserError: there is no such version.
        ServiceError: the server stopped answering, or this process lost the lock on the registry.
    """
    with ModelVersions.open(config) as models, models.locked(f"declining {version}"):
        aliases = models.aliases()
        chosen = models.version(aliases.get(str(version), version))
        if aliases.get(CHAMPION) != chosen.version:
            models.decide(chosen.version, "declined", why, by)
        return models.version(chosen.version)


def rollback(config: Config, *, why: str, by: str) -> Registered:
    """Swap champion and previous champion.

    Returns:
        The new champion, which was the previous champion.

    Raises:
        UserError: there is no previous champion, or this program did not register it.
        ServiceError: the server stopped answering, or this process lost the lock on the registry.
    """
    with ModelVersions.open(config) as models, models.locked("rolling back") as lock:
        aliases = models.aliases()
        current, previous = aliases.get(CHAMPION, 0), aliases.get(PREVIOUS_CHAMPION, 0)
        if previous in (0, current):
            raise UserError(
                f"model {models.model_name} has no previous champion to go back to; "
                "name a version with `promote --version N`"
            )
        models.usable(previous)
        lock.confirm()
        models.name(CHAMPION, previous)  # first, because this alias chooses the model that predicts
        if current:
            models.name(PREVIOUS_CHAMPION, current)
        lock.confirm()
        if current:
            models.decide(current, "rolled back", f"to version {previous}: {why}", by)
        models.decide(previous, PROMOTED, f"rolled back from {_called(current)}: {why}", by)
        log.info("champion of %s: %s → version %d, rolled back", models.model_name, _called(current), previous)
        return models.version(previous)


def _named(config: Config, alias: str) -> Registered | None:
    with ModelVersions.open(config) as models:
        version = models.aliases().get(alias)
        return None if version is None else models.version(version)


def _called(version: int | None) -> str:
    return f"version {version}" if version else "none"


@dataclass(frozen=True)
class ModelVersions:
    """The versions of the registered model on the server."""

    config: Config
    client: MlflowClient

    @classmethod
    @contextmanager
    def open(cls, config: Config) -> Iterator[ModelVersions]:
        if not config.training.mlflow.use_mlflow:
            raise UserError("training.mlflow.use_mlflow=false has no model registry; set it to true")
        check_server(config)
        with mlflow_errors(config):
            yield cls(config, connect(config))

    @property
    def model_name(self) -> str:
        return self.config.evaluation.registry.model_name

    @contextmanager
    def locked(self, purpose: str) -> Iterator[RegistryLock]:
        with locked(self.client, self.model_name, purpose, self.config.evaluation.registry.turn_expires_s) as lock:
            yield lock

    def aliases(self) -> dict[str, int]:
        try:
            found = self.client.get_registered_model(self.model_name).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {alias: int(version) for alias, version in found.items()}

    def version(self, version: int | str) -> Registered:
        try:
            return _registered(self.client.get_model_version(self.model_name, str(int(version))))
        except (ValueError, MlflowException) as error:
            if isinstance(error, MlflowException) and error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(
                f"model {self.model_name} has no version {version!r}; copy the number from its page in MLflow"
            ) from None

    def usable(self, version: int | str) -> Registered:
        """A version that this program registered.

        Raises:
            UserError: there is no such version, or another program registered it.
        """
        found = self.version(version)
        if found.foreign:
            raise UserError(f"model {self.model_name}: {found.foreign}")
        return found

    def of_content(self, run_id: str, content: str) -> Registered | None:
        found = self.client.search_model_versions(f"name = '{self.model_name}' and run_id = '{run_id}'")
        return next((_registered(entry) for entry in found if entry.tags.get(CONTENT) == content), None)

    def newest(self) -> int:
        """The highest version number. It stays the highest only while this process holds the lock."""
        found = self.client.search_model_versions(
            f"name = '{self.model_name}'", max_results=1, order_by=["version_number DESC"]
        )
        return int(found[0].version)

    def create(self, run_id: str, content: str, model_id: str, description: str = "") -> Registered:
        card = with_notes(MODEL_CARD.replace("NAME", self.model_name), "")
        try:
            self.client.create_registered_model(self.model_name, description=card)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if not self.client.get_registered_model(self.model_name).description:  # an earlier release made it
                self.client.update_registered_model(self.model_name, card)
        source = model_location(self.config, model_id)
        created = self.client.create_model_version(
            self.model_name,
            source,
            run_id,
            tags={CONTENT: content, MODEL_ID: model_id},
            description=with_notes(description, ""),
            model_id=model_id,  # the server only tags the logged model with it
        )
        return _registered(created)

    def describe(self, version: str, text: str) -> None:
        """Write the description of a version anew. A person's notes in it are kept. A deleted version has none."""
        try:
            written = self.client.get_model_version(self.model_name, version).description or ""
            self.client.update_model_version(self.model_name, version, with_notes(text, written, _EARLIER_CARD))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def decide(self, version: int, decision: str, why: str, by: str) -> None:
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        values = {DECISION: decision, "decision_reason": why, "decision_by": by, "decision_at": now}
        for name, value in values.items():
            self.client.set_model_version_tag(self.model_name, str(version), name, redact(value))

    def name(self, alias: str, version: int) -> None:
        self.client.set_registered_model_alias(self.model_name, alias, str(version))

    def unname(self, alias: str) -> None:
        self.client.delete_registered_model_alias(self.model_name, alias)


def _registered(found: ModelVersion) -> Registered:
    return Registered(int(found.version), str(found.run_id or ""), dict(found.tags))
