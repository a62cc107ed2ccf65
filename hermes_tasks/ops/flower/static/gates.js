// One panel for each gate: whether calls are made, and how long they may take and do take.

import { byId, element, show } from './dom.js';
import { Plot } from './plot.js';
import { count, counted, duration, moment } from './text.js';

const MAINTENANCE = ['Maintenance', 'text-bg-warning', 'No calls are made, as somebody asked'];
const STATES = {
  closed: ['Closed', 'text-bg-success', 'Calls are made'],
  open: ['Open', 'text-bg-danger', 'No calls are made'],
  probing: ['Half-open', 'text-bg-warning', 'One call looks whether Honcho is back'],
};

class GatePanel {
  constructor(name) {
    this.badge = element('span', { class: 'badge' });
    this.facts = element('dl', { class: 'facts' });
    this.happened = element('p', { class: 'happened' });
    const plot = element('div', { class: 'plot' });
    this.node = element(
      'section',
      { class: 'panel gate', 'aria-label': `Gate of ${name}`, 'data-gate': name },
      element(
        'div',
        { class: 'panel-head' },
        element('h2', { class: 'panel-title' }, 'Gate of ', element('code', {}, name), ' ', this.badge),
      ),
      element('div', { class: 'gate-body' }, element('div', {}, this.facts), element('div', {}, plot, this.happened)),
    );
    this.plot = new Plot(plot, {
      label: `Deadline and 95th percentile of the latency of calls to ${name}`,
      series: [
        { name: 'deadline of up to 4 messages', kind: 'deadline', step: true },
        { name: 'p95 of such calls', kind: 'p95' },
      ],
      format: duration,
      floor: 0.01,
    });
  }

  show(gate, history) {
    const [title, colour, text] = stateOf(gate);
    this.badge.className = `badge ${colour}`;
    this.badge.textContent = title;
    show(this.facts, facts(gate, text));
    const bands = history.bands((sample) => {
      const state = sample.gates[gate.name]?.state;
      return state === 'closed' ? undefined : state;
    });
    this.plot.draw({
      ...history.span,
      points: history.points(({ gates }) => {
        const one = gates[gate.name];
        return [one?.deadline ?? null, one?.p95 ?? null];
      }),
      bands,
    });
    const long = bands.reduce((sum, { from, to }) => sum + to - from, 0);
    this.happened.textContent = long
      ? `In the last hour it was not closed for ${duration(long)}.`
      : 'In the last hour it was closed all the time.';
    this.happened.classList.toggle('happened-open', long > 0);
  }
}

function stateOf({ state, maintenance }) {
  return maintenance ? MAINTENANCE : (STATES[state] ?? [state, 'text-bg-secondary', '']);
}

function facts(gate, text) {
  const rows = [];
  const say = (name, value) => rows.push(element('dt', {}, name), element('dd', {}, value));
  say('State', gate.since ? `${text} (since ${moment(gate.since)})` : text);
  if (gate.maintenance) {
    const { until, why } = gate.maintenance;
    say('Maintenance', `${until ? `until ${moment(until)}` : 'until it is closed by hand'}${why ? `: ${why}` : ''}`);
  }
  if (gate.denied) {
    say('Refused', gate.denied);
  }
  if (gate.failures) {
    say('Failures in a row', count(gate.failures));
  }
  if (gate.probe_at !== null) {
    say('Next probe', `in ${duration(gate.probe_at - gate.now)}`);
  }
  if (gate.pause_until !== null) {
    say('Pause', `${duration(gate.pause_until - gate.now)} more${gate.pause_why ? `: ${gate.pause_why}` : ''}`);
  }
  const limit = gate.limit === null ? '' : ` of at most ${Math.round(gate.limit)}`;
  say('Calls in flight', `${count(gate.calls)}${limit}`);
  say('Sessions held', count(gate.held));
  if (gate.rate !== null) {
    say('Rate', `${gate.rate} calls a second at most`);
  }
  gate.classes.forEach(({ most, deadline, p95, samples, raised }) => {
    const raise = raised ? `, at the ceiling until ${counted(raised, 'more fast call')}` : '';
    const of =
      p95 === null ? 'no recent calls' : `p95 ${duration(p95)} of ${counted(samples, 'call')}`;
    say(`Up to ${most} messages`, ['deadline ', element('b', {}, duration(deadline)), `, ${of}${raise}`]);
  });
  say('Ever', `${counted(gate.counters.calls, 'call')}; opened ${times(gate.counters.opened)}`);
  return rows;
}

function times(number) {
  return ['never', 'once', 'twice'][number] ?? `${count(number)} times`;
}

const panels = new Map();

export function showGates(gates, history) {
  for (const gate of gates) {
    if (!panels.has(gate.name)) {
      panels.set(gate.name, new GatePanel(gate.name));
      byId('gates').append(panels.get(gate.name).node);
    }
    panels.get(gate.name).show(gate, history);
  }
}
