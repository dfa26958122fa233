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
    tool("select", "select", "Select", ["v"], "choose cells by clicking"),
    tool("brush", "brush", "Brush", ["b"], "add to the chosen cell, or draw a new one"),
    tool("eraser", "eraser", "Eraser", ["e"], "erase from the chosen cell, or from any"),
    other("toggle", "Draw", "Toggle", ["x"], "change between adding and erasing", toggled, { ready: open }),
    tool("polygon", "polygon", "Polygon", ["p"], "add an outline, corner by corner or freehand"),
    tool("cutout", "cutout", "Cut out", ["Shift+p"], "erase an outline"),
    tool("box", "box", "Box", ["t"], "find the cell in a box with the model"),
    tool("seeds", "seeds", "Split", ["w"], "split a cell at two or more points (watershed)"),
    tool("line", "line", "Cut", ["Shift+w"], "split a cell along a line"),
    other("new", "Draw", "New cell", ["n"], "draw a new cell next", () => {
      if (tools.blocked()) return;
      store.select([]);
      if (!tools.draws || tools.erases) tools.use("brush");
    }, { ready: open, button: true }),
    cell("delete", "Delete", ["Backspace", "Delete"], "delete the chosen cells", () => edits.remove()),
    cell("merge", "Combine", ["r"], "combine the chosen cells, or with the next one clicked", pair("merge")),
    cell("swap", "Swap", ["s"], "exchange the numbers of two cells", pair("swap")),
    cell("fill", "Fill", ["g"], "fill holes", () => edits.alter("fill_holes", "fill holes of")),
    cell("trim", "Trim", ["k"], "keep only the largest part", () => edits.alter("keep_largest", "trim")),
    cell("shrink", "Shrink", ["q"], "shrink by a pixel", () => edits.alter("shrink", "shrink", { pixels: 1 })),
    cell("grow", "Grow", ["Shift+q"], "grow by a pixel", () => edits.alter("grow", "grow", { pixels: 1 })),
    cell("fit", "Fit", ["m"], "outline the cell again with the model", () => edits.autofit()),
    other("undo", "Edit", "Undo", ["Mod+z"], "undo the last change of this image, without limit", () => edits.undo(),
      { ready: () => open() && store.image.can_undo }),
    other("redo", "Edit", "Redo", ["Mod+Shift+z", "Mod+y"], "redo", () => edits.redo(),
      { ready: () => open() && store.image.can_redo }),
    other("done", "Edit", "Done", ["Shift+Enter"], "mark the image as done, or as not done", () => tools.blocked() || edits.mark(),
      { ready: open, pressed: () => store.image?.state === "done" }),
    other("finish", "Edit", "Finish", ["Enter"], "close the outline, or split", () => tools.finish()),
    other("cancel", "Edit", "Cancel", ["Escape"], "discard the outline; else choose no cell", () => tools.cancel()),
    other("next-cell", "Move", "Next cell", ["]"], "choose the next cell", step(1), { ready: open }),
    other("previous-cell", "Move", "Previous cell", ["["], "choose the previous cell", step(-1), { ready: open }),
    other("zoom-cell", "Move", "Zoom to cell", ["f"], "bring the chosen cell close", () => view.zoomTo(store.chosen.bbox), { ready: one }),
    other("home", "Move", "Whole image", ["0"], "show the whole image", () => view.home(), { ready: open }),
    other("zoom-in", "Move", "Zoom in", ["+", "="], "zoom in", () => view.zoomBy(1.5), { ready: open }),
    other("zoom-out", "Move", "Zoom out", ["-"], "zoom out", () => view.zoomBy(1 / 1.5), { ready: open }),
    other("next-image", "Move", "Next image", ["d", "ArrowRight"], "show the next image", () => images.step(1)),
    other("previous-image", "Move", "Previous image", ["a", "ArrowLeft"], "show the previous image", () => images.step(-1)),
    other("bigger", "Display", "Larger brush", ["ArrowUp"], "enlarge the brush", () => tools.setRadius(tools.radius * 1.2)),
    other("smaller", "Display", "Smaller brush", ["ArrowDown"], "reduce the brush", () => tools.setRadius(tools.radius / 1.2)),
    other("outlines", "Display", "Outlines", ["o"], "hide or show outlines", () => display.toggle("visible")),
    other("filled", "Display", "Fill", ["h"], "fill cells with their colour", () => display.toggle("fill")),
    other("contrast", "Display", "Contrast", ["c"], "reset the contrast", () => display.resetContrast(), { ready: open }),
    other("help", "Display", "Help", ["?"], "this sheet", help),
  ];
}
