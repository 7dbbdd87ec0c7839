// The page: what its parts do to each other.

import { Live, RequestError, open, request, takeToken, upload, watchToken } from "./api.js";
import { Camera, cameras } from "./camera.js";
import { Pictures } from "./pictures.js";
import { Player } from "./player.js";
import { Recording } from "./recording.js";
import { Timeline } from "./timeline.js";
import { TrackTable } from "./tracks.js";

const $ = (id) => document.getElementById(id);
const recordings = new Map(); // id -> {recording, pictures}
const uploads = new Map(); // a name of our own -> {file, share, abort}
let facts = null;
let current = null; // id
let player, timeline, table, live, camera;
let newest = false; // whether the next recording that comes up is to be shown
let minScore = 0.25; // as of tools/predict.py

// --- the beginning

async function start() {
  let token = takeToken();
  watchToken();
  while (facts === null) {
    try {
      facts = await open(token);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      if (error.status !== 401) { alert_(error.message); return; }
      token = await askToken(token === null ? "" : error.message);
    }
  }
  document.documentElement.style.setProperty("--box", facts.colour);
  $("model").textContent = facts.title;
  $("model").title = facts.title;
  $("score").min = Math.floor(facts.min_score * 100) / 100;
  setScore(Math.max(minScore, facts.min_score));
  player = new Player({ stage: $("stage"), picture: $("picture"), boxes: $("boxes"), colour: facts.colour, onShow: shown, onPlay: played });
  player.severalClasses = facts.classes.length > 1;
  player.minScore = minScore;
  timeline = new Timeline($("timeline"), { colour: facts.colour, onJump: (index) => player.jump(index), onChoose: choose });
  table = new TrackTable($("tracks"), { none: $("no-tracks"), count: $("num-tracks"), onChoose: (track) => { choose(track.id); player.jump(track.first); } });
  camera = new Camera({ onStart: cameraStarted, onEnd: cameraEnded, onFault: alert_ });
  live = new Live({ onRecordings: updated, onResults: results, onLost: lost, onBack: back, onEnded: (reason) => ended(reason && `${reason} Load this page again to go on.`) });
  live.connect();
  listen();
}

function askToken(fault) {
  const dialog = $("token-dialog");
  $("token-fault").textContent = fault;
  if (!dialog.open) dialog.showModal();
  $("token").value = "";
  $("token").focus();
  return new Promise((resolve) => {
    const send = () => {
      const token = $("token").value.trim();
      if (!token) return;
      $("token").onkeydown = $("token-send").onclick = null;
      dialog.close();
      resolve(token);
    };
    $("token-send").onclick = send;
    $("token").onkeydown = ({ key }) => { if (key === "Enter") send(); };
    dialog.oncancel = (event) => event.preventDefault();
  });
}

// --- what the server tells

function updated(infos) {
  const ids = new Set(infos.map(({ id }) => id));
  for (const [id, { pictures }] of recordings) {
    if (ids.has(id)) continue;
    pictures.close();
    recordings.delete(id);
    if (current === id) current = null;
  }
  for (const info of infos) {
    const known = recordings.get(info.id);
    if (known) known.recording.info = info;
    else {
      const recording = new Recording(info);
      recordings.set(info.id, { recording, pictures: new Pictures(recording, pictureFault) });
    }
  }
  if (newest && infos.length) {
    const last = infos[infos.length - 1].id;
    newest = false;
    if (last !== current) show(last);
  }
  if (current === null && recordings.size) show([...recordings.keys()].pop());
  refresh();
}

function results(id, first, frames) {
  const known = recordings.get(id);
  if (!known) return;
  const before = known.recording.frames.length;
  if (id === camera.id && camera.isOn) takeCameraPictures(known, first, frames);
  known.recording.add(first, frames);
  if (id !== current) return;
  const isCamera = id === camera.id && camera.isOn;
  if (isCamera) player.show(known.recording.frames.length - 1);
  else if (before === 0) { player.show(0); player.play(); } // boxes over the video as it plays
  refresh();
}

function takeCameraPictures({ pictures }, first, frames) {
  for (const [i, { pts_s: pts }] of frames.entries()) {
    const bitmap = camera.take(pts);
    if (bitmap !== null) pictures.put(first + i, bitmap);
  }
  $("stage").dataset.delayMs = camera.delay ?? "";
}

/** A frame whose picture can't be had is not waited for: each screen would ask for it again. */
function pictureFault(error) {
  player.pause();
  if (!(error instanceof TypeError)) alert_(error.message); // fetch throws a TypeError when the server does not answer, as `lost` says
}

let retry = 0;

function lost() {
  $("progress-line").textContent = "The server does not answer; trying again …";
  clearTimeout(retry);
  retry = setTimeout(async () => {
    try {
      const { is_new: isNew } = await open(null);
      if (isNew && recordings.size) {
        camera.stop();
        updated([]);
        alert_("The server was started again, or was not reached for long: the recordings were deleted from it.");
      }
      live.connect();
    } catch (error) {
      if (error instanceof RequestError && error.status === 401) ended("The server was started again: open the address with the token that it printed.");
      else lost();
    }
  }, 2000);
}

function back() {
  if (current !== null) live.watch(current, recordings.get(current)?.recording.frames.length ?? 0);
  if (!player.isPlaying && player.recording !== null) player.show(player.index); // its picture may be missing
  refresh();
}

function ended(reason) {
  player.pause();
  camera.stop();
  updated([]);
  alert_(reason || "The session has ended. Load this page again to go on.");
}

// --- what is shown

function show(id) {
  const { recording, pictures } = recordings.get(id);
  current = id;
  player.open(recording, pictures);
  timeline.chosen = null;
  table.choose(null);
  live.watch(id, recording.frames.length);
  if (recording.frames.length) player.show(0);
  refresh();
}

let isRefreshing = false;

/** Brings all that is shown up to date, once a screen's frame. */
function refresh() {
  if (isRefreshing) return;
  isRefreshing = true;
  requestAnimationFrame(() => { isRefreshing = false; draw(); });
}

function draw() {
  const known = recordings.get(current);
  const recording = known?.recording ?? null;
  const tracks = recording?.tracksFrom(minScore) ?? [];
  const has = Boolean(recording?.frames.length);
  timeline.set(recording, tracks, has ? player.index : 0);
  table.set(recording, tracks);
  for (const id of ["to-first", "to-previous", "play", "to-next", "to-last"]) $(id).disabled = !has;
  if (has) shown(player.index); else $("position").textContent = "";
  drawList();
  drawVeil(recording);
  drawProgress(recording);
  drawNotes(recording);
  drawExport(recording);
  fetchMovies();
  if (recording === null && player.recording !== null) player.open(null, null);
}

const STATES = { uploading: " (being sent)", running: " (being analysed)", failed: " (failed)" };

function drawList() {
  const nav = $("recordings");
  nav.hidden = recordings.size === 0;
  const key = JSON.stringify([current, [...recordings.values()].map(({ recording: { info } }) => [info.id, info.label, info.state, info.place])]);
  if (nav.dataset.key === key) return;
  nav.dataset.key = key;
  const old = [...nav.querySelectorAll("li")];
  const focused = old.findIndex((item) => item.contains(document.activeElement));
  const items = [...recordings.values()].map(({ recording: { info } }) => {
    const item = document.createElement("li");
    item.dataset.id = info.id;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "choose";
    const state = info.state === "queued" ? ` (place ${info.place || 1} in the queue)` : STATES[info.state] ?? "";
    button.textContent = info.label + state;
    if (info.id === current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => show(info.id));
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "remove";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `Delete ${info.label} from the server`);
    remove.addEventListener("click", () => removeRecording(info.id));
    item.append(button, remove);
    return item;
  });
  const name = document.activeElement?.className;
  nav.querySelector("ul").replaceChildren(...items);
  nav.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (focused < 0) return;
  const next = items.find((item) => item.dataset.id === old[focused].dataset.id) ?? items[Math.min(focused, items.length - 1)];
  (next?.querySelector(`.${name}`) ?? $("file")).focus(); // of a recording that was deleted, the next one's
}

/** Whether what is shown is on its way to the server from this page. */
function isSending(recording) {
  return uploads.size > 0 && (recording === null || recording.info.state === "uploading");
}

function drawVeil(recording) {
  const sending = [...uploads.values()];
  $("drop").hidden = recording !== null || sending.length > 0;
  const info = recording?.info;
  let text = "", share = null, canCancel = true;
  if (isSending(recording)) {
    const [{ file, share: sent }] = sending;
    [text, share] = [`Sending ${file.name} … ${Math.round(100 * sent)}%`, sent];
  } else if (info?.state === "uploading") text = `Sending ${info.label} …`; // from another tab
  else if (info?.state === "queued" && !recording.frames.length) {
    const ahead = Math.max(0, info.place - 1);
    text = ahead ? `Waiting in the queue: ${ahead} ${ahead === 1 ? "recording is" : "recordings are"} ahead of yours` : "Waiting in the queue: yours is next";
  } else if (info?.state === "running" && !recording.frames.length) text = "Opening …";
  else if (info?.state === "failed") [text, canCancel] = [`${info.label}: ${lowered(info.message)}`, false];
  else if (info?.state === "cancelled" && !recording.frames.length) [text, canCancel] = ["Cancelled.", false];
  $("veil").hidden = text === "";
  if ($("veil-text").textContent !== text) $("veil-text").textContent = text;
  $("veil-progress").hidden = !canCancel;
  $("veil").classList.toggle("failed", info?.state === "failed");
  if (share === null) $("veil-progress").removeAttribute("value"); else $("veil-progress").value = share;
  $("veil-cancel").textContent = canCancel ? "Cancel" : "Close";
}

function lowered(text) { return text.charAt(0).toLowerCase() + text.slice(1); }

function drawProgress(recording) {
  const line = $("progress-line");
  const info = recording?.info;
  let text = "";
  if (info?.state === "running" && recording.frames.length) {
    const of = info.expected ? ` of ${info.expected}` : "";
    if (info.kind === "camera") {
      const delay = camera.delay === null ? "" : `, ${Math.round(camera.delay)} ms from picture to boxes`;
      const skipped = camera.numSkipped + info.dropped;
      text = `Live: ${recording.frames.length} frames${delay}${skipped ? `, ${skipped} left out to keep up` : ""}`;
    } else text = `Analysing: ${recording.frames.length}${of} frames`;
  } else if (recording?.isFinal && recording.frames.length) {
    const last = recording.frames.length - 1;
    const rate = info.fps ? `, ${info.fps.toFixed(2)} frames a second` : "";
    const what = info.state === "cancelled" ? "Cancelled after" : "Analysed:";
    const seconds = recording.pts(last) - recording.pts(0) + recording.duration(last);
    text = `${what} ${recording.frames.length} ${recording.frames.length === 1 ? "frame" : "frames"}, ${seconds.toFixed(2)} s, ${info.width}×${info.height} px${rate}`;
  }
  line.setAttribute("aria-live", recording?.isFinal ? "polite" : "off"); // a count of frames is not read out
  if (line.textContent !== text) line.textContent = text;
  const canStop = info?.state === "running" && recording.frames.length > 0;
  let stop = $("stop");
  if (canStop && !stop) {
    stop = document.createElement("button");
    stop.type = "button";
    stop.id = "stop";
    stop.addEventListener("click", cancel);
    line.after(stop);
  }
  if (stop) { stop.hidden = !canStop; stop.textContent = info?.kind === "camera" ? "Stop the camera" : "Cancel the analysis"; }
}

function drawNotes(recording) {
  const notes = recording?.info.notes ?? [];
  $("notes").hidden = notes.length === 0;
  const key = JSON.stringify(notes);
  if ($("notes").dataset.key === key) return;
  $("notes").dataset.key = key;
  $("notes").querySelector("ul").replaceChildren(...notes.map((note) => {
    const item = document.createElement("li");
    item.textContent = note;
    return item;
  }));
}

function drawExport(recording) {
  const canExport = Boolean(recording?.isFinal && recording.frames.length);
  const movie = recording?.info.movie;
  $("export-json").disabled = $("export-csv").disabled = !canExport;
  $("export-movie").disabled = !canExport || movie?.state === "writing";
  if (movie?.state === "writing") $("export-line").textContent = `Writing the movie: ${movie.frames} of ${recording.frames.length} frames`;
  else $("export-line").textContent = [...wantedMovies.values()].some(({ id }) => id === current) ? "Writing the movie …" : "";
}

function shown(index) {
  const recording = player.recording;
  const analysed = recording.number(recording.frames.length - 1);
  const last = recording.isFinal ? analysed : Math.max((recording.info.expected ?? 0) - 1, analysed);
  $("position").textContent = `Frame ${recording.number(index)} / ${last} · ${recording.pts(index).toFixed(3)} s`;
  timeline.move(index);
  const here = recording.frames[index].detections.filter(({ score }) => score >= minScore).map(({ track_id: id }) => id);
  table.mark(new Set(here));
}

function played(isPlaying) {
  $("play").classList.toggle("playing", isPlaying);
  $("play").setAttribute("aria-label", isPlaying ? "Pause" : "Play");
}

function choose(id) {
  player.chosen = timeline.chosen = id;
  table.choose(id);
  player.redraw();
  timeline.draw();
}

function setScore(value) {
  minScore = Math.round(100 * Math.max(Number($("score").min), Math.min(1, value))) / 100;
  $("score").value = minScore;
  $("score-value").textContent = minScore.toFixed(2);
  $("score").setAttribute("aria-valuetext", minScore.toFixed(2));
  if (!player) return;
  player.minScore = minScore;
  player.redraw();
  refresh();
}

function alert_(text) {
  $("alert").querySelector("p").textContent = text;
  $("alert").hidden = false;
}

// --- what the viewer does

async function sendFiles(files) {
  $("alert").hidden = true;
  for (const file of files) {
    if (facts.max_upload_bytes < file.size) {
      alert_(`${file.name} is too large: it has ${(file.size / 1e6).toFixed(0)} MB, and this page takes ${(facts.max_upload_bytes / 1e6).toFixed(0)} MB at most.`);
      continue;
    }
    const key = Symbol(file.name);
    const control = new AbortController();
    const sending = { file, share: 0, abort: () => control.abort() };
    uploads.set(key, sending);
    newest = true;
    refresh();
    try {
      const id = await upload(file, (share) => { sending.share = share; refresh(); }, control.signal);
      if (recordings.has(id) && current !== id && recordings.get(current)?.recording.isFinal !== false) show(id);
    } catch (error) {
      newest = false;
      if (error.message) alert_(`${file.name}: ${lowered(error.message)}`);
    } finally {
      uploads.delete(key);
      refresh();
    }
  }
}

async function cancel() {
  const known = recordings.get(current);
  if (isSending(known?.recording ?? null)) {
    for (const sending of uploads.values()) sending.abort();
    return; // the server removes what was not sent whole
  }
  if (!known) return;
  if (known.recording.isFinal) removeRecording(current);
  else if (current === camera.id && camera.isOn) camera.stop();
  else await tried(request("POST", `api/recordings/${current}/cancel`));
}

function removeRecording(id) {
  if (id === camera.id) camera.stop();
  tried(request("DELETE", `api/recordings/${id}`));
}

async function tried(promise) {
  try {
    return await promise;
  } catch (error) {
    alert_(error.message);
    return null;
  }
}

async function toggleCamera() {
  if (camera.isOn) { camera.stop(); return; }
  try {
    newest = true;
    await camera.start($("camera-choice").hidden ? "" : $("camera-choice").value);
    await listCameras();
  } catch (error) {
    newest = false;
    camera.stop();
    const reasons = { NotAllowedError: "The browser was not allowed to use the camera.", NotFoundError: "There is no camera.", NotReadableError: "The camera is in use by another program." };
    alert_(reasons[error.name] ?? error.message);
  }
}

/** Names of cameras are known once one was allowed. */
async function listCameras() {
  const found = await cameras();
  const choice = $("camera-choice");
  const chosen = choice.value;
  choice.replaceChildren(...found.map(({ deviceId, label }, i) => new Option(label || `Camera ${i + 1}`, deviceId)));
  if (chosen) choice.value = chosen;
  choice.hidden = found.length < 2;
}

function cameraStarted(id) {
  $("camera").textContent = "Stop the camera";
  if (recordings.has(id)) show(id);
}

function cameraEnded() {
  $("camera").textContent = "Use a camera";
  refresh();
}

async function exportText(kind) {
  const { info } = recordings.get(current).recording;
  const answer = await tried(request("GET", `api/recordings/${current}/detections.${kind}?min_score=${minScore}`));
  if (answer !== null) save(await answer.blob(), `${stem(info.label)}.${kind}`);
}

const wantedMovies = new Map(); // id of a movie that is to be fetched when it is written -> {id, name}: of its recording, and of the file

async function exportMovie() {
  const [id, name] = [current, `${stem(recordings.get(current).recording.info.label)}.mp4`];
  $("export-line").textContent = "Writing the movie …";
  const answer = await tried(request("POST", `api/recordings/${id}/movie?min_score=${minScore}`));
  if (answer !== null) wantedMovies.set((await answer.json()).id, { id, name });
  refresh();
}

/** Fetches movies that were written by now, of the recording that is shown and of others. */
function fetchMovies() {
  for (const [wanted, { id, name }] of wantedMovies) {
    const info = recordings.get(id)?.recording.info;
    if (info && (info.movie?.id !== wanted || info.movie.state === "writing")) continue;
    wantedMovies.delete(wanted);
    if (info?.movie.state === "done") fetchMovie(id, name);
    else if (info) alert_(`The movie of ${info.label} was not written: ${info.movie.message}`);
  }
}

async function fetchMovie(id, name) {
  const answer = await tried(request("GET", `api/recordings/${id}/movie.mp4`));
  if (answer !== null) save(await answer.blob(), name);
}

function stem(label) { return label.replace(/\.[A-Za-z0-9]{1,6}$/, "") || "recording"; }

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function goToTrack(sign) {
  const recording = recordings.get(current)?.recording;
  if (!recording?.frames.length) return;
  const tracks = recording.tracksFrom(minScore).sort((a, b) => a.first - b.first);
  const found = sign > 0 ? tracks.find(({ first }) => first > player.index) : tracks.reverse().find(({ first }) => first < player.index);
  if (found) { player.pause(); choose(found.id); player.jump(found.first); }
}

function listen() {
  $("file").addEventListener("change", () => { const files = [...$("file").files]; $("file").value = ""; sendFiles(files); });
  $("camera").addEventListener("click", toggleCamera);
  $("score").addEventListener("input", () => setScore(Number($("score").value)));
  $("to-first").addEventListener("click", () => { player.pause(); player.show(0); });
  $("to-last").addEventListener("click", () => { player.pause(); player.show(Infinity); });
  $("to-previous").addEventListener("click", () => player.step(-1));
  $("to-next").addEventListener("click", () => player.step(1));
  $("play").addEventListener("click", () => player.toggle());
  $("picture").addEventListener("click", () => player.toggle());
  $("speed").addEventListener("change", () => player.setSpeed(Number($("speed").value)));
  $("repeat").addEventListener("change", () => { player.repeat = $("repeat").checked; });
  $("export-json").addEventListener("click", () => exportText("json"));
  $("export-csv").addEventListener("click", () => exportText("csv"));
  $("export-movie").addEventListener("click", exportMovie);
  $("veil-cancel").addEventListener("click", cancel);
  $("help").addEventListener("click", () => $("help-dialog").showModal());
  $("help-close").addEventListener("click", () => $("help-dialog").close());
  $("alert").querySelector("button").addEventListener("click", () => { $("alert").hidden = true; });
  listenToDrops();
  document.addEventListener("keydown", pressed);
  for (const kind of ["pointerdown", "keydown"]) document.addEventListener(kind, () => live.act(), { passive: true });
}

function listenToDrops() {
  let depth = 0;
  document.addEventListener("dragenter", (event) => { event.preventDefault(); depth++; $("stage").classList.add("over"); });
  document.addEventListener("dragleave", () => { if (--depth <= 0) $("stage").classList.remove("over"); });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    $("stage").classList.remove("over");
    sendFiles([...event.dataTransfer.files]);
  });
}

const KEYS = {
  ArrowLeft: (event) => player.step(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => player.step(event.shiftKey ? 10 : 1),
  PageDown: () => player.step(10),
  PageUp: () => player.step(-10),
  Home: () => { player.pause(); player.show(0); },
  End: () => { player.pause(); player.show(Infinity); },
  " ": () => player.toggle(),
  n: () => goToTrack(1),
  p: () => goToTrack(-1),
  "+": () => setScore(minScore + 0.05),
  "-": () => setScore(minScore - 0.05),
};

const TIMELINE_KEYS = { ArrowUp: "ArrowRight", ArrowDown: "ArrowLeft" }; // as of any slider; elsewhere they scroll

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
  const { target } = event;
  const key = (target === $("timeline") && TIMELINE_KEYS[event.key]) || event.key;
  if (target.matches("input[type=range], select, input[type=text]") && key !== "n" && key !== "p") return;
  if (key === " " && target.matches("button, input, summary, a")) return; // it presses that
  const act = KEYS[key];
  if (!act || !recordings.get(current)?.recording.frames.length) return;
  event.preventDefault();
  act(event);
}

start().catch((error) => alert_(error.message));
