// Requests to the server. Every failure becomes an ApiError whose message can be shown to the user as it is.

export class ApiError extends Error {
  /**
   * @param {string} message text of the server
   * @param {{status?: number, kind?: string|null, revision?: number|null}} about status 0: the server did not answer
   */
  constructor(message, { status = 0, kind = null, revision = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.kind = kind;
    this.revision = revision;
  }

  /** Whether the request did not reach the server, or its answer did not reach the page. */
  get unreachable() {
    return this.status === 0;
  }

  /** Whether the image has another revision than the page shows. */
  get stale() {
    return this.status === 409 && this.revision !== null;
  }
}

/**
 * Send a request; return the parsed answer.
 * @throws {ApiError}
 */
export async function call(method, path, body = undefined) {
  const options = { method, cache: "no-store" };
  if (method !== "GET") {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body ?? {});
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new ApiError("The server does not answer. Start it again with: cellsam-engine label FOLDER.");
  }
  let content = null;
  try {
    content = answer.status === 204 ? null : await answer.json();
  } catch {
    if (answer.ok) throw new ApiError("The connection broke while the server answered.");
  }
  if (answer.ok) return content;
  const error = content?.error;
  throw new ApiError(error?.message ?? `The server answered with status ${answer.status} and no explanation.`, {
    status: answer.status,
    kind: error?.kind ?? null,
    revision: content?.revision ?? null,
  });
}

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);

/** Path of an image in the API. */
export const imagePath = (id, rest = "") => `/api/project/images/${encodeURIComponent(id)}${rest}`;
