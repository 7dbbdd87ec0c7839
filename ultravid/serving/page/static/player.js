// The video: a frame's picture and its boxes are drawn one after the other in the same task, so that no screen shows one without the
// other. Time is the frames' own: a frame is shown from its time stamp to the next one's, whatever the rate.

const LABEL_PX = 13;

export class Player {
  #index = 0;
  #shown = -1;
  #wanted = -1; // the frame that is waited for
  #playing = false;
  #start = null; // {wall, media}: which moment of the recording is shown when
  #recording = null;
  #pictures = null;

  constructor({ stage, picture, boxes, colour, onShow, onPlay }) {
    this.stage = stage;
    this.picture = picture;
    this.boxes = boxes;
    this.colour = colour;
    this.onShow = onShow;
    this.onPlay = onPlay;
    this.minScore = 0;
    this.speed = 1;
    this.repeat = false;
    this.chosen = null;
    this.severalClasses = false;
    this.followsLive = false;
    new ResizeObserver(() => this.#layout()).observe(stage);
  }

  get index() { return this.#index; }
  get isPlaying() { return this.#playing; }
  get recording() { return this.#recording; }

  open(recording, pictures) {
    this.pause();
    this.#recording = recording;
    this.#pictures = pictures;
    this.#index = 0;
    this.#shown = this.#wanted = -1;
    this.chosen = null;
    this.#clear();
  }

  get #last() { return (this.#recording?.frames.length ?? 0) - 1; }

  /** Shows a frame: as soon as its picture is there. */
  show(index, step = 1) {
    if (this.#last < 0) return;
    index = Math.max(0, Math.min(index, this.#last));
    this.#index = this.#wanted = index;
    this.#draw();
    this.#pictures.ahead(index, step);
    this.onShow(index);
  }

  step(by) {
    this.pause();
    this.show(this.#index + by, Math.sign(by));
  }

  jump(index) {
    this.show(index);
    if (this.#playing) this.#restart();
  }

  /** Draws other boxes on the frame that is shown; one that is waited for stays so. */
  redraw() { this.#drawBoxes(); }

  play() {
    if (this.#playing || this.#last < 0) return;
    if (this.#index >= this.#last && this.#recording.isFinal) this.show(0);
    this.#playing = true;
    this.#restart();
    this.onPlay(true);
    requestAnimationFrame((now) => this.#tick(now));
  }

  pause() {
    if (!this.#playing) return;
    this.#playing = false;
    this.onPlay(false);
  }

  toggle() { this.#playing ? this.pause() : this.play(); }

  setSpeed(speed) {
    this.speed = speed;
    this.#restart();
  }

  #restart() {
    this.#start = this.#last < 0 ? null : { wall: performance.now(), media: this.#recording.frames[this.#index].pts_s };
  }

  #tick(now) {
    if (!this.#playing) return;
    requestAnimationFrame((later) => this.#tick(later));
    const frames = this.#recording.frames;
    if (this.#start === null) return;
    const media = this.#start.media + ((now - this.#start.wall) / 1000) * this.speed;
    let next = this.#index;
    while (next < this.#last && frames[next + 1].pts_s <= media + 1e-4) next++;
    if (next === this.#index) {
      if (next === this.#last) this.#atEnd(media);
      return;
    }
    // A frame whose picture is late holds the clock: none is skipped for that.
    if (this.#pictures.now(next, () => {}) === null) {
      let ready = this.#index;
      for (let i = this.#index + 1; i < next; i++) if (this.#pictures.now(i, () => {}) !== null) ready = i;
      if (ready === this.#index) {
        this.#pictures.ahead(this.#index);
        this.#pictures.now(this.#index + 1, () => {});
        this.#start = { wall: now, media: Math.max(this.#start.media, frames[this.#index].pts_s) };
        return;
      }
      next = ready;
      this.#start = { wall: now, media: frames[next].pts_s };
    }
    this.show(next);
  }

  #atEnd(media) {
    const last = this.#last;
    const end = this.#recording.frames[last].pts_s + this.#recording.duration(last);
    if (!this.#recording.isFinal) { // the analysis is behind the video: wait for its next frame
      this.#start = { wall: performance.now(), media: this.#recording.frames[last].pts_s };
    } else if (media >= end) {
      if (this.repeat && last > 0) { this.show(0); this.#restart(); } else this.pause();
    }
  }

  #draw() {
    const index = this.#wanted;
    if (index < 0) return;
    const bitmap = this.#pictures.now(index, () => { if (this.#wanted === index) this.#draw(); });
    if (bitmap === null) return;
    this.#wanted = -1;
    if (this.picture.width !== bitmap.width || this.picture.height !== bitmap.height) {
      this.picture.width = bitmap.width;
      this.picture.height = bitmap.height;
      this.#layout(false);
    }
    this.picture.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
    this.#shown = index;
    this.#drawBoxes();
    // For whoever looks at the page from outside: which frame its pixels are.
    this.stage.dataset.frame = this.#recording.number(index);
    this.stage.dataset.pts = this.#recording.frames[index].pts_s;
  }

  #drawBoxes() {
    const context = this.boxes.getContext("2d");
    context.clearRect(0, 0, this.boxes.width, this.boxes.height);
    if (this.#shown < 0) return;
    const { detections } = this.#recording.frames[this.#shown];
    const ratio = window.devicePixelRatio || 1;
    const scale = this.boxes.width / (this.#recording.info.width || this.picture.width);
    const shown = detections.filter(({ score }) => score >= this.minScore);
    const taken = [];
    context.font = `600 ${LABEL_PX * ratio}px system-ui, sans-serif`;
    context.textBaseline = "alphabetic";
    for (const detection of [...shown].reverse()) { // the best on top
      const isChosen = this.chosen !== null && detection.track_id === this.chosen;
      const thickness = Math.round((isChosen ? 4 : 2) * ratio);
      const [x1, y1, x2, y2] = detection.box.map((v) => v * scale);
      context.strokeStyle = this.colour;
      context.lineWidth = thickness;
      context.strokeRect(x1 + thickness / 2, y1 + thickness / 2, Math.max(x2 - x1 - thickness, 1), Math.max(y2 - y1 - thickness, 1));
    }
    for (const detection of shown) this.#drawLabel(context, detection, detection.box.map((v) => v * scale), ratio, taken);
    this.stage.dataset.boxes = shown.length;
    this.picture.setAttribute("aria-label", described(this.#recording.number(this.#shown), shown));
  }

  #drawLabel(context, detection, [x1, y1, x2, y2], ratio, taken) {
    const parts = [this.severalClasses ? detection.class : "", detection.track_id === null ? "" : `#${detection.track_id}`, detection.score.toFixed(2)];
    const text = parts.filter(Boolean).join(" ");
    const [pad, height] = [4 * ratio, (LABEL_PX + 5) * ratio];
    const width = context.measureText(text).width + 2 * pad;
    const left = Math.max(0, Math.min(x1, this.boxes.width - width));
    const places = [y1 - height, y2, y1, y2 - height];
    const fits = (top) => top >= 0 && top + height <= this.boxes.height;
    const isFree = (top) => !taken.some((t) => left < t.right && t.left < left + width && top < t.bottom && t.top < top + height);
    const top = places.find((y) => fits(y) && isFree(y)) ?? places.find(fits) ?? 0;
    taken.push({ left, right: left + width, top, bottom: top + height });
    context.fillStyle = "rgb(0 0 0 / 70%)";
    context.fillRect(left, top, width, height);
    context.fillStyle = this.colour;
    context.fillText(text, left + pad, top + height - 5 * ratio);
  }

  #clear() {
    for (const canvas of [this.picture, this.boxes]) canvas.width = canvas.height = 0;
    this.picture.setAttribute("aria-label", "No frame yet");
    delete this.stage.dataset.frame;
    delete this.stage.dataset.pts;
    delete this.stage.dataset.boxes;
  }

  /** Both canvases as large as the stage lets them be; the boxes at the screen's own pixels. */
  #layout(redraw = true) {
    const { width, height } = this.picture;
    if (!width || !height) return;
    const [roomX, roomY] = [this.stage.clientWidth, this.stage.clientHeight];
    const scale = Math.min(roomX / width, roomY / height);
    const [shownX, shownY] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    for (const canvas of [this.picture, this.boxes]) {
      canvas.style.width = `${shownX}px`;
      canvas.style.height = `${shownY}px`;
      canvas.style.left = `${Math.round((roomX - shownX) / 2)}px`;
      canvas.style.top = `${Math.round((roomY - shownY) / 2)}px`;
    }
    const ratio = window.devicePixelRatio || 1;
    this.boxes.width = Math.round(shownX * ratio);
    this.boxes.height = Math.round(shownY * ratio);
    if (redraw) this.#drawBoxes();
  }
}

function described(number, detections) {
  if (detections.length === 0) return `Frame ${number}: no detection`;
  const texts = detections.map(({ track_id: id, score }) => `${id === null ? "detection" : `track ${id}`}, score ${score.toFixed(2)}`);
  return `Frame ${number}: ${texts.slice(0, 5).join("; ")}${texts.length > 5 ? `; and ${texts.length - 5} more` : ""}`;
}
