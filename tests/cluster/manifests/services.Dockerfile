# PostgreSQL and an S3 server for tests/cluster, in one image.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
FROM ${PYTHON_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --gid 0 --no-create-home --home-dir /tmp services
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir 'moto[server,s3]==5.*'
ENV PATH=/opt/venv/bin:$PATH
COPY postgres.sh /usr/local/bin/postgres.sh
USER 10001:0
