/** Puts the page together: what is asked for goes to the API, what comes back to the board, and the board to the screen. */

import { Asking } from "./asking.js";
import { nameOf } from "./board.js";
import { Clicks } from "./clicks.js";
import { CodePanel } from "./code_panel.js";
import { FindPanel } from "./find_panel.js";
import { placeIcons } from "./icons.js";
import { onKeyNeeded } from "./key.js";
import { listen } from "./keys.js";
import { List } from "./list.js";
import { omitted } from "./omissions.js";
import { Opening } from "./opening.js";
import { $, Page } from "./page.js";
import { SavePanel } from "./save_panel.js";
import { fromAnywhere, offerSamples } from "./sources.js";

const page = new Page();
const { server, api, notices, settings, board, stage } = page;
const clicks = new Clicks(page);
const opening = new Opening(page, clicks);
const open = (file, name, address) => opening.open(file, name, address);
new FindPanel(page);
new SavePanel(page);
new CodePanel(page);
new List($("objects"), board, () => page.picture);
new Asking(board, () => page.picture, {
  busy: (text, stop) => notices.busy(text, stop),
  nothing: (omissions) => notices.say(["Nothing was found there.", ...omitted(omissions)].join(" ")),
  failed: (error) => notices.fail(error),
  took: (milliseconds) => (clicks.pace = Math.min(clicks.pace, milliseconds)),
});

board.addEventListener("change", () => {
  const { objects, selected } = board;
  stage.follow(objects, selected);
  $("undo").disabled = !board.canUndo;
  $("redo").disabled = !board.canRedo;
  $("new-object").disabled = !selected;
  $("nothing").hidden = objects.length > 0;
  $("remove-all").hidden = !objects.length;
  $("count").textContent = objects.length ? `(${objects.length})` : "";
  showHint();
});

/** What can be done now, in a line below the picture. */
function showHint() {
  const touch = matchMedia("(pointer: coarse)").matches;
  const { selected } = board;
  const ways = touch ? "“Add” adds, “Take away” removes" : "click adds, right click takes away";
  const hints = {
    box: "Drag from one corner of an object to the other.",
    move: "Drag the picture; zoom with the wheel or two fingers.",
    refine: `More clicks make ${selected && nameOf(selected)} better: ${ways}. “New object” begins another one.`,
    begin: touch
      ? "Tap on something to cut it out, or choose “Box” and draw around it."
      : "Click on something to cut it out, or draw a box around it.",
  };
  $("hint").textContent = hints[page.tool] ?? hints[selected ? "refine" : "begin"];
}
$("tool").addEventListener("change", showHint);

const look = (act) => () => {
  act(stage.view);
  stage.redraw();
};
const actions = {
  undo: () => board.undo(),
  redo: () => board.redo(),
  "new-object": () => board.select(null),
  "zoom-in": look((view) => view.zoom(1.4)),
  "zoom-out": look((view) => view.zoom(1 / 1.4)),
  fit: look((view) => view.fit()),
  another: () => opening.showStart(true),
  back: () => opening.showStart(false),
  "remove-all": () => board.removeAll(),
  "help-button": () => $("help").showModal(),
};
for (const [id, act] of Object.entries(actions)) $(id).addEventListener("click", act);

const withSelected = (act) => () => board.selected && act(board.selected);
const choose = (tool) => () => (page.tool = tool);
listen({
  i: choose("in"),
  o: choose("out"),
  b: choose("box"),
  m: choose("move"),
  n: actions["new-object"],
  Escape: () => ($("start").hidden ? board.select(null) : page.picture && opening.showStart(false)),
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

api.addEventListener("away", () => ($("away").hidden = false));
api.addEventListener("back", () => ($("away").hidden = true));
onKeyNeeded(api, $("key-dialog"), $("change-key"));
settings.form.segmenter.addEventListener("change", () => page.picture && opening.prepare());
settings.form.addEventListener("submit", (event) => event.preventDefault());

placeIcons(document);
board.clear();
offerSamples($("samples"), server, open, (error) => notices.fail(error));
fromAnywhere($("file"), $("drop"), open);
page.learnModels().catch((error) => notices.fail(error));
