"""The model registry: which trained models there are, which is the champion, and how that changes.

A trained model is a version of the MLflow model `evaluation.registry.model_name`. Three aliases name what matters:
`challenger` the newest version until it is promoted, `champion` the one to predict with, `previous_champion` the one
to go back to. Tags of a version say what was decided on it last, why, when and by whom.
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
from transformer.tracking.client import check_server, mlflow_errors

log = logging.getLogger(__name__)

CHALLENGER, CHAMPION, PREVIOUS_CHAMPION = "challenger", "champion", "previous_champion"
CONTENT = "content"  # tag: hash of the trained model's files
DECISION = (
    "decision"  # tag: `promoted`, `declined`, `replaced` or `rolled back`; `decision_…` say why, when and by whom
)
PROMOTED = "promoted"
MODELS = "model"  # artifact folder of a run, with a folder for each model registered from it
TRAINED = "artifacts/trained"  # folder of a registered model with the trained model's own files


class ChampionChangedError(ServiceError):
    """Another model became champion after this one was compared; a new comparison may still promote it."""


@dataclass(frozen=True)
class Registered:
    """A version of the registered model."""

    version: int
    run_id: str  # the training it came from
    tags: Mapping[str, str]

    @property
    def folder(self) -> str:
        """Artifact folder of the run with this model's own files, in the layout of a run folder.

        The run's own files may be newer, when its training was resumed after this version was registered.
        """
        return f"{MODELS}/{self.tags[CONTENT]}/{TRAINED}"


def challenger(config: Config) -> Registered | None:
    """The newest version, until it is promoted."""
    return _named(config, CHALLENGER)


def champion(config: Config) -> Registered | None:
    """The version to predict with."""
    return _named(config, CHAMPION)


def version_of(config: Config, run_id: str, content: str) -> Registered | None:
    """The version that a run's trained model became; see `served.content_of`."""
    with ModelVersions.open(config) as models:
        return models.of_content(run_id, content)


def promote(config: Config, version: int | str, *, why: str, by: str, instead_of: int | None = None) -> Registered:
    """Make a version champion; the champion so far becomes `previous_champion`.

    Args:
        version: number or alias of the version.
        why: the reason in tags and messages, one line.
        by: who decided, for example a person's name or an Airflow run.
        instead_of: the version it was compared with, 0 = there was none; only if that is champion still is this one
            promoted. None = promote it whatever the champion is.

    Returns:
        The champion. One that is champion already stays as it is.

    Raises:
        UserError: no such version.
        ChampionChangedError: the champion is another than `instead_of`.
        ServiceError: the server stopped answering, or the lock on the registry was lost.
    """
    with ModelVersions.open(config) as models, models.locked(f"promoting {version}") as lock:
        aliases = models.aliases()
        chosen = models.version(aliases.get(str(version), version))
        current = aliases.get(CHAMPION, 0)
        if current == chosen.version and chosen.tags.get(DECISION) == PROMOTED:
            return chosen
        if instead_of not in (None, current) and current != chosen.version:
            raise ChampionChangedError(
                f"the champion changed meanwhile: {_called(current)} instead of {_called(instead_of)}, with which "
                f"version {chosen.version} was compared; compare them again"
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
        models.decide(chosen.version, PROMOTED, why, by)  # last: without it a retry does all of this again
        log.info("champion of %s: %s → version %d", models.model_name, _called(current), chosen.version)
        return models.version(chosen.version)


def decline(config: Config, version: int | str, *, why: str, by: str) -> Registered:
    """Say of a version that it does not become champion; it keeps its alias, and `promote` can still overrule this.

    Raises:
        UserError: no such version.
        ServiceError: the server stopped answering, or the lock on the registry was lost.
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
        The champion, that is, the previous one.

    Raises:
        UserError: there is no previous champion.
        ServiceError: the server stopped answering, or the lock on the registry was lost.
    """
    with ModelVersions.open(config) as models, models.locked("rolling back") as lock:
        aliases = models.aliases()
        current, previous = aliases.get(CHAMPION, 0), aliases.get(PREVIOUS_CHAMPION, 0)
        if previous in (0, current):
            raise UserError(
                f"model {models.model_name} has no previous champion to go back to; "
                "name a version with `promote --version N`"
            )
        lock.confirm()
        models.name(CHAMPION, previous)  # first: it is what matters
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
    """The registered model on the server."""

    config: Config
    client: MlflowClient

    @classmethod
    @contextmanager
    def open(cls, config: Config) -> Iterator[ModelVersions]:
        if not config.training.mlflow.use_mlflow:
            raise UserError("training.mlflow.use_mlflow=false knows no registered models; switch it on")
        check_server(config)
        with mlflow_errors(config):
            yield cls(config, MlflowClient(config.training.mlflow.tracking_uri))

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

    def of_content(self, run_id: str, content: str) -> Registered | None:
        found = self.client.search_model_versions(f"name = '{self.model_name}' and run_id = '{run_id}'")
        return next((_registered(entry) for entry in found if entry.tags.get(CONTENT) == content), None)

    def newest(self) -> int:
        """The highest number there is; it stays the highest only while this process holds the lock."""
        found = self.client.search_model_versions(
            f"name = '{self.model_name}'", max_results=1, order_by=["version_number DESC"]
        )
        return int(found[0].version)

    def create(self, run_id: str, content: str) -> Registered:
        try:
            self.client.create_registered_model(self.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self.client.get_run(run_id).info.artifact_uri}/{MODELS}/{content}"
        created = self.client.create_model_version(self.model_name, source, run_id, tags={CONTENT: content})
        return _registered(created)

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
    return Registered(int(found.version), str(found.run_id), dict(found.tags))
