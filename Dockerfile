# The images of a cluster, a target each:
#
#   trainer   runs every stage, in a pod each: torch and the data stack, no Airflow
#   airflow   scheduler, API server, DAG processor, triggerer and workers: no torch
#   mlflow    the tracking server
#
#   make image            builds all three; by hand: docker build --target trainer --tag train-delay-transformer .
#
# Pinned by version. To pin by content as well, append the digest that this prints to the tag, as `tag@sha256:…`:
#   docker buildx imagetools inspect python:3.11.14-slim-bookworm --format '{{.Manifest.Digest}}'
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm


# --- packages: one virtual environment a target. Nothing of these stages but the environment reaches an image. -------
FROM ${PYTHON_IMAGE} AS builder
# Wheels only: what has none would need a compiler, and fails here instead.
ENV PIP_ONLY_BINARY=:all: \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# The images need no pip: the builder's own installs into the environment.
RUN python -m venv --without-pip /opt/venv
COPY requirements.txt ./
COPY deploy/requirements/cluster.txt deploy/requirements/

FROM builder AS trainer-packages
# On linux/amd64 the torch wheel of PyPI brings CUDA. To build for CPU, pass the index of torch's CPU wheels as
# --build-arg PIP_EXTRA_INDEX_URL=…: pip prefers its `+cpu` build of the same version.
ARG PIP_EXTRA_INDEX_URL=""
COPY deploy/requirements/trainer.in deploy/requirements/
RUN pip --python /opt/venv install --requirement deploy/requirements/trainer.in

FROM builder AS airflow-packages
COPY deploy/requirements/airflow.in deploy/requirements/
RUN pip --python /opt/venv install --requirement deploy/requirements/airflow.in

FROM builder AS mlflow-packages
COPY deploy/requirements/mlflow.in deploy/requirements/
RUN pip --python /opt/venv install --requirement deploy/requirements/mlflow.in


# --- images ----------------------------------------------------------------------------------------------------------
# No HEALTHCHECK: Kubernetes ignores it and has probes of its own, and a stage is healthy as long as it runs.
FROM ${PYTHON_IMAGE} AS runtime
# The kernel drops a SIGTERM that process 1 has no handler for, so a python that is process 1 outlives its grace period
# and is killed with its work. tini is process 1 instead: it hands the signal on and reaps orphaned data loaders. It
# signals its child only (no -g): training must save a checkpoint while its loaders still live.
# Without a version: Debian removes the old one from its mirrors with every fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
# MLflow reports its use to its makers otherwise, the server's pages too.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true
ENTRYPOINT ["tini", "--"]


FROM runtime AS airflow
# GitDagBundle calls git.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/*
# User, group and home are those the official Helm chart expects.
ENV AIRFLOW_HOME=/opt/airflow
WORKDIR /opt/airflow
RUN useradd --uid 50000 --gid 0 --create-home --home-dir /home/airflow airflow \
    && install --directory --owner 50000 --group 0 --mode 0775 /opt/airflow /opt/airflow/logs
COPY --from=airflow-packages /opt/venv /opt/venv
COPY --chmod=0755 deploy/entrypoint.sh /entrypoint
COPY include/ include/
COPY transformer/ transformer/
COPY plugins/ plugins/
COPY dags/ dags/
USER 50000:0
CMD ["airflow", "version"]
ARG IMAGE=none
ARG GIT_COMMIT=unknown
ARG VERSION=0
ENV TRANSFORMER_IMAGE=${IMAGE} \
    TRANSFORMER_GIT_COMMIT=${GIT_COMMIT}
LABEL org.opencontainers.image.title="Train delay transformer: Airflow" \
      org.opencontainers.image.description="Airflow with the training pipeline of the train delay transformer" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=${GIT_COMMIT} \
      org.opencontainers.image.version=${VERSION}


FROM runtime AS mlflow
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /tmp mlflow
COPY --from=mlflow-packages /opt/venv /opt/venv
WORKDIR /tmp
USER 10001:0
EXPOSE 5000
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000"]
ARG GIT_COMMIT=unknown
ARG VERSION=0
LABEL org.opencontainers.image.title="Train delay transformer: MLflow" \
      org.opencontainers.image.description="MLflow tracking server with PostgreSQL and S3" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=${GIT_COMMIT} \
      org.opencontainers.image.version=${VERSION}


FROM runtime AS trainer
# Everything a stage writes goes below /tmp, the libraries' caches too: one writable volume is enough.
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /tmp trainer
ENV HOME=/tmp
COPY --from=trainer-packages /opt/venv /opt/venv
WORKDIR /app
COPY include/ include/
COPY transformer/ transformer/
USER 10001:0
CMD ["python", "-m", "transformer", "--help"]
ARG IMAGE=none
ARG GIT_COMMIT=unknown
ARG VERSION=0
ENV TRANSFORMER_IMAGE=${IMAGE} \
    TRANSFORMER_GIT_COMMIT=${GIT_COMMIT}
LABEL org.opencontainers.image.title="Train delay transformer: trainer" \
      org.opencontainers.image.description="Stages of the train delay transformer: python -m transformer <stage>" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision=${GIT_COMMIT} \
      org.opencontainers.image.version=${VERSION}
