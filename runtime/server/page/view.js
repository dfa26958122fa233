// The image: OpenSeadragon shows its Deep Zoom pyramid, and this module converts between image and screen.

/* global OpenSeadragon */

const TOUCH = { clickToZoom: false, dblClickToZoom: false, flickEnabled: false };

/**
 * Keep OpenSeadragon from adding a style of its own, which the content security policy forbids: it adds none if it finds
 * an element of this name. The rule is in layout.css.
 */
function withoutStyle() {
  const found = document.createElementNS("", "style");
  found.setAttribute("data-openseadragon-mobile-css", "");
  document.head.append(found);
}

/** Viewer of one image. Its event `move` comes whenever the image moves, `open` when another one is shown. */
export class View extends EventTarget {
  constructor(element) {
    super();
    this.element = element;
    this.size = null; // [height, width] of the image
    this.shown = 0; // number of the newest request to show pixels
    withoutStyle();
    this.viewer = OpenSeadragon({
      element,
      drawer: "canvas", // WebGL would gain nothing with one image, and is slow without a GPU
      showNavigationControl: false,
      imageSmoothingEnabled: false, // pixels have edges when they are large
      maxZoomPixelRatio: 40,
      minZoomImageRatio: 0.5,
      visibilityRatio: 0.2,
      animationTime: 0.25,
      springStiffness: 10,
      gestureSettingsMouse: TOUCH,
      gestureSettingsPen: TOUCH,
      gestureSettingsTouch: { ...TOUCH, pinchToZoom: true },
    });
    this.viewer.canvas.setAttribute("role", "application");
    this.viewer.canvas.setAttribute("aria-label", "Image with the outlines of its cells");
    // The page has keys of its own.
    this.viewer.innerTracker.keyHandler = null;
    this.viewer.innerTracker.keyDownHandler = null;
    const moved = () => this.dispatchEvent(new Event("move"));
    for (const name of ["update-viewport", "resize"]) this.viewer.addHandler(name, moved);
    this.viewer.addHandler("tile-load-failed", () => this.dispatchEvent(new Event("fail")));
  }

  /**
   * Show an image.
   * @param {string} address of its descriptor
   * @param {[number, number]} size height and width
   * @param {boolean} keepPlace whether this is the same image with other channels or contrast
   */
  show(address, size, keepPlace) {
    const number = ++this.shown;
    const { viewer, element } = this;
    this.size = size;
    viewer.addTiledImage({
      tileSource: address,
      x: 0,
      y: 0,
      width: 1,
      success: ({ item }) => {
        const remove = () => {
          for (const other of this.items()) if (other !== item) viewer.world.removeItem(other);
        };
        if (number !== this.shown) {
          viewer.world.removeItem(item);
        } else if (keepPlace) {
          item.addHandler("fully-loaded-change", remove); // the old pixels stay below until then
        } else {
          remove();
          const { clientWidth, clientHeight } = element;
          viewer.viewport.resize(new OpenSeadragon.Point(clientWidth, clientHeight)); // it is noticed only later
          viewer.viewport.goHome(true);
          this.dispatchEvent(new Event("open"));
        }
      },
      error: () => this.dispatchEvent(new Event("fail")),
    });
  }

  items() {
    const { world } = this.viewer;
    return Array.from({ length: world.getItemCount() }, (_, place) => world.getItemAt(place));
  }

  /** Present place: the image pixel at the top left of the viewer, and screen pixels per image pixel. */
  get place() {
    const width = this.size?.[1] ?? 1;
    const bounds = this.viewer.viewport.getBounds(true);
    const scale = this.element.clientWidth / (bounds.width * width);
    return { left: bounds.x * width, top: bounds.y * width, scale };
  }

  /** Convert a point of the viewer, {x, y} in screen pixels, to image pixels [x, y]. */
  toImage({ x, y }) {
    const { left, top, scale } = this.place;
    return [left + x / scale, top + y / scale];
  }

  /** Bring a box [x0, y0, x1, y1] into view, with space around it. */
  zoomTo([x0, y0, x1, y1], space = 1.5) {
    const width = this.size[1];
    const [w, h] = [Math.max(x1 - x0, 8), Math.max(y1 - y0, 8)];
    const box = [x0 - w * space, y0 - h * space, w * (1 + 2 * space), h * (1 + 2 * space)];
    this.viewer.viewport.fitBounds(new OpenSeadragon.Rect(...box.map((value) => value / width)));
  }

  /** Move a box into view if it is outside, without changing the zoom. */
  reveal([x0, y0, x1, y1]) {
    const { left, top, scale } = this.place;
    const [right, bottom] = [left + this.element.clientWidth / scale, top + this.element.clientHeight / scale];
    if (x0 >= left && y0 >= top && x1 <= right && y1 <= bottom) return;
    const width = this.size[1];
    this.viewer.viewport.panTo(new OpenSeadragon.Point((x0 + x1) / 2 / width, (y0 + y1) / 2 / width));
  }

  zoomBy(factor) {
    this.viewer.viewport.zoomBy(factor).applyConstraints();
  }

  home() {
    this.viewer.viewport.goHome();
  }
}
