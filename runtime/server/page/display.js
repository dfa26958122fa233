// How the image and the outlines are shown: channels, colours, contrast and opacity. The settings are kept from image to
// image as long as the channels have the same names.

import { get, imagePath } from "./api.js";
import { byId, debounced, make, slider } from "./dom.js";
import { sayError } from "./messages.js";

const SHOWN = 3; // most channels at a time
const COLOURS = { 1: ["#ffffff"], 2: ["#00ff00", "#ff00ff"], 3: ["#ff0000", "#00ff00", "#0000ff"] };
const STEPS = 1000; // of a contrast slider
const WAIT_MS = 200;

/** Controls of the display. */
export class Display {
  /**
   * @param {import("./store.js").Store} store
   * @param {import("./view.js").View} view
   * @param {import("./outline_layer.js").OutlineLayer} outlines
   */
  constructor(store, view, outlines) {
    Object.assign(this, { store, view, outlines, channels: [], names: "" });
    this.boxes = {
      visible: this.checkbox("show-outlines", "Show outlines", true),
      fill: this.checkbox("show-fill", "Fill cells", false),
    };
    const opacity = slider({
      id: "opacity", text: "Opacity", min: 0.1, max: 1, step: 0.05, value: 1,
      show: (value) => `${Math.round(100 * value)} %`, onInput: (value) => { outlines.opacity = value; },
    });
    this.list = make("div", { id: "channels" });
    this.apply = debounced(() => this.show(true), WAIT_MS);
    byId("display").append(
      make("section", { ariaLabel: "Outlines" }, make("h2", {}, "Outlines"),
        make("div", { className: "row" }, ...Object.values(this.boxes).map((box) => box.parentElement)), opacity.element),
      make("section", { ariaLabel: "Channels" }, make("div", { className: "head" }, make("h2", {}, "Channels"),
        make("button", { type: "button", className: "link", on: { click: () => this.resetContrast() } }, "Reset")), this.list),
    );
  }

  checkbox(id, text, checked) {
    const input = make("input", { id, type: "checkbox", checked, on: { change: () => this.applyOutlines() } });
    make("label", { htmlFor: id }, input, ` ${text}`);
    return input;
  }

  /** Change a checkbox of the outlines. @param {"visible"|"fill"} name */
  toggle(name) {
    this.boxes[name].checked = !this.boxes[name].checked;
    this.applyOutlines();
  }

  applyOutlines() {
    this.outlines.style.fill = this.boxes.fill.checked;
    this.outlines.visible = this.boxes.visible.checked;
  }

  /** Show the image of the store; keep channels and contrast if it has the same channels as the one before. */
  async open() {
    const { image } = this.store;
    const names = image.channels.join("\n");
    if (names !== this.names) {
      this.names = names;
      this.channels = image.channels.map((name, place) => ({
        name, on: place < SHOWN, colour: null, low: null, high: null, min: 0, max: 1,
      }));
    }
    this.show(false);
    try {
      const found = await get(imagePath(image.id, "/contrast"));
      if (this.store.image?.id !== image.id) return;
      found.channels.forEach(({ low, high, min, max }, place) => {
        Object.assign(this.channels[place], { auto: [low, high], min, max: max > min ? max : min + 1 });
      });
      this.fill();
    } catch (error) {
      sayError(error, "Contrast: ");
    }
  }

  get chosen() {
    return this.channels.map((channel, place) => ({ ...channel, place })).filter((channel) => channel.on);
  }

  /** Show the pixels with the present settings. */
  show(keepPlace) {
    const { image } = this.store;
    const { chosen } = this;
    const query = new URLSearchParams({
      channels: chosen.map((channel) => channel.place),
      colours: chosen.map((channel, place) => (channel.colour ?? COLOURS[chosen.length][place]).slice(1)),
      contrast: chosen.map(({ low, high }) => (low === null ? "auto" : `${low}:${high}`)),
    });
    this.view.show(imagePath(image.id, `/image.dzi?${query}`), image.size_hw, keepPlace);
  }

  resetContrast() {
    for (const channel of this.channels) Object.assign(channel, { low: null, high: null, colour: null });
    this.fill();
    this.apply();
  }

  /** Make the controls of all channels. */
  fill() {
    const usual = new Map(this.chosen.map(({ place }, rank, all) => [place, COLOURS[all.length][rank]]));
    this.list.replaceChildren(...this.channels.map((channel, place) => this.controls(channel, place, usual.get(place))));
  }

  controls(channel, place, usual) {
    const name = /^\d*$/.test(channel.name) ? `Channel ${channel.name || place}` : channel.name;
    const on = make("input", { type: "checkbox", id: `channel-${place}`, checked: channel.on, on: { change: () => {
      channel.on = on.checked;
      const chosen = this.channels.filter((one) => one.on);
      if (!chosen.length) channel.on = true; // something must be shown
      if (chosen.length > SHOWN) chosen.find((one) => one !== channel).on = false;
      this.fill();
      this.apply();
    } } });
    const colour = make("input", { type: "color", value: channel.colour ?? usual ?? "#808080", disabled: !channel.on,
      ariaLabel: `Colour of ${name}`, on: { input: () => { channel.colour = colour.value; this.apply(); } } });
    const head = make("div", { className: "head" }, make("label", { htmlFor: on.id }, on, ` ${name}`), colour);
    return make("div", { className: "channel" }, head, ...(channel.on ? this.range(channel, place, name) : []));
  }

  /** Make the two sliders of a channel. */
  range(channel, place, name) {
    const { min, max } = channel;
    const [low, high] = channel.low === null ? (channel.auto ?? [min, max]) : [channel.low, channel.high];
    const step = (max - min) / STEPS;
    const show = (value) => String(Number(value.toPrecision(4)));
    const bound = (side, value, text) => slider({
      id: `${side}-${place}`, text, min, max, step, value: Math.min(max, Math.max(min, value)), show,
      onInput: (next) => {
        const [other, otherHigh] = channel.low === null ? [low, high] : [channel.low, channel.high];
        if (side === "low") Object.assign(channel, { low: Math.min(next, otherHigh - step), high: otherHigh });
        else Object.assign(channel, { low: other, high: Math.max(next, other + step) });
        this.apply();
      },
    });
    const made = [bound("low", low, "Dark"), bound("high", high, "Bright")];
    made[0].input.ariaLabel = `Value of ${name} that is shown black`;
    made[1].input.ariaLabel = `Value of ${name} that is shown at full brightness`;
    return made.map((one) => one.element);
  }
}
