// A model file applied to an image: the rules of inference/runtime.py.
import { resizePixels, resizePlane } from "./resample.js";

const PREFIX = "distillery.", SCHEMA_VERSION = 1, MAX_ASPECT = 4;
// Bounds of what a model file may say about itself, as in runtime.py.
const MAX_SIZE = 8192, MAX_EDITS = 1000, MAX_NAME = 200, MAX_PROMPT = 10_000;
const MAX_PROPERTIES = 100, MAX_PROPERTY = 2 ** 20, MAX_DEPTH = 32;

// The top-level fields of a protobuf message, each with its number and bytes. (onnxruntime-web shows no metadata.)
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Error("the file ends too early: is it an ONNX model?");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    if (tag % 8 === 0) varint();
    else if (tag % 8 === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, (at += length))];
    } else throw new Error("this is not an ONNX model");
  }
}

// What the file says about itself: Map of name -> value, from its metadata properties.
export function readMetadata(bytes) {
  const text = new TextDecoder(), metadata = new Map();
  let edits = "";
  for (const [number, entry] of fields(bytes)) {
    if (number !== 14) continue; // metadata_props
    const [key = "", value = ""] = [...fields(entry)].map(([, content]) => text.decode(content));
    if (!key.startsWith(PREFIX)) continue;
    if (metadata.size >= MAX_PROPERTIES || value.length > MAX_PROPERTY) throw broken("there is too much of it");
    metadata.set(key.slice(PREFIX.length), parse(value));
    if (key === `${PREFIX}edits`) edits = value;
  }
  if (metadata.size === 0) throw new Error("this ONNX model was not made by `distillery export`");
  if (metadata.get("schema_version") !== SCHEMA_VERSION) {
    const version = String(JSON.stringify(metadata.get("schema_version"))).slice(0, 20);
    throw new Error(`the model has schema version ${version}, and this page reads ${SCHEMA_VERSION}`);
  }
  const problem = problemOf(metadata);
  if (problem) throw broken(problem);
  return metadata.set("edits", inOrder(edits));
}

// A JSON table of texts as a Map in the order of the file, where an edit's place is its number in the network. (An
// object would put names of digits first.)
function inOrder(json) {
  const texts = json.match(/"[^"\\]*(?:\\.[^"\\]*)*"/gs).map((text) => JSON.parse(text));
  const table = new Map();
  for (let i = 0; i < texts.length; i += 2) table.set(texts[i], texts[i + 1]);
  return table;
}

const broken = (problem) => new Error(`the model has broken metadata (${problem}): export it again`);

function parse(value) {
  try {
    return JSON.parse(value);
  } catch (error) { // also for what is nested without end
    throw broken(error.message.slice(0, 200));
  }
}

// What makes no sense in the metadata, if anything.
function problemOf(metadata) {
  if (isDeeper([...metadata.values()], MAX_DEPTH)) return `it is nested more than ${MAX_DEPTH} deep`;
  for (const key of ["training_size", "size_multiple"]) {
    const size = metadata.get(key);
    if (!Number.isInteger(size) || size < 1 || size > MAX_SIZE) return `${key} is not a whole number from 1 to ${MAX_SIZE}`;
  }
  const edits = metadata.get("edits");
  const isTable = edits !== null && typeof edits === "object" && !Array.isArray(edits);
  if (!isTable || Object.keys(edits).length < 1 || Object.keys(edits).length > MAX_EDITS)
    return `edits are no table of 1 to ${MAX_EDITS} names`;
  for (const [name, prompt] of Object.entries(edits)) {
    if (name.length < 1 || name.length > MAX_NAME) return `an edit's name is empty or longer than ${MAX_NAME} letters`;
    if (typeof prompt !== "string" || prompt.length > MAX_PROMPT)
      return `the prompt of ${name} is no text of at most ${MAX_PROMPT} letters`;
  }
  return null;
}

// Level by level, without recursion, which it is meant to prevent.
function isDeeper(values, depth) {
  let level = values.filter((value) => value !== null && typeof value === "object");
  for (let i = 0; i < depth; i++)
    level = level.flatMap((value) => Object.values(value).filter((item) => item !== null && typeof item === "object"));
  return level.length > 0;
}

function roundHalfToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

export class Translator {
  // ort: onnxruntime-web. bytes: the model file, Uint8Array.
  static async load(ort, bytes) {
    const metadata = readMetadata(bytes);
    const session = await ort.InferenceSession.create(bytes, { logSeverityLevel: 4 });
    return new Translator(ort, session, metadata);
  }

  constructor(ort, session, metadata) {
    this.ort = ort;
    this.session = session;
    this.metadata = metadata;
    this.edits = [...metadata.get("edits").keys()];
  }

  // [width, height] of about the training images' area, aspect kept, in whole size multiples.
  networkSize(width, height) {
    const size = this.metadata.get("training_size"), multiple = this.metadata.get("size_multiple");
    const aspect = Math.min(Math.max(width / height, 1 / MAX_ASPECT), MAX_ASPECT);
    const sides = [size * Math.sqrt(aspect), size / Math.sqrt(aspect)];
    return sides.map((side) => multiple * Math.max(1, roundHalfToEven(side / multiple)));
  }

  // rgba: 8-bit pixels [height, width, 4]. size: [width, height] for the network. Returns the edited ones; alpha stays
  // as it is.
  async translate(rgba, width, height, edit, strength, size = this.networkSize(width, height)) {
    const edited = Uint8ClampedArray.from(rgba);
    if (strength === 0) return edited;
    const rgb = new Uint8ClampedArray(width * height * 3);
    for (let i = 0, at = 0; i < rgba.length; i++) if (i % 4 !== 3) rgb[at++] = rgba[i];

    const [w, h] = size, area = w * h;
    const small = resizePixels(rgb, width, height, 3, w, h); // [h, w, 3]
    const image = new Float32Array(3 * area); // [3, h, w] in [-1, 1]
    for (let i = 0; i < area; i++)
      for (let c = 0; c < 3; c++) image[c * area + i] = Math.fround(small[3 * i + c] / 127.5) - 1;

    const { Tensor } = this.ort;
    const feeds = {
      image: new Tensor("float32", image, [1, 3, h, w]),
      edit: new Tensor("int64", BigInt64Array.of(BigInt(this.edits.indexOf(edit))), [1]),
      strength: new Tensor("float32", Float32Array.of(strength), [1]),
    };
    const answer = await this.session.run(feeds).catch((error) => {
      throw new Error(`the model's graph refuses the edit ${edit}, so it and its metadata disagree: ${error.message ?? error}`);
    });
    const translated = answer.translated?.data;
    if (translated?.length !== 3 * area) throw new Error("the model's graph gives no image of the input's size");
    for (let c = 0; c < 3; c++) {
      const change = new Float32Array(area);
      for (let i = 0; i < area; i++) change[i] = translated[c * area + i] - image[c * area + i];
      if (!change.every(Number.isFinite)) throw new Error(`the network's numbers overflow at strength ${strength}`);
      const plane = resizePlane(change, w, h, width, height); // onto the original, which so keeps its detail
      for (let i = 0; i < plane.length; i++)
        // A clamped array rounds halves to even, as numpy does.
        edited[4 * i + c] = Math.fround(Math.fround(plane[i] * 127.5) + rgba[4 * i + c]);
    }
    return edited;
  }
}
