// The timeline: tracks as bars, packed into lanes. A click or a drag jumps there; keys are the page's.

const LANE_PX = 13;
const MARGIN = 10; // px at either end, so that the first and the last frame can be hit

export class Timeline {
  #recording = null;
  #tracks = [];
  #lanes = [];
  #index = 0;
  #isPending = false;

  constructor(element, { colour, onJump, onChoose }) {
    this.element = element;
    this.canvas = element.querySelector("canvas");
    this.colour = colour;
    this.onJump = onJump;
    this.onChoose = onChoose;
    this.chosen = null;
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => { if (event.buttons & 1 && element.hasPointerCapture(event.pointerId)) this.#jump(event); });
    new ResizeObserver(() => this.draw()).observe(element);
  }

  set(recording, tracks, index) {
    this.#recording = recording;
    this.#tracks = tracks;
    this.#lanes = packed(tracks);
    this.move(index);
  }

  move(index) {
    this.#index = index;
    const recording = this.#recording;
    const count = recording?.frames.length ?? 0;
    this.element.setAttribute("aria-disabled", String(count === 0));
    this.element.setAttribute("aria-valuemax", Math.max(0, count - 1));
    this.element.setAttribute("aria-valuenow", index);
    if (count) {
      const here = this.#tracks.filter(({ first, last }) => first <= index && index <= last).map(({ id }) => `track ${id}`);
      this.element.setAttribute("aria-valuetext", `frame ${recording.number(index)}, ${recording.pts(index).toFixed(2)} seconds${here.length ? `, ${here.join(", ")}` : ""}`);
    }
    this.draw();
  }

  draw() {
    if (this.#isPending) return;
    this.#isPending = true;
    requestAnimationFrame(() => { this.#isPending = false; this.#paint(); });
  }

  #x(index, width) {
    const last = Math.max(1, (this.#recording?.length ?? 1) - 1);
    return MARGIN + (index / last) * (width - 2 * MARGIN);
  }

  #paint() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.element;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.clearRect(0, 0, width, height);
    const recording = this.#recording;
    if (recording === null || recording.length === 0) return;
    const analysed = this.#x(Math.max(0, recording.frames.length - 1), width);
    context.fillStyle = "#1b242c";
    context.fillRect(MARGIN, height - 6, width - 2 * MARGIN, 3);
    context.fillStyle = "#5b6b78";
    context.fillRect(MARGIN, height - 6, analysed - MARGIN, 3);
    const room = height - 12;
    const lane = Math.min(LANE_PX, room / Math.max(1, this.#lanes.length));
    this.#lanes.forEach((tracks, row) => {
      for (const track of tracks) this.#bar(context, track, 4 + row * lane, Math.max(1.5, lane - 3), width);
    });
    const x = Math.round(this.#x(this.#index, width));
    context.fillStyle = "#e6ebef";
    context.fillRect(x - 0.5, 0, 1.5, height);
  }

  /** A thin line from a track's first frame to its last, and a bar where it was found. */
  #bar(context, track, top, thick, width) {
    const isChosen = this.chosen === track.id;
    const half = Math.max(1, (this.#x(1, width) - this.#x(0, width)) / 2);
    const [left, right] = [this.#x(track.first, width) - half, this.#x(track.last, width) + half];
    context.fillStyle = this.colour;
    context.globalAlpha = isChosen ? 0.6 : 0.3;
    context.fillRect(left, top + thick / 2 - 0.75, right - left, 1.5);
    context.globalAlpha = isChosen ? 1 : 0.75;
    let start = 0;
    for (let i = 1; i <= track.places.length; i++) {
      if (i < track.places.length && track.places[i] === track.places[i - 1] + 1) continue;
      const [from, to] = [this.#x(track.places[start], width) - half, this.#x(track.places[i - 1], width) + half];
      context.fillRect(from, top, Math.max(2, to - from), thick);
      start = i;
    }
    context.globalAlpha = 1;
  }

  #down(event) {
    if (event.button !== 0 || !this.#recording?.frames.length) return;
    this.element.setPointerCapture(event.pointerId);
    const { top, height } = this.element.getBoundingClientRect();
    const lane = Math.min(LANE_PX, (height - 12) / Math.max(1, this.#lanes.length));
    const row = Math.floor((event.clientY - top - 4) / lane);
    const index = this.#at(event);
    const slack = Math.max(1, Math.ceil(this.#recording.length / this.element.clientWidth * 4));
    const hit = this.#lanes[row]?.find(({ first, last }) => first - slack <= index && index <= last + slack);
    if (hit !== undefined) {
      this.onChoose(hit.id);
      this.onJump(Math.max(hit.first, Math.min(index, hit.last)));
    } else this.onJump(index);
  }

  #jump(event) { this.onJump(this.#at(event)); }

  #at(event) {
    const { left, width } = this.element.getBoundingClientRect();
    const share = (event.clientX - left - MARGIN) / (width - 2 * MARGIN);
    const index = Math.round(share * Math.max(1, this.#recording.length - 1));
    return Math.max(0, Math.min(index, this.#recording.frames.length - 1));
  }
}

/** Tracks in as few lanes as hold them side by side. */
function packed(tracks) {
  const lanes = [];
  for (const track of [...tracks].sort((a, b) => a.first - b.first)) {
    const lane = lanes.find((each) => each[each.length - 1].last < track.first);
    if (lane) lane.push(track);
    else lanes.push([track]);
  }
  return lanes;
}
