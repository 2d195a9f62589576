// Products as cards. What the catalogue says is only ever put in as text, never as HTML.

import { askBlob, hasKey, pathOf, withParameters } from "./api.js";

/** Longer side of the thumbnails that are asked for: sharp on screens of two pixels a dot. */
let side = 320;

export function allowSide(most) {
  side = Math.min(side, most);
}

export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Let an image show a product; `fails` is called where it cannot be had. */
export async function showProduct(image, id, fails = () => {}) {
  const path = withParameters(pathOf("pictures", id), { size: side });
  image.dataset.product = id;
  image.onerror = fails;
  if (!hasKey()) {
    image.src = path;
    return;
  }
  // An <img> sends no key.
  try {
    const content = await askBlob(path);
    // Meanwhile it may be there for something else.
    if (image.dataset.product !== id) return;
    const url = URL.createObjectURL(content);
    image.onload = () => URL.revokeObjectURL(url);
    image.src = url;
  } catch {
    if (image.dataset.product === id) fails();
  }
}

/**
 * Return a product as an item of the grid, with a link that searches for products like it.
 *
 * @param {{id: string, label: string, category?: string, domain?: string, score?: number}} product
 * @param {string} address of the search
 * @param {boolean} measured whether the scores of the answer can be drawn as shares of a bar
 */
export function card(product, address, measured) {
  const item = make("li");
  const link = make("a", "card");
  link.href = address;
  const tile = make("span", "tile");
  const image = make("img");
  image.alt = "";
  image.loading = "lazy";
  showProduct(image, product.id, () => tile.replaceChildren(make("span", "missing", "No picture")));
  tile.append(image);
  const label = make("span", "label", product.label || product.id);
  label.title = label.textContent;
  link.append(tile, label);
  const place = [product.category, product.domain].filter(Boolean).join(" · ");
  if (place) link.append(make("span", "place", place));
  if (product.score !== undefined) link.append(score(product.score, measured));
  item.append(link);
  return item;
}

/** Whether scores are shares of 1: a bar for others would have no scale. */
export function areShares(neighbours) {
  return neighbours.length > 0
    && neighbours.every(({ score }) => score >= -1.001 && score <= 1.001)
    && neighbours[0].score > 0;
}

function score(value, measured) {
  const line = make("span", "score");
  line.append(make("span", "unseen", "Similarity "), make("span", "value", value.toFixed(3)));
  if (measured) {
    const bar = make("span", "meter");
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", `${Math.round(100 * Math.max(0, value))} of 100`);
    const part = make("span");
    part.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
    bar.append(part);
    line.append(bar);
  }
  return line;
}

/** Return cards without content, for the time until the answer is there. */
export function blanks(count) {
  return Array.from({ length: count }, () => {
    const item = make("li", "blank");
    item.setAttribute("aria-hidden", "true");
    item.append(make("span", "tile"), make("span", "label"), make("span", "place"));
    return item;
  });
}
