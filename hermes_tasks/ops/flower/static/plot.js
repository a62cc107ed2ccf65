// Lines over the last hour, as SVG: a legend that says the values under the pointer, and bands
// behind the lines for times in which something was so.

import { element, svg } from './dom.js';
import { clock, moment } from './text.js';

const HEIGHT = 190;
const MARGIN = { top: 10, right: 10, bottom: 24, left: 52 };
// Seconds without a sample after which a line ends: nobody looked.
const GAP = 45;
// Seconds at which a logarithmic axis has a line: those that one has a feeling for.
const TIMES = [0.01, 0.1, 1, 10, 60, 600, 3600, 36000, 86400, 864000];
const TIME_STEPS = [60, 120, 300, 600, 900];

export class Plot {
  // series: [{ name, kind, step }]; format: a value as text; floor: the lowest value, one of TIMES,
  // of a logarithmic axis; undefined for a linear one from 0.
  constructor(container, { label, series, format, floor }) {
    Object.assign(this, { container, label, series, format, floor });
    this.readings = series.map(() => element('b', {}, '—'));
    this.when = element('span', { class: 'legend-when' });
    this.legend = element(
      'div',
      { class: 'legend' },
      series.map(({ name, kind }, index) =>
        element(
          'span',
          { class: 'legend-entry' },
          svg(
            'svg',
            { class: 'legend-line', viewBox: '0 0 18 8', 'aria-hidden': 'true' },
            svg('line', { class: `line line-${kind}`, x1: 1, y1: 4, x2: 17, y2: 4 }),
          ),
          `${name} `,
          this.readings[index],
        ),
      ),
      this.when,
    );
    this.svg = svg('svg', { class: 'plot-svg', role: 'img', tabindex: '0', 'aria-label': label });
    container.replaceChildren(this.legend, this.svg);
    this.svg.addEventListener('pointermove', (event) => this.point(event.clientX));
    this.svg.addEventListener('pointerdown', (event) => this.point(event.clientX));
    this.svg.addEventListener('pointerleave', () => this.pick(undefined));
    this.svg.addEventListener('blur', () => this.pick(undefined));
    this.svg.addEventListener('keydown', (event) => this.step(event));
    new ResizeObserver(() => this.render()).observe(container);
  }

  // data: { from, to, points: [{ at, values }], bands: [{ from, to, kind }] }, times in seconds,
  // a value of null where there is none.
  draw(data) {
    this.data = data;
    this.render();
  }

  render() {
    const width = this.container.clientWidth;
    if (!this.data || width < 80) {
      return;
    }
    const { from, to, points, bands = [] } = this.data;
    this.width = width;
    const values = points.flatMap((point) => point.values.filter((value) => value !== null));
    const { top, ticks } = this.floor ? logTicks(this.floor, values) : linearTicks(values);
    const right = width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    const share = this.floor
      ? (value) => Math.log(Math.max(value, this.floor) / this.floor) / Math.log(top / this.floor)
      : (value) => value / top;
    this.x = (at) => MARGIN.left + ((at - from) / (to - from)) * (right - MARGIN.left);
    this.y = (value) => bottom - share(value) * (bottom - MARGIN.top);
    this.bottom = bottom;
    this.cursor = svg('g', { class: 'cursor' });
    this.svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute('width', width);
    this.svg.setAttribute('height', HEIGHT);
    this.svg.replaceChildren(
      ...bands.map((band) => this.band(band, from, to)),
      ...ticks.map((value) => this.level(value, right)),
      ...timeTicks(from, to, width).map((at) => this.time(at)),
      ...this.series.map((one, index) => this.line(one, index, points)),
      this.cursor,
      ...(points.length ? [] : [this.nothing(width)]),
    );
    this.pick(this.picked);
  }

  nothing(width) {
    const place = { x: (MARGIN.left + width) / 2, y: HEIGHT / 2, 'text-anchor': 'middle' };
    return svg('text', { class: 'plot-empty', ...place }, 'No worker has noted anything yet');
  }

  band({ from, to, kind }, begin, end) {
    const x = this.x(Math.max(from, begin));
    const width = Math.max(1.5, this.x(Math.min(to, end)) - x);
    return svg(
      'g',
      { class: `band band-${kind}` },
      svg('rect', { x, width, y: MARGIN.top, height: this.bottom - MARGIN.top }),
      svg('rect', { class: 'band-edge', x, width, y: MARGIN.top - 4, height: 4 }),
    );
  }

  level(value, right) {
    const y = this.y(value);
    return svg(
      'g',
      { class: 'tick' },
      svg('line', { x1: MARGIN.left, x2: right, y1: y, y2: y }),
      svg('text', { x: MARGIN.left - 8, y: y + 4, 'text-anchor': 'end' }, this.format(value)),
    );
  }

  time(at) {
    const x = this.x(at);
    return svg(
      'g',
      { class: 'tick tick-time' },
      svg('line', { x1: x, x2: x, y1: this.bottom, y2: this.bottom + 4 }),
      svg('text', { x, y: HEIGHT - 5, 'text-anchor': 'middle' }, clock(at)),
    );
  }

  line({ kind, step }, index, points) {
    let path = '';
    let last;
    for (const { at, values } of points) {
      const value = values[index];
      if (value === null) {
        last = undefined;
        continue;
      }
      const x = this.x(at).toFixed(1);
      const y = this.y(value).toFixed(1);
      if (last === undefined || at - last > GAP) {
        path += `M${x} ${y}h0.01`;
      } else {
        path += step ? `H${x}V${y}` : `L${x} ${y}`;
      }
      last = at;
    }
    return svg('path', { class: `line line-${kind}`, d: path });
  }

  point(clientX) {
    if (!this.data?.points.length) {
      return;
    }
    const box = this.svg.getBoundingClientRect();
    const x = ((clientX - box.left) / box.width) * this.width;
    const near = this.data.points.reduce((best, point) =>
      Math.abs(this.x(point.at) - x) < Math.abs(this.x(best.at) - x) ? point : best,
    );
    this.pick(near.at);
  }

  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !this.data?.points.length) {
      return;
    }
    event.preventDefault();
    const { points } = this.data;
    const now = points.findIndex((point) => point.at === this.picked);
    const index = now < 0 ? points.length - 1 : Math.max(0, Math.min(points.length - 1, now + by));
    this.pick(points[index].at);
  }

  // Shows the values of that time, or the latest.
  pick(at) {
    this.picked = at;
    const points = this.data?.points ?? [];
    const point = points.find((one) => one.at === at) ?? points.at(-1);
    this.readings.forEach((reading, index) => {
      const value = point?.values[index] ?? null;
      reading.textContent = value === null ? '—' : this.format(value);
    });
    this.when.textContent = at !== undefined && point ? moment(point.at) : '';
    const names = this.series.map(({ name }, i) => `${name} ${this.readings[i].textContent}`);
    this.svg.setAttribute('aria-label', `${this.label}: ${names.join(', ')}`);
    this.cursor?.replaceChildren();
    if (at !== undefined && point && this.cursor) {
      const x = this.x(point.at);
      this.cursor.append(
        svg('line', { x1: x, x2: x, y1: MARGIN.top, y2: this.bottom }),
        ...this.series.flatMap(({ kind }, index) => {
          const value = point.values[index];
          return value === null
            ? []
            : [svg('circle', { class: `dot dot-${kind}`, cx: x, cy: this.y(value), r: 3.5 })];
        }),
      );
    }
  }
}

function linearTicks(values) {
  const most = Math.max(1, ...values);
  const rough = most / 3;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].find((factor) => factor * unit >= rough) * unit);
  const number = Math.ceil(most / step);
  return { top: number * step, ticks: Array.from({ length: number + 1 }, (_, i) => i * step) };
}

function logTicks(floor, values) {
  const most = Math.max(10 * floor, ...values);
  const end = TIMES.findIndex((time) => time >= most);
  const ticks = TIMES.slice(TIMES.indexOf(floor), end < 0 ? undefined : end + 1);
  return { top: Math.max(most, ticks.at(-1)), ticks };
}

function timeTicks(from, to, width) {
  const most = Math.max(2, Math.floor(width / 90));
  const step = TIME_STEPS.find((seconds) => (to - from) / seconds <= most) ?? 1200;
  const first = Math.ceil(from / step) * step;
  const ticks = [];
  for (let at = first; at <= to - step / 6; at += step) {
    ticks.push(at);
  }
  return ticks;
}
