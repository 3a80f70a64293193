"""Errors of boto3 as one line, without its own text, which may quote the request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import botocore.exceptions as aws
from urllib3.exceptions import HTTPError

from transformer.errors import ServiceError, UnansweredError, UserError, remedy

_REFUSED_CODES = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "InvalidIdentityToken"}  # answered with 400
_ELSEWHERE_CODES = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IncorrectEndpoint"}
_CLOCK_CODES = {"RequestTimeTooSkewed", "RequestExpired"}
_LATER_CODES = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestLimitExceeded"}
LATER_STATUSES = {429, 500, 502, 503, 504}
NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.UnknownCredentialError,
    aws.NoAuthTokenError,
    aws.TokenRetrievalError,
    aws.SSOError,
    aws.ProfileNotFound,
    aws.ConfigParseError,
    aws.ConfigNotFound,
)


def credentials_remedy() -> str:
    return remedy(
        laptop="check the credentials of the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE)",
        pod="check the pod's service account, or the secret that compute.kubernetes.secret names",
    ) + (", and that they may list, read and, to save results, write this bucket")


class BrokenTransferError(ServiceError):
    """One object was damaged or changed during its download."""


@dataclass(frozen=True)
class Place:
    """Names of a bucket and its server, for messages."""

    bucket: str
    endpoint: str

    def address(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    @contextmanager
    def errors_of(self, key: str = "") -> Iterator[None]:
        """Turn an error of boto3 into one of the pipeline's errors.

        Args:
            key: the object of the request; "" = the request was about the bucket.

        Raises:
            UserError: a refusal that only the user can mend.
            UnansweredError: the server did not answer, or cannot work now.
            BrokenTransferError: the object has changed.
            ServiceError: any other refusal.
        """
        try:
            yield
        except aws.ClientError as error:
            raise self._explained(error, key) from None
        except NO_CREDENTIALS as error:
            raise self.no_credentials(error) from None
        except aws.ParamValidationError:
            raise UserError(f"data.bucket_name={self.bucket!r} is not a valid name of a bucket; correct it") from None
        except aws.SSLError:
            raise UserError(
                f"s3://{self.bucket}: no secure connection to {self.endpoint}; check that data.endpoint_url begins "
                "with the right one of http:// and https://, and name the store's certificate in AWS_CA_BUNDLE"
            ) from None
        except (aws.BotoCoreError, HTTPError) as error:
            raise self.unanswered(type(error).__name__) from None

    def no_credentials(self, error: Exception) -> UserError:
        return UserError(f"s3://{self.bucket}: {type(error).__name__}; {credentials_remedy()}")

    def unanswered(self, reason: str) -> UnansweredError:
        return UnansweredError(
            f"s3://{self.bucket}: {self.endpoint}",
            reason,
            remedy(
                laptop="start the store, or check data.endpoint_url and the network, then run the stage again",
                pod="ask those who run the store, or check data.endpoint_url and the network of the cluster, "
                "then run the stage again",
            ),
        )

    def _explained(self, error: aws.ClientError, key: str) -> Exception:
        code, status = code_of(error), status_of(error)
        if message := self._refusal(error, key):
            return UserError(message)
        if status == 412:
            return BrokenTransferError(
                f"{self.address(key)} changed while it was being downloaded; run the stage again"
            )
        if status in LATER_STATUSES or code in _LATER_CODES:
            return self.unanswered(f"it answered {status} {code}".strip())
        return ServiceError(f"{self.address(key)}: S3 answered {status} {code}; run the stage again")

    def _refusal(self, error: aws.ClientError, key: str) -> str:
        """The line that says how the user can mend it; "" = the refusal is no mistake of the user."""
        code, status = code_of(error), status_of(error)
        message = ""
        if code in _CLOCK_CODES:
            where = remedy(laptop="this machine", pod="the node that this pod runs on")
            message = (
                f"s3://{self.bucket}: the clock here differs from that of {self.endpoint}{_difference(error)}, so it "
                f"refuses every request; set the clock of {where}"
            )
        elif code == "NoSuchBucket" or (status == 404 and not key):
            message = (
                f"data.bucket_name={self.bucket!r} does not exist at {self.endpoint}, or belongs to an account that "
                "these credentials cannot see; correct it"
            )
        elif status in (401, 403) or code in _REFUSED_CODES:
            message = f"s3://{self.bucket}: access refused ({code}); {credentials_remedy()}"
        elif status == 404:
            message = f"{self.address(key)} no longer exists; upload it again or leave it out"
        elif code in _ELSEWHERE_CODES:
            message = (
                f"s3://{self.bucket} is not in the region of {self.endpoint}; set AWS_REGION to the bucket's region"
            )
        return message


def status_of(error: aws.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: aws.ClientError) -> str:
    return " ".join(str(error.response.get("Error", {}).get("Code", "")).split())[:80]


def _difference(error: aws.ClientError) -> str:
    """By how much the clocks differ, if the answer has its time."""
    stamp = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        seconds = (datetime.now(UTC) - parsedate_to_datetime(stamp)).total_seconds()
    except (TypeError, ValueError):
        return ""
    return f" by {abs(seconds):,.0f} s ({'ahead' if seconds > 0 else 'behind'})"
