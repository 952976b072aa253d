// The mel-spectrogram of sound at 24 kHz, drawn as it comes: one column for 256 samples.
const SIZE = 1024;
const HOP = 256;
const BANDS = 100;
const RATE = 24000;

const toMel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const toHertz = (mel) => 700 * (10 ** (mel / 2595) - 1);

const edges = Array.from({ length: BANDS + 2 }, (_, i) => (toHertz((toMel(RATE / 2) * i) / (BANDS + 1)) * SIZE) / RATE);
const hann = Float32Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));

/** In place: the discrete Fourier transform of a power of two of complex numbers. */
function transform(real, imaginary) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let length = 2; length <= size; length *= 2) {
    for (let k = 0; k < length / 2; k++) {
      const cosine = Math.cos((-2 * Math.PI * k) / length);
      const sine = Math.sin((-2 * Math.PI * k) / length);
      for (let start = 0; start < size; start += length) {
        const a = start + k;
        const b = a + length / 2;
        const x = real[b] * cosine - imaginary[b] * sine;
        const y = real[b] * sine + imaginary[b] * cosine;
        real[b] = real[a] - x;
        imaginary[b] = imaginary[a] - y;
        real[a] += x;
        imaginary[a] += y;
      }
    }
  }
}

/** The log-mel values of `SIZE` samples, low bands first. */
function column(samples) {
  const real = samples.map((sample, i) => sample * hann[i]);
  const imaginary = new Float32Array(SIZE);
  transform(real, imaginary);
  const magnitude = (i) => Math.hypot(real[i], imaginary[i]);
  return Float32Array.from({ length: BANDS }, (_, band) => {
    const [low, centre, high] = edges.slice(band, band + 3);
    let sum = 0;
    for (let i = Math.ceil(low); i < high; i++) {
      sum += magnitude(i) * Math.min((i - low) / (centre - low), (high - i) / (high - centre));
    }
    return Math.log(Math.max(sum, 1e-7));
  });
}

export class MelCanvas {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.clear();
  }

  clear() {
    this.rest = new Float32Array(SIZE - HOP);
    this.x = 0;
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  push(samples) {
    const all = new Float32Array(this.rest.length + samples.length);
    all.set(this.rest);
    all.set(samples, this.rest.length);
    let start = 0;
    for (; start + SIZE <= all.length; start += HOP) this.draw(column(all.slice(start, start + SIZE)));
    this.rest = all.slice(start);
  }

  draw(values) {
    const { width, height } = this.canvas;
    if (this.x === width) {
      // full: what is old moves out on the left
      this.context.drawImage(this.canvas, 1, 0, width - 1, height, 0, 0, width - 1, height);
      this.x = width - 1;
    }
    values.forEach((value, band) => {
      const brightness = Math.min(1, Math.max(0, (value + 7) / 9));
      this.context.fillStyle = `hsl(${260 - 210 * brightness} 85% ${Math.round(8 + 62 * brightness)}%)`;
      this.context.fillRect(this.x, height - 1 - band, 1, 1);
    });
    this.x += 1;
  }
}
