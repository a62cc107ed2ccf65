"""What went wrong in a call to Honcho, told in our own words.

The service's 422 echoes the refused request, so neither an SDK error nor its text may travel: in
their place go one of :mod:`hermes_tasks.errors`, and for its cause
:class:`~hermes_tasks.errors.Withheld`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import httpx
from honcho.http import exceptions as sdk

from hermes_tasks.errors import (
    DeadlineExceeded,
    HonchoError,
    Overloaded,
    RateLimited,
    Refused,
    SessionDeleted,
    Unauthorised,
    Unreachable,
    Withheld,
)
from hermes_tasks.honcho.deadline import ANSWER, Call, shown

_NOT_OURS = frozenset({"HTTP 404", "Not Found"})
"""What the SDK makes of a 404 that is not about a session: of a proxy, or of a wrong path."""

_TRY_AGAIN = frozenset({408, 409, 425})
"""4xx that say nothing about the request itself: a slow one, a race, too early."""

_NOT_APPLIED = frozenset({409, 425, 500, 501, 503})
"""With these the server itself has answered. The others come from proxies, which may have passed
the request on and then lost patience."""

_DENIED = {
    401: "set HONCHO_API_KEY of the workers",
    402: "the account of HONCHO_API_KEY needs credit",
    403: "set HONCHO_API_KEY of the workers to one that may write to this workspace",
    407: "a proxy before Honcho asks for a password",
}
"""4xx that say nothing about the request either, but who sends it, and what to do."""

_PLACES = frozenset(
    {"body", "messages", "content", "peer_id", "metadata", "created_at", "peers", "id", "filters"}
    | {"conclusions", "observer_id", "observed_id", "session_id"}
)
_KIND = re.compile(r"[a-z_]{1,60}")


def translate(error: Exception, call: Call, what: str) -> tuple[HonchoError, Withheld]:
    """The error to raise for one that came out of the SDK, and what to raise it from.

    Args:
        error: anything that a method of the SDK raised.
        call: the call that it was raised in.
        what: what was being done, in names and numbers.
    """
    status = getattr(error, "status", 0) if isinstance(error, sdk.HonchoError) else 0
    cause = Withheld(f"{type(error).__name__}, status {status}" if status else _lineage(error))
    if status:
        return _answered(error, status, what), cause
    origins = list(_chain(error))
    if any(isinstance(origin, httpx.ConnectTimeout | httpx.ConnectError) for origin in origins):
        said = call.ran_out or "no connection to Honcho"
        return Unreachable(f"{said}: {what}", may_have_been_written=False), cause
    if any(isinstance(origin, httpx.TimeoutException) for origin in origins):
        said = call.ran_out or f"{ANSWER} {shown(call.seconds)}"
        return DeadlineExceeded(f"{said}: {what}", may_have_been_written=call.sent), cause
    if any(isinstance(origin, httpx.TransportError) for origin in origins):
        return (
            Unreachable(f"the connection broke: {what}", may_have_been_written=call.sent),
            cause,
        )
    if not call.sent and isinstance(origins[-1], ValueError | TypeError):
        return Refused(f"it cannot be encoded: {what}"), cause
    return (
        HonchoError(f"the answer is not one of Honcho: {what}", may_have_been_written=call.sent),
        cause,
    )


def _answered(error: Exception, status: int, what: str) -> HonchoError:
    """The error for an answer of the server, or of something before it."""
    said = f"HTTP {status}: {what}"
    if status == 429:
        seconds = getattr(error, "retry_after", None)
        usable = isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0
        return RateLimited(said, retry_after=seconds if usable else None)
    if status in _DENIED:
        return Unauthorised(said, status=status, advice=_DENIED[status])
    if status == 405 or (status == 404 and str(error) in _NOT_OURS):
        return Unreachable(
            f"{said}: not an answer of Honcho, does HONCHO_URL lead to it?",
            status=status,
            may_have_been_written=False,
        )
    if status == 404:
        return SessionDeleted(f"{said}: the session was deleted", status=status)
    if status >= 500 or status in _TRY_AGAIN:
        return Overloaded(said, status=status, may_have_been_written=status not in _NOT_APPLIED)
    if status < 400:
        return Unreachable(
            f"{said}: a redirection, set HONCHO_URL to where it leads",
            status=status,
            may_have_been_written=False,
        )
    return Refused(f"{said}{_places(getattr(error, 'body', None))}", status=status)


def _places(body: Any) -> str:
    """Where a 422 found fault and of which kind: known names and numbers only."""
    details = body.get("detail") if isinstance(body, dict) else None
    places: list[str] = []
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict) or not isinstance(detail.get("loc"), list):
            continue
        place = ".".join(
            str(step) for step in detail["loc"] if isinstance(step, int) or step in _PLACES
        )
        kind = detail.get("type")
        known = isinstance(kind, str) and _KIND.fullmatch(kind)
        places.append(f"{place} ({kind})" if known else place)
    return f" at {', '.join(places[:3])}" if places else ""


def _lineage(error: Exception) -> str:
    """The names of the classes of an error and its causes."""
    return " from ".join(type(link).__name__ for link in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes. The SDK puts its own in front of those of httpx."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__
