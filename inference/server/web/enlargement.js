// A change enlarged along a photograph's own edges: the arithmetic of synth/images/enlargement.py, which explains it.
// examples/node_onnxruntime/enlargement.mjs is a copy of this file.

const EPS = 0.04, FLAT = 0.03, MAX_CHANGE = 2;

// The mean over each pixel's window of 3 x 3, cut at the border, of a plane [height, width].
function mean(plane, width, height) {
  const total = new Float64Array(plane.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const top = Math.max(0, y - 1), bottom = Math.min(height - 1, y + 1);
      const left = Math.max(0, x - 1), right = Math.min(width - 1, x + 1);
      let sum = 0;
      for (let i = top; i <= bottom; i++) for (let j = left; j <= right; j++) sum += plane[i * width + j];
      total[y * width + x] = sum / ((bottom - top + 1) * (right - left + 1));
    }
  return total;
}

function map(length, at) {
  const values = new Float64Array(length);
  for (let i = 0; i < length; i++) values[i] = at(i);
  return values;
}

// change: three planes [height, width], of 2 from black to white. pixels: [height, width, 3], which were changed.
// Returns for each channel four planes: the slopes over red, green and blue, and the offset in levels.
export function fitChange(change, pixels, width, height) {
  const area = width * height, channels = [0, 1, 2];
  const color = channels.map((c) => map(area, (i) => pixels[3 * i + c] / 127.5 - 1));
  const means = color.map((plane) => mean(plane, width, height));
  const covariance = (a, meanOfA, b, meanOfB) => {
    const products = mean(map(area, (i) => a[i] * b[i]), width, height);
    return map(area, (i) => products[i] - meanOfA[i] * meanOfB[i]);
  };
  const sigma = (c, d) => covariance(color[c], means[c], color[d], means[d]);
  const [rr, rg, rb, gg, gb, bb] = [sigma(0, 0), sigma(0, 1), sigma(0, 2), sigma(1, 1), sigma(1, 2), sigma(2, 2)];
  const variance = mean(map(area, (i) => rr[i] + gg[i] + bb[i]), width, height);
  return change.map((plane) => {
    const p = map(area, (i) => Math.min(Math.max(plane[i], -MAX_CHANGE), MAX_CHANGE)), meanOfP = mean(p, width, height);
    const right = channels.map((c) => covariance(color[c], means[c], p, meanOfP));
    const slopes = channels.map(() => new Float64Array(area)), offset = new Float64Array(area);
    for (let i = 0; i < area; i++) {
      const [r, g, b] = [rr[i] + EPS, gg[i] + EPS, bb[i] + EPS];
      const a00 = g * b - gb[i] ** 2, a01 = gb[i] * rb[i] - rg[i] * b, a02 = rg[i] * gb[i] - g * rb[i];
      const a11 = r * b - rb[i] ** 2, a12 = rg[i] * rb[i] - r * gb[i], a22 = r * g - rg[i] ** 2;
      const determinant = r * a00 + rg[i] * a01 + rb[i] * a02, [x, y, z] = right.map((values) => values[i]);
      slopes[0][i] = (a00 * x + a01 * y + a02 * z) / determinant;
      slopes[1][i] = (a01 * x + a11 * y + a12 * z) / determinant;
      slopes[2][i] = (a02 * x + a12 * y + a22 * z) / determinant;
      offset[i] = meanOfP[i] - channels.reduce((sum, c) => sum + slopes[c][i] * means[c][i], 0);
    }
    const [s0, s1, s2, base] = [...slopes, offset].map((values) => mean(values, width, height));
    const whole = map(area, (i) => {
      const rest = p[i] - (s0[i] * color[0][i] + s1[i] * color[1][i] + s2[i] * color[2][i]) - base[i];
      const weight = FLAT / (FLAT + Math.max(variance[i], 0));
      return (base[i] + weight * rest - s0[i] - s1[i] - s2[i]) * 127.5;
    });
    return [s0, s1, s2, whole];
  });
}

// Between which two of `small` places each of `large` lies, and the second one's share.
function between(small, large) {
  return Array.from({ length: large }, (_, i) => {
    const at = Math.min(Math.max((i + 0.5) * (small / large) - 0.5, 0), small - 1), first = Math.floor(at);
    return [first, Math.min(first + 1, small - 1), at - first];
  });
}

// Lays the change onto a large image's pixels, a Uint8ClampedArray [toHeight, toWidth, channels], in place; `functions`
// are those of the small one. Channels after the third, alpha, stay as they are.
export function applyFit(functions, width, height, pixels, channels, toWidth, toHeight) {
  const planes = functions.flat(), row = planes.map(() => new Float64Array(width)), at = new Float64Array(12);
  const rows = between(height, toHeight), columns = between(width, toWidth);
  for (let y = 0; y < toHeight; y++) {
    const [above, below, down] = rows[y];
    let isTouched = false;
    for (let n = 0; n < planes.length; n++)
      for (let x = 0; x < width; x++) {
        const upper = planes[n][above * width + x];
        row[n][x] = upper + (planes[n][below * width + x] - upper) * down;
        isTouched ||= row[n][x] !== 0;
      }
    if (!isTouched) continue; // an edit is often a small part of an image
    for (let x = 0; x < toWidth; x++) {
      const [left, right, across] = columns[x], i = channels * (y * toWidth + x);
      for (let n = 0; n < planes.length; n++) at[n] = row[n][left] + (row[n][right] - row[n][left]) * across;
      const r = pixels[i], g = pixels[i + 1], b = pixels[i + 2];
      // A clamped array rounds halves to even, as numpy does.
      for (let c = 0; c < 3; c++)
        pixels[i + c] += Math.fround(at[4 * c] * r + at[4 * c + 1] * g + at[4 * c + 2] * b + at[4 * c + 3]);
    }
  }
}
