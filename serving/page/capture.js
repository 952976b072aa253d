// The microphone at 24 kHz, in parts of 40 ms. A mean over each output sample keeps out most of what would fold back.
const RATE = 24000;
const PART = 960;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.ratio = sampleRate / RATE;
    this.sum = 0;
    this.left = this.ratio; // input samples that the next output sample still takes
    this.part = new Float32Array(PART);
    this.filled = 0;
  }

  process([channels]) {
    for (const sample of channels[0] ?? []) {
      let rest = 1;
      while (rest >= this.left) {
        this.push((this.sum + sample * this.left) / this.ratio);
        rest -= this.left;
        this.sum = 0;
        this.left = this.ratio;
      }
      this.sum += sample * rest;
      this.left -= rest;
    }
    return true;
  }

  push(sample) {
    this.part[this.filled++] = sample;
    if (this.filled === PART) {
      this.port.postMessage(this.part.slice());
      this.filled = 0;
    }
  }
}

registerProcessor("capture", Capture);
