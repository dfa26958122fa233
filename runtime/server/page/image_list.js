// The list of images, and segmenting in the background.

import { call } from "./api.js";
import { ask, byId, make } from "./dom.js";
import { say, sayError, sentence } from "./messages.js";

/** Images at the left. */
export class ImageList {
  /**
   * @param {import("./store.js").Store} store
   * @param {import("./edits.js").Edits} edits
   * @param {function(string): Promise<void>} open shows an image
   */
  constructor(store, edits, open) {
    Object.assign(this, { store, edits, open, job: null, ended: new Set() });
    this.rows = new Map();
    store.on("images", () => this.update());
    store.on("image", () => this.update());
    byId("state-filter").addEventListener("change", () => this.update());
    byId("segment-one").addEventListener("click", () => this.segmentOne());
    byId("segment-new").addEventListener("click", () => this.start({ state: "new" }));
    byId("segment-all").addEventListener("click", () => this.segmentAll());
    byId("job-cancel").addEventListener("click", () => this.cancel());
  }

  get listed() {
    const state = byId("state-filter").value;
    return this.store.images.filter((image) => !state || image.state === state);
  }

  /** Show the image `by` places further in the list. */
  step(by) {
    const { listed } = this;
    const place = listed.findIndex((image) => image.id === this.store.image?.id);
    const next = listed[place + by];
    if (next) this.open(next.id);
  }

  update() {
    const { listed, store } = this;
    const known = new Map(listed.map((image) => [image.id, this.rows.get(image.id) ?? this.row(image)]));
    for (const image of listed) this.fill(known.get(image.id), image);
    const nodes = [...known.values()].map((row) => row.item);
    const list = byId("image-list");
    if (nodes.length !== list.children.length || nodes.some((node, place) => node !== list.children[place])) {
      list.replaceChildren(...nodes);
    }
    this.rows = known;
    const fresh = store.images.filter((image) => image.state === "new").length;
    byId("segment-new").disabled = !fresh || this.busy;
    byId("segment-new").textContent = fresh ? `New (${fresh})` : "New";
    byId("segment-all").disabled = !store.images.length || this.busy;
    byId("segment-one").disabled = !store.image || this.busy;
  }

  row({ id }) {
    const [name, state, cells] = ["name", "chip", "cells"].map((className) => make("span", { className }));
    const button = make("button", { type: "button", on: { click: () => this.open(id) } }, name, state, cells);
    return { item: make("li", { data: { image: id } }, button), button, name, state, cells };
  }

  fill(row, image) {
    const current = image.id === this.store.image?.id;
    row.name.textContent = image.name;
    row.button.title = image.problem ?? image.name;
    row.state.textContent = image.problem ? "problem" : image.state;
    row.state.dataset.state = image.problem ? "problem" : image.state;
    row.cells.textContent = image.state === "new" && !image.cells ? "" : `${image.cells} cells`;
    if (current) row.button.setAttribute("aria-current", "true");
    else row.button.removeAttribute("aria-current");
  }

  get busy() {
    return this.job !== null;
  }

  get diameter() {
    return byId("diameter").valueAsNumber;
  }

  async segmentOne() {
    const { image } = this.store;
    if (image.state === "corrected" || image.state === "done") {
      const text = `${image.name} is ${image.state}. Segmenting replaces its ${image.cells} cells; Undo brings them back.`;
      if (!(await ask(text, "Segment"))) return;
    }
    await this.start({ images: [image.id] });
  }

  async segmentAll() {
    const touched = this.store.images.filter((image) => image.state === "corrected" || image.state === "done").length;
    const text = `${touched} of ${this.store.images.length} images are corrected or done. Segmenting replaces their cells; Undo brings them back, image by image.`;
    if (touched && !(await ask(text, "Segment all"))) return;
    await this.start({ all: true });
  }

  async start(which) {
    const job = await this.edits.segment(which, this.diameter);
    if (job) this.show(job);
  }

  /** Show the progress of a job, and its failures when it has ended. */
  show(job) {
    const running = job.state === "waiting" || job.state === "running";
    if (this.ended.has(job.id)) return; // its last event was faster than the answer that announced it
    if (running) {
      this.job = job.id;
    } else {
      this.ended.add(job.id);
      if (this.job === job.id) this.job = null;
    }
    byId("job").hidden = !running;
    Object.assign(byId("job-progress"), { max: Math.max(job.total, 1), value: job.done });
    const name = this.store.find(job.current)?.name;
    byId("job-text").textContent = `${job.done} of ${job.total}${name ? `: ${name}` : ""}`;
    this.update();
    if (running) return;
    for (const { image, error } of job.failures) {
      say(`${this.store.find(image)?.name ?? image}: ${sentence(error.message)}`, { kind: "error" });
    }
    if (job.state === "cancelled") say(`Segmenting was stopped after ${job.done} of ${job.total} images.`);
    else if (!job.failures.length) say(job.total === 1 ? "The image is segmented." : `${job.total} images are segmented.`);
  }

  async cancel() {
    try {
      this.show(await call("DELETE", `/api/jobs/${this.job}`));
    } catch (error) {
      sayError(error);
    }
  }
}
