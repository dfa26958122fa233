// All commands of the page, once: the toolbar, the keys and the help sheet are made from this table. Keys follow those
// of DeepCell Label where it has the same operation.

/**
 * @typedef {Object} Command
 * @property {string} id
 * @property {string} group heading in the help sheet
 * @property {string} text label of its button
 * @property {string} about what it does, for the help sheet
 * @property {string[]} keys such as "Shift+q", "Mod+z" (Ctrl, or Command on a Mac)
 * @property {function(): void} run
 * @property {function(): boolean} [ready] whether it can run now
 * @property {function(): boolean} [pressed] for commands that are on or off
 * @property {boolean} [button] whether it has a button in the toolbar
 */

/** Build the table. @returns {Command[]} */
export function commandsOf({ store, tools, edits, view, display, images, help }) {
  const open = () => Boolean(store.image);
  const one = () => open() && store.selection.length > 0;
  const tool = (id, name, text, keys, about) => ({
    id, group: "Draw", text, keys, about, button: true, ready: open,
    run: () => tools.use(name), pressed: () => tools.name === name,
  });
  const cell = (id, text, keys, about, run, ready = one) => ({
    id, group: "Chosen cell", text, keys, about, run: () => tools.blocked() || run(), ready, button: true,
  });
  const other = (id, group, text, keys, about, run, more = {}) => ({ id, group, text, keys, about, run, ...more });
  const pair = (name) => () => {
    if (store.selection.length > 1) edits[name](name === "swap" ? store.selection.slice(-2) : [...store.selection]);
    else tools.use(name);
  };
  const toggled = () => {
    const opposite = { brush: "eraser", eraser: "brush", polygon: "cutout", cutout: "polygon" };
    tools.use(opposite[tools.name] ?? "brush");
  };
  const step = (by) => () => {
    const label = store.neighbour(by);
    if (label === null) return;
    store.select([label]);
    view.reveal(store.chosen.bbox);
  };
  return [
    tool("select", "select", "Select", ["v"], "click cells to choose them"),
    tool("brush", "brush", "Brush", ["b"], "adds to the chosen cell, or draws a new one"),
    tool("eraser", "eraser", "Eraser", ["e"], "erases from the chosen cell, or from any"),
    other("toggle", "Draw", "Toggle", ["x"], "brush or eraser, polygon or cut-out", toggled, { ready: open }),
    tool("polygon", "polygon", "Polygon", ["p"], "an outline to add, corner by corner or freehand"),
    tool("cutout", "cutout", "Cut out", ["Shift+p"], "an outline to erase"),
    tool("box", "box", "Box", ["t"], "the model finds the cell in a box"),
    tool("seeds", "seeds", "Split", ["w"], "divides a cell at two or more points (watershed)"),
    tool("line", "line", "Cut", ["Shift+w"], "divides a cell along a line"),
    other("new", "Draw", "New cell", ["n"], "the next stroke begins another cell", () => {
      if (tools.blocked()) return;
      store.select([]);
      if (!tools.draws || tools.erases) tools.use("brush");
    }, { ready: open, button: true }),
    cell("delete", "Delete", ["Backspace", "Delete"], "removes the chosen cells", () => edits.remove()),
    cell("merge", "Combine", ["r"], "makes one of the chosen cells, or with the next one clicked", pair("merge")),
    cell("swap", "Swap", ["s"], "exchanges the numbers of two cells", pair("swap")),
    cell("fill", "Fill", ["g"], "closes holes in the cell", () => edits.alter("fill_holes", "fill holes of")),
    cell("trim", "Trim", ["k"], "keeps only the largest part", () => edits.alter("keep_largest", "trim")),
    cell("shrink", "Shrink", ["q"], "by a pixel", () => edits.alter("shrink", "shrink", { pixels: 1 })),
    cell("grow", "Grow", ["Shift+q"], "by a pixel", () => edits.alter("grow", "grow", { pixels: 1 })),
    cell("fit", "Fit", ["m"], "the model outlines the cell again", () => edits.autofit()),
    other("undo", "Edit", "Undo", ["Mod+z"], "takes back the last change of this image, without limit", () => edits.undo(),
      { ready: () => open() && store.image.can_undo }),
    other("redo", "Edit", "Redo", ["Mod+Shift+z", "Mod+y"], "makes the change again", () => edits.redo(),
      { ready: () => open() && store.image.can_redo }),
    other("done", "Edit", "Done", ["Shift+Enter"], "marks the image as done, or as not done", () => tools.blocked() || edits.mark(),
      { ready: open, pressed: () => store.image?.state === "done" }),
    other("finish", "Edit", "Finish", ["Enter"], "closes the outline, or splits the cell", () => tools.finish()),
    other("cancel", "Edit", "Cancel", ["Escape"], "discards the outline; if there is none, chooses no cell", () => tools.cancel()),
    other("next-cell", "Move", "Next cell", ["]"], "by its number", step(1), { ready: open }),
    other("previous-cell", "Move", "Previous cell", ["["], "by its number", step(-1), { ready: open }),
    other("zoom-cell", "Move", "Zoom to cell", ["f"], "enlarges the chosen cell", () => view.zoomTo(store.chosen.bbox), { ready: one }),
    other("home", "Move", "Whole image", ["0"], "fits the image into the window", () => view.home(), { ready: open }),
    other("zoom-in", "Move", "Zoom in", ["+", "="], "by half", () => view.zoomBy(1.5), { ready: open }),
    other("zoom-out", "Move", "Zoom out", ["-"], "by a third", () => view.zoomBy(1 / 1.5), { ready: open }),
    other("next-image", "Move", "Next image", ["d", "ArrowRight"], "in the list", () => images.step(1)),
    other("previous-image", "Move", "Previous image", ["a", "ArrowLeft"], "in the list", () => images.step(-1)),
    other("bigger", "Display", "Larger brush", ["ArrowUp"], "also eraser", () => tools.setRadius(tools.radius * 1.2)),
    other("smaller", "Display", "Smaller brush", ["ArrowDown"], "also eraser", () => tools.setRadius(tools.radius / 1.2)),
    other("outlines", "Display", "Outlines", ["o"], "hides or shows them", () => display.toggle("visible")),
    other("filled", "Display", "Colours", ["h"], "fills each cell with its colour", () => display.toggle("fill")),
    other("contrast", "Display", "Contrast", ["c"], "resets it for all channels", () => display.resetContrast(), { ready: open }),
    other("help", "Display", "Help", ["?"], "this sheet", help),
  ];
}
