"""What a Redis-compatible server is told when it starts, and how clients then reach it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

HOST = "127.0.0.1"

Lines = Mapping[str, str | int | Sequence[str]]
"""Lines of a configuration file; a sequence repeats its name, once per item."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a server that speaks TLS only.

    Attributes:
        certificate: the server's certificate, valid for 127.0.0.1.
        key: its private key.
        authority: the certificate that signed it, which clients are to trust.
    """

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Who may come in, and how.

    Attributes:
        user: name of an ACL user; the unnamed default user is then switched off.
        password: password of that user, or of the default user.
        acl: what ``user`` may do, in the words of ``ACL SETUSER``.
        tls: files of a server that is reached by ``rediss://`` only.
        lines: further lines, which win over ours.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    acl: str = "~* &* +@all"
    tls: Tls | None = None
    lines: Lines = field(default_factory=dict)

    def url(self, port: int) -> str:
        """Database 0 of the server as a broker URL, with everything a client needs to get in."""
        credentials = ""
        if self.password is not None:
            credentials = f"{quote(self.user or '', safe='')}:{quote(self.password, safe='')}@"
        if self.tls is None:
            return f"redis://{credentials}{HOST}:{port}/0"
        options = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(self.tls.authority)}
        return f"rediss://{credentials}{HOST}:{port}/0?{urlencode(options)}"

    def text(self, port: int, data_dir: Path) -> str:
        """The configuration file.

        Every write goes to an append-only file, which is forced to disk once a second, and nothing
        is evicted to make room.
        """
        lines: dict[str, str | int | Sequence[str]] = {
            "bind": HOST,
            "dir": f'"{data_dir}"',
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
        }
        if self.tls is None:
            lines["port"] = port
        else:
            lines |= {
                "port": 0,
                "tls-port": port,
                "tls-cert-file": str(self.tls.certificate),
                "tls-key-file": str(self.tls.key),
                "tls-ca-cert-file": str(self.tls.authority),
                "tls-auth-clients": "no",
            }
        if self.user is not None:
            lines["user"] = ["default off", f"{self.user} on >{self.password} {self.acl}"]
        elif self.password is not None:
            lines["requirepass"] = f'"{self.password}"'
        lines |= self.lines
        return "".join(
            f"{name} {value}\n"
            for name, values in lines.items()
            for value in ([values] if isinstance(values, str | int) else values)
        )
