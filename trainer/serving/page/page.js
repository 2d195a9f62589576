// The search page: what is asked for (a picture, a product, an address), its answer, the way back.

import { askJson, keepKey, pathOf, Problem, withParameters } from "./api.js";
import { allowSide, areShares, blanks, card, make, showProduct } from "./cards.js";
import { CropBox } from "./crop.js";

const COUNTS = [10, 20, 50, 100];
/** Products that the page begins with. */
const FIRST = 12;
const LONGEST_TRAIL = 8;
/** Milliseconds without a further key before the box is searched. */
const PAUSE = 400;
/** Longest wait, in seconds, and most refusals, after which the page asks again by itself. */
const LONGEST_WAIT = 60;
const MOST_REFUSALS = 3;

const part = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en");

let catalogue = null;
let starting = false;
/**
 * Pictures that were chosen: file, url, width, height, name. History refers to them by number, and
 * to this load of the page, as another one has others with these numbers.
 */
const pictures = [];
const load = crypto.getRandomValues(new Uint32Array(4)).join("-");
/**
 * What is asked for now.
 * query: null | {kind: "picture", number, box} | {kind: "product", id, label}
 *   | {kind: "address", url}
 * trail: the queries that led here, oldest first
 */
let view = { query: null, trail: [], category: "", domain: "", k: 0 };
let running = null;
let timer = 0;
let chosen = 0;
/** Of the products that the page begins with: number of the first, and whether others follow. */
let offset = 0;
let more = false;
/** Searches in a row that were refused as too many. */
let refused = 0;

const crop = new CropBox(
  part("stage"),
  part("crop"),
  { x: part("crop-x"), y: part("crop-y"), w: part("crop-w"), h: part("crop-h") },
  (box, soon) => {
    view.query.box = box;
    remember("replaceState");
    // What had the focus is gone with the box: the box itself, or the button that takes it away.
    const lost = !box && [document.body, part("crop-clear")].includes(document.activeElement);
    part("results-title").textContent = showCrop();
    if (lost) part("crop-start").focus({ preventScroll: true });
    clearTimeout(timer);
    if (soon) timer = setTimeout(search, PAUSE);
    else search();
  },
);

// ---- where we are -------------------------------------------------------------------------------

function addressOf({ query, category, domain, k }) {
  const id = query?.kind === "product" ? query.id : "";
  const count = k === catalogue.limits.k ? "" : k;
  return withParameters(location.pathname, { id, category, domain, k: count });
}

function remember(how) {
  const { query, trail } = view;
  history[how]({ query, trail, load }, "", addressOf(view));
}

function recall() {
  offset = 0;
  const given = new URLSearchParams(location.search);
  const kept = history.state ?? {};
  const id = given.get("id");
  let query = kept.query ?? null;
  if (id !== null && query?.id !== id) query = { kind: "product", id, label: "" };
  const isLost = (step) => step?.kind === "picture"
    && (kept.load !== load || !pictures[step.number]);
  const lost = isLost(query);
  if (lost) query = null;
  const known = (name, values) => (values.includes(given.get(name)) ? given.get(name) : "");
  view = {
    query,
    trail: (kept.trail ?? []).filter((step) => !isLost(step)),
    category: known("category", catalogue.categories),
    domain: known("domain", catalogue.domains),
    k: counts().includes(Number(given.get("k"))) ? Number(given.get("k")) : catalogue.limits.k,
  };
  arrive();
  if (lost) tell("A page that is loaded anew has lost your picture: choose it again.");
}

/** Ask for something else; the way back leads here. */
function go(changes) {
  view = { ...view, ...changes };
  remember("pushState");
  arrive();
}

function arrive() {
  clearTimeout(timer);
  showQuery();
  showTrail();
  showFilters();
  search();
}

function goTo(query) {
  const trail = view.query ? [...view.trail, view.query].slice(-LONGEST_TRAIL) : [];
  go({ query, trail });
  part("results").focus({ preventScroll: true });
  scrollTo(0, 0);
}

// ---- asking -------------------------------------------------------------------------------------

async function search() {
  running?.abort();
  clearTimeout(timer);
  const mine = new AbortController();
  running = mine;
  quiet();
  part("results").setAttribute("aria-busy", "true");
  part("status").textContent = view.query ? "Searching…" : "";
  if (!part("grid").children.length) part("grid").replaceChildren(...blanks(FIRST));
  try {
    const answer = await request(view, mine.signal);
    if (mine !== running) return;
    refused = 0;
    show(answer);
  } catch (error) {
    if (mine === running) {
      part("status").textContent = "";
      part("grid").replaceChildren();
      fail(error, search);
    }
  } finally {
    if (mine === running) part("results").setAttribute("aria-busy", "false");
  }
}

function request({ query, category, domain, k }, signal) {
  const filters = { k, category, domain };
  if (!query) {
    const parameters = { offset, limit: FIRST, category, domain };
    return askJson(withParameters("v1/products", parameters), { signal });
  }
  if (query.kind === "product") {
    return askJson(withParameters(pathOf("neighbours", query.id), filters), { signal });
  }
  if (query.kind === "address") {
    const body = JSON.stringify({ url: query.url, ...given(filters) });
    const headers = { "Content-Type": "application/json" };
    return askJson("v1/search-url", { method: "POST", headers, body, signal });
  }
  const body = new FormData();
  const { file, name } = pictures[query.number];
  body.append("picture", file, name);
  const { box } = query;
  const fields = { ...filters, box: box ? [box.x, box.y, box.w, box.h].join(",") : "" };
  for (const [field, value] of Object.entries(given(fields))) body.append(field, value);
  return askJson("v1/search", { method: "POST", body, signal });
}

function given(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
}

function show(answer) {
  const products = answer.neighbours ?? answer.products;
  const measured = areShares(answer.neighbours ?? []);
  part("grid").replaceChildren(...products.map((product) => {
    const query = { kind: "product", id: product.id, label: product.label };
    const item = card(product, addressOf({ ...view, query }), measured);
    item.firstChild.addEventListener("click", (event) => {
      // A new tab is the browser's affair.
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      goTo(query);
    });
    return item;
  }));
  more = Boolean(answer.more);
  part("others").hidden = !more && !offset;
  if (answer.neighbours) {
    const found = products.length === 1 ? "1 product" : `${numbers.format(products.length)} products`;
    part("status").textContent = products.length
      ? `${found} of ${numbers.format(catalogue.count)}, found in ${seconds(answer.seconds)}`
      : "";
  }
  if (!products.length) showNothing();
}

function showNothing() {
  const filtered = view.category || view.domain;
  const text = filtered ? "Nothing found with these filters." : "Nothing found.";
  part("status").textContent = text;
  if (!filtered) return;
  const item = make("li", "nothing");
  const button = make("button", "", "Show all categories and domains");
  button.type = "button";
  button.addEventListener("click", () => {
    go({ category: "", domain: "" });
    part("results").focus({ preventScroll: true });
  });
  item.append(button);
  part("grid").replaceChildren(item);
}

function seconds(time) {
  return time < 0.01 ? "less than 0.01 s" : `${time.toFixed(2)} s`;
}

// ---- what goes wrong ----------------------------------------------------------------------------

function tell(text, caption = "", action = null) {
  const line = make("p", "problem");
  line.append(make("span", "", text));
  if (caption) {
    const button = make("button", "", caption);
    button.type = "button";
    button.addEventListener("click", action);
    line.append(button);
  }
  part("problem").replaceChildren(line);
  part("problem").scrollIntoView({ block: "nearest" });
}

function quiet() {
  part("problem").replaceChildren();
}

function fail(problem, again) {
  if (!(problem instanceof Problem)) throw problem;
  if (problem.key) {
    askKey(problem.message, again);
  } else if (problem.wait && problem.wait <= LONGEST_WAIT && refused < MOST_REFUSALS) {
    refused += 1;
    tell(`${problem.message} Trying again in ${problem.wait} s.`, "Try now", again);
    timer = setTimeout(again, 1000 * problem.wait);
  } else if (problem.wait) {
    tell(`${problem.message} Try again in ${problem.wait} s.`, "Try again", again);
  } else if (problem.retry) {
    tell(problem.message, "Try again", again);
  } else {
    tell(problem.message);
  }
}

function askKey(message, again) {
  const dialog = part("key");
  if (message) part("key-text").textContent = message;
  part("key-value").value = "";
  dialog.onclose = () => {
    if (dialog.returnValue === "given") {
      keepKey(part("key-value").value);
      again();
    } else {
      tell("This service asks for an API key.", "Enter the key", () => askKey("", again));
    }
  };
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
}

// ---- what is shown of the question --------------------------------------------------------------

function showQuery() {
  const { query } = view;
  document.body.dataset.view = query ? "search" : "start";
  document.body.toggleAttribute("data-cropping", query?.kind === "picture");
  part("asked").hidden = !query;
  part("cropping").hidden = query?.kind !== "picture";
  const image = part("picture");
  image.onload = image.onerror = null;
  delete image.dataset.product;
  image.hidden = query?.kind === "address";
  let title = "Or start from one of these";
  let caption = "";
  if (query?.kind === "picture") {
    const picture = pictures[query.number];
    image.src = picture.url;
    image.alt = "Your picture";
    caption = picture.name;
    crop.open(picture.width, picture.height, query.box);
    title = showCrop();
  } else {
    crop.open(0, 0);
  }
  if (query?.kind === "product") {
    caption = title = query.label || query.id;
    title = `Products like “${title}”`;
    image.removeAttribute("src");
    image.alt = `Picture of ${caption}`;
    showProduct(image, query.id, () => { image.hidden = true; });
    if (!query.label) nameProduct(query);
  } else if (query?.kind === "address") {
    caption = query.url;
    title = "Products like the picture at this address";
  }
  part("asked-name").textContent = caption;
  part("results-title").textContent = title;
  part("pick").textContent = query ? "Another picture" : "Choose a picture";
  document.title = `${query ? title : "Search by picture"} · mildnet`;
}

/** A link from elsewhere knows the id of a product and not its label. */
async function nameProduct(query) {
  try {
    const product = await askJson(pathOf("products", query.id));
    if (view.query !== query || !product.label) return;
    query.label = product.label;
    remember("replaceState");
    part("asked-name").textContent = product.label;
    part("results-title").textContent = `Products like “${product.label}”`;
    part("picture").alt = `Picture of ${product.label}`;
    document.title = `${part("results-title").textContent} · mildnet`;
  } catch (error) {
    // The search for its neighbours says what is wrong.
    if (!(error instanceof Problem)) throw error;
  }
}

/** Show the button that fits the box, and return the title of what it finds. */
function showCrop() {
  const cropped = Boolean(crop.box);
  part("crop-start").hidden = cropped;
  part("crop-clear").hidden = !cropped;
  return cropped ? "Products like what is in the box" : "Products like your picture";
}

function showTrail() {
  const { trail, query } = view;
  part("trail").hidden = !trail.length;
  const steps = trail.map((step, number) => {
    const item = make("li");
    const button = make("button");
    button.type = "button";
    const image = make("img");
    image.alt = "";
    if (step.kind === "picture") image.src = pictures[step.number].url;
    else if (step.kind === "product") showProduct(image, step.id, () => image.remove());
    if (step.kind !== "address") button.append(image);
    button.append(make("span", "", nameOf(step)));
    button.addEventListener("click", () => {
      go({ query: step, trail: trail.slice(0, number) });
      part("results").focus({ preventScroll: true });
      scrollTo(0, 0);
    });
    item.append(button);
    return item;
  });
  const here = make("li", "here", query ? nameOf(query) : "");
  here.setAttribute("aria-current", "page");
  part("trail").firstElementChild.replaceChildren(...steps, here);
}

function nameOf(query) {
  if (query.kind === "picture") return "Your picture";
  return query.kind === "product" ? query.label || query.id : query.url;
}

// ---- filters ------------------------------------------------------------------------------------

function counts() {
  const { k, most_k: most } = catalogue.limits;
  const fitting = new Set([k, ...COUNTS.filter((count) => count <= most)]);
  return [...fitting].sort((one, other) => one - other);
}

function fill(name, values) {
  const options = values.map((value) => new Option(value, value));
  part(name).append(...options);
  part(`${name}-field`).hidden = !values.length;
  part(name).addEventListener("change", () => {
    const value = part(name).value;
    offset = 0;
    go({ [name]: name === "k" ? Number(value) : value });
  });
}

function showFilters() {
  for (const name of ["category", "domain", "k"]) part(name).value = view[name];
  part("k-field").hidden = !view.query;
}

// ---- choosing a picture -------------------------------------------------------------------------

async function choose(file, name = file?.name) {
  if (!file) return;
  chosen += 1;
  const mine = chosen;
  const { bytes, pixels } = catalogue?.limits ?? {};
  if (bytes && file.size > bytes) {
    tell(`${name} is too large: ${megabytes(file.size)}, and this service takes pictures of up to `
      + `${megabytes(bytes)}.`);
    return;
  }
  const url = URL.createObjectURL(file);
  const size = await sizeOf(url);
  if (mine !== chosen) return;
  if (!size) {
    URL.revokeObjectURL(url);
    tell(`${name} is not a picture that can be opened.`);
    return;
  }
  if (pixels && size.width * size.height > pixels) {
    URL.revokeObjectURL(url);
    tell(`${name} is too large: ${size.width} x ${size.height} pixels, and this service takes `
      + `pictures of up to ${numbers.format(pixels / 1e6)} million.`);
    return;
  }
  pictures.push({ file, url, name, ...size });
  const query = { kind: "picture", number: pictures.length - 1, box: null };
  if (catalogue) {
    go({ query, trail: [] });
    return;
  }
  // The service has not answered yet: the picture waits for it.
  view = { ...view, query };
  history.replaceState({ query, trail: [], load }, "");
  showQuery();
  start();
}

/** Return the size of a picture as it is seen, turned upright as its EXIF says; null if it is none. */
function sizeOf(url) {
  return new Promise((done) => {
    const image = new Image();
    image.onload = () => {
      const { naturalWidth: width, naturalHeight: height } = image;
      done(width && height ? { width, height } : null);
    };
    image.onerror = () => done(null);
    image.src = url;
  });
}

function megabytes(size) {
  return `${numbers.format(Number((size / 1e6).toPrecision(3)))} MB`;
}

function listen() {
  document.querySelector(".skip").addEventListener("click", (event) => {
    // A jump within the page would be a step of its own in the history.
    event.preventDefault();
    part("results").focus();
  });
  for (const [button, input] of [["pick", "file"], ["photo", "camera"]]) {
    part(button).addEventListener("click", () => part(input).click());
    part(input).addEventListener("change", () => {
      choose(part(input).files[0]);
      // Else the same file, changed meanwhile, could not be chosen again.
      part(input).value = "";
    });
  }
  part("crop-start").addEventListener("click", () => crop.start());
  part("crop-clear").addEventListener("click", () => crop.clear());
  part("others").addEventListener("click", () => {
    offset = more ? offset + FIRST : 0;
    search();
  });
  part("filters").addEventListener("submit", (event) => event.preventDefault());
  part("address").addEventListener("submit", (event) => {
    event.preventDefault();
    go({ query: { kind: "address", url: part("url").value.trim() }, trail: [] });
  });
  part("key").firstElementChild.addEventListener("submit", (event) => {
    event.preventDefault();
    part("key").close("given");
  });
  part("key-cancel").addEventListener("click", () => part("key").close());

  addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (!file) return;
    event.preventDefault();
    choose(file, "Pasted picture");
  });
  let inside = 0;
  const dragging = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const shade = () => document.body.classList.toggle("dragging", inside > 0);
  addEventListener("dragenter", (event) => {
    inside += dragging(event) ? 1 : 0;
    shade();
  });
  addEventListener("dragleave", (event) => {
    inside -= dragging(event) ? 1 : 0;
    shade();
  });
  // Else the browser leaves the page and opens the file.
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    shade();
    const file = event.dataTransfer.files[0];
    if (file) choose(file);
    else if (event.dataTransfer.types.length) tell("That was no file: drop a picture.");
  });
  addEventListener("popstate", () => {
    if (catalogue) recall();
  });
  document.querySelector(".brand").addEventListener("click", (event) => {
    if (!catalogue || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go({ query: null, trail: [], category: "", domain: "" });
  });
}

// ---- beginning ----------------------------------------------------------------------------------

/** A picture that is chosen meanwhile does not begin again. */
async function start() {
  if (starting || catalogue) return;
  starting = true;
  quiet();
  try {
    catalogue = await askJson("v1/catalogue");
  } catch (error) {
    fail(error, start);
    return;
  } finally {
    starting = false;
  }
  const { count, limits } = catalogue;
  part("count").textContent = count === 1 ? "1 product" : `${numbers.format(count)} products`;
  part("allowed").textContent = `${limits.formats.join(", ").toUpperCase()}, up to ${megabytes(limits.bytes)}`;
  // Named one by one, phones turn their own kinds of pictures into one of these.
  const kinds = limits.formats.map((format) => `image/${format.toLowerCase()}`).join(",");
  part("file").accept = part("camera").accept = kinds;
  allowSide(limits.thumbnail);
  part("address").hidden = !catalogue.url_search;
  fill("category", catalogue.categories);
  fill("domain", catalogue.domains);
  fill("k", counts());
  part("filters").hidden = false;
  recall();
}

listen();
start();
