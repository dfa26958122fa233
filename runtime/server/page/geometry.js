// Geometry in image pixels; the first pixel covers 0..1 on both axes.

/** Return the box around boxes [x0, y0, x1, y1], or null if there are none. */
export function bounds(boxes) {
  if (!boxes.length) return null;
  const all = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x0, y0, x1, y1] of boxes) {
    all[0] = Math.min(all[0], x0);
    all[1] = Math.min(all[1], y0);
    all[2] = Math.max(all[2], x1);
    all[3] = Math.max(all[3], y1);
  }
  return all;
}

/** Return whether two boxes have a point in common. */
export const meet = (a, b) => a[0] <= b[2] && a[2] >= b[0] && a[1] <= b[3] && a[3] >= b[1];

/** Return whether a point is in a cell, by the even-odd rule over its rings. */
export function contains(cell, x, y) {
  const [x0, y0, x1, y1] = cell.bbox;
  if (x < x0 || x >= x1 || y < y0 || y >= y1) return false;
  let inside = false;
  for (const ring of cell.rings) {
    for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
      const [ax, ay, bx, by] = [ring[i], ring[i + 1], ring[j], ring[j + 1]];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
    }
  }
  return inside;
}

export const distance = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by);

/** Return the box of two opposite corners, or null if it is empty. */
export function boxOf([ax, ay], [bx, by]) {
  const box = [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
  return box[2] > box[0] && box[3] > box[1] ? box : null;
}

/** Return the part of a box inside an image, or null. */
export function within([x0, y0, x1, y1], [height, width]) {
  return boxOf([Math.max(0, Math.min(width, x0)), Math.max(0, Math.min(height, y0))],
    [Math.max(0, Math.min(width, x1)), Math.max(0, Math.min(height, y1))]);
}

/** Round coordinates to 1/100 pixel, which keeps requests short. */
export const rounded = (points) => points.map((point) => point.map((value) => Math.round(value * 100) / 100));

/** Return a colour for a label; neighbouring labels differ strongly, because the hue turns by the golden angle. */
export const colourOf = (label, alpha = 1) => `hsl(${(label * 137.508) % 360} 90% ${55 + (label % 3) * 7}% / ${alpha})`;
