"""A whole deployment checked while it runs: every session, every gate, and what joins the two.

Redis is read session by session, so a session may be seen in one state and its gate in the next.
Whatever is found is therefore looked at again after a keeper had time to help, and is only a
finding if it is still the same.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hermes_tasks.gate.policy import Policy
from hermes_tasks.gate.rules import State
from hermes_tasks.transport import check as sessions
from hermes_tasks.transport.check import Fault, Finding, Repaired, Snapshot
from hermes_tasks.transport.keeper import GRACE
from hermes_tasks.transport.reading import unsettled
from hermes_tasks.transport.scripts import script_of
from hermes_tasks.transport.sessions import SessionStore

#: Where what is wrong with the counters of a deployment is found.
COUNTERS = "counters"

#: Seconds between two looks. A session that a worker has popped and lost is back by then: rescue
#: wants it below a mark that is older than the grace, and moves the mark once in a grace.
SETTLE = 2 * GRACE + 1.0


@dataclass(frozen=True, slots=True)
class GateSeen:
    """A gate, as far as it can be wrong.

    Attributes:
        state: of its breaker, as Redis has it.
        looked_at: a worker's timer lets go of what it holds.
        too_late: calls and permits that end later than any that is granted now.
        held: the sessions that stand in its queue, oldest first.
        is_oddly_shut: it says that somebody has stopped its calls, and its breaker is not open.
    """

    name: str
    state: str
    looked_at: bool
    too_late: int
    held: tuple[str, ...]
    is_oddly_shut: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What a check has found.

    Attributes:
        states: how many sessions there are in each state.
        queued: messages in all their queues.
        dead: dead letters.
        gates: how many gates there are.
        findings: what is wrong.
        backlog: those of the messages that overflowed.
    """

    states: Counter[str] = field(default_factory=Counter)
    queued: int = 0
    dead: int = 0
    gates: int = 0
    findings: tuple[Finding, ...] = ()
    backlog: int = 0


@dataclass(slots=True)
class Check:
    """The check of one deployment.

    Attributes:
        store: its sessions.
        policy: of its gates.
        settle: seconds between two looks.
    """

    store: SessionStore
    policy: Policy
    settle: float = SETTLE

    def run(self) -> Report:
        """Look, and look again at what was wrong. Changes nothing."""
        report = self._look_at_all()
        if not report.findings:
            return report
        time.sleep(self.settle)
        found = {finding.where for finding in report.findings}
        again = self._look_at_all() if COUNTERS in found else self._look(found)
        lasting = [
            finding
            for finding in again.findings
            if any(finding.is_again(earlier) for earlier in report.findings)
        ]
        return replace(report, findings=tuple(lasting))

    def repair(self, findings: Collection[Finding]) -> dict[str, Repaired]:
        """Put right what was found, session by session; what was done with each.

        A session that a worker has is not touched. What no worker looks after needs a worker.
        """
        gates = self._gates()
        repaired: dict[str, Repaired] = {}
        only_lag = {one.where for one in findings} - {
            one.where for one in findings if one.fault is not Fault.LAG
        }
        for finding in findings:
            name = finding.where
            if finding.fault in (Fault.GATE, Fault.UNATTENDED, Fault.TYPE) or name in repaired:
                continue
            if name == COUNTERS:  # right only when the sessions are
                continue
            if name in only_lag:  # nothing is in doubt about its messages
                repaired[name] = sessions.relag(self.store, name)
                continue
            # Where it may stand: an empty list is no key, and needs none.
            lists = [self.store.names.gate(gate.name)[1] for gate in gates if gate.held]
            repaired[name] = sessions.repair(self.store, name, lists)
        for gate in gates:
            self._run("mend", gate.name)
        for finding in self._look_at_all().findings:
            if finding.where == COUNTERS:
                counter, _, missing = finding.stamp.partition(" ")
                self.store.client.hincrby(self.store.names.stats, counter, int(missing))
        return repaired

    def _look_at_all(self) -> Report:
        """Every session; and if they are sound, and nothing moved meanwhile, the counters."""
        before = self.store.counters()
        report = self._look(sessions.known_sessions(self.store))
        if report.findings or self.store.counters() != before:
            return report
        return replace(report, findings=tuple(_counter_faults(before, report)))

    def _look(self, wanted: Collection[str]) -> Report:
        states: Counter[str] = Counter()
        queued, backlog = 0, 0
        seen, findings = list[Snapshot](), list[Finding]()
        for one in sessions.look(self.store, wanted):
            if isinstance(one, Finding):
                findings.append(one)
            elif one.is_known:
                states[one.state] += 1
                queued += len(one.items) + one.unreadable
                backlog += len(one.backlog)
                seen.append(one)
        # After the sessions: one that has moved on meanwhile is found where it is now.
        gates, run = self._gates(), sessions.run_queue(self.store)
        holders: defaultdict[str, list[str]] = defaultdict(list)
        for gate in gates:
            for session in gate.held:
                holders[session].append(gate.name)
        known = {one.session for one in seen}
        for one in sessions.look(self.store, sorted(holders.keys() - known)):
            if isinstance(one, Snapshot):
                seen.append(one)
        for one in seen:
            findings += sessions.faults(one, run, holders)
        for gate in gates:
            findings += _gate_faults(gate)
        dead = int(self.store.client.xlen(self.store.names.dead))
        return Report(states, queued, dead, len(gates), tuple(findings), backlog)

    def _gates(self) -> list[GateSeen]:
        names, client = self.store.names, self.store.client
        listed: Any = client.zrange(names.gates, 0, -1)
        found = {name.decode() for name in listed}
        for key in client.scan_iter(names.every("gate"), count=1_000):
            gate = names.gate_of_key(key.decode(errors="replace"))
            if gate is not None:
                found.add(gate)
        return [self._gate(name) for name in sorted(found)]

    def _gate(self, name: str) -> GateSeen:
        state, looked_at, too_late, held, is_oddly_shut = self._run("check", name)
        return GateSeen(
            name,
            state.decode(errors="replace"),
            bool(looked_at),
            too_late,
            tuple(session.decode(errors="replace") for session in held),
            bool(is_oddly_shut),
        )

    def _run(self, script: str, gate: str) -> Any:
        package = __package__ or "hermes_tasks.gate"
        keys, policy = self.store.names.gate(gate), self.policy.script_argument()
        run = script_of(package, "gate", script, reads=script == "check")
        return run(self.store.client, keys, (gate, policy))


def _counter_faults(counters: Mapping[str, int], report: Report) -> Iterator[Finding]:
    for what, counter, counted, queued in (
        ("messages", "uncounted", unsettled(counters), report.queued),
        ("messages in backlogs", "backlog", counters.get("backlog", 0), report.backlog),
    ):
        if counted != queued:
            text = f"count {counted} {what}, of {queued}"
            yield Finding(COUNTERS, Fault.COUNT, text, f"{counter} {queued - counted}")


def _gate_faults(gate: GateSeen) -> Iterator[Finding]:
    if gate.state not in set(State):
        yield Finding(gate.name, Fault.GATE, f"its state is {gate.state!r}, which is none", "state")
    if gate.is_oddly_shut:
        text = "is in a maintenance that nobody can read, or is not open"
        yield Finding(gate.name, Fault.GATE, text, "shut")
    if gate.held and not gate.looked_at:
        text = f"no worker knows that it holds sessions: {len(gate.held)}"
        yield Finding(gate.name, Fault.GATE, text, "unknown")
    if gate.too_late:
        text = f"end later than any can: {gate.too_late} calls or permits"
        yield Finding(gate.name, Fault.GATE, text, "late")
