"""A PostgreSQL server and an S3 server, started for the tests, and the environment that reaches them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import boto3
import botocore.loaders
import pytest

from tests.support.postgres import Postgres, postgres_server
from tests.support.servers import EVERY_SERVER, every_server

LOADER = botocore.loaders.create_loader()
ACCESS_KEY, SECRET_KEY = "AKIASTUDIES", "planted-secret"


@pytest.fixture(scope="session")
def postgres() -> Postgres:
    return postgres_server()


@pytest.fixture
def database_url(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty PostgreSQL database; its password is in the environment."""
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    return postgres.database()


@dataclass
class Store:
    """A bucket, read and written by its owner."""

    client: object
    endpoint: str
    name: str

    @property
    def overrides(self) -> list[str]:
        """Overrides of a configuration that reaches the bucket, with both transfers on."""
        return [
            f"data.bucket_name={self.name}",
            "data.bucket_prefix=team/delays",
            f"data.endpoint_url={self.endpoint}",
            "data.download_data_from_s3=true",
            "data.save_results_to_s3=true",
        ]

    def listing(self) -> list[str]:
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [entry["Key"].removeprefix("team/delays/") for entry in listed]

    def get(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=f"team/delays/{name}")["Body"].read()

    def put(self, name: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"team/delays/{name}", Body=body)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=f"team/delays/{name}")


@pytest.fixture(scope="session", params=EVERY_SERVER)
def s3_endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    with every_server(request.param, ACCESS_KEY, SECRET_KEY) as url:
        yield url


@pytest.fixture
def store(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty bucket, and credentials for it in the environment."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # To read the description of the API for each client would take longer than most of these tests.
    monkeypatch.setattr(botocore.loaders, "create_loader", lambda *_: LOADER)
    client = boto3.session.Session().client("s3", endpoint_url=s3_endpoint)
    made = Store(client, s3_endpoint, f"trains-{uuid4().hex[:12]}")
    client.create_bucket(Bucket=made.name)
    return made
