// Building elements without markup in strings, so that names of files and messages stay text.

/** Return the element with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} tag
 * @param {Object} [properties] properties and attributes; `on` holds listeners, `data` the dataset
 * @param {...(Node|string)} children
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Make a range slider with its label and its value beside it. */
export function slider({ id, text, min, max, step, value, show = String, onInput }) {
  const shown = make("output", { htmlFor: id }, show(value));
  const input = make("input", {
    id, type: "range", min, max, step, value,
    on: { input: () => { shown.textContent = show(input.valueAsNumber); onInput(input.valueAsNumber); } },
  });
  const set = (next) => { input.value = next; shown.textContent = show(input.valueAsNumber); };
  return { element: make("label", { className: "field slider", htmlFor: id }, text, input, shown), input, set };
}

/** Ask a question in a dialog; resolve to true if the user agrees. */
export function ask(text, agree) {
  const dialog = byId("confirm");
  const close = (answer) => () => dialog.close(answer);
  dialog.replaceChildren(
    make("p", { id: "confirm-text" }, text),
    make("div", { className: "row end" },
      make("button", { type: "button", on: { click: close("") } }, "Cancel"),
      make("button", { type: "button", className: "primary", autofocus: true, on: { click: close("yes") } }, agree)),
  );
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Return a function that runs `work` once, `ms` after its last call. */
export function debounced(work, ms) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), ms);
  };
}
