// Plays parts at 24 kHz one after another, and says how much of which item was heard.
const RATE = 24000;

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.step = RATE / sampleRate;
    this.clear();
    this.port.onmessage = ({ data }) => (data === "clear" ? this.clear() : this.queue.push(data));
  }

  clear() {
    this.queue = [];
    this.position = 0; // in the first part
    this.blocks = 0;
  }

  process(inputs, [[output]]) {
    let energy = 0;
    for (let i = 0; i < output.length; i++) {
      output[i] = this.next();
      energy += output[i] * output[i];
    }
    // every 8 blocks: about 20 ms
    if (this.blocks++ % 8 === 0) {
      const part = this.queue[0];
      const heard = part ? part.start + Math.floor(this.position) : 0;
      this.port.postMessage({ item: part?.item ?? null, heard, level: Math.sqrt(energy / output.length) });
    }
    return true;
  }

  next() {
    while (this.queue.length && this.position >= this.queue[0].samples.length) {
      this.position -= this.queue[0].samples.length;
      this.queue.shift();
    }
    if (!this.queue.length) {
      this.position = 0;
      return 0;
    }
    const { samples } = this.queue[0];
    const index = Math.floor(this.position);
    const after = index + 1 < samples.length ? samples[index + 1] : this.queue[1]?.samples[0] ?? samples[index];
    const value = samples[index] + (after - samples[index]) * (this.position - index);
    this.position += this.step;
    return value;
  }
}

registerProcessor("playback", Playback);
