// Elements made of text. Nothing that came from Redis is ever parsed as HTML.

const SVG = 'http://www.w3.org/2000/svg';

// Attributes that are undefined are left out; children are nodes, or text.
function made(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) {
      node.setAttribute(name, value);
    }
  }
  node.append(...children.flat().filter((child) => child !== undefined && child !== ''));
  return node;
}

export function element(name, attributes = {}, ...children) {
  return made(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return made(document.createElementNS(SVG, name), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

export function missing() {
  return element('span', { class: 'value-missing' }, '—');
}

export function emptyRow(columns, text) {
  return element('tr', {}, element('td', { class: 'empty-table-message', colspan: columns }, text));
}
