// The stream of events of the server: changes by others, progress of jobs, and whether the server is there at all.

import { get } from "./api.js";
import { banner, sayError } from "./messages.js";

const RETRY_MS = 2000;
const GONE = "The server does not answer. The page tries again every 2 seconds and keeps what you draw.";

/**
 * Listen until the page is closed.
 * @param {import("./store.js").Store} store
 * @param {import("./changes.js").Changes} changes
 * @param {function(Object): void} onJob
 */
export function listen(store, changes, onJob) {
  let lost = false;
  const source = new EventSource("/api/events");
  source.onopen = async () => {
    banner(null);
    changes.retry();
    if (!lost) return;
    lost = false;
    try {
      await store.loadImages();
      await follow(store, changes);
      for (const job of (await get("/api/jobs")).jobs) onJob(job);
    } catch (error) {
      sayError(error);
    }
  };
  source.onerror = () => {
    lost = true;
    banner(GONE);
    if (source.readyState === EventSource.CLOSED) { // the browser gave up
      setTimeout(() => listen(store, changes, onJob), RETRY_MS);
      source.close();
    }
  };
  source.addEventListener("job", (event) => onJob(JSON.parse(event.data)));
  source.addEventListener("image", (event) => {
    const state = JSON.parse(event.data);
    store.describe(state.id, state);
    if (state.id === store.image?.id) follow(store, changes).catch(sayError);
  });
}

/** Load outlines that others changed. Those of the page's own changes are loaded when their answer arrives. */
async function follow(store, changes) {
  if (!changes.sending && store.image && store.image.revision > store.revision) await store.refresh();
}
