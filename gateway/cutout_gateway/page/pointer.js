/** Mouse, pen, fingers and keys on the canvas, as what they mean: a click, a box, a look around. */

const DRAG = 4; // shorter ways are clicks, in CSS pixels
const STEP = 10; // of the keyboard's cursor, in CSS pixels; 1 with Alt, 50 with Shift

/**
 * @typedef {object} Meanings
 * @property {(place: {x: number, y: number}, label: number) => void} click 1 inside, 0 outside.
 * @property {(box: object) => void} box
 * @property {(place: object|null) => void} hover Of a mouse alone.
 */

export class Pointer {
  #stage;
  #tool;
  #meanings;
  #down = new Map(); // pointers that touch, by id
  #start = null;
  #corner = null; // of a box that the keyboard draws

  /**
   * @param {import("./stage.js").Stage} stage
   * @param {() => "in"|"out"|"box"|"move"} tool
   * @param {Meanings} meanings
   */
  constructor(stage, tool, meanings) {
    this.#stage = stage;
    this.#tool = tool;
    this.#meanings = meanings;
    const { canvas } = stage;
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#release(event));
    canvas.addEventListener("pointercancel", (event) => this.#cancel(event));
    canvas.addEventListener("pointerleave", () => meanings.hover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#hideCursor());
  }

  #press(event) {
    if (!this.#stage.picture) return;
    this.#hideCursor();
    this.#stage.canvas.focus({ preventScroll: true });
    this.#stage.canvas.setPointerCapture(event.pointerId);
    this.#down.set(event.pointerId, place(event));
    this.#start = this.#down.size === 1 ? { ...place(event), drag: this.#dragMeans(event), moved: false } : null;
    this.#showBox(null);
  }

  /** What a drag that begins so does. A finger looks around unless boxes were chosen; a mouse draws them any time. */
  #dragMeans(event) {
    const tool = this.#tool();
    if (tool === "move" || event.button === 1) return "pan";
    if (tool === "box" || (event.pointerType === "mouse" && event.button === 0)) return "box";
    return event.pointerType === "mouse" ? "nothing" : "pan";
  }

  #move(event) {
    const now = place(event);
    const before = this.#down.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse" && this.#stage.picture) this.#hover(now);
      return;
    }
    this.#down.set(event.pointerId, now);
    if (this.#down.size === 2) return this.#pinch(event.pointerId, before, now);
    const start = this.#start;
    if (!start) return;
    start.moved ||= Math.hypot(now.x - start.x, now.y - start.y) > DRAG;
    if (!start.moved) return;
    this.#meanings.hover(null);
    if (start.drag === "pan") {
      this.#stage.view.pan(now.x - before.x, now.y - before.y);
      this.#stage.redraw();
    } else if (start.drag === "box") this.#showBox(this.#boxBetween(start, now));
  }

  #release(event) {
    const start = this.#start;
    this.#forget(event);
    if (!start || this.#down.size) return;
    const box = this.#stage.box;
    this.#showBox(null);
    const tool = this.#tool();
    if (start.moved) {
      if (box) this.#meanings.box(box);
    } else if (start.drag !== "pan" || tool === "in" || tool === "out") this.#click(start, event, tool);
  }

  #click(at, event, tool) {
    const target = this.#pixel(at);
    if (!target || tool === "box") return;
    const takesAway = tool === "out" || event.button === 2 || event.shiftKey || event.altKey;
    this.#meanings.click(target, takesAway ? 0 : 1);
  }

  #cancel(event) {
    this.#forget(event);
    this.#showBox(null);
  }

  #forget(event) {
    this.#down.delete(event.pointerId);
    this.#start = null;
  }

  /** Two fingers: the places under them stay under them. */
  #pinch(moving, before, now) {
    this.#start = null;
    this.#showBox(null);
    const [[, other]] = [...this.#down].filter(([id]) => id !== moving);
    const spread = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
    const { view } = this.#stage;
    view.zoom(spread(now) / spread(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
    view.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
    this.#stage.redraw();
  }

  #wheel(event) {
    if (!this.#stage.picture) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 20 : 1;
    const { x, y } = place(event);
    this.#stage.view.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), x, y);
    this.#stage.redraw();
  }

  #hover(at) {
    const target = this.#pixel(at);
    this.#meanings.hover(target && { ...target, left: at.x, top: at.y });
  }

  /** Arrows move a cursor; Enter clicks, with Shift outside; with boxes, Enter sets one corner, then the other. */
  #key(event) {
    if (!this.#stage.picture || event.ctrlKey || event.metaKey) return;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (arrow) this.#step(...arrow, event);
    else if (event.key === "Enter" || event.key === " ") this.#enter(event);
    else if (event.key === "Escape" && this.#corner) this.#dropCorner();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #step(dx, dy, event) {
    const { view, picture } = this.#stage;
    const step = (event.altKey ? 1 : event.shiftKey ? 50 : STEP) / view.scale;
    const cursor = this.#stage.cursor ?? { x: picture.width / 2, y: picture.height / 2 };
    const move = (value, by, size) => Math.min(Math.max(Math.round(value + by * Math.max(step, 1)), 0), size - 1);
    this.#stage.cursor = { x: move(cursor.x, dx, picture.width), y: move(cursor.y, dy, picture.height) };
    view.reveal(this.#stage.cursor);
    if (this.#corner) this.#stage.box = span(this.#corner, this.#stage.cursor);
    this.#stage.redraw();
  }

  #enter(event) {
    const { cursor } = this.#stage;
    if (!cursor) return this.#step(0, 0, event);
    const tool = this.#tool();
    if (tool !== "box") return this.#meanings.click(cursor, tool === "out" || event.shiftKey ? 0 : 1);
    if (!this.#corner) this.#corner = cursor;
    else {
      const box = span(this.#corner, cursor);
      this.#dropCorner();
      this.#meanings.box(box);
    }
  }

  #dropCorner() {
    this.#corner = null;
    this.#showBox(null);
  }

  #hideCursor() {
    this.#stage.cursor = null;
    this.#dropCorner();
  }

  #showBox(box) {
    this.#stage.box = box;
    this.#stage.redraw();
  }

  /** The pixel under a place of the screen; null beside the picture. */
  #pixel({ x, y }) {
    const { view, picture } = this.#stage;
    const at = view.toPicture(x, y);
    const pixel = { x: Math.floor(at.x), y: Math.floor(at.y) };
    return pixel.x >= 0 && pixel.y >= 0 && pixel.x < picture.width && pixel.y < picture.height ? pixel : null;
  }

  #boxBetween(a, b) {
    const { view, picture } = this.#stage;
    const corner = ({ x, y }) => {
      const at = view.toPicture(x, y);
      const within = (value, size) => Math.min(Math.max(Math.round(value), 0), size);
      return { x: within(at.x, picture.width), y: within(at.y, picture.height) };
    };
    const box = span(corner(a), corner(b));
    return box.xMax > box.xMin && box.yMax > box.yMin ? box : null;
  }
}

const place = ({ offsetX, offsetY }) => ({ x: offsetX, y: offsetY });

const span = (a, b) => ({
  xMin: Math.min(a.x, b.x),
  yMin: Math.min(a.y, b.y),
  xMax: Math.max(a.x, b.x),
  yMax: Math.max(a.y, b.y),
});
