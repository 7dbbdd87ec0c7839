// The server: who we are to it, requests, and the socket through which it tells what is new.

const CLOSED = 4000; // the server has deleted what was ours

export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function checked(response) {
  if (response.ok) return response;
  let message = `The server answered with status ${response.status}.`;
  try {
    const { detail } = await response.json();
    if (typeof detail === "string") message = detail;
  } catch { /* no JSON: the status has to do */ }
  throw new RequestError(response.status, message);
}

export async function request(method, path, headers = {}) {
  return checked(await fetch(path, { method, headers, cache: "no-store" }));
}

/** The token of the address: it is after the #, which browsers send to nobody, and is taken out of the address at once. */
export function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token !== null) history.replaceState(null, "", location.pathname);
  return token;
}

/** Loads the page again when an address with a token is put in place of that of an open page, which changes nothing but the hash. */
export function watchToken() {
  addEventListener("hashchange", () => { if (location.hash.startsWith("#token=")) location.reload(); });
}

/** Opens the page: facts of the model and of the page. A wrong or missing token is a RequestError of status 401. */
export async function open(token) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  return (await request("POST", "api/viewer", headers)).json();
}

/** Uploads a file; `onProgress` gets the share that is sent. */
export function upload(file, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest(); // fetch tells nothing of its progress
    const answer = () => { try { return JSON.parse(sending.responseText); } catch { return {}; } };
    sending.open("POST", "api/recordings");
    sending.setRequestHeader("Content-Type", "application/octet-stream");
    sending.setRequestHeader("X-Recording-Name", encodeURIComponent(file.name));
    sending.upload.onprogress = (event) => onProgress(event.total ? event.loaded / event.total : 0);
    sending.onload = () => {
      if (sending.status === 201) resolve(answer().id);
      else reject(new RequestError(sending.status, answer().detail ?? `The server answered with status ${sending.status}.`));
    };
    // A server that refuses a file while it is sent may be heard too late for the browser to say why.
    sending.onerror = () => reject(new RequestError(0, "The upload was interrupted."));
    sending.onabort = () => reject(new RequestError(0, ""));
    signal.addEventListener("abort", () => sending.abort());
    sending.send(file);
  });
}

/** The pictures of some frames, as Blobs. */
export async function pictures(id, first, count) {
  const content = await (await request("GET", `api/recordings/${id}/pictures?first=${first}&count=${count}`)).arrayBuffer();
  const view = new DataView(content);
  const found = [];
  for (let at = 0; at < content.byteLength;) {
    const length = view.getUint32(at, true);
    found.push(new Blob([new Uint8Array(content, at + 4, length)], { type: "image/jpeg" }));
    at += 4 + length;
  }
  return found;
}

export function socketTo(path) {
  const address = new URL(path, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  return socket;
}

/** The socket of the page; it comes back after an interruption. */
export class Live {
  #socket = null;
  #watched = null;
  #lastAction = 0;

  constructor(handlers) {
    this.handlers = handlers; // onRecordings(list), onResults(id, first, frames), onLost(), onBack(), onEnded(reason)
  }

  connect() {
    const socket = socketTo("api/live");
    this.#socket = socket;
    socket.onopen = () => { this.handlers.onBack(); this.#watch(); };
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "recordings") this.handlers.onRecordings(message.recordings);
      else if (message.type === "results") this.handlers.onResults(message.id, message.first, message.frames);
    };
    socket.onclose = ({ code, reason }) => {
      if (code === CLOSED) this.handlers.onEnded(reason);
      else this.handlers.onLost();
    };
  }

  watch(id, first) {
    this.#watched = { id, first };
    this.#watch();
  }

  act() {
    const now = Date.now();
    if (now - this.#lastAction < 30000 || this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#lastAction = now;
    this.#socket.send('{"type": "active"}');
  }

  #watch() {
    if (this.#watched !== null && this.#socket?.readyState === WebSocket.OPEN) {
      this.#socket.send(JSON.stringify({ type: "watch", ...this.#watched }));
    }
  }
}
