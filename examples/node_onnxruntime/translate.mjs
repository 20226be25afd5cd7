// Edit a picture with a model file, with onnxruntime-node alone:
//   npm install --ignore-scripts && node translate.mjs model.onnx room.ppm red-leather edited.ppm [strength]
// Pictures are binary PPM here (`magick room.jpg room.ppm`): use your own program's reader and writer instead.
import { readFileSync, writeFileSync } from "node:fs";

// Before the import, or ONNX Runtime may call home; a static import would come first.
process.env.ORT_DISABLE_TELEMETRY ??= "1";
const { default: ort } = await import("onnxruntime-node");

// The fields of a protobuf message, each with its number and bytes. (onnxruntime-node does not show metadata.)
function* fields(bytes, at = 0) {
  const varint = (scale = 1) => (bytes[at] < 128 ? bytes[at++] * scale : (bytes[at++] - 128) * scale + varint(scale * 128));
  while (at < bytes.length) {
    const [tag, value] = [varint(), varint()];
    if (tag % 8 === 2) yield [tag >> 3, bytes.subarray(at, (at += value))];
  }
}
const properties = {};
const [model, source, edit, target, strength = "1"] = process.argv.slice(2);
for (const [number, entry] of fields(readFileSync(model))) {
  if (number !== 14) continue; // metadata_props
  const [key, value] = [...fields(entry)].map(([, text]) => text.toString());
  if (key.startsWith("distillery.")) properties[key.slice(11)] = JSON.parse(value);
}
const { edits, training_size: size, size_multiple: multiple } = properties;
const index = Object.keys(edits).indexOf(edit);
if (index < 0) throw new Error(`unknown edit ${edit}: this model has ${Object.keys(edits).join(", ")}`);

// One axis of [outer, from, inner] to [outer, to, inner]: a triangle filter, as wide as the step when it shrinks.
function resizeAxis(values, outer, from, to, inner) {
  const result = new Float32Array(outer * to * inner), step = from / to, reach = Math.max(1, step);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * step - 0.5, taps = [];
    for (let j = Math.max(0, Math.ceil(centre - reach)); j <= Math.min(from - 1, centre + reach); j++)
      taps.push([j, 1 - Math.abs(j - centre) / reach]);
    const total = taps.reduce((sum, [, weight]) => sum + weight, 0);
    for (let o = 0; o < outer; o++) for (const [j, weight] of taps) for (let k = 0; k < inner; k++)
      result[(o * to + i) * inner + k] += (weight / total) * values[(o * from + j) * inner + k];
  }
  return result;
}
const resize = (planes, w, h, toW, toH) => resizeAxis(resizeAxis(planes, 3 * h, w, toW, 1), 3, h, toH, toW);

const file = readFileSync(source);
const head = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(file.subarray(0, 99).toString("latin1"));
if (!head) throw new Error(`${source} is no binary PPM of 8 bits`);
const [width, height] = head.slice(1).map(Number), pixels = file.subarray(head[0].length); // (H, W, 3)
const plane = (i) => (i % 3) * width * height + Math.floor(i / 3); // where pixel value i lies in (3, H, W)
const planes = new Float32Array(3 * width * height);
for (let i = 0; i < planes.length; i++) planes[plane(i)] = pixels[i] / 127.5 - 1; // in [-1, 1]

const aspect = Math.min(Math.max(width / height, 1 / 4), 4); // the network sees about the size that it was trained on
const [w, h] = [aspect ** 0.5, aspect ** -0.5].map((side) => Math.max(1, Math.round((size * side) / multiple)) * multiple);
const image = resize(planes, width, height, w, h);
const { translated } = await (await ort.InferenceSession.create(model)).run({
  image: new ort.Tensor("float32", image, [1, 3, h, w]),
  edit: new ort.Tensor("int64", [BigInt(index)], [1]),
  strength: new ort.Tensor("float32", [Number(strength)], [1]),
});
const change = resize(translated.data.map((value, i) => value - image[i]), w, h, width, height); // onto the original
const edited = Uint8ClampedArray.from(pixels.subarray(0, planes.length), (value, i) => value + change[plane(i)] * 127.5);
writeFileSync(target, Buffer.concat([file.subarray(0, head[0].length), Buffer.from(edited.buffer)]));
