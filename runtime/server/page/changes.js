// Changes on their way to the server: sent one after another, repeated while the server does not answer, and kept until
// the user decides if they fail. A change is never dropped without a message.

import { ApiError, imagePath, post } from "./api.js";
import { say, sentence } from "./messages.js";

const RETRY_MS = 2000;

/**
 * @typedef {Object} Change
 * @property {string} image id of the image
 * @property {string} text what the user did, for messages
 * @property {string} path end of the path: edits, prompts, undo, ...
 * @property {Object} body content of the request without the revision
 * @property {Object|null} [sketch] the drawn shape, which the page shows until the change arrives
 * @property {function(Object): void} [after] called with the answer
 */

/** Queue of changes; its events are `state` and `unreachable`. */
export class Changes extends EventTarget {
  constructor(store) {
    super();
    this.store = store;
    this.waiting = []; // on their way; the first one is being sent
    this.held = []; // failed; the user decides
    this.unreachable = false;
    this.sending = false;
    this.wake = () => {};
  }

  /** Shapes to show that are not yet, or not any more, part of the cells. */
  get sketches() {
    const id = this.store.image?.id;
    return [...this.waiting, ...this.held].filter((one) => one.sketch && one.image === id).map((one) => one.sketch);
  }

  get unsaved() {
    return this.waiting.length + this.held.length;
  }

  /** Queue a change of the shown image. @param {Omit<Change, "image">} change */
  add(change) {
    this.waiting.push({ sketch: null, image: this.store.image.id, tried: false, ...change });
    this.tell();
    this.run();
  }

  /** Send now what waits for the server. */
  retry() {
    this.wake();
  }

  tell() {
    this.dispatchEvent(new Event("state"));
  }

  async run() {
    if (this.sending) return;
    this.sending = true;
    while (this.waiting.length) {
      const change = this.waiting[0];
      try {
        await this.send(change);
      } catch (error) {
        const known = error instanceof ApiError ? error : new ApiError(String(error), { status: 500 });
        if (known.unreachable) await this.pause(change);
        else await this.fail(change, known);
      }
    }
    this.sending = false;
    this.tell();
  }

  async send(change) {
    const { store } = this;
    // The revision that the user saw, so that a change by others in the meantime is noticed.
    const revision = store.image?.id === change.image ? store.revision : store.find(change.image).revision;
    const answer = await post(imagePath(change.image, `/${change.path}`), { revision, ...change.body });
    this.reached();
    store.describe(change.image, answer);
    if (store.image?.id === change.image) await store.refresh().catch(() => {});
    this.waiting.shift(); // only now, so that the sketch stays visible until the outlines replace it
    this.tell();
    change.after?.(answer);
  }

  /** Wait until the server may answer again. */
  async pause(change) {
    change.tried = true;
    this.unreachable = true;
    this.tell();
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, RETRY_MS);
      this.wake = () => { clearTimeout(timer); resolve(); };
    });
  }

  reached() {
    this.unreachable = false;
  }

  /** Keep a change that failed, with those after it in the same image, and let the user decide. */
  async fail(change, error) {
    this.reached();
    const stale = error.stale;
    const lost = stale ? this.waiting.filter((one) => one.image === change.image) : [change];
    this.waiting = this.waiting.filter((one) => !lost.includes(one));
    this.held.push(...lost);
    if (stale) await this.reload(change.image);
    this.tell();
    const names = lost.map((one) => one.text).join(", ");
    say(stale ? staleText(change, names, this.store) : `Not done: ${names}. ${sentence(error.message)}`, {
      kind: "error",
      actions: [
        { text: "Try again", run: () => this.again(lost) },
        { text: "Discard", run: () => this.discard(lost) },
      ],
    });
  }

  async reload(id) {
    if (this.store.image?.id === id) await this.store.open(id).catch(() => {});
    else await this.store.loadImages().catch(() => {});
  }

  again(changes) {
    this.held = this.held.filter((one) => !changes.includes(one));
    this.waiting.push(...changes);
    this.tell();
    this.run();
  }

  discard(changes) {
    this.held = this.held.filter((one) => !changes.includes(one));
    this.tell();
  }
}

function staleText(change, names, store) {
  const name = store.find(change.image)?.name ?? "the image";
  return change.tried
    ? `The connection broke while a change was sent, so it may have arrived. ${name} was loaded again. Check it, then decide: ${names}.`
    : `${name} was changed elsewhere and was loaded again. Not done yet: ${names}.`;
}
