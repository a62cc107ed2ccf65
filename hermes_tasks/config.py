"""Every setting of hermes_tasks: its type, unit, default and environment variable.

Settings come from the environment and nowhere else, so that a gateway, a worker and an operator's
shell agree by sharing it. Celery's own settings are Celery's: see ``celeryconfig.py``.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from hermes_tasks.errors import ConfigurationError

BROKER_SCHEMES = ("redis", "rediss", "sentinel", "redis+socket")
"""The URL schemes of which the ordered transport can speak."""

_REDACTED = "***"
_DATABASE = re.compile(r"/*[0-9]*")
_SENSITIVE = "password|passwd|secret|token|credential|api_?key"
_SECRET_NAME = re.compile(rf"(?i){_SENSITIVE}")
_SECRET_OPTION = re.compile(rf"(?i)([?&;][^=&;]*(?:{_SENSITIVE})[^=&;]*=)[^&;]*")


def redact_url(url: str) -> str:
    """The URL with passwords replaced by ``***``, fit for a log or an error message.

    Understands lists of URLs separated by ``;`` (Sentinel) and secrets among the query options. A
    lone user name is hidden too: whoever forgets the colon has put the password there.
    """
    return ";".join(_redact_one(part) for part in url.split(";"))


def _redact_one(url: str) -> str:
    url = _SECRET_OPTION.sub(rf"\1{_REDACTED}", url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    credentials, at, address = rest.rpartition("@")
    if not at:
        return url
    user, colon, _ = credentials.partition(":")
    shown = f"{user}:{_REDACTED}" if colon else _REDACTED
    return f"{scheme}{separator}{shown}@{address}"


def _redact_options(options: dict[str, Any]) -> dict[str, Any]:
    """Transport options with secrets replaced, those of Sentinel's own connections too."""
    return {
        name: _REDACTED if _SECRET_NAME.search(name) else _redact_value(value)
        for name, value in options.items()
    }


def _redact_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _redact_options(value)
    if isinstance(value, list):
        return [_redact_value(one) for one in value]
    return redact_url(value) if isinstance(value, str) and "://" in value else value


_RATE = re.compile(r"(?P<calls>[0-9]+(?:\.[0-9]+)?)(?:\s*/\s*(?P<unit>[smh]))?")
_SECONDS = {"s": 1, "m": 60, "h": 3_600}


def _up_to_ceiling(seconds: float, data: dict[str, Any]) -> float:
    """A default that follows a ceiling below it."""
    ceiling: float = data.get("timeout_ceiling", seconds)
    return min(seconds, ceiling)


def _xdg(variable: str, fallback: str) -> Path:
    """A directory of ours under an XDG base directory; relative values are void by its standard."""
    base = Path(os.environ.get(variable, ""))
    return (base if base.is_absolute() else Path.home() / fallback) / "hermes-tasks"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of ``hermes-tasks config``.

    Attributes:
        variable: the environment variable.
        value: what is in force, secrets redacted; ``None`` when unset.
        source: where the value comes from.
        description: what the setting does, with its unit.
    """

    variable: str
    value: str | int | float | None
    source: Literal["environment", "default", "argument"]
    description: str


class Settings(BaseSettings):
    """The settings in force: arguments first, then the environment, then defaults.

    Raises:
        ConfigurationError: a value cannot be used; one line, naming the variable.
    """

    model_config = SettingsConfigDict(
        env_prefix="HERMES_TASKS_",
        env_ignore_empty=True,
        populate_by_name=True,
        frozen=True,
        extra="forbid",
        # An input may be a password: pydantic would quote it.
        hide_input_in_errors=True,
    )

    broker_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis that carries the turns: redis://, rediss://, sentinel:// "
        "or redis+socket://.",
    )
    broker_options: Annotated[dict[str, Any], NoDecode] = Field(
        default_factory=dict,
        description="Options of the Redis transport as a JSON object, the same in gateways and "
        'workers: such as {"master_name": "mymaster"}, which sentinel:// needs.',
    )
    queue_limit: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=64,
        description="Turns of one session that wait in its queue before the oldest of them move "
        "to its backlog.",
    )
    backlog_limit: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=256,
        description="Turns in one session's backlog before its oldest becomes a dead letter.",
    )
    batch_turns: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=50, description="Turns written in one call to Honcho, at most."
    )
    batch_messages: Annotated[int, Field(ge=1, le=100)] = Field(
        default=100, description="Messages in one call to Honcho, at most (Honcho takes 100)."
    )
    lease_seconds: Annotated[float, Field(ge=1, le=3_600)] = Field(
        default=15.0,
        description="Seconds a worker may be silent before its sessions go to another.",
    )
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = Field(
        default="hermes",
        description="First part of every Redis key and queue name; the same in gateways and "
        "workers.",
    )
    backend: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")] = Field(
        default="default",
        description="Name of the Honcho service that turns are meant for.",
    )
    flush_timeout: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=10.0, description="Seconds that flush waits when it is not told how long."
    )
    outbox_dir: Path = Field(
        default_factory=lambda: _xdg("XDG_STATE_HOME", ".local/state") / "outbox",
        description="Directory of the SQLite files in which gateways keep the turns that Redis has "
        "not accepted yet.",
    )
    outbox_rows: Annotated[int, Field(ge=100, le=100_000_000)] = Field(
        default=100_000,
        description="Turns that a gateway's outbox keeps while Redis is away; beyond it the oldest "
        "is dropped and counted.",
    )
    outbox_sync: Literal["normal", "full"] = Field(
        default="normal",
        description="full: a turn is on the disk before sync_turn returns, and survives a power "
        "failure of the gateway's host, for about 0.2 ms a turn.",
    )
    turn_bytes: Annotated[int, Field(ge=1_000, le=256 * 1024 * 1024)] = Field(
        default=16 * 1024 * 1024,
        description="Longest turn, in bytes of its JSON before encryption: a gateway refuses a "
        "longer one, and one that comes to a worker all the same becomes a dead letter.",
    )
    encryption_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="Fernet keys, separated by commas, with which what is said is encrypted in the "
        "outbox and in Redis: the first encrypts, all decrypt. They are shown by fingerprint.",
    )
    data_dir: Path = Field(
        default_factory=lambda: _xdg("XDG_DATA_HOME", ".local/share") / "broker",
        description="Directory in which `hermes-tasks up` keeps the turns of its broker.",
    )
    breaker_failures: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=3,
        description="Calls to Honcho that fail one after another until no more are made; or as "
        "many as are being made, if that is more.",
    )
    breaker_probe_seconds: Annotated[float, Field(ge=0.1, le=600)] = Field(
        default=60.0,
        description="Seconds after which a single call looks whether Honcho is back; doubled each "
        "time, up to 600, until it is.",
    )
    # Before the two that must not be above it: fields are checked in this order.
    timeout_ceiling: Annotated[float, Field(ge=0.1, le=600)] = Field(
        default=30.0, description="Longest time a call to Honcho may take, in seconds."
    )
    landing_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=15.0,
        description="Seconds after its longest time in which a call that was given up may still be "
        "applied by Honcho; until then nothing that it may have carried is written again.",
    )
    timeout_default: Annotated[float, Field(ge=0.1, le=600)] = Field(
        default_factory=lambda data: _up_to_ceiling(30.0, data),
        description="Seconds a call may take while Redis does not say how long calls take.",
    )
    timeout_floor: Annotated[float, Field(ge=0.1, le=600)] = Field(
        default_factory=lambda data: _up_to_ceiling(5.0, data),
        description="Shortest time a call is given, in seconds, however fast Honcho is.",
    )
    timeout_headroom: Annotated[float, Field(ge=1, le=100)] = Field(
        default=3.0,
        description="A call is given so many times what 95 of 100 recent calls took at most.",
    )
    timeout_window: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=256, description="Recent calls that are remembered, of each size."
    )
    timeout_warmup: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=10,
        description="Recent calls without which a call is given the longest time.",
    )
    connect_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=10.0,
        description="Seconds a connection to Honcho may take, all its addresses and TLS together; "
        "0: as long as the call.",
    )
    first_byte_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=30.0,
        description="Seconds until the first byte of an answer, more for more messages; "
        "0: as long as the call.",
    )
    first_byte_strict: bool = Field(
        default=False, description="The first byte has no more time for more messages."
    )
    idle_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=10.0,
        description="Seconds between two bytes of a call; 0: as long as the call.",
    )
    rate_limit: Annotated[float | None, Field(ge=0.1, le=1_000_000)] = Field(
        default=None,
        description="Most calls to Honcho of all workers together: such as 5/s, 300/m or 1000/h.",
    )
    rate_burst: Annotated[int, Field(ge=1, le=1_000)] = Field(
        default=1, description="Calls that may be made at once within the rate limit."
    )
    retry_max_age: Annotated[float, Field(ge=1, le=31_536_000)] = Field(
        default=86_400.0,
        description="Seconds after which a turn that Honcho could not take is given up.",
    )
    dead_max_age: Annotated[float, Field(ge=1, le=3_153_600_000)] = Field(
        default=2_592_000.0,
        description="Seconds that a turn that was given up is kept as a dead letter.",
    )
    honcho_url: str | None = Field(
        default=None,
        validation_alias="HONCHO_URL",
        description="Base URL of the Honcho service; workers need it.",
    )
    honcho_api_key: SecretStr | None = Field(
        default=None,
        validation_alias="HONCHO_API_KEY",
        description="Key with which workers authenticate at Honcho, if it asks for one.",
    )
    honcho_workspace_id: str = Field(
        default="default",
        min_length=1,
        validation_alias="HONCHO_WORKSPACE_ID",
        description="Honcho workspace of turns that name none.",
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_one_line(error)) from error

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """The settings, with those ``overrides`` that are not ``None`` before the environment.

        Raises:
            ConfigurationError: a value cannot be used.
        """
        return cls(**{name: value for name, value in overrides.items() if value is not None})

    @field_validator("broker_url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        scheme = value.partition("://")[0]
        if scheme not in BROKER_SCHEMES:
            raise ValueError(f"must start with {_alternatives(f'{s}://' for s in BROKER_SCHEMES)}")
        for part in value.split(";"):
            _check_port(part)
            if scheme != "redis+socket" and not _DATABASE.fullmatch(urlsplit(part).path):
                raise ValueError("its path must be the number of a database, such as /0")
        return value

    @field_validator("broker_options", mode="before")
    @classmethod
    def _json_object(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                value = None  # the parser's message may quote a password
        if not isinstance(value, dict):
            raise ValueError('must be a JSON object, such as {"master_name": "mymaster"}')
        return value

    @field_validator("encryption_keys", mode="before")
    @classmethod
    def _fernet_keys(cls, value: Any) -> Any:
        keys = (value.split(",") if value else ()) if isinstance(value, str) else value
        found = []
        for key in keys:
            text = (key.get_secret_value() if isinstance(key, SecretStr) else str(key)).strip()
            if not _is_fernet_key(text):
                raise ValueError(
                    "must be Fernet keys, separated by commas: 32 bytes each in URL-safe base64, "
                    "as of `openssl rand -base64 32 | tr +/ -_`"
                )
            found.append(SecretStr(text))
        return tuple(found)

    @field_validator("honcho_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("must be an http:// or https:// address")
        _check_port(value)
        return value.rstrip("/")

    @field_validator("timeout_default", "timeout_floor")
    @classmethod
    def _not_above_ceiling(cls, value: float, info: ValidationInfo) -> float:
        if value > info.data.get("timeout_ceiling", value):
            ceiling = environment_variable("timeout_ceiling")
            raise ValueError(f"must not be above {ceiling}, {info.data['timeout_ceiling']:g} s")
        return value

    @field_validator("timeout_warmup")
    @classmethod
    def _within_window(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("timeout_window", value):
            window = environment_variable("timeout_window")
            raise ValueError(f"must not be above {window}, {info.data['timeout_window']}")
        return value

    @field_validator("rate_limit", mode="before")
    @classmethod
    def _calls_a_second(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        said = _RATE.fullmatch(value.strip())
        if said is None:
            raise ValueError("must be calls a second, minute or hour, such as 5/s, 300/m or 1000/h")
        return float(said["calls"]) / _SECONDS[said["unit"] or "s"]

    @field_validator("outbox_dir", "data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @property
    def safe_broker_url(self) -> str:
        """The broker's URL without its password, for logs and errors."""
        return redact_url(self.broker_url)

    def require_honcho_url(self) -> str:
        """The base URL of Honcho.

        Raises:
            ConfigurationError: ``HONCHO_URL`` is not set.
        """
        if self.honcho_url is None:
            raise ConfigurationError(
                "HONCHO_URL is not set: set it to the address of the Honcho service, "
                "such as http://127.0.0.1:8000"
            )
        return self.honcho_url

    def rows(self) -> list[SettingRow]:
        """Every setting with what is in force and where it comes from, secrets redacted."""
        return [
            SettingRow(
                variable=environment_variable(name),
                value=self._shown(name),
                source=self._source(name),
                description=str(field.description),
            )
            for name, field in type(self).model_fields.items()
        ]

    def _shown(self, name: str) -> str | int | float | None:
        value = getattr(self, name)
        if isinstance(value, SecretStr):
            return _REDACTED
        if name.endswith("_url") and value is not None:
            return redact_url(value)
        if name == "encryption_keys":
            from hermes_tasks.sealing import fingerprint

            return ", ".join(fingerprint(key.get_secret_value()) for key in value) or None
        if isinstance(value, dict):
            return json.dumps(_redact_options(value))
        if isinstance(value, bool):
            return str(value).lower()
        if name == "rate_limit" and value is not None:
            return f"{value:g}/s"
        return str(value) if isinstance(value, Path) else value

    def _source(self, name: str) -> Literal["environment", "default", "argument"]:
        if name not in self.model_fields_set:
            return "default"
        return "environment" if os.environ.get(environment_variable(name)) else "argument"

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name in type(self).model_fields:
            yield name, self._shown(name)


def environment_variable(field: str) -> str:
    """The environment variable of a field of :class:`Settings`."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"HERMES_TASKS_{field.upper()}"


def _is_fernet_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, altchars=b"-_", validate=True)) == 32
    except ValueError:
        return False


def _check_port(url: str) -> None:
    try:
        # Reading the port is what makes urllib check it.
        _ = urlsplit(url).port
    except ValueError:
        # urllib's message quotes what it took for the port: with a slash in a password, the
        # password.
        raise ValueError(
            "its port is not a number up to 65535 (characters such as / and @ in a password must "
            "be percent-encoded)"
        ) from None


def _one_line(error: ValidationError) -> str:
    """What is wrong with which variables, as one line that quotes no value."""
    return "; ".join(
        f"{_variable(problem['loc'])}: {_reason(problem['msg'])}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
        # It follows from one of the others, and says nothing to whoever has to mend that.
        if problem["type"] != "default_factory_not_called"
    )


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "settings"
    for field in Settings.model_fields:
        # A problem is located by the name under which the value came: field or alias, any case.
        if name.lower() in (field, environment_variable(field).lower()):
            return environment_variable(field)
    return name


def _reason(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _alternatives(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"
