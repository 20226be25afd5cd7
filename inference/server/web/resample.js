// Pillow's own way of resizing, to the bit, so that the page and the Python runtime paint the same pixels.

const PRECISION_BITS = 22; // of the fixed-point weights for 8-bit pixels

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const LANCZOS = { support: 3, at: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) };
const BICUBIC = {
  support: 2,
  at: (x) => {
    const a = -0.5;
    x = Math.abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
  },
};

// For each of `to` outputs: the first of the inputs that it is made of, and their weights, which sum to 1.
function taps(filter, from, to) {
  const scale = from / to, stretch = Math.max(scale, 1), support = filter.support * stretch;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const weights = Array.from({ length: end - first }, (_, j) => filter.at((first + j - centre + 0.5) / stretch));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

const fixed = ({ first, weights }) => ({
  first,
  weights: weights.map((weight) => Math.trunc(weight * 2 ** PRECISION_BITS + (weight < 0 ? -0.5 : 0.5))),
});

// One axis of [outer, from, inner] to [outer, to, inner]; `finish` turns a sum into a value of `result`.
function alongAxis(values, result, table, outer, from, inner, start, finish) {
  const to = table.length;
  for (let o = 0; o < outer; o++)
    for (let i = 0; i < to; i++) {
      const { first, weights } = table[i];
      for (let k = 0; k < inner; k++) {
        let sum = start, at = (o * from + first) * inner + k;
        for (let j = 0; j < weights.length; j++, at += inner) sum += values[at] * weights[j];
        result[(o * to + i) * inner + k] = finish(sum);
      }
    }
  return result;
}

// Pillow 13 begins with the height where that drops many more rows than columns; older ones begin with the width.
const rowsFirst = (width, height, toWidth, toHeight) =>
  toHeight < height && 2 * (width - toWidth) < height - toHeight;

// 8-bit pixels [height, width, channels] by Lanczos: what the network is shown.
export function resizePixels(pixels, width, height, channels, toWidth, toHeight) {
  const finish = (sum) => sum >> PRECISION_BITS, start = 1 << (PRECISION_BITS - 1);
  const axis = (values, from, to, outer, inner) => {
    if (from === to) return values;
    const result = new Uint8ClampedArray(outer * to * inner);
    return alongAxis(values, result, taps(LANCZOS, from, to).map(fixed), outer, from, inner, start, finish);
  };
  if (rowsFirst(width, height, toWidth, toHeight)) {
    const low = axis(pixels, height, toHeight, 1, width * channels);
    return axis(low, width, toWidth, toHeight, channels);
  }
  const wide = axis(pixels, width, toWidth, height, channels);
  return axis(wide, height, toHeight, 1, toWidth * channels);
}

// One plane of numbers [height, width] by a cubic: the change that goes back onto the image.
export function resizePlane(plane, width, height, toWidth, toHeight) {
  const axis = (values, from, to, outer, inner) => {
    if (from === to) return values;
    const result = new Float32Array(outer * to * inner);
    return alongAxis(values, result, taps(BICUBIC, from, to), outer, from, inner, 0, (sum) => sum);
  };
  if (rowsFirst(width, height, toWidth, toHeight))
    return axis(axis(plane, height, toHeight, 1, width), width, toWidth, toHeight, 1);
  return axis(axis(plane, width, toWidth, height, 1), height, toHeight, 1, toWidth);
}
