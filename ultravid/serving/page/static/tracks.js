// The table of lesion tracks.

const MAX_ROWS = 200;

export class TrackTable {
  #key = "first";
  #sign = 1;
  #rows = new Map(); // id -> row
  #drawn = "";

  constructor(table, { none, count, onChoose }) {
    this.body = table.tBodies[0];
    this.none = none;
    this.count = count;
    this.onChoose = onChoose;
    this.chosen = null;
    this.#last = { recording: null, tracks: [] };
    for (const button of table.tHead.querySelectorAll("button")) button.addEventListener("click", () => this.#sort(button));
  }

  #last;

  set(recording, tracks) {
    this.#last = { recording, tracks };
    const sorted = [...tracks].sort((a, b) => this.#sign * (a[this.#key] - b[this.#key]) || a.id - b.id);
    this.count.textContent = tracks.length ? `(${tracks.length})` : "";
    this.none.hidden = tracks.length > 0 && tracks.length <= MAX_ROWS;
    const waiting = recording !== null && !recording.isFinal;
    this.none.textContent = tracks.length > MAX_ROWS ? `The first ${MAX_ROWS} of ${tracks.length}; a higher score leaves fewer.` : waiting ? "None yet." : "None.";
    const shown = sorted.slice(0, MAX_ROWS);
    const key = JSON.stringify([recording?.id, shown.map(({ id, first, length, best }) => [id, first, length, best])]);
    if (key === this.#drawn) return;
    this.#drawn = key;
    const focused = document.activeElement?.closest?.("tr")?.dataset.track;
    this.#rows = new Map(shown.map((track) => [track.id, this.#row(recording, track)]));
    this.body.replaceChildren(...this.#rows.values());
    if (focused !== undefined) this.#rows.get(Number(focused))?.querySelector("button")?.focus();
    this.choose(this.chosen);
  }

  choose(id) {
    this.chosen = id;
    for (const [each, row] of this.#rows) row.classList.toggle("chosen", each === id);
  }

  /** Marks the tracks of the frame that is shown. */
  mark(ids) {
    for (const [each, row] of this.#rows) row.classList.toggle("present", ids.has(each));
  }

  #row(recording, track) {
    const row = document.createElement("tr");
    row.dataset.track = track.id;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `#${track.id}`;
    button.setAttribute("aria-label", `Track ${track.id}: go to its first frame, ${recording.number(track.first)}`);
    const seconds = recording.pts(track.last) - recording.pts(track.first) + recording.duration(track.last);
    const cells = [button, `${recording.number(track.first)} · ${recording.pts(track.first).toFixed(2)} s`, `${track.length} · ${seconds.toFixed(2)} s`, track.best.toFixed(2)];
    for (const content of cells) row.insertCell().append(content);
    row.cells[2].title = `frames ${recording.number(track.first)} to ${recording.number(track.last)}, found in ${track.length} of them`;
    row.cells[3].title = `in frame ${recording.number(track.bestPlace)}`;
    row.addEventListener("click", () => this.onChoose(track));
    return row;
  }

  #sort(button) {
    const key = button.dataset.key;
    this.#sign = key === this.#key ? -this.#sign : key === "first" || key === "id" ? 1 : -1;
    this.#key = key;
    for (const header of button.closest("tr").cells) {
      const isOurs = header.contains(button);
      header.setAttribute("aria-sort", isOurs ? (this.#sign > 0 ? "ascending" : "descending") : "none");
    }
    this.#drawn = "";
    this.set(this.#last.recording, this.#last.tracks);
  }
}
