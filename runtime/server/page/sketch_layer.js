// What is small and changes often: chosen cells, the shape that is being drawn, shapes on their way, and the brush.

import { colourOf } from "./geometry.js";
import { pathOf } from "./outline_layer.js";

const ADD = "#39d98a";
const ERASE = "#ff6b6b";
const GUIDE = "#ffd43b";

/** Layer above the outlines, drawn at most once a frame. */
export class SketchLayer {
  constructor(parent, view, store) {
    this.view = view;
    this.store = store;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "layer";
    this.context = this.canvas.getContext("2d");
    parent.append(this.canvas);
    this.sources = () => ({ sketches: [], cursor: null });
    this.asked = false;
    view.addEventListener("move", () => this.redraw());
    new ResizeObserver(() => this.redraw()).observe(view.element);
  }

  redraw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    const { canvas, context, view } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [view.element.clientWidth * ratio, view.element.clientHeight * ratio].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.store.image) return;
    const { left, top, scale } = view.place;
    context.setTransform(ratio * scale, 0, 0, ratio * scale, -left * scale * ratio, -top * scale * ratio);
    context.lineJoin = context.lineCap = "round";
    const px = 1 / scale;
    this.store.selection.forEach((label, place) => this.chosen(label, px, place === this.store.selection.length - 1));
    const { sketches, cursor } = this.sources();
    for (const sketch of sketches) this.sketch(sketch, px);
    if (cursor) this.cursor(cursor, px);
  }

  chosen(label, px, last) {
    const cell = this.store.cells.get(label);
    if (!cell) return;
    const { context } = this;
    const path = pathOf(cell, { left: 0, top: 0 }, px);
    context.fillStyle = colourOf(label, 0.22);
    context.fill(path, "evenodd");
    context.lineWidth = 4.5 * px;
    context.strokeStyle = "#000a";
    context.stroke(path);
    context.lineWidth = 2.5 * px;
    context.setLineDash(last ? [] : [6 * px, 4 * px]);
    context.strokeStyle = "#fff";
    context.stroke(path);
    context.setLineDash([]);
  }

  /** Draw a sketch: {kind: stroke|polygon|box|seeds|line, points, radius, erase}. */
  sketch({ kind, points, radius = 0, erase = false }, px) {
    if (!points.length) return;
    const { context } = this;
    const colour = erase ? ERASE : ["seeds", "line", "box"].includes(kind) ? GUIDE : ADD;
    context.strokeStyle = colour;
    context.fillStyle = `${colour}40`;
    context.lineWidth = 2 * px;
    if (kind === "box") {
      const [[ax, ay], [bx, by]] = [points[0], points.at(-1)];
      context.fillRect(ax, ay, bx - ax, by - ay);
      context.strokeRect(ax, ay, bx - ax, by - ay);
      return;
    }
    if (kind === "seeds") {
      for (const point of points) this.dot(point, 5 * px, colour);
      return;
    }
    const path = new Path2D();
    points.forEach(([x, y], place) => (place ? path.lineTo(x, y) : path.moveTo(x, y)));
    if (kind === "stroke") {
      if (points.length === 1) path.lineTo(points[0][0] + 1e-3, points[0][1]);
      context.lineWidth = 2 * radius;
      context.strokeStyle = `${colour}80`;
    } else if (kind === "polygon") {
      context.fill(path);
    }
    context.stroke(path);
    if (kind === "polygon") this.dot(points[0], 4 * px, colour);
  }

  dot([x, y], radius, colour) {
    const { context } = this;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.fill();
    context.lineWidth = radius / 3;
    context.strokeStyle = "#000";
    context.stroke();
  }

  cursor({ point: [x, y], radius, erase }, px) {
    const { context } = this;
    for (const [width, colour] of [[3, "#000a"], [1.5, erase ? ERASE : ADD]]) {
      context.beginPath();
      context.arc(x, y, Math.max(radius, px), 0, 2 * Math.PI);
      context.lineWidth = width * px;
      context.strokeStyle = colour;
      context.stroke();
    }
  }
}
