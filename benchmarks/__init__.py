"""Measurements: whole processes on this machine, compared in one run as ratios of medians."""

from __future__ import annotations
