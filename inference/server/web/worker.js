// The network runs here, beside the page, which so keeps answering. Messages in: {bytes, threads} for a model, or
// {rgba, width, height, edit, strength} for an image, or {bitmap, edit, strength} for a frame of a video; each gets one
// answer, with its `id`.
import { Translator } from "./translator.js";

let ort, translator, canvas;

async function load({ bytes, threads }) {
  ort ??= await import("./vendor/ort.wasm.bundle.min.mjs").catch(() => {
    throw new Error("onnxruntime-web is not beside this page: run `make web` in the project, which puts it there");
  });
  ort.env.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href };
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  translator = await Translator.load(ort, bytes);
  return { metadata: translator.metadata };
}

async function edit({ rgba, width, height, edit, strength }) {
  return { rgba: await translator.translate(rgba, width, height, edit, strength) };
}

// A frame at the size that the network works at, and what becomes of it: both [height, width, 4].
async function editFrame({ bitmap, edit, strength }) {
  const size = translator.networkSize(bitmap.width, bitmap.height), [width, height] = size;
  if (canvas?.width !== width || canvas.height !== height) canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingQuality = "high"; // a camera's many pixels become few
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  return { frame: data, rgba: await translator.translate(data, width, height, edit, strength, size), width, height };
}

let previous = Promise.resolve(); // one at a time: a session does not run twice at once
onmessage = ({ data }) => {
  previous = previous.then(async () => {
    try {
      const work = data.bytes ? load : data.bitmap ? editFrame : edit;
      postMessage({ id: data.id, ...(await work(data)) });
    } catch (error) {
      postMessage({ id: data.id, error: error.message });
    }
  });
};
