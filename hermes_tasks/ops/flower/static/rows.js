// The table of sessions: filtered by state, a page more at a time.

import { byId, element, emptyRow, missing, show } from './dom.js';
import { count, duration } from './text.js';

export const STATES = {
  ready: ['Ready', 'text-bg-secondary', 'waits for a worker'],
  leased: ['Leased', 'task-state-started', 'a worker writes it'],
  sleeping: ['Sleeping', 'text-bg-warning', 'waits for a time: a retry, or a call that may land'],
  held: ['Held', 'text-bg-warning', 'waits at the gate until a call may start'],
  paused: ['Paused', 'text-bg-dark', 'until somebody resumes it'],
  idle: ['Idle', 'text-bg-light', 'nothing to write'],
};

const COLUMNS = 9;
const PAGE = 25;
const MOST = 500;

export function stateBadge(state, paused) {
  const [title, colour, text] = STATES[state] ?? [state, 'text-bg-secondary', ''];
  const badge = element('span', { class: `badge ${colour}`, title: text }, title);
  return paused && state !== 'paused'
    ? [badge, ' ', element('span', { class: 'badge text-bg-dark', title: 'pauses when its worker is done' }, 'Pausing')]
    : [badge];
}

export function shownTime(seconds) {
  return seconds === null ? missing() : duration(seconds);
}

function number(value, kind) {
  return element('td', { class: `number ${kind}` }, value ? count(value) : missing());
}

export class Rows {
  // changed: called when other rows are wanted.
  constructor(sessionUrl, changed) {
    this.sessionUrl = sessionUrl;
    this.state = '';
    this.limit = PAGE;
    byId('rows-more').addEventListener('click', () => {
      this.limit = Math.min(MOST, this.limit * 2);
      changed();
    });
    byId('states').addEventListener('click', ({ target }) => {
      const button = target.closest('[data-state]');
      if (button) {
        this.state = button.dataset.state;
        this.limit = PAGE;
        changed();
      }
    });
  }

  get query() {
    return { state: this.state, limit: this.limit };
  }

  show({ rows, cursor }, sessions) {
    this.filters(sessions);
    show(
      byId('rows'),
      rows.length ? rows.map((row) => this.row(row)) : emptyRow(COLUMNS, this.nothing()),
    );
    byId('rows-shown').textContent = rows.length ? `The first ${count(rows.length)}` : '';
    byId('rows-shown').classList.toggle('d-none', !cursor);
    byId('rows-more').classList.toggle('d-none', !cursor || this.limit >= MOST);
  }

  nothing() {
    return this.state
      ? `No session is ${this.state}.`
      : 'No session has anything to write: all is written.';
  }

  filters(sessions) {
    const names = Object.keys(sessions).map((state) => [state, STATES[state]?.[0] ?? state]);
    show(
      byId('states'),
      [['', 'All'], ...names].map(([state, title]) => {
        const active = state === this.state;
        return element(
          'button',
          {
            class: `task-state-filter${active ? ' active' : ''}`,
            type: 'button',
            'aria-pressed': String(active),
            'data-state': state,
            title: STATES[state]?.[2],
          },
          title,
          state ? element('b', { class: 'filter-count' }, count(sessions[state])) : '',
        );
      }),
    );
  }

  row({ session, state, lag, inflight, waiting, backlog, attempts, wakes_in: wakesIn, paused }) {
    const address = `${this.sessionUrl}?id=${encodeURIComponent(session)}`;
    return element(
      'tr',
      {},
      element('td', { class: 'name' }, element('a', { href: address }, session)),
      element('td', {}, stateBadge(state, paused)),
      element('td', { class: 'number' }, shownTime(lag)),
      number(inflight, 'wide'),
      number(backlog, 'wide'),
      number(waiting, 'wide'),
      number(inflight + backlog + waiting, 'narrow'),
      number(attempts, 'wide'),
      element('td', { class: 'number wide' }, shownTime(wakesIn)),
    );
  }
}
