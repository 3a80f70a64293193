"""The operator that runs a stage, on the Airflow worker or in a pod, with the same arguments."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import deque
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager, PodPhase
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from delay_pipeline import REPOSITORY
from delay_pipeline.credentials import stage_environment
from delay_pipeline.failures import last_word, one_line_failures, pod_failure, stage_failure, status_message
from delay_pipeline.links import MlflowRunLink, PodLink, ReportLink
from delay_pipeline.multi_node import MultiNodeJob, MultiNodeTrigger
from delay_pipeline.pods import TAKEN_AWAY, PauseTrigger, StagePodManager, StagePodTrigger, exceeded_quota
from delay_pipeline.process import ProcessGroup
from transformer import protocol
from transformer.config import Config, load_config
from transformer.errors import UserError
from transformer.text import redact

MODULE = ["-m", "transformer"]
GPU_RESOURCE = "nvidia.com/gpu"
QUOTA_PAUSES_S = (30, 600)  # shortest and longest pause between two tries to start a pod that a quota refuses


class StageOperator(KubernetesPodOperator):
    """Run `python -m transformer <stage>`, on the worker or in a pod, as `compute.backend` of the configuration says.

    A profile with several nodes makes it a Job of several pods; the first one stands for all. The triggerer watches a
    pod and copies its log. The task is deferred meanwhile, and takes no worker slot.

    Args:
        stage: stage name of the command line, for example `train-model`.
        mlflow_run: result of `open_run` (an XCom reference in a DAG). If it has `arguments`, they are appended to the
            command line.
        worker: number of this task, from 0, if several tasks run the stage at once.

    Raises:
        AirflowFailException: the stage refused its input; not retried.
        AirflowException: any other failure; retried.
    """

    template_fields = (*KubernetesPodOperator.template_fields, "mlflow_run")
    operator_extra_links = (MlflowRunLink(), PodLink())
    ui_color: ClassVar[str] = "#dbe9f6"

    # During a training of days, the API server may be unavailable more often than the default of three times.
    MAX_REDEFER_ATTEMPTS = 100

    def __init__(self, *, stage: str, mlflow_run: Any, worker: int | None = None, **kwargs: Any) -> None:
        super().__init__(
            name=stage,
            deferrable=True,  # no worker slot waits while a pod runs
            logging_interval=10,  # s between two readings of the log; unset, the log appears only after the pod's end
            do_xcom_push=False,  # no XCom sidecar: results go to MLflow
            log_pod_spec_on_failure=False,  # failures are one line
            log_events_on_failure=True,  # events say why no node had room for the pod, or why a node evicted it
            # Delete the pod even if it is still running or pending: it must not train at the same time as the retry.
            on_finish_action="delete_pod",
            on_kill_action="delete_pod",
            termination_grace_period=120,  # s; after SIGTERM train-model saves a checkpoint and uploads it
            termination_message_policy="FallbackToLogsOnError",  # the status of the pod holds the end of the log
            automount_service_account_token=False,  # a stage never talks to Kubernetes
            security_context=k8s.V1PodSecurityContext(
                run_as_non_root=True,
                seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
            ),
            container_security_context=k8s.V1SecurityContext(
                allow_privilege_escalation=False,
                capabilities=k8s.V1Capabilities(drop=["ALL"]),
                read_only_root_filesystem=True,  # a stage writes below /tmp only
            ),
            volume_mounts=[
                k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),
                # Data loaders pass batches through it, and the default of a container is 64 MiB.
                k8s.V1VolumeMount(name="shared-memory", mount_path="/dev/shm"),
            ],
            **kwargs,
        )
        self.stage = stage
        self.mlflow_run = mlflow_run
        self.worker = worker
        self.pod_url = self.pod_page = ""
        self._group: ProcessGroup | None = None
        self._job: MultiNodeJob | None = None
        self._nodes = 1

    def execute(self, context: Context) -> None:
        # Airflow stores links when a task ends. This push shows the link while the task runs.
        context["ti"].xcom_push(key=MlflowRunLink().xcom_key, value=self.mlflow_run["run_url"])
        with one_line_failures(context["ti"]):
            config = self._config()
            if config.compute.backend == "kubernetes":
                self._configure_pod(config)
                self.pod = self.pod_request_obj = self._job = (
                    None  # in `airflow dags test`, a retry reuses this operator object
                )
                self._start_pod(config, context, waits_since=time.time())
            else:
                self._run_here(config, context)

    def start_pod_again(self, context: Context, event: float) -> None:
        """Start the pod that the quota of the namespace refused. This runs in a new process, on a new operator."""
        with one_line_failures(context["ti"]):
            config = self._config()
            self._configure_pod(config)
            self._start_pod(config, context, waits_since=event)

    def _start_pod(self, config: Config, context: Context, waits_since: float) -> None:
        """Create the pod and defer until it ends, or defer until the quota of the namespace has room for it."""
        try:
            super().execute(context)
        except ApiException as error:
            waited_s = time.time() - waits_since
            if not exceeded_quota(error) or waited_s >= config.compute.kubernetes.quota_timeout_s:
                raise
            pause_s = min(max(waited_s, QUOTA_PAUSES_S[0]), QUOTA_PAUSES_S[1])
            self.log.info("waiting for room in the namespace, next try in %.0f s: %s", pause_s, status_message(error))
            self.defer(trigger=PauseTrigger(pause_s, waits_since), method_name=self.start_pod_again.__name__)

    @cached_property
    def pod_manager(self) -> PodManager:
        return StagePodManager(kube_client=self.client, callbacks=self.callbacks)

    def invoke_defer_method(self, *arguments: Any, **options: Any) -> None:
        # Without a connection, the provider's hook opens the cluster that it runs in, and its trigger opens none.
        self.in_cluster = self.hook.is_in_cluster or None
        super().invoke_defer_method(*arguments, **options)

    def defer(self, *, trigger: BaseTrigger, **options: Any) -> None:
        if isinstance(trigger, KubernetesPodTrigger):
            watching = MultiNodeTrigger if self._job else StagePodTrigger
            trigger = watching(**trigger.serialize()[1])
        super().defer(trigger=trigger, **options)

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Context) -> k8s.V1Pod:
        if self._nodes > 1:
            self._job = MultiNodeJob.start(self.hook, pod_request_obj, self._nodes)
            self.trigger_kwargs = self._job.event
            pod = self._job.pod(0)
        else:
            pod = super().get_or_create_pod(pod_request_obj, context)
        self._note_pod_page(pod.metadata.name, pod.metadata.namespace)
        if self.pod_page:  # pushed here so that the link shows while the pod runs
            context["ti"].xcom_push(key=PodLink().xcom_key, value=self.pod_page)
        return pod

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> None:
        """Continue when the trigger has seen the pod end or time out. This runs in a new process, on a new operator."""
        with one_line_failures(context["ti"]):
            config = self._config()
            self._configure_pod(config)
            self._note_pod_page(event["name"], event["namespace"])
            self._job = MultiNodeJob.of_event(self.hook, event, self._nodes)
            self.trigger_kwargs = self._job.event if self._job else None
            with self._job.deleted_in_the_end() if self._job else nullcontext():
                try:
                    super().trigger_reentry(context, event)
                except AirflowException:
                    if self.pod and self.pod.status.phase == PodPhase.SUCCEEDED:
                        self.log.warning("the pod could not be watched to its end, but it succeeded")
                        return
                    raise self._failure(config, event.get(TAKEN_AWAY, "")) from None

    def process_pod_deletion(self, pod: k8s.V1Pod, *, reraise: bool = True) -> bool:
        if self._job:  # it goes with all of its pods, after their state has been read
            return False
        return bool(super().process_pod_deletion(pod, reraise=reraise))

    def on_kill(self) -> None:
        if self._group:
            self._group.stop()
        elif self._job:
            self._job.delete()
        else:
            super().on_kill()

    def stage_arguments(self) -> list[str]:
        """Return the arguments after `python -m transformer`. They are the same for every backend."""
        run = self.mlflow_run
        arguments = [self.stage, protocol.ENV, run["env"]]
        for override in run["overrides"]:
            arguments += [protocol.SET, override]
        if run["run_id"]:
            arguments += [protocol.RUN_ID, run["run_id"]]
        if self.worker is not None:
            arguments += [protocol.WORKER, str(self.worker)]
        return arguments + self._warm_start_arguments() + list(run.get("arguments", ()))

    def _warm_start_arguments(self) -> list[str]:
        run = self.mlflow_run
        if not run["warm_start_run_id"]:
            return []
        warm_start = [protocol.WARM_START_RUN_ID, run["warm_start_run_id"]]
        if self.stage == protocol.TRAIN_MODEL:
            return [*warm_start, protocol.RESUME] if run["resume_run"] else warm_start
        if self.stage == protocol.TUNE and not run["resume_run"]:  # the run of a study holds no weights to begin with
            return warm_start
        return []

    def _config(self) -> Config:
        return load_config(self.mlflow_run["env"], self.mlflow_run["overrides"])

    def _configure_pod(self, config: Config) -> None:
        """Set every field of the pod that the configuration decides. It is known only when the task runs."""
        for override in self.mlflow_run["overrides"]:
            if redact(override) != override:
                raise UserError(
                    f"overrides: {redact(override)} holds a password, which the manifest of the pod would show; "
                    "put the password into the secret that compute.kubernetes.secret names"
                )
        kubernetes = config.compute.kubernetes
        profile = kubernetes.profile(self.stage)
        self._nodes = profile.nodes
        self.image = kubernetes.image
        self.image_pull_policy = kubernetes.image_pull_policy
        self.namespace = kubernetes.namespace
        self.pod_url = kubernetes.pod_url
        self.service_account_name = kubernetes.service_account
        self.priority_class_name = kubernetes.priority_class or None
        self.schedule_timeout_seconds = kubernetes.schedule_timeout_s
        self.startup_timeout_seconds = kubernetes.startup_timeout_s
        if self.execution_timeout:  # Kubernetes then ends the pod even if Airflow is down
            self.active_deadline_seconds = int(self.execution_timeout.total_seconds())
        # Arguments, not a command, so that the image keeps its entry point: as process 1, Python would ignore SIGTERM.
        self.arguments = ["python", *MODULE, *self.stage_arguments()]
        self.labels = {
            "app.kubernetes.io/name": "train-delays",
            "stage": self.stage,
            "mlflow_run_id": make_safe_label_value(self.mlflow_run["run_id"]),
        }
        # By default the libraries start a thread per core of the node, not per core of the pod.
        threads = str(max(profile.cpu // max(profile.gpus, 1), 1))
        self.env_vars = [
            k8s.V1EnvVar(name=protocol.IMAGE_VARIABLE, value=kubernetes.image),
            k8s.V1EnvVar(name="OMP_NUM_THREADS", value=threads),
            k8s.V1EnvVar(name="POLARS_MAX_THREADS", value=threads),
        ]
        if kubernetes.secret:  # by name: no value passes through Airflow
            secret = k8s.V1SecretEnvSource(name=kubernetes.secret)
            self.env_from = [k8s.V1EnvFromSource(secret_ref=secret)]
        gpus = {GPU_RESOURCE: str(profile.gpus)} if profile.gpus else {}
        self.container_resources = k8s.V1ResourceRequirements(
            requests={"cpu": str(profile.cpu), "memory": profile.memory, "ephemeral-storage": profile.disk, **gpus},
            # CPU has no limit, so that the pod may use idle cores. Memory is limited to the request, so that the node
            # never runs short.
            limits={"memory": profile.memory, **gpus},
        )
        self.volumes = [
            k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=profile.disk)),
            k8s.V1Volume(
                name="shared-memory",
                empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=profile.shared_memory),
            ),
        ]
        self.node_selector = dict(label.split("=", 1) for label in profile.node_selector)
        self.tolerations = [_toleration(taint) for taint in profile.tolerations]

    def _note_pod_page(self, pod: str, namespace: str) -> None:
        self.pod_page = self.pod_url.replace("{pod}", pod).replace("{namespace}", namespace)

    def _failure(self, config: Config, reason: str) -> AirflowException:
        def of_pod(pod: k8s.V1Pod | None, reason: str) -> AirflowException:
            return self._pod_failure(config, pod, reason)

        if self._job:
            return self._job.failure(self.base_container_name, reason, of_pod)
        return of_pod(self.pod, reason)

    def _pod_failure(self, config: Config, pod: k8s.V1Pod | None, reason: str) -> AirflowException:
        profile = config.compute.kubernetes.profile(self.stage)
        size = f"{profile.cpu} cores, {profile.memory}" + (f", {profile.gpus} GPUs" if profile.gpus else "")
        remedy = (
            f"its profile {profile.name} has {size}: "
            f"choose another with compute.kubernetes.stages.{self.stage.replace('-', '_')}"
        )
        return pod_failure(self.stage, pod, self.base_container_name, remedy, reason)

    def _run_here(self, config: Config, context: Context) -> None:
        with tempfile.TemporaryDirectory(prefix=f"{self.stage}-") as folder:
            result_file = Path(folder) / "result.json"
            argv = [sys.executable, *MODULE, *self.stage_arguments(), protocol.RESULT, str(result_file)]
            self._group = ProcessGroup(argv, REPOSITORY, stage_environment(self.stage, config))
            said: deque[str] = deque(maxlen=80)  # as many lines as the status of a pod keeps
            try:
                for line in self._group.lines():
                    self.log.info(line)
                    said.append(line)
                status = self._group.wait()
            except BaseException:  # a timeout or an interrupt must not leave the stage running
                self._group.stop()
                raise
            if self._group.stopped:
                raise AirflowException(f"{self.stage} was stopped before it ended")
            if status:
                raise stage_failure(self.stage, status, last_word(said))
            context["ti"].xcom_push(key=protocol.RESULT_XCOM, value=self._read_result(result_file))

    def _read_result(self, path: Path) -> dict[str, Any]:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            result = None
        if not isinstance(result, dict):
            raise AirflowException(f"{self.stage} exited with 0 but wrote no JSON object to {protocol.RESULT}")
        return result


class EvaluateModelOperator(StageOperator):
    """The stage `evaluate-model`, with a link to its report.

    Links are set on the class because Airflow ignores those of a mapped operator's instances.
    """

    operator_extra_links = (MlflowRunLink(), PodLink(), ReportLink())

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(stage=protocol.EVALUATE_MODEL, **kwargs)


def _toleration(taint: str) -> k8s.V1Toleration:
    """Return the toleration of a taint `key:NoSchedule` or `key=value:NoSchedule`, as `kubectl taint` writes it."""
    label, _, effect = taint.rpartition(":")
    key, equals, value = label.partition("=")
    if not equals:
        return k8s.V1Toleration(key=key, operator="Exists", effect=effect)
    return k8s.V1Toleration(key=key, operator="Equal", value=value, effect=effect)
