// A camera of the browser: its pictures go to the server, and each is shown when its boxes are there, with them.

import { socketTo } from "./api.js";

const IN_FLIGHT = 2; // pictures that are on their way; more would only wait
const MAX_SIDE = 1280;

export async function cameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices.filter(({ kind }) => kind === "videoinput");
}

export class Camera {
  #stream = null;
  #video = document.createElement("video");
  #canvas = document.createElement("canvas");
  #socket = null;
  #sent = new Map(); // time -> {bitmap, at}
  #start = null;
  #lastPts = -1;
  #delays = [];
  #isBusy = false;

  constructor({ onStart, onEnd, onFault }) {
    this.onStart = onStart;
    this.onEnd = onEnd;
    this.onFault = onFault;
    this.id = null;
    this.numSkipped = 0;
  }

  get isOn() { return this.#stream !== null; }

  async start(deviceId) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("Browsers give their camera only to pages of this computer (localhost) and to pages of https.");
    }
    const wanted = deviceId ? { deviceId: { exact: deviceId } } : true;
    this.#stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    const [track] = this.#stream.getVideoTracks();
    track.addEventListener("ended", () => this.stop());
    this.#video.srcObject = this.#stream;
    this.#video.muted = true;
    this.#video.playsInline = true;
    await this.#video.play();
    this.#socket = socketTo("api/camera");
    this.#socket.onopen = () => this.#socket.send(JSON.stringify({ label: track.label || "camera" }));
    this.#socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.type !== "ready") return;
      this.id = message.id;
      this.onStart(this.id);
      this.#next();
    };
    this.#socket.onclose = ({ code }) => {
      const isRefused = this.id === null && code !== 1000;
      this.stop();
      if (isRefused) this.onFault("The server takes no camera now: it is busy, or you have as many recordings as you may have.");
    };
  }

  stop() {
    if (this.#stream === null) return;
    for (const track of this.#stream.getTracks()) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
    this.#socket?.close(1000);
    this.onEnd();
  }

  /** The picture that was taken at a time, once: its boxes are there. */
  take(pts) {
    const found = this.#sent.get(pts);
    if (found === undefined) return null;
    for (const [time, { bitmap }] of this.#sent) { // older ones were left out by the server
      if (time > pts) break;
      this.#sent.delete(time);
      if (time !== pts) bitmap.close();
    }
    this.#delays.push(performance.now() - found.at);
    if (this.#delays.length > 30) this.#delays.shift();
    return found.bitmap;
  }

  /** Milliseconds from a picture's capture to its boxes, the median of the last 30. */
  get delay() {
    const sorted = [...this.#delays].sort((a, b) => a - b);
    return sorted.length ? sorted[Math.floor(sorted.length / 2)] : null;
  }

  #next() {
    if (!this.isOn) return;
    const take = (now) => { this.#capture(now); this.#next(); };
    if (this.#video.requestVideoFrameCallback) this.#video.requestVideoFrameCallback(take);
    else requestAnimationFrame(take);
  }

  async #capture(now) {
    if (!this.isOn || this.#socket.readyState !== WebSocket.OPEN) return;
    if (this.#isBusy || this.#sent.size >= IN_FLIGHT) { this.#skip(); return; }
    this.#isBusy = true;
    try {
      const { videoWidth: width, videoHeight: height } = this.#video;
      const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
      this.#canvas.width = Math.round(width * scale);
      this.#canvas.height = Math.round(height * scale);
      this.#canvas.getContext("2d", { alpha: false }).drawImage(this.#video, 0, 0, this.#canvas.width, this.#canvas.height);
      this.#start ??= now;
      const pts = (now - this.#start) / 1000;
      if (pts <= this.#lastPts) return;
      this.#lastPts = pts;
      const at = performance.now();
      const blob = await new Promise((resolve) => this.#canvas.toBlob(resolve, "image/jpeg", 0.92));
      const bitmap = await createImageBitmap(this.#canvas);
      const content = new Uint8Array(8 + blob.size);
      new DataView(content.buffer).setFloat64(0, pts, true);
      content.set(new Uint8Array(await blob.arrayBuffer()), 8);
      if (this.#socket.readyState !== WebSocket.OPEN) return;
      this.#sent.set(pts, { bitmap, at });
      this.#socket.send(content);
    } finally {
      this.#isBusy = false;
    }
  }

  #skip() {
    this.numSkipped++;
    // A picture that the server has left out gets no answer: forget it after two seconds.
    const oldest = this.#sent.entries().next().value;
    if (oldest && performance.now() - oldest[1].at > 2000) {
      oldest[1].bitmap.close();
      this.#sent.delete(oldest[0]);
    }
  }
}
