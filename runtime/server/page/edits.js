// Operations on the cells of the shown image, as changes for the server. The server names them in /api/project.

import { imagePath, post } from "./api.js";
import { say, sayError } from "./messages.js";

/** Makes changes of the shown image. */
export class Edits {
  /**
   * @param {import("./store.js").Store} store
   * @param {import("./changes.js").Changes} changes
   */
  constructor(store, changes) {
    this.store = store;
    this.changes = changes;
  }

  get label() {
    return this.store.selection.at(-1) ?? null;
  }

  edit(text, edit, { sketch = null, after = () => {}, without = "" } = {}) {
    const report = (answer) => {
      if (answer.bbox) after(answer);
      else say(`Nothing changed: ${text}. ${without}`);
    };
    this.changes.add({ text, path: "edits", body: { edit }, sketch, after: report });
  }

  draw(shape, sketch) {
    const label = this.label;
    if (sketch.erase) {
      const text = label ? `erase from cell ${label}` : "erase";
      this.edit(text, { operation: "erase", shape, label }, { sketch });
      return;
    }
    const after = (answer) => {
      if (answer.created.length) this.store.select(answer.created);
    };
    const without = label ? "It may own these pixels already, or other cells do." : "Other cells own these pixels. Erase them first.";
    const text = label ? `add to cell ${label}` : "draw a new cell";
    this.edit(text, { operation: "add", shape, label }, { sketch, after, without });
  }

  /** Let the model find the cell in a box. */
  prompt(box, sketch) {
    const after = ({ label }) => {
      if (label) this.store.select([label]);
      else say("The model found no cell in the box, or other cells are there. Draw it with the brush or the polygon.");
    };
    this.changes.add({ text: "find the cell in a box", path: "prompts", body: { box }, sketch, after });
  }

  /** Let the model outline the chosen cell again, in its own box. */
  autofit() {
    const cell = this.store.chosen;
    const after = ({ label, bbox }) => {
      if (!label) say(`The model found no outline for cell ${cell.label}. It stays as it was.`);
      else if (!bbox) say(`Cell ${cell.label} fits already.`);
    };
    const body = { box: cell.bbox, replace: cell.label };
    this.changes.add({ text: `fit cell ${cell.label}`, path: "prompts", body, after });
  }

  /** Encode the image ahead of the first box. */
  warm() {
    if (this.store.image) post(imagePath(this.store.image.id, "/prompts/warm")).catch(() => {}); // the box reports it
  }

  remove() {
    const labels = [...this.store.selection];
    const text = labels.length > 1 ? `delete ${labels.length} cells` : `delete cell ${labels[0]}`;
    this.edit(text, { operation: "delete", labels });
  }

  merge(labels) {
    const after = () => this.store.select([labels[0]]);
    this.edit(`combine cells ${labels.join(", ")}`, { operation: "merge", labels }, { after });
  }

  swap([first, second]) {
    this.edit(`swap cells ${first} and ${second}`, { operation: "swap", first, second });
  }

  /** Apply an operation that has the chosen cell as its only subject. */
  alter(operation, text, more = {}) {
    this.edit(`${text} cell ${this.label}`, { operation, label: this.label, ...more });
  }

  splitAtSeeds(seeds, sketch) {
    this.split("split_at_seeds", { seeds }, seeds[0], sketch);
  }

  splitAlongLine(points, sketch) {
    const middle = points[Math.floor(points.length / 2)];
    const crossed = [middle, ...points].map((point) => this.store.at(...point)).find(Boolean);
    this.split("split_along_line", { points }, crossed ? middle : points[0], sketch, crossed);
  }

  split(operation, more, point, sketch, under = this.store.at(...point)) {
    const label = this.label ?? under?.label;
    if (!label) {
      say("There is no cell to split. Choose one, or click inside it.");
      return;
    }
    const after = (answer) => { if (answer.created.length) this.store.select([label, ...answer.created]); };
    this.edit(`split cell ${label}`, { operation, label, ...more }, { sketch, after });
  }

  undo() {
    this.changes.add({ text: "undo", path: "undo", body: {} });
  }

  redo() {
    this.changes.add({ text: "redo", path: "redo", body: {} });
  }

  /** Mark the image as done, or as corrected again. */
  mark() {
    const state = this.store.image.state === "done" ? "corrected" : "done";
    this.changes.add({ text: `mark as ${state}`, path: "state", body: { state } });
  }

  /** Segment images in the background. @param {{images: string[]}|{state: string}|{all: true}} which */
  async segment(which, diameter) {
    const settings = diameter > 0 ? { diameter_px: diameter } : {};
    try {
      return await post("/api/project/segment", { ...which, settings });
    } catch (error) {
      sayError(error);
      return null;
    }
  }
}
