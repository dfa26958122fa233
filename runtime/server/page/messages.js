// Messages to the user. Those that need an answer stay until the user gives one.

import { byId, make } from "./dom.js";

const SHOWN_MS = 6000;

/**
 * Show a message.
 * @param {string} text
 * @param {{kind?: "note"|"error", actions?: {text: string, run: function(): void}[]}} [options]
 *   a message with actions, or an error, stays until it is closed
 */
export function say(text, { kind = "note", actions = [] } = {}) {
  const close = () => box.remove();
  const buttons = actions.map(({ text: label, run }) =>
    make("button", { type: "button", on: { click: () => { close(); run(); } } }, label));
  if (!actions.length) {
    buttons.push(make("button", { type: "button", className: "link", on: { click: close } }, "Close"));
  }
  const box = make("div", { className: `message ${kind}` }, make("p", {}, text), make("div", { className: "row" }, ...buttons));
  const places = byId("messages");
  for (const other of [...places.children]) if (other.firstChild.textContent === text && !actions.length) other.remove();
  places.append(box);
  if (kind === "note" && !actions.length) setTimeout(close, SHOWN_MS);
  return close;
}

/** Show an error of the server, or of the page itself. */
export const sayError = (error, before = "") => say(`${before}${sentence(error.message)}`, { kind: "error" });

/** Show the banner above the page, or hide it. */
export function banner(text) {
  const element = byId("banner");
  element.textContent = text ?? "";
  element.hidden = !text;
}

/** Begin a message of the server with a capital letter. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
