// The right side: counts and sizes, the chosen cell, brush and outlines, channels, export.

import { imagePath } from "./api.js";
import { byId, make, slider } from "./dom.js";
import { say } from "./messages.js";

const BARS = 20;

const FORMATS = {
  tiff: "Label TIFF", geojson: "GeoJSON (QuPath)", imagej: "ImageJ ROIs", "deepcell-label": "DeepCell Label",
  png: "Label PNG (one image)", coco: "COCO (all images)", training: "Training data (all images)",
};
const ONE_ONLY = ["png"];
const ALL_ONLY = ["coco", "training"];

const section = (title, ...children) => make("section", { ariaLabel: title }, make("h2", {}, title), ...children);
const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });

/** Panels at the right. */
export class SidePanel {
  /**
   * @param {import("./store.js").Store} store
   * @param {import("./tools.js").Tools} tools
   * @param {import("./view.js").View} view
   */
  constructor(store, tools, view) {
    Object.assign(this, { store, tools, view });
    this.counts = make("dl", { className: "facts", id: "counts" });
    this.bars = make("div", { className: "bars", role: "img" });
    this.range = make("p", { className: "range" });
    this.cell = make("dl", { className: "facts", id: "chosen" });
    this.jump = make("input", { id: "jump", type: "number", min: 1, step: 1, on: { change: () => this.goTo() } });
    this.brush = slider({
      id: "brush-size", text: "Radius", min: 0.5, max: 60, step: 0.5, value: tools.radius,
      show: (value) => `${number(value)} px`, onInput: (value) => tools.setRadius(value),
    });
    byId("side").append(
      section("Cells", this.counts, this.bars, this.range),
      section("Chosen", this.cell, make("label", { className: "field", htmlFor: "jump" }, "Go to cell", this.jump)),
      section("Brush", this.brush.element),
      make("div", { id: "display" }),
      this.exportSection(),
    );
    store.on("cells", () => this.update());
    store.on("selection", () => this.updateCell());
    store.on("images", () => this.updateTotal());
    tools.addEventListener("change", () => this.brush.set(tools.radius));
  }

  /** Show an area, in square micrometres too if the pixel size is known. */
  area(px) {
    const size = this.store.image?.pixel_size_um;
    return size ? `${number(px)} px, ${number(px * size * size)} µm²` : `${number(px)} px`;
  }

  facts(list, rows) {
    list.replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  update() {
    const areas = [...this.store.cells.values()].map((cell) => cell.area).sort((a, b) => a - b);
    this.areas = areas;
    this.updateTotal();
    this.updateBars(areas);
    this.updateCell();
  }

  updateTotal() {
    const areas = this.areas ?? [];
    const all = this.store.images.reduce((sum, image) => sum + image.cells, 0);
    const rows = [["In this image", number(areas.length)], ["In all images", number(all)]];
    if (areas.length) rows.push(["Median area", this.area(areas[Math.floor(areas.length / 2)])]);
    this.facts(this.counts, rows);
  }

  updateBars(areas) {
    const [least, most] = [areas[0] ?? 0, areas.at(-1) ?? 0];
    const bins = new Array(BARS).fill(0);
    for (const area of areas) bins[Math.min(BARS - 1, Math.floor(((area - least) / (most - least || 1)) * BARS))] += 1;
    const top = Math.max(...bins, 1);
    this.bars.replaceChildren(...bins.map((count) => {
      const bar = make("span", { title: `${count} cells` });
      bar.style.height = `${(100 * count) / top}%`;
      return bar;
    }));
    this.bars.hidden = this.range.hidden = areas.length < 2;
    this.range.replaceChildren(make("span", {}, `${number(least)} px`), make("span", {}, "area"), make("span", {}, `${number(most)} px`));
    this.bars.ariaLabel = `Areas from ${number(least)} to ${number(most)} pixels, in ${BARS} bars`;
  }

  updateCell() {
    const { chosen, selection } = this.store;
    if (document.activeElement !== this.jump) this.jump.value = chosen?.label ?? "";
    if (!chosen) {
      this.facts(this.cell, [["Cell", "none"]]);
      return;
    }
    const [x0, y0, x1, y1] = chosen.bbox;
    const rows = [["Cell", String(chosen.label)], ["Area", this.area(chosen.area)],
      ["Box", `${x1 - x0} × ${y1 - y0} px at ${x0}, ${y0}`]];
    if (selection.length > 1) rows.unshift(["Chosen", `${selection.length} cells`]);
    this.facts(this.cell, rows);
  }

  goTo() {
    const label = this.jump.valueAsNumber;
    if (!this.store.cells.has(label)) {
      if (label > 0) say(`There is no cell ${label} in this image.`);
      return;
    }
    this.store.select([label]);
    this.view.zoomTo(this.store.chosen.bbox);
  }

  exportSection() {
    const format = make("select", { id: "export-format", on: { change: () => update() } },
      ...Object.entries(FORMATS).map(([value, text]) => make("option", { value }, text)));
    const save = (address) => make("a", { href: address, download: "" }).click();
    const one = make("button", { type: "button", id: "export-one", on: { click: () => {
      save(imagePath(this.store.image.id, `/export?format=${format.value}`));
    } } }, "This image");
    const all = make("button", { type: "button", id: "export-all", on: { click: () => {
      const { images } = this.store;
      if (images.some((image) => image.state !== "new")) save(`/api/project/export?format=${format.value}`);
      else say("No image has cells yet. Segment or draw some first.");
    } } }, "All images");
    const update = () => {
      one.disabled = !this.store.image || ALL_ONLY.includes(format.value);
      all.disabled = ONE_ONLY.includes(format.value);
    };
    this.store.on("image", update);
    update();
    return section("Export", make("label", { className: "field", htmlFor: "export-format" }, "Format", format),
      make("div", { className: "row" }, one, all));
  }
}
