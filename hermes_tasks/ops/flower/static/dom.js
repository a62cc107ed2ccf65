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

// Makes the children of a node what these are, and touches only what differs: a link that is about to
// be clicked, what has the focus and what is selected stay. A node of another sort takes the place
// of the old one; one of the same sort lends it attributes and children, but no listeners.
export function show(parent, ...children) {
  const wanted = children.flat().filter((child) => child !== undefined && child !== '');
  wanted.forEach((child, index) => {
    const node = typeof child === 'string' ? document.createTextNode(child) : child;
    const now = parent.childNodes[index];
    if (now === undefined) {
      parent.append(node);
    } else if (now.nodeName !== node.nodeName) {
      now.replaceWith(node);
    } else if (node.nodeType === Node.TEXT_NODE) {
      if (now.data !== node.data) {
        now.data = node.data;
      }
    } else {
      sameAttributes(now, node);
      show(now, ...node.childNodes);
    }
  });
  while (parent.childNodes.length > wanted.length) {
    parent.lastChild.remove();
  }
}

function sameAttributes(node, wanted) {
  for (const { name } of [...node.attributes]) {
    if (!wanted.hasAttribute(name)) {
      node.removeAttribute(name);
    }
  }
  for (const { name, value } of wanted.attributes) {
    if (node.getAttribute(name) !== value) {
      node.setAttribute(name, value);
    }
  }
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
