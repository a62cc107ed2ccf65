// What is the matter, on top: the first thing to read.

import { byId, element, show } from './dom.js';
import { counted, duration } from './text.js';

const MARKS = { wrong: ['✕', 'Wrong'], note: ['!', 'Note'], well: ['✓', 'Well'] };

// Commands as they begin in the advice that diagnosis.py gives.
const COMMAND = /(?=(?:hermes-tasks|celery) )/;

function advice(text) {
  const [said, ...command] = text.split(COMMAND);
  const isCommand = COMMAND.test(said);
  return element(
    'p',
    { class: 'finding-advice' },
    isCommand ? '' : said,
    isCommand || command.length ? element('code', {}, (isCommand ? [said] : []).concat(command).join('')) : '',
  );
}

function finding({ severity, what, do: todo }) {
  const [mark, label] = MARKS[severity];
  return element(
    'div',
    { class: `finding finding-${severity}` },
    element('span', { class: 'finding-mark', role: 'img', 'aria-label': label }, mark),
    element(
      'div',
      { class: 'finding-text' },
      element('p', { class: 'finding-what' }, what),
      todo ? advice(todo) : '',
    ),
  );
}

function well({ unsettled, lag }) {
  const what = unsettled
    ? `Turns are being written: ${counted(unsettled, 'turn')} on the way${lag ? `, the oldest for ${duration(lag.longest)}` : ''}.`
    : 'All is written: every turn that was accepted is settled.';
  return { severity: 'well', what, do: '' };
}

export function showFindings(problems, overview) {
  const wrong = problems.some(({ severity }) => severity === 'wrong');
  show(byId('verdict'), (wrong ? problems : [well(overview), ...problems]).map(finding));
}

// Numbers that could not be renewed stay, pale, under the reason.
export function showFailure(page, text) {
  page.classList.toggle('stale', Boolean(text));
  const shown = finding({ severity: 'wrong', what: text, do: 'What is shown is from before.' });
  show(byId('failure'), text ? shown : '');
}
