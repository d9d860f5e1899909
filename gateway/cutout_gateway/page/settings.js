/** The settings form, read as the fields of requests. An empty field leaves the choice to the server. */

const SEGMENT = "TASK_SEGMENT";
const DETECT = "TASK_DETECT";
const EVERYTHING = "TASK_EVERYTHING";
const SEGMENT_TEXT = "TASK_SEGMENT_TEXT";

export class Settings {
  /** @param {HTMLFormElement} form Its elements are named as the fields of the API, behind what they belong to where two share a name. */
  constructor(form) {
    this.form = form;
    this.models = [];
  }

  /** Fills the lists of models, once; the form then says that it has changed. */
  offer(models) {
    if (this.models === models) return;
    this.models = models;
    const able = (...tasks) => models.filter((model) => model.tasks.some((task) => tasks.includes(task)));
    fill(this.form.segmenter, able(SEGMENT), this.#default(SEGMENT));
    fill(this.form.words, able(DETECT, SEGMENT_TEXT), this.#default(DETECT) ?? this.#default(SEGMENT_TEXT));
    this.form.dispatchEvent(new Event("change"));
  }

  /** Whether some model can do it. */
  can(task) {
    return this.models.some((model) => model.tasks.includes(task));
  }

  get canSegment() {
    return this.can(SEGMENT);
  }

  get canFindWords() {
    return this.can(DETECT) || this.can(SEGMENT_TEXT);
  }

  get canFindEverything() {
    return this.can(EVERYTHING);
  }

  /** The only words that are understood, or none where any are. */
  get vocabulary() {
    const name = this.form.words.value;
    const isDefault = (model) => model.defaultFor.includes(DETECT) || model.defaultFor.includes(SEGMENT_TEXT);
    return this.models.find(name ? (model) => model.name === name : isDefault)?.vocabulary ?? [];
  }

  /** Whether a language model makes noun phrases of sentences first. */
  get rewrites() {
    return this.form.rewrite.checked;
  }

  /** "auto", "always" or "never". */
  get preview() {
    return this.form.preview.value;
  }

  /** A request of SegmentByPoints without its prompts. */
  forPoints() {
    return compact({ segmenter: this.form.segmenter.value, options: this.#options() });
  }

  /** A request of SegmentByText without its phrases. */
  forText() {
    const model = this.models.find(({ name }) => name === this.form.words.value);
    const alone = model?.tasks.includes(SEGMENT_TEXT);
    return compact({
      detector: alone ? "" : model?.name,
      segmenter: alone ? model.name : this.form.segmenter.value,
      boxThreshold: this.#number("boxThreshold"),
      textThreshold: this.#number("textThreshold"),
      boxNmsIou: this.#number("wordsBoxNmsIou"),
      rewrite: this.rewrites,
      options: this.#options(),
    });
  }

  /** A request of SegmentEverything. */
  forEverything() {
    const named = this.models.find(({ name }) => name === this.form.segmenter.value);
    return compact({
      segmenter: named?.tasks.includes(EVERYTHING) ? named.name : "",
      pointsPerSide: this.#number("pointsPerSide"),
      predictedIouThreshold: this.#number("predictedIouThreshold"),
      stabilityThreshold: this.#number("stabilityThreshold"),
      stabilityOffset: this.#number("stabilityOffset"),
      boxNmsIou: this.#number("gridBoxNmsIou"),
      cropLayers: this.#number("cropLayers"),
      cropOverlap: this.#number("cropOverlap"),
      cropPointsDownscale: this.#number("cropPointsDownscale"),
      cropNmsIou: this.#number("cropNmsIou"),
      options: this.#options(),
    });
  }

  #options() {
    return compact({
      multimask: this.form.multimask.checked,
      strategy: this.form.strategy.value,
      maskThreshold: this.#number("maskThreshold"),
      minArea: this.#number("minArea"),
      maxHoleArea: this.#number("maxHoleArea"),
      minPartArea: this.#number("minPartArea"),
      nmsIou: this.#number("nmsIou"),
      maxObjects: this.#number("maxObjects"),
      tiling: this.form.tileSize.value && compact({ tileSize: this.#number("tileSize"), overlap: this.#number("overlap") }),
    });
  }

  #number(name) {
    const { value } = this.form[name];
    return value === "" ? undefined : Number(value);
  }

  #default(task) {
    return this.models.find((model) => model.defaultFor.includes(task))?.name;
  }
}

function fill(select, models, standard) {
  const before = select.value;
  const first = new Option(standard ? `the server's choice (${standard})` : "none", "");
  select.replaceChildren(first, ...models.map(({ name, family }) => new Option(name === family ? name : `${name} (${family})`, name)));
  select.value = models.some(({ name }) => name === before) ? before : "";
}

/** Without what is not set: undefined, empty, false, and what has nothing in it. */
function compact(fields) {
  const isSet = (value) => ![undefined, "", false].includes(value) && Object.keys(Object(value)).length + (typeof value !== "object") > 0;
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => isSet(value)));
}
