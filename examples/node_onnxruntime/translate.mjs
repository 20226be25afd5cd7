// Edit an image with a model file, with onnxruntime-node and nothing else:
//   npm install --ignore-scripts && node translate.mjs model.onnx room.ppm red-leather edited.ppm [strength]
// Images here are binary PPM (`magick room.jpg room.ppm`): use your own program's reader and writer instead.
import { readFileSync, writeFileSync } from "node:fs";
import { applyFit, fitChange } from "./enlargement.mjs";

// Before the import, or ONNX Runtime may call home; a static import would come first.
process.env.ORT_DISABLE_TELEMETRY ??= "1";
const { default: ort } = await import("onnxruntime-node");

const fail = (problem) => {
  console.error(`error: ${problem}`);
  process.exit(2);
};

// Yields each field of a protobuf message as its number and bytes: onnxruntime-node does not show metadata.
function* fields(bytes, at = 0) {
  const varint = () => {
    for (let value = 0, scale = 1; ; scale *= 128) {
      if (at >= bytes.length) fail("the model file ends too early: is it an ONNX model?");
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const [tag, value] = [varint(), varint()];
    if (tag % 8 === 2) yield [tag >> 3, bytes.subarray(at, (at += value))];
  }
}
// The names of a JSON table of texts, in the file's order: an edit's place is its number in the network, and an object
// would put names of digits first.
const namesInOrder = (json) => {
  const texts = json.match(/"[^"\\]*(?:\\.[^"\\]*)*"/gs).map((text) => JSON.parse(text));
  return [...new Set(texts.filter((_, i) => i % 2 === 0))];
};
const properties = new Map();
let table = "";
const [model, source, edit, target, strength = "1"] = process.argv.slice(2);
for (const [number, entry] of fields(readFileSync(model))) {
  if (number !== 14) continue; // metadata_props
  const [key = "", value = ""] = [...fields(entry)].map(([, text]) => text.toString());
  if (["edits", "training_size", "size_multiple", "schema_version"].some((name) => key === `distillery.${name}`))
    try {
      properties.set(key.slice(11), JSON.parse(value.slice(0, 2 ** 20)));
      if (key === "distillery.edits") table = value;
    } catch (error) {
      fail(`${model} has broken metadata (${error.message.slice(0, 200)}): export it again`);
    }
}
// Bounds on the metadata, as in runtime.py: a file from somebody else can claim anything about itself.
const [edits, size, multiple] = ["edits", "training_size", "size_multiple"].map((name) => properties.get(name));
const isSize = (value) => Number.isInteger(value) && value >= 1 && value <= 8192;
const isText = (value, max) => typeof value === "string" && value.length <= max;
const isTable = edits !== null && typeof edits === "object" && !Array.isArray(edits);
const entries = isTable ? Object.entries(edits) : [];
const areTexts = entries.every(([name, prompt]) => name && isText(name, 200) && isText(prompt, 10_000));
if (properties.get("schema_version") !== 1 || !isSize(size) || !isSize(multiple))
  fail(`${model} has broken metadata (schema version or sizes): export it again`);
if (entries.length < 1 || entries.length > 1000 || !areTexts)
  fail(`${model} has broken metadata (its edits are not a table of names and prompts): export it again`);
const names = namesInOrder(table);
const index = names.indexOf(edit);
if (index < 0) fail(`unknown edit ${edit}: this model has ${names.map((name) => JSON.stringify(name)).join(", ")}`);

// Resizes one axis, [outer, from, inner] to [outer, to, inner]: a triangle filter, wider when the image shrinks.
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
if (!head) fail(`${source} is not a binary PPM of 8 bits`);
const [width, height] = head.slice(1).map(Number), pixels = file.subarray(head[0].length); // (H, W, 3)
const plane = (i) => (i % 3) * width * height + Math.floor(i / 3); // the index of pixel value i in (3, H, W)
const planes = new Float32Array(3 * width * height);
for (let i = 0; i < planes.length; i++) planes[plane(i)] = pixels[i] / 127.5 - 1; // in [-1, 1]

const aspect = Math.min(Math.max(width / height, 1 / 4), 4); // the network sees the image near its training size
const [w, h] = [aspect ** 0.5, aspect ** -0.5].map((side) => Math.max(1, Math.round((size * side) / multiple)) * multiple);
const image = resize(planes, width, height, w, h);
const firstLine = (error) => error.message.split("\n")[0];
const session = await ort.InferenceSession.create(model)
  .catch((error) => fail(`${model} is not a model that onnxruntime can load: ${firstLine(error)}`));
const { translated } = await session.run({
  image: new ort.Tensor("float32", image, [1, 3, h, w]),
  edit: new ort.Tensor("int64", [BigInt(index)], [1]),
  strength: new ort.Tensor("float32", [Number(strength)], [1]),
}).catch((error) => fail(`${model} refuses edit number ${index}, so its graph and its metadata disagree: ${firstLine(error)}`));
if (translated?.data.length !== 3 * w * h) fail(`${model} does not return an image of the input's size: export it again`);
const change = translated.data.map((value, i) => value - image[i]), area = w * h; // (3, h, w)
let edited = Uint8ClampedArray.from(pixels.subarray(0, planes.length));
if ((w !== width || h !== height) && w <= width && h <= height) { // enlarged along the original's own edges
  const small = change.map((_, i) => (image[(i % 3) * area + Math.floor(i / 3)] + 1) * 127.5); // (h, w, 3), levels
  const functions = fitChange([0, 1, 2].map((c) => change.subarray(c * area, (c + 1) * area)), small, w, h);
  applyFit(functions, w, h, edited, 3, width, height);
} else {
  const resized = resize(change, w, h, width, height);
  edited = edited.map((value, i) => value + resized[plane(i)] * 127.5);
}
writeFileSync(target, Buffer.concat([file.subarray(0, head[0].length), Buffer.from(edited.buffer)]));
