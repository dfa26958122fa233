// The tools: what presses, drags and clicks in the image mean. A tool collects points into a sketch; a finished sketch
// becomes a change.

import { boxOf, distance, rounded, within } from "./geometry.js";
import { say } from "./messages.js";

const SNAP = 10; // screen pixels around the first corner of a polygon that close it

/** Text below the tools for each tool; {what} is the cell that it draws at. */
export const HINTS = {
  select: "Click a cell to choose it; Shift-click chooses several. Drag to move the image, scroll to zoom.",
  brush: "Drag to add to {what}. Arrow up and down change the brush. Hold Space to move the image.",
  eraser: "Drag to erase from {cell}. Arrow up and down change the eraser. Hold Space to move the image.",
  polygon: "Click corners or drag along the edge to add to {what}. Enter closes the outline, Esc discards it.",
  cutout: "Click corners or drag along the edge to erase from {cell}. Enter closes the outline, Esc discards it.",
  box: "Drag a box around one cell; the model finds its outline.",
  seeds: "Click a point in each part of the cell. The second click splits it; with Shift, add more points, then Enter.",
  line: "Drag a line across the cell, from outside to outside.",
  merge: "Click the cell to combine with cell {label}. Esc cancels.",
  swap: "Click the cell to exchange numbers with cell {label}. Esc cancels.",
};

const DRAGGED = ["brush", "eraser", "box", "line"]; // made in one drag
const CLICKED = ["polygon", "cutout", "seeds"]; // finished by Enter

/** The tool in use and its sketch. */
export class Tools extends EventTarget {
  /**
   * @param {import("./view.js").View} view
   * @param {import("./store.js").Store} store
   * @param {import("./edits.js").Edits} edits
   */
  constructor(view, store, edits) {
    super();
    Object.assign(this, { view, store, edits, name: "select", radius: 6, sketch: null, pointer: null });
    this.panning = false; // Space is held
    this.pressed = false;
    this.closeReport = () => {}; // takes the message of `blocked` away
    this.listen();
  }

  tell() {
    this.dispatchEvent(new Event("change"));
  }

  get erases() {
    return this.name === "eraser" || this.name === "cutout";
  }

  get draws() {
    return DRAGGED.includes(this.name) || CLICKED.includes(this.name);
  }

  get hint() {
    const label = this.store.selection.at(-1);
    return HINTS[this.name]
      .replace("{what}", label ? `cell ${label}` : "a new cell")
      .replace("{cell}", label ? `cell ${label}` : "any cell")
      .replace("{label}", label ?? "");
  }

  /** Circle at the pointer, if the tool is a brush. */
  get cursor() {
    if (!this.pointer || !["brush", "eraser"].includes(this.name)) return null;
    return { point: this.pointer, radius: this.radius, erase: this.erases };
  }

  /** Whether an outline or points are begun; the user must finish or discard them before something else. */
  get begun() {
    return Boolean(this.sketch && CLICKED.includes(this.name));
  }

  /** Report a sketch that is not finished; return whether there is one. */
  blocked() {
    if (!this.begun) return false;
    this.closeReport();
    this.closeReport = say("Something drawn is not finished.", {
      actions: [
        { text: "Finish", run: () => this.finish() },
        { text: "Discard", run: () => this.cancel() },
      ],
    });
    return true;
  }

  use(name) {
    if (name !== this.name && this.blocked()) return;
    this.name = name;
    this.sketch = null;
    if (name === "box") this.edits.warm();
    this.tell();
  }

  setRadius(radius) {
    this.radius = Math.min(200, Math.max(0.5, radius));
    this.tell();
  }

  cancel() {
    const drew = Boolean(this.sketch);
    this.closeReport();
    this.sketch = null;
    this.pressed = false;
    if (["merge", "swap"].includes(this.name)) this.name = "select";
    else if (!drew) this.store.select([]);
    this.tell();
  }

  listen() {
    const { viewer, element } = this.view;
    const on = (name, handle) => viewer.addHandler(name, handle);
    on("canvas-press", (event) => this.press(this.view.toImage(event.position)));
    on("canvas-drag", (event) => {
      if (!this.draws || this.panning) return;
      event.preventDefaultAction = true;
      this.drag(this.view.toImage(event.position));
    });
    on("canvas-drag-end", (event) => { event.preventDefaultAction = this.draws && !this.panning; });
    on("canvas-release", (event) => this.release(this.view.toImage(event.position)));
    on("canvas-click", (event) => {
      if (event.quick && !this.panning) this.click(this.view.toImage(event.position), event.shift);
    });
    on("canvas-double-click", () => this.begun && this.name !== "seeds" && this.finish());
    element.addEventListener("pointermove", (event) => {
      const frame = element.getBoundingClientRect();
      this.pointer = this.view.toImage({ x: event.clientX - frame.left, y: event.clientY - frame.top });
      this.dispatchEvent(new Event("pointer"));
    }, true);
    element.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.dispatchEvent(new Event("pointer"));
    });
  }

  press(point) {
    if (!this.draws || this.panning || !this.store.image) return;
    this.pressed = true;
    if (DRAGGED.includes(this.name)) this.sketch = this.begin(point);
    this.tell();
  }

  begin(point) {
    const kind = { brush: "stroke", eraser: "stroke", cutout: "polygon" }[this.name] ?? this.name;
    return { kind, points: [point], radius: this.radius, erase: this.erases };
  }

  drag(point) {
    if (!this.pressed || this.name === "seeds") return;
    this.sketch ??= this.begin(point);
    const { points } = this.sketch;
    const least = Math.max(0.5 / this.view.place.scale, this.sketch.kind === "stroke" ? this.radius / 5 : 0);
    if (this.name === "box") this.sketch.points = [points[0], point];
    else if (distance(points.at(-1), point) >= least) points.push(point);
    this.sketch.dragged = true;
    this.tell();
  }

  release(point) {
    if (!this.pressed) return;
    this.pressed = false;
    if (!this.sketch) return;
    if (DRAGGED.includes(this.name)) {
      if (this.name !== "box" && this.sketch.dragged) this.sketch.points.push(point);
      this.finish();
    } else if (this.sketch.dragged && this.sketch.points.length > 8 && this.atStart(point)) {
      this.finish();
    }
  }

  atStart(point) {
    return distance(this.sketch.points[0], point) * this.view.place.scale < SNAP;
  }

  click(point, shift) {
    if (!this.store.image) return;
    const cell = this.store.at(...point);
    if (this.name === "select") this.choose(cell, shift);
    else if (this.name === "merge" || this.name === "swap") this.pick(cell);
    else if (CLICKED.includes(this.name)) this.corner(point, shift);
  }

  choose(cell, shift) {
    const { store } = this;
    if (!cell) return shift || store.select([]);
    if (!shift) return store.select([cell.label]);
    const others = store.selection.filter((label) => label !== cell.label);
    return store.select(others.length < store.selection.length ? others : [...others, cell.label]);
  }

  pick(cell) {
    const label = this.store.selection.at(-1);
    if (!cell || cell.label === label) return;
    const { name } = this;
    this.name = "select";
    this.edits[name]([label, cell.label]);
    this.tell();
  }

  corner(point, shift) {
    if (this.sketch?.kind === "polygon" && this.sketch.points.length > 2 && this.atStart(point)) {
      this.finish();
      return;
    }
    if (this.sketch) this.sketch.points.push(point);
    else this.sketch = this.begin(point);
    this.tell();
    if (this.name === "seeds" && !shift && this.sketch.points.length > 1) this.finish();
  }

  /** Turn the sketch into a change. */
  finish() {
    const sketch = this.sketch;
    if (!sketch) return;
    const points = rounded(sketch.points);
    if (sketch.kind === "polygon" && points.length < 3) {
      say("An outline needs at least three corners.");
      return;
    }
    this.closeReport();
    this.sketch = null;
    if (sketch.kind === "box") {
      const box = boxOf(points[0], points.at(-1));
      const inside = box && within(box, this.store.image.size_hw);
      if (inside && inside[2] - inside[0] >= 1 && inside[3] - inside[1] >= 1) this.edits.prompt(inside, sketch);
    } else if (sketch.kind === "seeds") {
      this.edits.splitAtSeeds(points, sketch);
    } else if (sketch.kind === "line") {
      if (sketch.dragged) this.edits.splitAlongLine(points, sketch);
    } else {
      const shape = sketch.kind === "stroke" ? { stroke: { points, radius: sketch.radius } } : { polygon: points };
      this.edits.draw(shape, sketch);
    }
    this.tell();
  }
}
