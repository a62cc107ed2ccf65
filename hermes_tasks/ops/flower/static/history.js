// The last hour, as the workers have noted it: kept here, and lengthened by what is new.

const HOUR = 3600;
// A young deployment's plots do not begin with an hour of nothing.
const SHORTEST = 120;
const MINUTE = 60;

export class History {
  constructor() {
    this.samples = [];
  }

  get since() {
    return this.samples.at(-1)?.at ?? 0;
  }

  add(samples, now) {
    const known = this.since;
    this.samples.push(...samples.filter(({ at }) => at > known));
    this.samples = this.samples.filter(({ at }) => at > now - HOUR);
    const first = this.samples[0]?.at ?? now;
    this.span = { from: Math.max(now - HOUR, Math.min(first, now - SHORTEST)), to: now };
  }

  points(values) {
    return this.samples.map((sample, index) => ({ at: sample.at, values: values(sample, index) }));
  }

  // Turns a minute of a counter, over the minute before a sample. A Redis that is new counts anew.
  rate(name, index) {
    const last = this.samples[index];
    let first = index;
    while (first > 0 && last.at - this.samples[first - 1].at <= MINUTE) {
      first -= 1;
    }
    const before = this.samples[first];
    if (first === index) {
      return null;
    }
    return (Math.max(0, last[name] - before[name]) / (last.at - before.at)) * MINUTE;
  }

  // The most of what `value` gives over the minute before a sample, so that one that comes and goes
  // is a line, and one high sample is seen.
  highest(value, index) {
    const last = this.samples[index];
    let highest = value(last);
    for (let i = index - 1; i >= 0 && last.at - this.samples[i].at < MINUTE; i -= 1) {
      highest = Math.max(highest, value(this.samples[i]));
    }
    return highest;
  }

  // Times in which `kind` gave the same word, one after the other: [{ from, to, kind }].
  bands(kind) {
    const bands = [];
    this.samples.forEach((sample, index) => {
      const now = kind(sample);
      const until = this.samples[index + 1]?.at ?? this.span.to;
      const last = bands.at(-1);
      if (now === undefined) {
        return;
      }
      if (last && last.kind === now && last.to >= sample.at) {
        last.to = until;
      } else {
        bands.push({ from: sample.at, to: until, kind: now });
      }
    });
    return bands;
  }
}
