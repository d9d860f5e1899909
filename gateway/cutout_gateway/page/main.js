/** Puts the page together: what is asked for goes to the API, what comes back to the board, and the board to the screen. */

import { Api } from "./api.js";
import { Asking } from "./asking.js";
import { Board, nameOf, shapeOf, visible } from "./board.js";
import { LANGUAGES, questions } from "./code.js";
import { isAbort } from "./errors.js";
import * as files from "./files.js";
import { placeIcons } from "./icons.js";
import { onKeyNeeded } from "./key.js";
import { listen } from "./keys.js";
import { List } from "./list.js";
import { Notices } from "./notices.js";
import { omitted } from "./omissions.js";
import { Picture } from "./picture.js";
import { Pointer } from "./pointer.js";
import { Preview } from "./preview.js";
import { Settings } from "./settings.js";
import { Stage } from "./stage.js";
import { fromAnywhere, offerSamples } from "./sources.js";

const FAST_MS = 250; // a preview that takes longer is in the way

const $ = (id) => document.getElementById(id);
const server = new URL(".", document.baseURI);
const api = new Api(server);
const notices = new Notices($("notices"));
const settings = new Settings($("settings"));
const board = new Board();
const stage = new Stage($("canvas"));
let picture = null;
let work = new AbortController(); // ends when another picture comes
let search = null;
let pace = Infinity; // milliseconds from a click to its mask

const report = {
  busy: (text, stop) => notices.busy(text, stop),
  nothing: (omissions) => notices.say(["Nothing was found there.", ...omitted(omissions)].join(" ")),
  failed: (error) => notices.fail(error),
  took: (milliseconds) => setPace(Math.min(pace, milliseconds)),
};
new Asking(board, () => picture, report);
new List($("objects"), board, () => picture);

// A picture comes: it is shown at once, then uploaded and encoded.

async function open(file, name, address) {
  const next = new Picture(api, file, name, address);
  try {
    await next.show();
  } catch (error) {
    showStart(true);
    return sayAtStart(error.message);
  }
  leave();
  picture = next;
  stage.picture = picture;
  $("frame").style.setProperty("--ratio", picture.width / picture.height);
  showStart(false);
  stage.view.fit(picture);
  $("canvas").setAttribute("aria-label", `Picture ${name}, ${picture.width} by ${picture.height} pixels`);
  await prepare();
}

function leave() {
  work.abort();
  work = new AbortController();
  search = null;
  preview.stop();
  board.clear();
  notices.clear();
  picture?.close();
}

/** Uploads and encodes, so that the first click is as fast as all others. */
async function prepare() {
  const mine = picture;
  const { signal } = work;
  pace = Infinity;
  let done = notices.busy("Uploading the picture");
  try {
    await mine.upload(signal);
    done();
    if (!settings.models.length) settings.offer(await api.models(signal));
    done = notices.busy("Reading the picture");
    if (settings.canSegment) {
      const timings = await mine.encode(settings.forPoints(), signal);
      const began = performance.now();
      await mine.encode(settings.forPoints(), signal);
      setPace(performance.now() - began);
      const seconds = (timings.decodeMs + timings.encodeMs) / 1000;
      done(timings.embeddingCached ? "Ready: the server knew this picture." : `Ready: read in ${seconds.toFixed(seconds < 10 ? 1 : 0)} s.`);
    } else done("Ready.");
  } catch (error) {
    done();
    if (!isAbort(error)) notices.fail(error);
  }
}

function showStart(shown) {
  $("start").hidden = !shown;
  $("work").hidden = $("panel").hidden = $("another").hidden = shown;
  document.body.classList.toggle("working", !shown);
  if (!shown) $("canvas").focus({ preventScroll: true });
}

function sayAtStart(text) {
  $("start-problem").textContent = text;
}

// Clicks and boxes.

function prompted(prompt) {
  return { kind: "points", prompt, body: { prompts: [prompt], ...settings.forPoints() } };
}

/** The selected object's prompt with one more click. What words found is begun from its box. */
function withClick({ x, y }, label) {
  const { selected } = board;
  const points = [...(selected?.cut.prompt?.points ?? []), { x, y, label }];
  const box = selected && (selected.cut.prompt ? selected.cut.prompt.box : shapeOf(selected)?.box);
  return box ? { points, box } : { points };
}

function click(place, label) {
  preview.stop();
  if (!board.selected && !label) return notices.say("Nothing is selected from which this could be taken away.");
  notices.clear();
  const cut = prompted(withClick(place, label));
  if (board.selected) board.refine(cut);
  else board.add(cut);
}

function drawBox(box) {
  preview.stop();
  notices.clear();
  board.add(prompted({ points: [], box }));
}

const preview = new Preview(
  async (place, signal) => {
    const label = tool() === "out" ? 0 : 1;
    const began = performance.now();
    const { shapes } = await picture.segment("points", prompted(withClick(place, label)).body, signal, false);
    setPace(performance.now() - began);
    return shapes[0] ?? null;
  },
  (shape) => {
    stage.preview = shape;
    stage.redraw();
  },
);

function hover(place) {
  const wanted = settings.preview === "always" || (settings.preview === "auto" && pace < FAST_MS);
  const useful = tool() === "in" || (tool() === "out" && board.selected);
  if (place && wanted && useful && !notices.isBusy) preview.at(place);
  else preview.stop();
}

function setPace(milliseconds) {
  pace = milliseconds;
  $("pace").textContent = Number.isFinite(pace) ? `A click takes ${Math.round(pace)} ms now.` : "";
}

const tool = () => document.querySelector("input[name=tool]:checked").value;
new Pointer(stage, tool, { click, box: drawBox, hover });

// Words, and everything.

async function find(kind, body, text, isOutdated) {
  search?.abort();
  const mine = (search = new AbortController());
  work.signal.addEventListener("abort", () => mine.abort(), { once: true });
  notices.clear();
  const done = notices.busy(text, () => mine.abort());
  try {
    const { shapes, omissions } = await picture.segment(kind, body, mine.signal);
    if (mine.signal.aborted) return done();
    board.addFound(shapes.map((shape) => ({ kind, body, shapes: [shape] })), isOutdated);
    const found = shapes.length ? `Found ${shapes.length}.` : "Nothing was found.";
    done([found, ...omitted(omissions)].join(" "));
  } catch (error) {
    done(isAbort(error) ? "Stopped." : "");
    if (!isAbort(error)) notices.fail(error);
  }
}

function findWords(text) {
  const phrases = text.split(/[,;\n]/).map((each) => each.trim()).filter(Boolean);
  if (!phrases.length) return $("phrases").focus();
  const labels = new Set(phrases.map((each) => each.toLowerCase()));
  const isOutdated = (cut) => cut.kind === "text" && labels.has(cut.shapes[0].label.toLowerCase());
  return find("text", { phrases, ...settings.forText() }, `Looking for ${phrases.join(", ")}`, isOutdated);
}

$("find").addEventListener("submit", (event) => {
  event.preventDefault();
  findWords($("phrases").value);
});
$("everything").addEventListener("click", () =>
  find("everything", settings.forEverything(), "Looking for everything", (cut) => cut.kind === "everything"),
);

// The screen follows the board.

board.addEventListener("change", () => {
  const { objects, selected } = board;
  Object.assign(stage, { objects, selected, preview: null });
  stage.redraw();
  $("undo").disabled = !board.canUndo;
  $("redo").disabled = !board.canRedo;
  $("new-object").disabled = !selected;
  $("nothing").hidden = objects.length > 0;
  $("remove-all").hidden = !objects.length;
  $("count").textContent = objects.length ? `(${objects.length})` : "";
  showHint();
  showSaving();
  showCode();
});

function showHint() {
  const { selected } = board;
  const touch = matchMedia("(pointer: coarse)").matches;
  const out = touch ? "“Take away” removes" : "right click takes away";
  const begun = selected
    ? `More clicks make ${nameOf(selected)} better: ${touch ? "“Add” adds" : "click adds"}, ${out}. “New object” begins another one.`
    : `${touch ? "Tap" : "Click"} on something to cut it out, or draw a box around it.`;
  const also = { box: "Drag from one corner of an object to the other.", move: "Drag the picture; zoom with the wheel or two fingers." };
  $("hint").textContent = also[tool()] ?? begun;
}
$("tool").addEventListener("change", showHint);

// Saving and code.

/** The selected object where there is one, else all that can be seen. */
function chosen() {
  const { selected } = board;
  return selected && shapeOf(selected) ? [selected] : visible(board.objects);
}

const FILES = {
  cutout: { of: chosen, make: files.cutoutPng, ending: "cutout.png" },
  mask: { of: chosen, make: files.maskPng, ending: "mask.png" },
  overlay: { of: () => visible(board.objects), make: files.overlayPng, ending: "overlay.png" },
  labels: { of: () => visible(board.objects), make: files.labelMapPng, ending: "labels.png" },
  coco: { of: () => visible(board.objects), make: files.cocoJson, ending: "coco.json" },
  all: { of: () => visible(board.objects), make: files.everything, ending: "cutout.zip" },
};

function showSaving() {
  const seen = visible(board.objects);
  const one = chosen();
  for (const button of $("save").querySelectorAll("button")) button.disabled = !FILES[button.value].of().length;
  const what = seen.length === 1 ? "one object" : `all ${seen.length} objects`;
  const alone = board.selected && one.length && seen.length > 1 ? ` Cut-out and mask: ${nameOf(one[0])} alone.` : "";
  $("saved").textContent = seen.length ? `Files of ${what} that can be seen.${alone}` : "Nothing to save yet.";
}

$("save").addEventListener("click", async ({ target }) => {
  const kind = FILES[target.closest("button")?.value];
  if (!kind) return;
  const objects = kind.of();
  const name = objects.length === 1 && kind.of === chosen ? `${picture.stem}-${files.fileName(nameOf(objects[0]))}` : picture.stem;
  const done = notices.busy("Making the file");
  try {
    files.save(await kind.make(picture, objects), `${name}-${kind.ending}`);
  } catch (error) {
    notices.fail(error);
  }
  done();
});

function showCode() {
  const asked = questions(visible(board.objects));
  const language = document.querySelector("input[name=language]:checked").value;
  const scene = { server, file: picture?.name, address: picture?.address, withKey: Boolean(api.key), questions: asked };
  $("copy").disabled = !asked.length;
  $("copied").textContent = "";
  $("code").querySelector("code").textContent = asked.length ? LANGUAGES[language](scene) : "Nothing is cut out yet.";
}
$("code").addEventListener("change", showCode);
$("code").addEventListener("toggle", showCode);
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText($("code").querySelector("code").textContent);
  $("copied").textContent = "Copied.";
});

// Buttons and keys.

const selectTool = (value) => () => {
  document.querySelector(`input[name=tool][value=${value}]`).checked = true;
  showHint();
};
const looking = (act) => () => {
  act(stage.view);
  stage.redraw();
};
const actions = {
  undo: () => board.undo(),
  redo: () => board.redo(),
  "new-object": () => board.select(null),
  "zoom-in": looking((view) => view.zoom(1.4)),
  "zoom-out": looking((view) => view.zoom(1 / 1.4)),
  fit: looking((view) => view.fit()),
  another: () => showStart(true),
  "remove-all": () => board.removeAll(),
  "help-button": () => $("help").showModal(),
};
for (const [id, act] of Object.entries(actions)) $(id).addEventListener("click", act);

const withSelected = (act) => () => board.selected && act(board.selected);
const backToPicture = () => picture && showStart(false);
listen({
  i: selectTool("in"),
  o: selectTool("out"),
  b: selectTool("box"),
  m: selectTool("move"),
  n: actions["new-object"],
  Escape: () => ($("start").hidden ? board.select(null) : backToPicture()),
  h: withSelected(({ id, hidden }) => board.setHidden(id, !hidden)),
  Delete: withSelected(({ id }) => board.remove(id)),
  Backspace: withSelected(({ id }) => board.remove(id)),
  "+": actions["zoom-in"],
  "=": actions["zoom-in"],
  "-": actions["zoom-out"],
  0: actions.fit,
  "/": () => $("phrases").focus(),
  "?": actions["help-button"],
  "Ctrl+z": actions.undo,
  "Ctrl+y": actions.redo,
  "Ctrl+Shift+z": actions.redo,
});

// The server.

api.addEventListener("away", () => ($("away").hidden = false));
api.addEventListener("back", () => ($("away").hidden = true));
onKeyNeeded(api, $("key-dialog"), $("change-key"));

function showVocabulary() {
  const words = settings.vocabulary;
  $("vocabulary").hidden = !words.length;
  const chips = words.map((word) => {
    const item = document.createElement("li");
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: word });
    chip.addEventListener("click", () => {
      $("phrases").value = word;
      findWords(word);
    });
    item.append(chip);
    return item;
  });
  $("vocabulary").querySelector("ul").replaceChildren(...chips);
}
$("settings").addEventListener("change", ({ target }) => {
  showVocabulary();
  if (target.name === "segmenter" && picture) prepare();
});
$("settings").addEventListener("reset", () => setTimeout(showVocabulary));
$("settings").addEventListener("submit", (event) => event.preventDefault());

async function begin() {
  placeIcons(document);
  board.clear();
  offerSamples($("samples"), server, open);
  fromAnywhere($("file"), $("drop"), open);
  try {
    settings.offer(await api.models());
    showVocabulary();
    $("everything").disabled = !settings.canFindEverything;
    $("find").querySelectorAll("#phrases, .primary").forEach((each) => (each.disabled = !settings.canFindWords));
  } catch (error) {
    notices.fail(error);
  }
}

begin();
