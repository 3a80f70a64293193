# The images for a cluster. Each is a target:
#
#   trainer   runs the stages, each in a pod: torch and the data stack, no Airflow
#   airflow   scheduler, API server, DAG processor, triggerer and workers: no torch
#   mlflow    the tracking server
#
#   make image            builds all three; by hand: docker build --target trainer --tag train-delay-transformer .
#
# The base image is pinned by version. To pin it by content, append the digest that this command prints to the tag, as
# `tag@sha256:…`:
#   docker buildx imagetools inspect python:3.11.14-slim-bookworm --format '{{.Manifest.Digest}}'
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm


# --- packages: one virtual environment per target. An image gets the environment only. -------------------------------
FROM ${PYTHON_IMAGE} AS builder
# Wheels only. A package without a wheel would need a compiler, and fails here.
# A company's base image holds the certificates of its proxy.
ENV UV_NO_BUILD=1 \
    UV_SYSTEM_CERTS=1 \
    UV_NO_CACHE=1 \
    UV_COMPILE_BYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# The images need neither pip nor uv. The uv of the builder installs into the environment, some times as fast as pip.
# It has an environment of its own, since Debian's Python lets pip install into no other.
RUN python -m venv /opt/installer \
    && /opt/installer/bin/pip install uv==0.13.9 \
    && python -m venv --without-pip /opt/venv
ENV PATH=/opt/installer/bin:$PATH
COPY requirements.txt ./
COPY deploy/requirements/cluster.txt deploy/requirements/

FROM builder AS trainer-packages
# On linux/amd64 the torch wheel of PyPI contains CUDA. To build for CPU, pass the index of torch's CPU wheels as
# --build-arg UV_INDEX=…, since the best match among all indexes is the `+cpu` build of the same version.
ARG UV_INDEX=""
ENV UV_INDEX_STRATEGY=unsafe-best-match
COPY deploy/requirements/trainer.in deploy/requirements/
RUN uv pip install --python /opt/venv/bin/python --requirement deploy/requirements/trainer.in

FROM builder AS airflow-packages
COPY deploy/requirements/airflow.in deploy/requirements/
RUN uv pip install --python /opt/venv/bin/python --requirement deploy/requirements/airflow.in

FROM builder AS mlflow-packages
COPY deploy/requirements/mlflow.in deploy/requirements/
RUN uv pip install --python /opt/venv/bin/python --requirement deploy/requirements/mlflow.in


# --- images ----------------------------------------------------------------------------------------------------------
# No HEALTHCHECK: Kubernetes ignores it and has its own probes, and a stage is healthy as long as it runs.
FROM ${PYTHON_IMAGE} AS runtime
# The kernel drops a SIGTERM for which process 1 has no handler. Python as process 1 would therefore run until it is
# killed, and lose its work. So tini is process 1: it forwards the signal and reaps orphaned data loaders. It signals only
# its child (no -g), because a training saves a checkpoint while its data loaders still run.
# The package has no version, since Debian removes old versions from its mirrors with every fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
# By default, MLflow and the pages of its server send usage data to its makers.
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
# The official Helm chart expects this user, group and home.
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
# A stage and its libraries write below /tmp only, so one writable volume is enough.
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
