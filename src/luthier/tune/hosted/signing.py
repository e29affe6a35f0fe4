"""Request authentication for AWS and Google Cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError, SourceLocation
from luthier.core.system.packages import require

if TYPE_CHECKING:
    import httpx

_GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_WHERE = SourceLocation(field="technique")


class AwsAuth:
    """Signs requests with Signature Version 4, using the credentials that AWS's own clients would find."""

    def __init__(self, region: str, service: str, storage_url: str) -> None:
        """Requests below `storage_url` go to S3, all others to `service`."""
        require("boto3", "aws", "requests to AWS")
        from botocore.session import get_session

        self._region, self._service, self._storage_url = region, service, storage_url
        self._credentials: Any = get_session().get_credentials()
        if self._credentials is None:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise ModelError("no credentials of AWS are found", where=_WHERE, hint=hint)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secret key and the session token."""
        frozen = self._credentials.get_frozen_credentials()
        return tuple(filter(None, (frozen.secret_key, frozen.token)))

    def sign(self, request: httpx.Request) -> httpx.Request:
        """Return the request with its signature, as botocore makes it."""
        from botocore.auth import S3SigV4Auth, SigV4Auth
        from botocore.awsrequest import AWSRequest

        url, frozen = str(request.url), self._credentials.get_frozen_credentials()
        headers = {name: request.headers[name] for name in ("content-type",) if name in request.headers}
        signed = AWSRequest(method=request.method, url=url, data=request.read(), headers=headers)
        signer = (
            S3SigV4Auth(frozen, "s3", self._region)
            if url.startswith(self._storage_url)
            else SigV4Auth(frozen, self._service, self._region)
        )
        signer.add_auth(signed)
        request.headers.update(dict(signed.headers.items()))
        return request


class GoogleAuth:
    """Adds a token from Google's application default credentials to requests; refreshed when it expires."""

    def __init__(self) -> None:
        require("google.auth", "google", "requests to Google Cloud")
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError

        try:
            self._credentials: Any = google.auth.default(scopes=[_GOOGLE_SCOPE])[0]
        except DefaultCredentialsError as error:
            hint = "`gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
            raise ModelError("no credentials of Google Cloud are found", where=_WHERE, hint=hint) from error

    @property
    def secrets(self) -> tuple[str, ...]:
        """The token."""
        return (self._credentials.token,) if self._credentials.token else ()

    def sign(self, request: httpx.Request) -> httpx.Request:
        """Return the request with a valid token."""
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        if not self._credentials.valid:
            try:
                self._credentials.refresh(Request())
            except GoogleAuthError as error:
                hint = "`gcloud auth application-default login`"
                raise ModelError("Google Cloud refuses these credentials", where=_WHERE, hint=hint) from error
        request.headers["Authorization"] = f"Bearer {self._credentials.token}"
        return request
