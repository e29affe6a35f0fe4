"""Why a request is not answered, as the API says it: a status, a type, a code and the parameter that is to blame.

InputError
└── Refusal            400 invalid_request_error: the request is wrong, and `param` says where
    ├── Busy           429: too many wait already, or this key asks too often; `retry_after_s` says when to come back
    ├── Late           504: the answer was not whole in time
    └── Unavailable    503: the model cannot answer now (it is being closed, or what it needs is away)
"""

from __future__ import annotations

from typing import ClassVar

from luthier.core.errors import InputError, LuthierError, Where


class Refusal(InputError):
    """A request that is refused."""

    status: int = 400
    type: ClassVar[str] = "invalid_request_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message, where=Where(field=param))
        self.param, self.code = param, code
        self.status = status

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        return {}


class Busy(Refusal):
    """Too much is asked at once."""

    type: ClassVar[str] = "rate_limit_error"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, code="rate_limit_exceeded", status=429)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """When to come back."""
        return {"Retry-After": str(max(1, round(self.retry_after_s)))}


class Late(Refusal):
    """The time that an answer may take is over."""

    type: ClassVar[str] = "timeout_error"

    def __init__(self, message: str) -> None:
        super().__init__(message, code="deadline_exceeded", status=504)


class Unavailable(Refusal):
    """The model cannot answer at this moment."""

    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, status: int = 503) -> None:
        super().__init__(message, code="unavailable", status=status)


def as_refusal(error: LuthierError, param: str | None = None) -> Refusal:
    """Any error of ours as the API says it; what stands in files of this machine is not told."""
    if isinstance(error, Refusal):
        return error
    said = f"{error.message}; {error.remedy}" if error.remedy else error.message
    return Refusal(said, param=param or error.where.field)
