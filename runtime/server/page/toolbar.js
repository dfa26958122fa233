// Buttons of the toolbar and of the top, and the help sheet, all made from the table of commands.

import { byId, make } from "./dom.js";
import { showKey, showKeyShort } from "./keys.js";

const TOP = ["undo", "redo", "done", "help"];

/** Make the buttons; return a function that brings their state up to date. */
export function makeToolbar(commands) {
  const buttons = [];
  const button = (command) => {
    const key = showKeyShort(command.keys[0]);
    const element = make("button",
      { type: "button", id: `command-${command.id}`, title: `${command.about} (${showKey(command.keys[0])})`, on: { click: () => command.run() } },
      command.text, make("kbd", { ariaHidden: "true" }, key));
    element.setAttribute("aria-keyshortcuts", command.keys[0].replace("Mod", "Control"));
    buttons.push([element, command]);
    return element;
  };
  for (const group of ["Draw", "Chosen cell"]) {
    const own = commands.filter((command) => command.group === group && command.button);
    byId("tools").append(make("div", { className: "group", role: "group", ariaLabel: group }, ...own.map(button)));
  }
  byId("top-buttons").append(...TOP.map((id) => button(commands.find((command) => command.id === id))));
  return () => {
    for (const [element, { ready, pressed }] of buttons) {
      element.disabled = !(ready?.() ?? true);
      if (pressed) element.setAttribute("aria-pressed", String(pressed()));
    }
  };
}

/** Fill the help sheet. */
export function fillHelp(commands) {
  const groups = [...new Set(commands.map((command) => command.group))];
  const rows = (group) => commands.filter((command) => command.group === group).map((command) =>
    make("div", { className: "key-row" },
      make("dt", {}, ...command.keys.map((key) => make("kbd", {}, showKey(key)))),
      make("dd", {}, make("b", {}, command.text), ` ${command.about}`)));
  byId("help").replaceChildren(
    make("div", { className: "head" },
      make("h2", { id: "help-title" }, "Keys"),
      make("button", { type: "button", on: { click: () => byId("help").close() } }, "Close")),
    make("p", {}, "Hold Space and drag to move the image with any tool. Scroll to zoom. Every change is saved at once."),
    make("div", { className: "sheet" },
      ...groups.map((group) => make("section", {}, make("h3", {}, group), make("dl", {}, ...rows(group))))),
  );
}
