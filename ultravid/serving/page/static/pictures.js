// The pictures of a recording's frames: fetched some ahead, kept while there is room, decoded when they are about to be shown.

import { pictures } from "./api.js";

const BATCH = 16;
const AHEAD = 32; // frames fetched ahead of the one that is shown
const DECODED = 24; // bitmaps kept
const MAX_BYTES = 300e6;

export class Pictures {
  #blobs = new Map(); // index -> Blob; the least recently used first
  #bitmaps = new Map(); // index -> Promise of an ImageBitmap, then the ImageBitmap
  #fetching = new Map(); // index -> Promise
  #bytes = 0;
  #isClosed = false;

  constructor(recording, onFault) {
    this.recording = recording;
    this.onFault = onFault;
  }

  /** The bitmap of a frame if it is there; else null, and it is on its way: `onReady` is called. */
  now(index, onReady) {
    const held = this.#bitmaps.get(index);
    if (held instanceof ImageBitmap) {
      this.#bitmaps.delete(index);
      this.#bitmaps.set(index, held);
      return held;
    }
    if (held === undefined) this.#decode(index).then(onReady, (error) => { if (!this.#isClosed) this.onFault(error); });
    else held.then(onReady, () => {});
    return null;
  }

  /** Prepares the frames after one (before it, if step is negative). */
  ahead(index, step = 1) {
    const last = this.recording.frames.length - 1;
    for (let i = 1; i <= 6; i++) {
      const next = index + i * step;
      if (next >= 0 && next <= last && this.#blobs.has(next) && !this.#bitmaps.has(next)) this.#decode(next).catch(() => {});
    }
    for (let i = 1; i <= AHEAD; i += 4) {
      const next = index + i * step;
      if (next >= 0 && next <= last) this.#fetch(next, step).catch(() => {});
    }
  }

  close() {
    this.#isClosed = true;
    for (const bitmap of this.#bitmaps.values()) if (bitmap instanceof ImageBitmap) bitmap.close();
    this.#bitmaps.clear();
    this.#blobs.clear();
  }

  /** Keeps a picture that the browser itself has: a camera's. */
  put(index, bitmap) {
    this.#keep(index, bitmap);
  }

  #decode(index) {
    const promise = this.#fetch(index, 1).then((blob) => createImageBitmap(blob)).then((bitmap) => {
      if (this.#isClosed) bitmap.close();
      else this.#keep(index, bitmap);
      return bitmap;
    });
    this.#bitmaps.set(index, promise);
    promise.catch(() => this.#bitmaps.delete(index));
    return promise;
  }

  #keep(index, bitmap) {
    this.#bitmaps.delete(index);
    this.#bitmaps.set(index, bitmap);
    for (const [old, held] of this.#bitmaps) {
      if (this.#bitmaps.size <= DECODED) break;
      if (!(held instanceof ImageBitmap) || old === index) continue;
      held.close();
      this.#bitmaps.delete(old);
    }
  }

  #fetch(index, step) {
    const blob = this.#blobs.get(index);
    if (blob !== undefined) return Promise.resolve(blob);
    const under_way = this.#fetching.get(index);
    if (under_way !== undefined) return under_way;
    // As many at once as are missing next to each other.
    let [first, last] = [index, index];
    const end = this.recording.frames.length - 1;
    const isMissing = (i) => i >= 0 && i <= end && !this.#blobs.has(i) && !this.#fetching.has(i);
    while (last - first + 1 < BATCH && isMissing(step > 0 ? last + 1 : first - 1)) step > 0 ? last++ : first--;
    const request = pictures(this.recording.id, first, last - first + 1).then((blobs) => {
      blobs.forEach((each, i) => this.#store(first + i, each));
    });
    for (let i = first; i <= last; i++) {
      const one = request.then(() => {
        const found = this.#blobs.get(i);
        if (found === undefined) throw new Error("The picture of this frame is not there.");
        return found;
      }).finally(() => this.#fetching.delete(i));
      one.catch(() => {});
      this.#fetching.set(i, one);
    }
    return this.#fetching.get(index);
  }

  #store(index, blob) {
    this.#blobs.set(index, blob);
    this.#bytes += blob.size;
    for (const [old, held] of this.#blobs) {
      if (this.#bytes <= MAX_BYTES) break;
      this.#blobs.delete(old);
      this.#bytes -= held.size;
    }
  }
}
