// The row of numbers: Flower's cards, each with a line that says more.

import { element, show } from './dom.js';

// cards: [{ label, value, more, kind, id }]; kind: success, active, danger, warning or undefined.
export function showMetrics(container, cards) {
  show(
    container,
    cards.map(({ label, value, more = '', kind, id }) =>
      element(
        'article',
        { class: `metric-card${kind ? ` metric-card-${kind}` : ''}`, 'data-metric': id },
        element('p', { class: 'metric-label' }, label),
        element('p', { class: 'metric-value' }, value),
        element('p', { class: 'metric-more' }, more || '\u00a0'),
      ),
    ),
  );
}
