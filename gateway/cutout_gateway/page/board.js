/**
 * What is on the picture: objects, which of them is selected, and the steps that led there.
 *
 * An object never changes in place, so that any earlier state can come back. What was asked for it is its cut; the answer
 * is put into the cut when it comes, wherever in the history that cut is.
 */

import { History } from "./history.js";

/** Told apart by people with any colour vision, on light and dark pictures. */
export const COLOURS = ["#2f7de1", "#e8590c", "#12a150", "#c026d3", "#e5b800", "#00a3a3", "#e03131", "#7c5cff", "#7a8b00", "#d6336c"];

const NOTHING = { objects: [], selected: null };

/**
 * @typedef {object} Cut
 * @property {"points"|"text"|"everything"} kind
 * @property {object} body The request without its picture.
 * @property {{points: object[], box?: object}} [prompt] Of clicks and boxes.
 * @property {import("./shape.js").Shape[]} [shapes] What came back: several where candidates were asked for.
 * @property {import("./shape.js").Shape|null} [meanwhile] What to show until then.
 */

export class Board extends EventTarget {
  #history = new History(NOTHING);
  #made = 0;

  get objects() {
    return this.#history.present.objects;
  }

  get selected() {
    return this.objects.find((each) => each.id === this.#history.present.selected) ?? null;
  }

  get canUndo() {
    return this.#history.canUndo;
  }

  get canRedo() {
    return this.#history.canRedo;
  }

  clear() {
    this.#history = new History(NOTHING);
    this.#made = 0;
    this.#changed();
  }

  /** A new object for a cut, selected. */
  add(cut) {
    const object = this.#object(cut);
    this.#push([...this.objects, object], object.id);
  }

  /**
   * What words, or everything, found. It takes the place of what the same question found before, unless somebody has worked
   * on that since.
   */
  addFound(cuts, isOutdated) {
    const kept = this.objects.filter((each) => each.touched || !isOutdated(each.cut));
    if (!cuts.length && kept.length === this.objects.length) return; // nothing that could be undone
    const found = cuts.map((cut) => this.#object(cut));
    this.#push([...kept, ...found], found.length === 1 ? found[0].id : null);
  }

  /** The selected object, by another cut; it keeps its mask until the new one is there. */
  refine(cut) {
    cut.meanwhile = shapeOf(this.selected);
    this.#edit(this.selected.id, { cut, choice: 0, touched: true });
  }

  relabel(id, label) {
    if (this.#find(id)?.label !== label) this.#edit(id, { label, touched: true });
  }

  recolour(id, colour) {
    this.#edit(id, { colour, touched: true });
  }

  choose(id, choice) {
    this.#edit(id, { choice });
  }

  setHidden(id, hidden) {
    this.#edit(id, { hidden });
  }

  remove(id) {
    const { selected } = this.#history.present;
    this.#push(this.objects.filter((each) => each.id !== id), selected === id ? null : selected);
  }

  removeAll() {
    if (this.objects.length) this.#push([], null);
  }

  select(id) {
    this.#history.replace({ ...this.#history.present, selected: id });
    this.#changed();
  }

  undo() {
    this.#history.undo();
    this.#changed();
  }

  redo() {
    this.#history.redo();
    this.#changed();
  }

  /** An answer has come, and is put wherever its cut is. */
  answered(cut, shapes) {
    cut.shapes = shapes;
    this.#changed();
  }

  /** A cut came to nothing: every step that has it is taken back. */
  forget(cut) {
    this.#history.forget(({ objects }) => objects.some((each) => each.cut === cut));
    this.#changed();
  }

  #object(cut) {
    const number = ++this.#made;
    const colour = COLOURS[(number - 1) % COLOURS.length];
    const label = cut.shapes?.[0].label || "";
    return { id: number, number, cut, label, colour, choice: 0, hidden: false, touched: false };
  }

  #find(id) {
    return this.objects.find((each) => each.id === id);
  }

  #edit(id, changes) {
    const objects = this.objects.map((each) => (each.id === id ? { ...each, ...changes } : each));
    this.#push(objects, this.#history.present.selected);
  }

  #push(objects, selected) {
    this.#history.push({ objects, selected });
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** The mask that an object shows; null until its first answer is there. */
export const shapeOf = ({ cut, choice }) => cut.shapes?.[choice] ?? cut.meanwhile ?? null;

/** What to call an object. */
export const nameOf = (object) => object.label || `object ${object.number}`;

/** The objects that can be seen, with a mask. */
export const visible = (objects) => objects.filter((each) => !each.hidden && shapeOf(each));
