// Live: the frames of a camera or a video, edited as they come. One frame is edited at a time; of those that come
// meanwhile only the newest is kept, and none waits in a queue. Nothing here asks anybody for anything.

const WINDOW_MS = 1000; // over which the frames a second are a mean
const MAX_FRAME_MS = 1000, NUM_TRIED = 3; // slower than this, three times in turn, is not live

// Frames a second, as a mean over the last second, or over the last two frames where they are further apart.
export class Rate {
  #times = [];

  // now: of a frame, in milliseconds. Returns null for the first one.
  add(now) {
    this.#times.push(now);
    while (this.#times.length > 2 && now - this.#times[0] > WINDOW_MS) this.#times.shift();
    const span = now - this.#times[0];
    return span > 0 ? (1000 * (this.#times.length - 1)) / span : null;
  }
}

// Why a camera does not start, by the name of what getUserMedia throws.
const TROUBLES = {
  NotAllowedError: "The camera is not allowed: allow it for this page in the browser's settings, or choose a video.",
  NotFoundError: "There is no camera here: connect one, or choose a video.",
  NotReadableError: "The camera does not start: close other programs that use it.",
};

// A source is what the video element plays: {srcObject} or {src}, what is wrong if it shows no picture, and how to let
// it go. Opening one may take as long as a person needs to answer the browser's question.
export async function openCamera() {
  // Browsers hide it from pages that came over a network without encryption.
  if (!navigator.mediaDevices?.getUserMedia)
    throw new Error("A camera needs a page by https, or from localhost: open this one so, or choose a video.");
  // A phone's outward camera; of the many pixels that a camera may have, a network needs few.
  const video = { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } };
  const stream = await navigator.mediaDevices.getUserMedia({ video }).catch((error) => {
    throw new Error(TROUBLES[error.name] ?? `The camera does not start: ${error.message || error.name}.`);
  });
  const tracks = stream.getTracks();
  return {
    srcObject: stream,
    lost: new Promise((resolve) => tracks.forEach((track) => track.addEventListener("ended", resolve))),
    problem: "The camera gives no picture.",
    release: () => tracks.forEach((track) => track.stop()),
  };
}

export async function openVideo(file) {
  const src = URL.createObjectURL(file);
  const problem = `${file.name} is not a video that this browser plays.`;
  return { src, problem, release: () => URL.revokeObjectURL(src) };
}

export class Live {
  #video;
  #edit;
  #show;
  #tell;
  #turn = 0; // the number of starts and stops: what began in an earlier turn is void
  #isOn = false;
  #source = null;
  #isFresh = false; // whether the video shows a frame that was not taken yet
  #isLast = false;
  #wake = () => {};

  // video: the element that plays, unseen. edit: an ImageBitmap -> a promise of what `show` gets, with frames a second.
  // tell: how things stand ("starting", "live", "stopped" or "error") and a line; `isOn` is up to date by then.
  constructor(video, { edit, show, tell }) {
    this.#video = video;
    this.#edit = edit;
    this.#show = show;
    this.#tell = tell;
    video.addEventListener("ended", () => {
      this.#isLast = true;
      this.#wake();
    });
    video.addEventListener("error", () => this.#source && this.stop(this.#source.problem, "error"));
  }

  get isOn() {
    return this.#isOn;
  }

  // Start, and go on until it is stopped, the source ends or an edit fails. open: a promise of a source.
  async start(open) {
    this.#end();
    const turn = ++this.#turn;
    this.#isOn = true;
    this.#tell("starting", "Starting ...");
    try {
      const source = await open();
      if (turn !== this.#turn) return source.release(); // stopped while the browser was asking
      this.#source = source;
      source.lost?.then(() => turn === this.#turn && this.stop("The camera is gone."));
      await this.#play(source, turn);
      if (turn === this.#turn) await this.#loop(turn);
    } catch (error) {
      if (turn === this.#turn) this.stop(error.message, "error");
    }
  }

  // The camera goes dark, and what is still being edited will not be shown.
  stop(line = "Stopped.", state = "stopped") {
    if (!this.#isOn) return;
    this.#end();
    this.#tell(state, line);
  }

  #end() {
    this.#turn++;
    this.#isOn = false;
    if (this.#source) {
      const source = this.#source;
      this.#source = null; // before the element says that it is empty
      this.#video.pause();
      this.#video.srcObject = null;
      this.#video.removeAttribute("src");
      this.#video.load();
      source.release();
    }
    this.#wake();
  }

  async #play({ srcObject, src, problem }, turn) {
    if (!this.#video.requestVideoFrameCallback)
      throw new Error("This browser does not say when a video has a new frame: use a newer one.");
    this.#isFresh = this.#isLast = false;
    const watch = () =>
      this.#video.requestVideoFrameCallback(() => {
        if (turn !== this.#turn) return;
        this.#isFresh = true;
        this.#wake();
        watch();
      });
    watch(); // before it plays, for a video may have no more than one frame
    if (srcObject) this.#video.srcObject = srcObject;
    else this.#video.src = src;
    await this.#video.play().catch((error) => {
      // All other names are of a browser that does not let it play now, such as a phone that saves power.
      throw error.name === "NotSupportedError" ? new Error(problem) : error;
    });
    if (!this.#video.videoWidth) throw new Error(problem); // sound alone
  }

  async #loop(turn) {
    const rate = new Rate();
    let fastest = Infinity;
    for (let number = 1; ; number++) {
      if (!this.#isFresh && !this.#isLast) await new Promise((resolve) => (this.#wake = resolve));
      if (turn !== this.#turn) return;
      const isLast = this.#isLast;
      this.#isFresh = false;
      const started = performance.now();
      const frame = await this.#edit(await createImageBitmap(this.#video));
      if (turn !== this.#turn) return;
      const now = performance.now();
      this.#show(frame, rate.add(now));
      if (number === 1) this.#tell("live", "Live.");
      if (isLast) return this.stop("The video has ended.");
      fastest = Math.min(fastest, now - started);
      if (number === NUM_TRIED && fastest > MAX_FRAME_MS)
        throw new Error(`A frame takes ${(fastest / 1000).toFixed(1)} s here, too slow to be live: use images.`);
    }
  }
}
