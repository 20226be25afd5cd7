// The page: an image or a live video, an edit, a strength, and before and after. The network runs in worker.js.
import { Live, openCamera, openVideo } from "./live.js";

const $ = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });
// A browser shares memory between threads for an isolated page alone.
const threads = crossOriginIsolated ? Math.min(4, Math.ceil(navigator.hardwareConcurrency / 2)) : 1;
const waiting = new Map(); // id of a message to the worker -> what to do with its answer
const live = new Live($("live"), { edit: editFrame, show: showFrame, tell: tellOfLive });
let lastId = 0, image = null, loaded = false, isPixelNetwork = false, busy = false, stale = false, url = null;
let lastRate = 0; // when the frames a second were last written

worker.onmessage = ({ data: { id, error, ...answer } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(answer);
};
worker.onerror = () => report("The page's worker does not start: use a newer browser.", true);

function ask(message, transfer = []) {
  const id = ++lastId;
  worker.postMessage({ id, ...message }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

// state: what a test, or a style, can wait for.
function report(text, isError = false, state = isError ? "error" : "busy") {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
  document.body.dataset.state = state;
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    report(error.message, true);
  }
}

async function request(path) {
  const token = $("token").value;
  const response = await fetch(path, token ? { headers: { Authorization: `Bearer ${token}` } } : {});
  if (response.status === 401) $("token-label").hidden = false;
  return response;
}

// models.json lies beside the page: [{"name": "sofas", "file": "models/sofas.onnx"}]. The server writes it by itself.
async function listModels() {
  const response = await request("models.json");
  if (response.status === 401) return report("This server wants its token.", true);
  const models = response.ok ? await response.json() : [];
  $("model").replaceChildren(...models.map(({ name, file }) => new Option(name, file)));
  $("model").parentElement.hidden = models.length === 0;
  if (models.length === 0) return report("Choose a model file.", false, "waiting");
  await fetchModel();
}

async function fetchModel() {
  report(`Fetching ${$("model").selectedOptions[0].text} ...`);
  const response = await request($("model").value);
  if (!response.ok) throw new Error(`The model cannot be fetched: ${response.status} ${response.statusText}`);
  await useModel(new Uint8Array(await response.arrayBuffer()));
}

async function useModel(bytes) {
  live.stop();
  report("Loading the model ...");
  loaded = isPixelNetwork = false;
  $("camera").disabled = $("video").disabled = true;
  const { metadata } = await ask({ bytes, threads }, [bytes.buffer]);
  loaded = true;
  // What the file is decides, and not how long a first call takes: that would offer a camera today and none tomorrow.
  isPixelNetwork = String(metadata.get("network")).startsWith("pixel network");
  $("camera").disabled = $("video").disabled = !isPixelNetwork;
  $("stills-only").hidden = isPixelNetwork;
  const edits = [...metadata.get("edits")]; // a Map, in the model's order
  const chosen = $("edit").value;
  $("edit").replaceChildren(...edits.map(([name, prompt]) => Object.assign(new Option(name, name), { title: prompt })));
  if (edits.some(([name]) => name === chosen)) $("edit").value = chosen;
  $("edit").disabled = $("strength").disabled = false;
  $("about").textContent = ["teacher", "licence", "validated_on"]
    .filter((key) => metadata.has(key))
    .map((key) => `${key.replace("_", " ")}: ${metadata.get(key)}`)
    .concat(crossOriginIsolated ? `threads: ${threads}` : "one thread, as this page's server does not isolate it")
    .join(" · ");
  await refresh();
}

async function useImage(file) {
  // Upright, and in sRGB, which is what a canvas saves.
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => {
    throw new Error(`${file.name} is not an image that this browser reads.`);
  });
  live.stop();
  const { width, height } = bitmap;
  setStage(width, height);
  const context = $("before").getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  image = context.getImageData(0, 0, width, height);
  $("after").getContext("2d").putImageData(image, 0, 0);
  await refresh();
}

function setStage(width, height) {
  for (const canvas of [$("before"), $("after")]) Object.assign(canvas, { width, height });
  $("invitation").hidden = true;
  $("stage").style.setProperty("--width", width);
  $("stage").style.setProperty("--height", height);
  $("stage").hidden = false;
}

// The controls are read anew for each frame.
function editFrame(bitmap) {
  return ask({ bitmap, edit: $("edit").value, strength: Number($("strength").value) }, [bitmap]);
}

// Both canvases at the network's size; the page's style enlarges them.
function showFrame({ frame, rgba, width, height }, rate) {
  if ($("before").width !== width || $("before").height !== height) setStage(width, height);
  image = new ImageData(frame, width, height); // the last one stays, as an image like any other
  $("before").getContext("2d", { willReadFrequently: true }).putImageData(image, 0, 0);
  $("after").getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  const now = performance.now();
  if (rate === null || now - lastRate < 250) return; // more often than that nobody can read it
  lastRate = now;
  $("rate").textContent = `${rate.toFixed(1)} frames a second at ${width} × ${height}`;
  $("rate").hidden = false;
}

function tellOfLive(state, line) {
  $("camera").textContent = live.isOn ? "Stop" : "Start the camera";
  if (live.isOn) $("save").hidden = true;
  else {
    $("rate").hidden = true;
    if (image) guarded(offerToSave);
  }
  report(line, state === "error", state);
}

function playVideo(file) {
  if (!isPixelNetwork) throw new Error(loaded ? $("stills-only").textContent : "Choose a model file first.");
  return live.start(() => openVideo(file));
}

// Edit the image as the controls report now; while one is made, only the last change is remembered.
async function refresh() {
  if (live.isOn) return; // which reads the controls itself
  if (!loaded || !image) return report(loaded ? "Drop an image." : "Choose a model file.", false, "waiting");
  if (busy) return void (stale = true);
  busy = true;
  try {
    do {
      stale = false;
      report("Editing ...");
      const started = performance.now(), asked = image, { data, width, height } = image;
      const message = { rgba: data, width, height, edit: $("edit").value, strength: Number($("strength").value) };
      const { rgba } = await ask(message);
      if (stale || image !== asked) continue; // asked anew, or a frame took its place
      $("after").getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
      await offerToSave();
      report(`Done in ${Math.round(performance.now() - started)} ms.`, false, "done");
    } while (stale && !live.isOn);
  } finally {
    busy = false;
  }
}

async function offerToSave() {
  const blob = await new Promise((resolve) => $("after").toBlob(resolve, "image/png"));
  if (live.isOn) return;
  if (url) URL.revokeObjectURL(url);
  url = URL.createObjectURL(blob);
  Object.assign($("save"), { href: url, hidden: false });
}

async function use(file) {
  if (file.name.endsWith(".onnx")) await useModel(new Uint8Array(await file.arrayBuffer()));
  else await (file.type.startsWith("video/") ? playVideo(file) : useImage(file));
}

$("controls").onsubmit = (event) => event.preventDefault();
$("model").onchange = () => guarded(fetchModel);
$("model-file").onchange = ({ target: { files } }) =>
  files[0] && guarded(async () => useModel(new Uint8Array(await files[0].arrayBuffer())));
$("token").onchange = () => guarded(listModels);
$("image").onchange = ({ target: { files } }) => files[0] && guarded(() => useImage(files[0]));
$("camera").onclick = () => (live.isOn ? live.stop() : live.start(openCamera));
$("video").onclick = () => ($("video").value = ""); // so that the same file can be chosen again
$("video").onchange = ({ target: { files } }) => files[0] && guarded(() => playVideo(files[0]));
document.onvisibilitychange = () => document.hidden && live.stop("Stopped, as the page was hidden.");
$("edit").onchange = () => guarded(refresh);
$("strength").oninput = () => {
  $("strength-shown").textContent = $("strength").value;
  guarded(refresh);
};
$("divide").oninput = () => $("stage").style.setProperty("--divide", `${$("divide").value}%`);
$("drop").ondragover = (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
};
$("drop").ondragleave = () => $("drop").classList.remove("over");
$("drop").ondrop = (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) guarded(() => use(file));
};
guarded(listModels);
