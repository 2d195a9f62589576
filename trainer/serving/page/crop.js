// The crop box on the picture: mouse, touch, keyboard, numbers. Its unit is pixels of the picture.

const SMALLEST = 8;
/** A drag shorter than this on the screen was meant as a click. */
const CLICK = 6;
const ARROWS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
};

export class CropBox {
  #stage; #element; #fields; #changed;
  #width = 0;
  #height = 0;
  #box = null;
  #drag = null;

  /**
   * @param {HTMLElement} stage what the picture fills
   * @param {HTMLElement} element the box, a child of the stage
   * @param {{x, y, w, h}} fields inputs of the same numbers
   * @param {(box, soon: boolean) => void} changed called once the box stands; `soon`: more changes
   *   may follow at once, as with keys held down
   */
  constructor(stage, element, fields, changed) {
    this.#stage = stage;
    this.#element = element;
    this.#fields = fields;
    this.#changed = changed;
    stage.addEventListener("pointerdown", (event) => this.#begin(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    stage.addEventListener("pointerup", (event) => this.#end(event));
    stage.addEventListener("pointercancel", () => this.#giveUp());
    element.addEventListener("keydown", (event) => this.#press(event));
    for (const [name, field] of Object.entries(fields)) {
      field.addEventListener("input", () => this.#typed(name));
      field.addEventListener("change", () => this.#show());
    }
  }

  get box() {
    return this.#box;
  }

  /** Show a picture of this size with this box, or none. Nobody is told of it. */
  open(width, height, box = null) {
    this.#width = width;
    this.#height = height;
    this.#drag = null;
    this.#place(box);
  }

  /** Draw a box in the middle of the picture and go to it. */
  start() {
    const [w, h] = [Math.ceil(this.#width * 0.6), Math.ceil(this.#height * 0.6)];
    const [x, y] = [(this.#width - w) >> 1, (this.#height - h) >> 1];
    this.#place({ x, y, w, h });
    this.#element.focus({ preventScroll: true });
    this.#changed(this.#box, true);
  }

  clear() {
    this.#place(null);
    this.#changed(null, false);
  }

  get #least() {
    return Math.min(SMALLEST, this.#width, this.#height);
  }

  /** Take the box that two corners span, within the picture. */
  #span(left, top, right, bottom) {
    const least = this.#least;
    const [x, w] = extent(left, right, this.#width, least);
    const [y, h] = extent(top, bottom, this.#height, least);
    this.#place({ x, y, w, h });
  }

  #place(box) {
    this.#box = box;
    this.#show();
  }

  #show() {
    const box = this.#box ?? { x: 0, y: 0, w: this.#width, h: this.#height };
    this.#element.hidden = !this.#box;
    const share = (part, whole) => `${(100 * part) / whole}%`;
    const style = this.#element.style;
    style.left = share(box.x, this.#width);
    style.top = share(box.y, this.#height);
    style.width = share(box.w, this.#width);
    style.height = share(box.h, this.#height);
    this.#element.setAttribute(
      "aria-label",
      `Crop box: left ${box.x}, top ${box.y}, ${box.w} wide and ${box.h} high`,
    );
    for (const [name, field] of Object.entries(this.#fields)) {
      field.value = box[name];
      field.max = name === "x" || name === "w" ? this.#width : this.#height;
    }
  }

  #point(event) {
    const place = this.#stage.getBoundingClientRect();
    return {
      x: ((event.clientX - place.left) / place.width) * this.#width,
      y: ((event.clientY - place.top) / place.height) * this.#height,
      screen: [event.clientX, event.clientY],
    };
  }

  #begin(event) {
    if (event.button !== 0 || !this.#width || this.#drag) return;
    // Else the browser drags the picture away, or marks text.
    event.preventDefault();
    const inside = this.#element.contains(event.target);
    const grip = event.target.dataset.grip ?? (inside ? "move" : "new");
    this.#drag = {
      grip, id: event.pointerId, from: this.#point(event), before: this.#box, moved: false,
    };
    this.#stage.setPointerCapture(event.pointerId);
    if (inside) this.#element.focus({ preventScroll: true });
  }

  #move(event) {
    const drag = this.#drag;
    if (drag?.id !== event.pointerId) return;
    const to = this.#point(event);
    const far = Math.hypot(to.screen[0] - drag.from.screen[0], to.screen[1] - drag.from.screen[1]);
    drag.moved ||= far >= CLICK || drag.grip !== "new";
    if (!drag.moved) return;
    if (drag.grip === "new") {
      this.#span(drag.from.x, drag.from.y, to.x, to.y);
      return;
    }
    const [right, down] = [to.x - drag.from.x, to.y - drag.from.y];
    if (drag.grip === "move") {
      this.#shift(drag.before, right, down);
      return;
    }
    const { x, y, w, h } = drag.before;
    this.#span(
      x + (drag.grip.includes("w") ? right : 0),
      y + (drag.grip.includes("n") ? down : 0),
      x + w + (drag.grip.includes("e") ? right : 0),
      y + h + (drag.grip.includes("s") ? down : 0),
    );
  }

  #end(event) {
    const drag = this.#drag;
    if (drag?.id !== event.pointerId) return;
    this.#drag = null;
    if (!same(drag.before, this.#box)) this.#changed(this.#box, false);
  }

  #giveUp() {
    if (!this.#drag) return;
    this.#place(this.#drag.before);
    this.#drag = null;
  }

  #shift(box, right, down) {
    this.#place({
      ...box,
      x: clamp(Math.round(box.x + right), 0, this.#width - box.w),
      y: clamp(Math.round(box.y + down), 0, this.#height - box.h),
    });
  }

  #press(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Delete" || event.key === "Backspace" || event.key === "Escape") {
      event.preventDefault();
      this.clear();
      return;
    }
    const arrow = ARROWS[event.key];
    if (!arrow || !this.#box) return;
    event.preventDefault();
    const step = Math.max(1, Math.round(Math.max(this.#width, this.#height) / 100));
    const [right, down] = [arrow[0] * step, arrow[1] * step];
    const before = this.#box;
    if (event.shiftKey) {
      const w = clamp(before.w + right, this.#least, this.#width - before.x);
      const h = clamp(before.h + down, this.#least, this.#height - before.y);
      this.#place({ ...before, w, h });
    } else {
      this.#shift(before, right, down);
    }
    if (!same(before, this.#box)) this.#changed(this.#box, true);
  }

  #typed(name) {
    const typed = this.#fields[name].valueAsNumber;
    // Half a number is no box yet: what was typed stays until it is one.
    if (!Number.isFinite(typed)) return;
    const box = { ...(this.#box ?? { x: 0, y: 0, w: this.#width, h: this.#height }) };
    const [start, length, whole] =
      name === "x" || name === "w" ? ["x", "w", this.#width] : ["y", "h", this.#height];
    box[name] = Math.round(typed);
    box[start] = clamp(box[start], 0, whole - this.#least);
    box[length] = clamp(box[length], this.#least, whole - box[start]);
    if (same(box, this.#box)) return;
    const text = this.#fields[name].value;
    this.#place(box);
    this.#fields[name].value = text;
    this.#changed(box, true);
  }
}

function extent(one, other, whole, least) {
  let low = clamp(Math.round(Math.min(one, other)), 0, whole);
  const high = clamp(Math.round(Math.max(one, other)), 0, whole);
  const length = Math.max(least, high - low);
  low = Math.min(low, whole - length);
  return [low, length];
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function same(one, other) {
  return one === other
    || (!!one && !!other && ["x", "y", "w", "h"].every((name) => one[name] === other[name]));
}
