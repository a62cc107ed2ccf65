"""The sending side: turns go from the conversation into an outbox, and from there to Redis."""

from __future__ import annotations
