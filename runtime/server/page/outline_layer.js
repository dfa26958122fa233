// The outlines of all cells, on a canvas of our own above the image.
//
// Annotorious, the usual companion of OpenSeadragon, is not used: its renderer (PixiJS 7) compiles code with
// `new Function`, which the content security policy of this page forbids; it raises "Current environment does not allow
// unsafe-eval". It also has no brush.
//
// Outlines are drawn into a buffer larger than the viewer. While the image moves, the browser only shifts this buffer.
// When it no longer fits, the next one is drawn a few milliseconds per frame, so that no frame takes long, however many
// cells there are.

import { colourOf, meet } from "./geometry.js";

const MARGIN = 200; // screen pixels around the viewer
const BUDGET_MS = 5; // of drawing, per frame
const BATCH = 20; // cells drawn between looks at the clock
const PATCHED = 150; // cells up to which a change is drawn at once
const CLOSE = 1.2; // screen pixels between corners below which one is left out

/** Layer with the outlines of a Map of cells. */
export class OutlineLayer {
  /**
   * @param {HTMLElement} parent element above the viewer
   * @param {import("./view.js").View} view
   * @param {import("./store.js").Store} store
   */
  constructor(parent, view, store) {
    this.view = view;
    this.store = store;
    this.style = { visible: true, fill: false, width: 1.5 };
    this.front = this.buffer(parent);
    this.back = this.buffer(parent);
    this.work = null;
    this.again = false;
    view.addEventListener("move", () => this.follow());
    new ResizeObserver(() => this.redraw()).observe(view.element);
  }

  buffer(parent) {
    const canvas = document.createElement("canvas");
    canvas.className = "layer outlines";
    parent.append(canvas);
    return { canvas, context: canvas.getContext("2d", { willReadFrequently: true }), place: null };
  }

  set opacity(value) {
    for (const { canvas } of [this.front, this.back]) canvas.style.opacity = value;
  }

  set visible(value) {
    this.style.visible = value;
    this.front.canvas.hidden = !value;
    if (value) this.redraw();
  }

  /** Put the buffer where the image is; draw a new one if it does not fit. */
  follow() {
    const now = this.view.place;
    const { place, canvas } = this.front;
    if (place) {
      const factor = now.scale / place.scale;
      const [x, y] = [(place.left - now.left) * now.scale, (place.top - now.top) * now.scale];
      canvas.style.transform = `translate(${x}px, ${y}px) scale(${factor})`;
    }
    if (!this.work && !this.fits(now)) this.redraw();
  }

  fits(now) {
    const { place } = this.front;
    if (!place || Math.abs(now.scale / place.scale - 1) > 1e-3) return false;
    const [x, y] = [(place.left - now.left) * now.scale, (place.top - now.top) * now.scale];
    return Math.max(Math.abs(x + MARGIN), Math.abs(y + MARGIN)) < MARGIN * 0.9;
  }

  /** Draw everything into the other buffer, over several frames. */
  redraw() {
    if (!this.store.image || !this.style.visible) return;
    if (this.work) {
      this.again = true;
      return;
    }
    const { left, top, scale } = this.view.place;
    if (!(scale > 0)) return;
    const { clientWidth: width, clientHeight: height } = this.view.element;
    const place = { left: left - MARGIN / scale, top: top - MARGIN / scale, scale };
    const [w, h] = [width + 2 * MARGIN, height + 2 * MARGIN];
    const region = [place.left, place.top, place.left + w / scale, place.top + h / scale];
    prepare(this.back, w, h, place);
    this.work = [...this.store.cells.values()].filter((cell) => meet(cell.bbox, region));
    requestAnimationFrame(() => this.step());
  }

  step() {
    const end = performance.now() + BUDGET_MS;
    while (this.work.length && performance.now() < end) {
      for (const cell of this.work.splice(-BATCH)) this.draw(this.back, cell);
      // Browsers note strokes and draw them later, all at once in one frame; reading a pixel draws them now.
      this.back.context.getImageData(0, 0, 1, 1);
    }
    if (this.work.length) {
      requestAnimationFrame(() => this.step());
      return;
    }
    this.work = null;
    [this.front, this.back] = [this.back, this.front];
    this.back.canvas.hidden = true;
    this.front.canvas.hidden = !this.style.visible;
    const again = this.again;
    this.again = false;
    this.follow();
    if (again) this.redraw();
  }

  /** Draw a changed region [x0, y0, x1, y1] again, at once if it is small. */
  update(bbox) {
    if (!bbox || !this.style.visible) return;
    const { place, context, canvas } = this.front;
    const touched = [...this.store.cells.values()].filter((cell) => meet(cell.bbox, bbox));
    if (!place || this.work || touched.length > PATCHED) {
      this.redraw();
      return;
    }
    const space = 3 / place.scale;
    const [x0, y0, x1, y1] = [bbox[0] - space, bbox[1] - space, bbox[2] + space, bbox[3] + space];
    context.save();
    context.beginPath();
    context.rect(x0 - place.left, y0 - place.top, x1 - x0, y1 - y0);
    context.clip();
    context.clearRect(x0 - place.left, y0 - place.top, x1 - x0, y1 - y0);
    for (const cell of touched) this.draw(this.front, cell);
    context.restore();
    canvas.hidden = false;
  }

  draw({ context, place }, cell) {
    const path = pathOf(cell, place, CLOSE / place.scale);
    context.lineWidth = this.style.width / place.scale;
    context.strokeStyle = colourOf(cell.label);
    context.stroke(path);
    if (this.style.fill) {
      context.fillStyle = colourOf(cell.label, 0.3);
      context.fill(path, "evenodd");
    }
  }
}

/** Make a buffer w x h screen pixels large, empty, with coordinates in image pixels from its top left. */
function prepare(buffer, w, h, place) {
  const { canvas, context } = buffer;
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(w * ratio), Math.round(h * ratio)];
  if (canvas.width !== width || canvas.height !== height) {
    Object.assign(canvas, { width, height });
    canvas.style.width = `${w}px`;
    canvas.style.height = `${h}px`;
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  context.scale(ratio * place.scale, ratio * place.scale);
  context.lineJoin = "round";
  buffer.place = place;
}

/**
 * Build the path of a cell, relative to `place`.
 * @param {number} close image pixels; corners closer than this to the one before are left out
 */
export function pathOf(cell, { left, top }, close) {
  const path = new Path2D();
  for (const ring of cell.rings) {
    let [lastX, lastY] = [Infinity, Infinity];
    for (let i = 0; i < ring.length; i += 2) {
      const [x, y] = [ring[i], ring[i + 1]];
      if (i && close > 0.3 && Math.abs(x - lastX) < close && Math.abs(y - lastY) < close) continue;
      if (i) path.lineTo(x - left, y - top);
      else path.moveTo(x - left, y - top);
      [lastX, lastY] = [x, y];
    }
    path.closePath();
  }
  return path;
}
