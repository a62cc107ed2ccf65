// The page `/sessions`: wires the parts to the numbers.

import { byId, element, emptyRow, show } from './dom.js';
import { showGates } from './gates.js';
import { History } from './history.js';
import { Live } from './live.js';
import { showMetrics } from './metrics.js';
import { Plot } from './plot.js';
import { Rows } from './rows.js';
import { count, counted, duration, moment, zone } from './text.js';
import { showFailure, showFindings } from './verdict.js';

const page = byId('sessions-page');
const history = new History();

const turns = new Plot(byId('plot-turns'), {
  label: 'Turns a minute',
  series: [
    { name: 'accepted', kind: 'accepted' },
    { name: 'written', kind: 'written' },
  ],
  format: (value) => count(Math.round(value)),
});
const lag = new Plot(byId('plot-lag'), {
  label: 'Lag',
  series: [
    { name: 'p99', kind: 'p99' },
    { name: 'p95', kind: 'p95' },
    { name: 'p50', kind: 'p50' },
  ],
  format: duration,
  floor: 0.1,
});

function listed(counts) {
  return Object.entries(counts)
    .filter(([, number]) => number)
    .map(([name, number]) => `${count(number)} ${name.replaceAll('_', ' ')}`)
    .join(', ');
}

function cards({ overview, silent_after: silentAfter }) {
  const { unsettled, backlog, dead, twice, workers, gateways } = overview;
  const last = history.samples.length - 1;
  const rate = last < 0 ? null : history.rate('written', last);
  const consuming = workers.filter(
    ({ consuming: takes, seen }) => takes && seen <= silentAfter,
  ).length;
  const lags = overview.lag;
  return [
    {
      id: 'unsettled',
      label: 'Turns on the way',
      value: count(unsettled),
      more: backlog ? `${count(backlog)} in backlogs` : 'no backlog',
      kind: backlog ? 'warning' : 'active',
    },
    {
      id: 'lag',
      label: 'Longest lag',
      value: lags ? duration(lags.longest) : '—',
      more: lags
        ? `p50 ${duration(lags.p50)} · p95 ${duration(lags.p95)} · p99 ${duration(lags.p99)}`
        : 'nothing waits',
      kind: lags && lags.longest > 60 ? 'warning' : 'active',
    },
    {
      id: 'written',
      label: 'Written',
      value: count(overview.written),
      more: `of ${count(overview.accepted)} accepted${rate === null ? '' : `, ${count(Math.round(rate))} a minute`}`,
      kind: 'success',
    },
    {
      id: 'dead',
      label: 'Dead letters',
      value: count(dead),
      more: listed(overview.given_up) ? `ever: ${listed(overview.given_up)}` : 'none ever',
      kind: dead ? 'danger' : 'success',
    },
    {
      id: 'duplicates',
      label: 'Duplicates avoided',
      value: count(overview.found + overview.duplicates),
      more: twice ? `${count(twice)} written twice` : 'none written twice',
      kind: twice ? 'danger' : 'success',
    },
    {
      id: 'workers',
      label: 'Workers at work',
      value: `${count(consuming)}`,
      more:
        consuming === workers.length
          ? `${counted(gateways.rows, 'turn')} in outboxes`
          : `of ${count(workers.length)} that report`,
      kind: consuming ? (consuming < workers.length ? 'warning' : 'success') : 'danger',
    },
  ];
}

function showLetters(letters, sessionUrl) {
  show(
    byId('letters'),
    letters.length
      ? letters.map(({ at, reason, session, id, detail }) =>
          element(
            'tr',
            {},
            element('td', { class: 'text-nowrap' }, moment(at)),
            element('td', {}, element('span', { class: 'badge text-bg-danger' }, reason)),
            element(
              'td',
              { class: 'name' },
              element('a', { href: `${sessionUrl}?id=${encodeURIComponent(session)}` }, session),
              element('div', { class: 'letter-turn' }, id),
              detail ? element('div', { class: 'letter-detail' }, detail) : '',
            ),
          ),
        )
      : emptyRow(3, 'No dead letters.'),
  );
}

function worker({ name, consuming, seen }, silentAfter) {
  const silent = seen > silentAfter;
  const says = consuming ? 'takes sessions' : 'takes no sessions';
  return element(
    'li',
    {},
    element('span', {
      class: `status-dot status-dot-${consuming && !silent ? 'live' : 'error'}`,
      'aria-hidden': 'true',
    }),
    element('span', { class: 'process-name' }, name),
    element(
      'span',
      { class: 'process-state' },
      silent ? `silent for ${duration(seen)}` : `${says}, seen ${duration(seen)} ago`,
    ),
  );
}

function showProcesses({ workers, gateways }, silentAfter) {
  const list = workers.map((one) => worker(one, silentAfter));
  const told = gateways.count
    ? `${counted(gateways.count, 'gateway')} with ${counted(gateways.rows, 'turn')} that Redis has not accepted yet`
    : 'No gateway has anything to send';
  show(
    byId('processes'),
    workers.length
      ? element('ul', { class: 'processes' }, list)
      : element('p', { class: 'empty-table-message' }, 'No worker has reported in the last ten minutes.'),
    element(
      'p',
      { class: `panel-foot${gateways.dropped ? ' happened-open' : ''}` },
      `${told}. ${gateways.dropped ? `${counted(gateways.dropped, 'turn')} dropped from full outboxes, ever.` : 'No turn was ever dropped from an outbox.'}`,
    ),
  );
}

function shown(answer) {
  const { overview } = answer;
  history.add(answer.history, overview.now);
  showFindings(answer.problems, overview);
  showMetrics(byId('metrics'), cards(answer));
  showGates(overview.gates, history);
  turns.draw({
    ...history.span,
    points: history.points((sample, index) => [history.rate('accepted', index), history.rate('written', index)]),
  });
  lag.draw({
    ...history.span,
    // Where nothing waits, nothing lags.
    points: history.points((_, index) =>
      ['p99', 'p95', 'p50'].map((rank) => history.highest((one) => one.lag?.[rank] ?? 0, index)),
    ),
  });
  rows.show(answer.sessions, overview.sessions);
  showLetters(answer.letters, page.dataset.sessionUrl);
  showProcesses(overview, answer.silent_after);
}

const rows = new Rows(page.dataset.sessionUrl, () => live.look());
const live = new Live({
  address: () => `${page.dataset.url}?${new URLSearchParams({ ...rows.query, since: history.since })}`,
  shown,
  failed: (text) => showFailure(page, text),
});
byId('zone').textContent = zone();
live.look();
