/** The list of objects: one row for each, kept while it stays, so that the focus does, too. */

import { nameOf, shapeOf } from "./board.js";
import { icon } from "./icons.js";

export class List {
  #root;
  #board;
  #rows = new Map();
  #shown = null;

  /**
   * @param {HTMLElement} root A list.
   * @param {import("./board.js").Board} board
   * @param {() => {width: number, height: number}} picture
   */
  constructor(root, board, picture) {
    this.#root = root;
    this.#board = board;
    this.picture = picture;
    board.addEventListener("change", () => this.#update());
  }

  #update() {
    const { objects, selected } = this.#board;
    for (const [id, row] of this.#rows) {
      if (objects.some((each) => each.id === id)) continue;
      row.root.remove();
      this.#rows.delete(id);
    }
    objects.forEach((object, i) => {
      if (!this.#rows.has(object.id)) this.#rows.set(object.id, new Row(object, this.#board));
      const row = this.#rows.get(object.id);
      row.update(object, object === selected, this.picture());
      if (this.#root.children[i] !== row.root) this.#root.insertBefore(row.root, this.#root.children[i] ?? null);
    });
    if (selected !== this.#shown && selected) this.#reveal(this.#rows.get(selected.id).root);
    this.#shown = selected;
  }

  /** Scrolls the panel, but not the page: on a phone that would take the picture away. */
  #reveal(row) {
    const panel = this.#root.closest("aside");
    if (panel.scrollHeight > panel.clientHeight) row.scrollIntoView({ block: "nearest" });
  }
}

class Row {
  constructor({ id, number }, board) {
    this.id = id;
    this.choice = 0;
    this.select = button("number", String(number), () => board.select(this.selected ? null : id));
    this.label = element("input", { className: "label", maxLength: 256, placeholder: `object ${number}` });
    this.label.addEventListener("change", () => board.relabel(id, this.label.value.trim()));
    this.colour = element("input", { type: "color", className: "colour" });
    this.colour.addEventListener("change", () => board.recolour(id, this.colour.value));
    this.hide = button("icon", "", () => board.setHidden(id, !this.hidden));
    this.remove = button("icon", "", () => board.remove(id));
    this.remove.append(icon("remove"));
    this.figures = element("span", { className: "figures" });
    this.guess = button("link", "", () => board.choose(id, (this.choice + 1) % this.choices));
    const second = element("div", { className: "second" });
    second.append(this.figures, this.guess);
    this.root = element("li", { className: "object" });
    this.root.append(this.select, this.label, this.colour, this.hide, this.remove, second);
  }

  update(object, selected, { width, height }) {
    const name = nameOf(object);
    const shape = shapeOf(object);
    Object.assign(this, { selected, hidden: object.hidden, choice: object.choice, choices: object.cut.shapes?.length ?? 0 });
    this.root.classList.toggle("selected", selected);
    this.root.classList.toggle("is-hidden", object.hidden);
    this.root.style.setProperty("--colour", object.colour);
    this.label.value = object.label;
    this.colour.value = object.colour;
    this.hide.replaceChildren(icon(object.hidden ? "hidden" : "shown"));
    this.hide.setAttribute("aria-pressed", object.hidden);
    this.select.setAttribute("aria-pressed", selected);
    name_(this.select, `Select ${object.number}: ${name}`);
    name_(this.label, `Label of object ${object.number}`);
    name_(this.colour, `Colour of ${name}`);
    name_(this.hide, `Hide ${name}`);
    name_(this.remove, `Delete ${name}`);
    this.figures.textContent = shape ? figures(shape, width * height) : "cutting out …";
    this.figures.title = shape ? `Score: ${shape.scoreMeans}` : "";
    this.guess.hidden = this.choices < 2;
    this.guess.textContent = `guess ${object.choice + 1} of ${this.choices}: show next`;
  }
}

function figures({ score, area }, pixels) {
  const share = (100 * area) / pixels;
  const percent = share.toLocaleString("en", { maximumFractionDigits: share < 1 ? 2 : 1 });
  return `score ${score.toFixed(2)} · ${area.toLocaleString("en")} pixels · ${percent} %`;
}

function element(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

function button(className, text, act) {
  const made = element("button", { type: "button", className, textContent: text });
  made.addEventListener("click", act);
  return made;
}

function name_(of, text) {
  of.setAttribute("aria-label", text);
  if (of.className === "icon") of.title = text;
}
