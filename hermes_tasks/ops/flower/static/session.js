// The page `/session?id=…`: which session it is, it reads from its own address.

import { byId, element, emptyRow, missing, show } from './dom.js';
import { Live } from './live.js';
import { showMetrics } from './metrics.js';
import { STATES, shownTime, stateBadge } from './rows.js';
import { count, counted, duration, moment, zone } from './text.js';
import { showFailure } from './verdict.js';

const page = byId('session-page');
const id = new URLSearchParams(location.search).get('id') ?? '';
// Of anything else a shell could make something.
const PLAIN = /^[A-Za-z0-9][A-Za-z0-9_:.@-]*$/;
const TASK_STATES = {
  SUCCESS: 'text-bg-success',
  FAILURE: 'text-bg-danger',
  STARTED: 'task-state-started',
  RETRY: 'text-bg-warning',
};

byId('name').textContent = id;
byId('zone').textContent = zone();
document.title = `${id} · Flower`;

function linked(base, name) {
  return element('a', { href: base.slice(0, -1) + encodeURIComponent(name) }, name);
}

function cards(session) {
  const { accepted, written, lag, inflight, waiting, backlog, attempts, wakes_in: wakesIn, doubt } = session;
  const queued = inflight + waiting + backlog;
  return [
    {
      id: 'queued',
      label: 'Turns queued',
      value: count(queued),
      more: `${count(inflight)} in flight, ${count(backlog)} in backlog, ${count(waiting)} waiting`,
      kind: backlog ? 'warning' : 'active',
    },
    {
      id: 'lag',
      label: 'Lag',
      value: lag === null ? '—' : duration(lag),
      more: lag === null ? 'nothing waits' : 'age of its oldest turn',
      kind: lag > 60 ? 'warning' : 'active',
    },
    {
      id: 'written',
      label: 'Written up to number',
      value: count(written),
      more: `${count(accepted)} is the newest accepted`,
      kind: 'success',
    },
    {
      id: 'attempts',
      label: 'Failed attempts',
      value: count(attempts),
      more: wakesIn === null ? 'of its oldest turn' : `again in ${duration(wakesIn)}`,
      kind: attempts ? 'warning' : 'success',
    },
    {
      id: 'doubt',
      label: 'In doubt',
      value: doubt ? `${doubt.first}–${doubt.last}` : 'no',
      more: doubt ? 'a call may have written these numbers' : 'no call is unanswered',
      kind: doubt ? 'warning' : 'success',
    },
  ];
}

function says({ state, paused, worker, wakes_in: wakesIn }) {
  const text = STATES[state]?.[2] ?? '';
  const more = [
    worker && state === 'leased' ? `worker ${worker}` : '',
    wakesIn === null ? '' : `wakes in ${duration(wakesIn)}`,
    paused && state !== 'paused' ? 'pauses when its worker is done' : '',
  ].filter(Boolean);
  return [text, ...more].join('; ');
}

// Flower has a page only for turns that it has seen.
function turnName(turn, seen) {
  return seen.has(turn) ? linked(page.dataset.taskUrl, turn) : element('span', {}, turn);
}

function showQueued({ turns, inflight, waiting, backlog }, recent) {
  const all = inflight + waiting + backlog;
  const seen = new Set(recent.map((turn) => turn.id));
  show(
    byId('queued'),
    turns.length
      ? turns.map(({ number, id: turn, size, age, place }) =>
          element(
            'tr',
            {},
            element('td', { class: 'name' }, turnName(turn, seen)),
            element('td', { class: 'number' }, count(number)),
            element('td', { class: 'text-nowrap' }, place),
            element('td', { class: 'number' }, duration(age)),
            element('td', { class: 'number wide' }, count(size)),
          ),
        )
      : emptyRow(5, 'Nothing is queued: all is written.'),
  );
  const more = all - turns.length;
  byId('queued-more').textContent = more > 0 ? `and ${counted(more, 'later turn')}` : '';
}

function showTrace(trace) {
  show(
    byId('trace'),
    trace.length
      ? trace.map((line) => {
          const [at, ...text] = line.split(' ');
          return element('li', {}, element('time', { datetime: at }, moment(Date.parse(at) / 1000)), ' ', text.join(' '));
        })
      : element('li', { class: 'trace-none' }, 'Nothing has failed, and nothing has held it.'),
  );
}

// A turn that was begun and has to wait again stays "started" in Celery's events.
function taskBadge(state, queued) {
  const [text, colour] = queued
    ? ['QUEUED', 'text-bg-secondary']
    : [state, TASK_STATES[state] ?? 'text-bg-secondary'];
  return element('span', { class: `badge ${colour}` }, text);
}

function showRecent(recent, { turns, state: now }) {
  const queued = new Set(now === 'leased' ? [] : turns.map((turn) => turn.id));
  show(
    byId('recent'),
    recent.length
      ? recent.map(({ id: turn, state, at, runtime, worker }) =>
          element(
            'tr',
            {},
            element('td', { class: 'name' }, linked(page.dataset.taskUrl, turn)),
            element('td', {}, taskBadge(state, queued.has(turn))),
            element('td', { class: 'number' }, moment(at)),
            element('td', { class: 'number wide' }, shownTime(runtime)),
            element('td', { class: 'wide' }, worker ? linked(page.dataset.workerUrl, worker) : missing()),
          ),
        )
      : emptyRow(5, 'Flower has seen none since it was started. Workers tell it of them with --events.'),
  );
}

function showCommands({ state, paused }) {
  byId('commands-panel').classList.toggle('d-none', !PLAIN.test(id));
  byId('commands').textContent = [
    `hermes-tasks sessions show ${id}`,
    paused ? `hermes-tasks sessions resume ${id}` : `hermes-tasks sessions pause ${id}`,
    ...(state === 'sleeping' ? [`hermes-tasks sessions wake ${id}`] : []),
    `hermes-tasks dead list --session ${id}`,
  ].join('\n');
}

const UNKNOWN = {
  state: 'idle',
  paused: false,
  lag: null,
  inflight: 0,
  waiting: 0,
  backlog: 0,
  attempts: 0,
  wakes_in: null,
  accepted: 0,
  written: 0,
  worker: '',
  doubt: null,
  trace: [],
  turns: [],
};

function shown({ session, recent }) {
  const found = session ?? UNKNOWN;
  show(byId('state'), stateBadge(found.state, found.paused));
  byId('says').textContent = session ? says(found) : 'Redis has forgotten it: all is written, a day ago or longer';
  showMetrics(byId('metrics'), cards(found));
  showQueued(found, recent);
  showTrace(found.trace);
  showRecent(recent, found);
  showCommands(found);
}

new Live({
  address: () => `${page.dataset.url}?${new URLSearchParams({ id })}`,
  shown,
  failed: (text) => showFailure(page, text),
}).look();
