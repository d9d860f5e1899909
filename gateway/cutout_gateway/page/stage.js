/** The canvas: the picture, the masks over it, and what was clicked. Drawn anew, at most once a frame, from outlines. */

import { shapeOf, visible } from "./board.js";
import { View } from "./view.js";

const MARK = 7; // radius of a click's mark, in CSS pixels
const FEW = 12; // of more objects the outlines are plain: light ones beside them would cover the picture
const PIXELS_SHOW = 3; // from this zoom on, pixels are shown as squares

export class Stage {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.view = new View();
    this.picture = null;
    this.objects = [];
    this.selected = null;
    this.preview = null; // a Shape
    this.box = null; // that is being drawn
    this.cursor = null; // of the keyboard
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  /** Another picture, all of it. */
  show(picture) {
    this.picture = picture;
    this.view.fit(picture);
    this.redraw();
  }

  /** The objects have changed. What is small is drawn last, so that nothing lies hidden under its surroundings. */
  follow(objects, selected) {
    const seen = visible(objects);
    this.objects = seen.sort((a, b) => (a === selected) - (b === selected) || shapeOf(b).area - shapeOf(a).area);
    this.selected = selected;
    this.preview = null;
    this.redraw();
  }

  /** Draws in the next frame. */
  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#draw();
    });
  }

  #resize() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth) return;
    this.view.resize(clientWidth, clientHeight);
    this.redraw();
  }

  #draw() {
    const { canvas, view, picture } = this;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    if (!picture) return;
    const context = canvas.getContext("2d");
    const zoom = ratio * view.scale;
    context.setTransform(zoom, 0, 0, zoom, ratio * view.left, ratio * view.top);
    context.imageSmoothingEnabled = view.scale < PIXELS_SHOW;
    context.imageSmoothingQuality = "high";
    context.drawImage(picture.at(zoom), 0, 0, picture.width, picture.height);
    const few = this.objects.length <= FEW;
    for (const object of this.objects) {
      const strong = object === this.selected;
      drawMask(context, object, view.scale, strong, few || strong);
    }
    if (this.preview) drawPreview(context, this.preview, view.scale);
    if (this.selected?.cut.prompt?.box) drawBox(context, this.selected.cut.prompt.box, view.scale);
    if (this.box) drawBox(context, this.box, view.scale);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const point of this.selected?.cut.prompt?.points ?? []) drawMark(context, view.toScreen(middle(point)), point.label);
    if (this.cursor) drawCursor(context, view.toScreen(middle(this.cursor)));
  }
}

/**
 * Fills and outlines a mask, also for the download.
 * @param {number} scale Pixels of the screen over pixels of the picture.
 * @param {boolean} strong Whether it is the selected one.
 * @param {boolean} [light] Whether a light line goes along the coloured one.
 */
export function drawMask(context, object, scale, strong, light = true) {
  const path = shapeOf(object).path(scale);
  context.globalAlpha = strong ? 0.5 : 0.4;
  context.fillStyle = object.colour;
  context.fill(path, "evenodd");
  context.globalAlpha = 1;
  context.lineJoin = "bevel"; // round ones take far longer along so many steps
  if (light) {
    context.lineWidth = (strong ? 5 : 3.5) / scale;
    context.strokeStyle = "rgb(255 255 255 / 0.75)";
    context.stroke(path);
  }
  context.lineWidth = (strong ? 2.5 : 1.5) / scale;
  context.strokeStyle = object.colour;
  context.stroke(path);
}

function drawPreview(context, shape, scale) {
  const path = shape.path(scale);
  context.fillStyle = "rgb(255 255 255 / 0.25)";
  context.fill(path, "evenodd");
  dashed(context, scale, () => context.stroke(path));
}

function drawBox(context, { xMin, yMin, xMax, yMax }, scale) {
  dashed(context, scale, () => context.strokeRect(xMin, yMin, xMax - xMin, yMax - yMin));
}

/** Black and white in turns, seen on any picture. */
function dashed(context, scale, stroke) {
  context.lineWidth = 1.5 / scale;
  context.strokeStyle = "#fff";
  stroke();
  context.setLineDash([5 / scale, 5 / scale]);
  context.strokeStyle = "#111";
  stroke();
  context.setLineDash([]);
}

/** A plus for inside, a minus for outside: told apart without colour, too. */
function drawMark(context, { x, y }, label) {
  context.beginPath();
  context.arc(x, y, MARK, 0, 2 * Math.PI);
  context.fillStyle = label ? "#0a7a3d" : "#c92a2a";
  context.fill();
  context.lineWidth = 2;
  context.strokeStyle = "#fff";
  context.stroke();
  context.beginPath();
  context.moveTo(x - 3.5, y);
  context.lineTo(x + 3.5, y);
  if (label) {
    context.moveTo(x, y - 3.5);
    context.lineTo(x, y + 3.5);
  }
  context.stroke();
}

function drawCursor(context, { x, y }) {
  for (const [width, colour] of [[4, "#fff"], [2, "#111"]]) {
    context.beginPath();
    context.lineWidth = width;
    context.strokeStyle = colour;
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 14 * dx, y + 14 * dy);
    }
    context.stroke();
  }
}

/** A click means a whole pixel; its mark is drawn on that pixel's middle. */
const middle = ({ x, y }) => ({ x: x + 0.5, y: y + 0.5 });
