// The page: makes its parts and connects them.

import { get } from "./api.js";
import { Changes } from "./changes.js";
import { commandsOf } from "./commands.js";
import { Display } from "./display.js";
import { byId } from "./dom.js";
import { Edits } from "./edits.js";
import { listen } from "./events.js";
import { ImageList } from "./image_list.js";
import { listenToKeys } from "./keys.js";
import { banner, say, sayError } from "./messages.js";
import { OutlineLayer } from "./outline_layer.js";
import { SidePanel } from "./side_panel.js";
import { SketchLayer } from "./sketch_layer.js";
import { Store } from "./store.js";
import { fillHelp, makeToolbar } from "./toolbar.js";
import { Tools } from "./tools.js";
import { View } from "./view.js";

const store = new Store();
const changes = new Changes(store);
const edits = new Edits(store, changes);
const view = new View(byId("viewer"));
const layers = view.viewer.canvas;
const outlines = new OutlineLayer(layers, view, store);
const sketches = new SketchLayer(layers, view, store);
const tools = new Tools(view, store, edits);
new SidePanel(store, tools, view);
const display = new Display(store, view, outlines);
const images = new ImageList(store, edits, open);
const commands = commandsOf({ store, tools, edits, view, display, images, help: () => byId("help").showModal() });
const updateToolbar = makeToolbar(commands);

/** Show an image, unless something drawn in the present one is not finished. */
async function open(id) {
  if (id === store.image?.id || tools.blocked()) return;
  try {
    await store.open(id);
    history.replaceState(null, "", `#image=${encodeURIComponent(id)}`);
  } catch (error) {
    sayError(error);
  }
}

function update() {
  const { image } = store;
  byId("image-name").textContent = image?.name ?? "";
  byId("image-state").textContent = byId("image-state").dataset.state = image?.state ?? "";
  byId("hint").textContent = image ? tools.hint : "";
  byId("viewer").dataset.tool = tools.panning ? "pan" : tools.name;
  const { waiting, held, unreachable } = changes;
  byId("saved").textContent = held.length ? `${held.length} not saved`
    : unreachable ? `${waiting.length} waiting for the server`
      : waiting.length ? "Saving …" : image ? "All changes saved" : "";
  byId("saved").dataset.state = held.length || unreachable ? "problem" : "";
  updateToolbar();
  sketches.redraw();
}

function showPosition() {
  const { pointer } = tools;
  const cell = pointer && store.at(...pointer);
  byId("position").textContent = pointer
    ? `x ${Math.floor(pointer[0])}, y ${Math.floor(pointer[1])}${cell ? `, cell ${cell.label}` : ""}` : "";
  if (["brush", "eraser"].includes(tools.name)) sketches.redraw();
}

function connect() {
  sketches.sources = () => ({
    sketches: tools.sketch ? [...changes.sketches, tools.sketch] : changes.sketches,
    cursor: tools.cursor,
  });
  let shown = null;
  store.on("image", () => {
    if (shown !== store.image.id) {
      shown = store.image.id;
      tools.sketch = null;
      display.open();
    }
    byId("empty").hidden = true;
    if (store.image.problem) say(store.image.problem, { kind: "error" });
    update();
  });
  store.on("cells", ({ all, bbox }) => {
    if (all) outlines.redraw();
    else outlines.update(bbox);
    update();
  });
  for (const name of ["images", "selection"]) store.on(name, update);
  changes.addEventListener("state", update);
  tools.addEventListener("change", update);
  tools.addEventListener("pointer", showPosition);
  view.addEventListener("open", () => outlines.redraw());
  view.addEventListener("move", () => {
    byId("zoom").textContent = store.image ? `${Math.round(100 * view.place.scale)} %` : "";
  });
  view.addEventListener("fail", () => banner("Some pixels of the image could not be loaded. The page tries again when the image moves."));
  listenToKeys(commands, (held) => {
    tools.panning = held;
    update();
  });
  window.addEventListener("beforeunload", (event) => {
    if (changes.unsaved || tools.begun) event.preventDefault();
  });
}

async function start() {
  connect();
  fillHelp(commands);
  const health = await get("/health");
  byId("model").textContent = `model ${health.model}, ${health.backend}`;
  if (!health.project) {
    throw new Error("This server has no project to correct. Start it with: cellsam-engine label FOLDER");
  }
  await store.loadImages();
  byId("title").textContent = store.project.name;
  document.title = `${store.project.name} – cellsam-engine`;
  listen(store, changes, (job) => images.show(job));
  const wanted = new URLSearchParams(location.hash.slice(1)).get("image");
  const first = store.find(wanted) ?? store.images.find((image) => image.state !== "done") ?? store.images[0];
  if (!first) throw new Error("The project has no images.");
  await open(first.id);
}

update();
start().catch((error) => {
  byId("empty").textContent = error.message;
  byId("empty").hidden = false;
  sayError(error);
});

// For tests and measurements of the page.
window.cellsamPage = { store, view, tools, changes, outlines };
