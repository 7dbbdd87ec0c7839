// A recording as the page knows it: the frames with their detections, and the lesion tracks among these.

export class Recording {
  constructor(info) {
    this.info = info;
    this.frames = []; // {index, pts_s, detections}; an index of this array is a place, and `index` the frame's number in the source
    this.tracks = new Map(); // id -> [{place, score}], in the order of frames
  }

  get id() { return this.info.id; }
  get isFinal() { return ["done", "failed", "cancelled"].includes(this.info.state); }

  /** Frames that the timeline has room for: those that are expected, until it is known how many there are. */
  get length() {
    return this.isFinal ? this.frames.length : Math.max(this.frames.length, this.info.expected ?? 0);
  }

  /** Adds frames, of which the first has the place `first`. */
  add(first, frames) {
    for (const [i, frame] of frames.entries()) {
      const place = first + i;
      if (place !== this.frames.length) continue; // it was told twice, after an interruption
      this.frames.push(frame);
      for (const { track_id: id, score } of frame.detections) {
        if (id === null) continue;
        if (!this.tracks.has(id)) this.tracks.set(id, []);
        this.tracks.get(id).push({ place, score });
      }
    }
  }

  /** Tracks with a detection from a score on: id, first and last such place, their number, the best score and its place. */
  tracksFrom(minScore) {
    const found = [];
    for (const [id, places] of this.tracks) {
      const kept = places.filter(({ score }) => score >= minScore);
      if (kept.length === 0) continue;
      let best = kept[0];
      for (const place of kept) if (place.score > best.score) best = place;
      const [first, last] = [kept[0].place, kept[kept.length - 1].place];
      found.push({ id, first, last, length: kept.length, best: best.score, bestPlace: best.place, places: kept.map(({ place }) => place) });
    }
    return found;
  }

  /** The number of a frame in its source: frames that can't be read are left out, and keep theirs. */
  number(place) { return this.frames[place].index; }

  /** The presentation time stamp of a frame in seconds, as the file has it and as the exports say it. */
  pts(place) { return this.frames[place].pts_s; }

  /** How long a frame is shown: until the next one; the last one as long as the one before it. */
  duration(place) {
    const last = this.frames.length - 1;
    if (last < 1) return this.info.fps ? 1 / this.info.fps : 0.04;
    const at = Math.min(place, last - 1);
    return this.frames[at + 1].pts_s - this.frames[at].pts_s;
  }
}
