// A model file applied to a picture: the rules of inference/runtime.py.
import { resizePixels, resizePlane } from "./resample.js";

const PREFIX = "distillery.", SCHEMA_VERSION = 1, MAX_ASPECT = 4;

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
    } else throw new Error("this is no ONNX model");
  }
}

// What the file says about itself: Map of name -> value, from its metadata properties.
export function readMetadata(bytes) {
  const text = new TextDecoder(), metadata = new Map();
  for (const [number, entry] of fields(bytes)) {
    if (number !== 14) continue; // metadata_props
    const [key, value] = [...fields(entry)].map(([, content]) => text.decode(content));
    if (key.startsWith(PREFIX)) metadata.set(key.slice(PREFIX.length), JSON.parse(value));
  }
  if (metadata.size === 0) throw new Error("this ONNX model was not made by `distillery export`");
  if (metadata.get("schema_version") !== SCHEMA_VERSION)
    throw new Error(`the model has schema version ${metadata.get("schema_version")}, and this page reads ${SCHEMA_VERSION}`);
  return metadata;
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
    this.edits = Object.keys(metadata.get("edits"));
  }

  // [width, height] of about the training images' area, aspect kept, in whole size multiples.
  networkSize(width, height) {
    const size = this.metadata.get("training_size"), multiple = this.metadata.get("size_multiple");
    const aspect = Math.min(Math.max(width / height, 1 / MAX_ASPECT), MAX_ASPECT);
    const sides = [size * Math.sqrt(aspect), size / Math.sqrt(aspect)];
    return sides.map((side) => multiple * Math.max(1, roundHalfToEven(side / multiple)));
  }

  // rgba: 8-bit pixels [height, width, 4]. Returns the edited ones; alpha stays as it is.
  async translate(rgba, width, height, edit, strength) {
    const edited = Uint8ClampedArray.from(rgba);
    if (strength === 0) return edited;
    const rgb = new Uint8ClampedArray(width * height * 3);
    for (let i = 0, at = 0; i < rgba.length; i++) if (i % 4 !== 3) rgb[at++] = rgba[i];

    const [w, h] = this.networkSize(width, height), area = w * h;
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
    const translated = (await this.session.run(feeds)).translated.data;
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
