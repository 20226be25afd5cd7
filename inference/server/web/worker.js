// The network runs here, beside the page, which so keeps answering. Messages in: {bytes, threads} for a model, or
// {rgba, width, height, edit, strength} for an image; each gets one answer, with its `id`.
import { Translator } from "./translator.js";

let ort, translator;

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

let previous = Promise.resolve(); // one at a time: a session does not run twice at once
onmessage = ({ data }) => {
  previous = previous.then(async () => {
    try {
      postMessage({ id: data.id, ...(await (data.bytes ? load(data) : edit(data))) });
    } catch (error) {
      postMessage({ id: data.id, error: error.message });
    }
  });
};
