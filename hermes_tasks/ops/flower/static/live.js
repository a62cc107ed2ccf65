// Asks for the numbers again and again, and says how old what is shown is.

import { byId } from './dom.js';

const EVERY_MS = 2000;
const LONGEST_MS = 15000;
const TIMEOUT_MS = 15000;

class LoggedOut extends Error {}
class Refused extends Error {}

async function ask(address) {
  let response;
  try {
    // A login page of somebody else is no answer.
    response = await fetch(address, {
      redirect: 'manual',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch {
    throw new Error('Flower does not answer');
  }
  if (response.type === 'opaqueredirect' || response.status === 401 || response.status === 403) {
    throw new LoggedOut('Logged out: load this page again');
  }
  let answer;
  try {
    answer = await response.json();
  } catch {
    throw new Error(`Flower failed (${response.status})`);
  }
  if (!response.ok) {
    throw response.status < 500 ? new Refused(answer.error) : new Error(answer.error);
  }
  return answer;
}

export class Live {
  // address: called before each question. shown: takes the answer. failed: takes one line.
  constructor({ address, shown, failed }) {
    this.address = address;
    this.shown = shown;
    this.failed = failed;
    this.failures = 0;
    this.timer = undefined;
    this.number = 0;
    document.addEventListener('visibilitychange', () => this.look());
    window.addEventListener('online', () => this.look());
  }

  // Now, whatever is planned.
  async look() {
    clearTimeout(this.timer);
    if (document.hidden) {
      return; // nobody looks: a phone in a pocket asks nothing
    }
    const number = (this.number += 1);
    let wait = EVERY_MS;
    try {
      const answer = await ask(this.address());
      if (number !== this.number) {
        return; // another question was asked meanwhile
      }
      this.failures = 0;
      this.shown(answer);
      this.say('live', `Updated ${new Date().toLocaleTimeString('en-GB')}`);
      this.failed('');
    } catch (error) {
      if (number !== this.number) {
        return;
      }
      this.failures += 1;
      wait = Math.min(LONGEST_MS, EVERY_MS * 2 ** (this.failures - 1));
      this.say('error', error instanceof LoggedOut ? 'Logged out' : 'Update failed');
      this.failed(error.message, error instanceof Refused);
      if (error instanceof LoggedOut) {
        return;
      }
    }
    this.timer = setTimeout(() => this.look(), wait);
  }

  say(kind, text) {
    byId('live-dot').className = `status-dot status-dot-${kind}`;
    byId('live-text').textContent = text;
  }
}
