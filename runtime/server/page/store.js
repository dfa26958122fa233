// What the page knows: the images of the project, and the cells and the selection of the image that it shows.

import { get, imagePath } from "./api.js";
import { bounds, contains } from "./geometry.js";

const LIMIT = 100000; // most outlines that the server gives

/** One cell: label, bbox [x0, y0, x1, y1], area in pixels, and its rings as flat arrays x, y, x, y, ... */
function cellOf({ label, bbox, area_px: area, polygons }) {
  return { label, bbox, area, rings: polygons.flat().map((ring) => Float32Array.from(ring.flat())) };
}

/** State of the page; its events are images, image, cells, selection and job. */
export class Store extends EventTarget {
  constructor() {
    super();
    this.images = [];
    this.image = null;
    this.cells = new Map();
    this.revision = 0; // revision of the cells
    this.selection = []; // labels, in the order in which they were chosen
    this.project = null;
    this.refreshing = null;
  }

  tell(name, detail = null) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  on(name, listener) {
    this.addEventListener(name, (event) => listener(event.detail));
  }

  async loadImages() {
    this.project = await get("/api/project");
    const images = [];
    do {
      const part = await get(`/api/project/images?offset=${images.length}&limit=10000`);
      images.push(...part.images);
      if (images.length >= part.total || !part.images.length) break;
    } while (true);
    this.images = images;
    if (this.image) Object.assign(this.image, images.find((one) => one.id === this.image.id));
    this.tell("images");
  }

  find(id) {
    return this.images.find((one) => one.id === id) ?? null;
  }

  /** Take the state of an image from an event, or from the answer to a change. */
  describe(id, state) {
    const known = this.find(id);
    if (!known || state.revision < known.revision) return;
    for (const name of ["state", "cells", "revision", "can_undo", "can_redo", "problem"]) {
      if (name in state) known[name] = state[name];
    }
    if (this.image?.id === id) Object.assign(this.image, known);
    this.tell("images");
  }

  /** Show an image: load its description and all of its outlines. */
  async open(id) {
    const image = await get(imagePath(id));
    this.image = image;
    this.selection = [];
    this.cells = new Map();
    this.revision = 0;
    this.describe(id, image);
    this.tell("image");
    await this.refresh(true);
  }

  /** Load the outlines that changed since those that the page has; calls at the same time share one request. */
  async refresh(everything = false) {
    const last = this.refreshing;
    const mine = (async () => {
      await last?.catch(() => {});
      await this.load(everything);
    })();
    this.refreshing = mine;
    return mine;
  }

  async load(everything) {
    const id = this.image?.id;
    if (id === undefined) return;
    const since = everything ? "" : `&since=${this.revision}`;
    const found = await get(imagePath(id, `/outlines?limit=${LIMIT}${since}`));
    if (this.image?.id !== id || (!everything && found.revision < this.revision)) return;
    const changed = [];
    if (found.all) {
      changed.push(...this.cells.values());
      this.cells = new Map();
    }
    for (const label of found.gone) {
      if (this.cells.has(label)) changed.push(this.cells.get(label));
      this.cells.delete(label);
    }
    for (const described of found.cells) {
      const before = this.cells.get(described.label);
      const cell = cellOf(described);
      changed.push(...(before ? [before, cell] : [cell]));
      this.cells.set(cell.label, cell);
    }
    this.revision = found.revision;
    this.select(this.selection.filter((label) => this.cells.has(label)));
    this.tell("cells", { all: found.all, bbox: bounds(changed.map((cell) => cell.bbox)), missing: found.total - found.cells.length });
  }

  select(labels) {
    this.selection = [...new Set(labels)];
    this.tell("selection");
  }

  /** The cell that an operation on one cell changes: the one chosen last. */
  get chosen() {
    return this.cells.get(this.selection.at(-1)) ?? null;
  }

  /** Return the cell at a point in image pixels, or null. */
  at(x, y) {
    for (const cell of this.cells.values()) if (contains(cell, x, y)) return cell;
    return null;
  }

  /** Return the label `step` places after the chosen one, in the order of labels. */
  neighbour(step) {
    const labels = [...this.cells.keys()].sort((a, b) => a - b);
    if (!labels.length) return null;
    const place = labels.indexOf(this.selection.at(-1));
    if (place < 0) return step > 0 ? labels[0] : labels.at(-1);
    return labels[(place + step + labels.length) % labels.length];
  }
}
