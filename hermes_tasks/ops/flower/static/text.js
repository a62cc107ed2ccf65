// Numbers and times as an operator reads them.

const UNITS = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];

export function count(number) {
  return number.toLocaleString('en-US');
}

export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? '' : 's'}`;
}

// In its two largest units, as ops/words.py has it: `340 ms`, `4.2 s`, `12 min 5 s`, `3 d 4 h`.
export function duration(seconds) {
  if (seconds < 0.9995) {
    return `${Math.round(Math.max(0, seconds) * 1000)} ms`;
  }
  if (seconds < 10) {
    return `${Number(seconds.toFixed(1))} s`;
  }
  let left = Math.round(seconds);
  const largest = UNITS.findIndex(([size]) => left >= size);
  const parts = [];
  for (const [size, unit] of UNITS.slice(largest, largest + 2)) {
    if (left >= size) {
      parts.push(`${Math.floor(left / size)} ${unit}`);
    }
    left %= size;
  }
  return parts.join(' ');
}

// Seconds since the epoch as a time of the reader's day, with the date if that is another day.
export function moment(seconds) {
  const at = new Date(seconds * 1000);
  const time = at.toLocaleTimeString('en-GB');
  const today = at.toDateString() === new Date().toDateString();
  return today ? time : `${at.toLocaleDateString('en-CA')} ${time}`;
}

// Commands and logs say UTC, so a page says what it says.
export function zone() {
  const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
  return `Times without a zone are those of this browser: ${timeZone}.`;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit' });
}
