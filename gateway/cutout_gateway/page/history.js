/** Undo and redo over states that are never changed in place. */

export class History {
  #states;
  #at = 0;

  constructor(first) {
    this.#states = [first];
  }

  get present() {
    return this.#states[this.#at];
  }

  get canUndo() {
    return this.#at > 0;
  }

  get canRedo() {
    return this.#at < this.#states.length - 1;
  }

  /** A step that can be undone. */
  push(state) {
    this.#states.splice(this.#at + 1, Infinity, state);
    this.#at++;
  }

  /** A change that is no step of its own, such as a selection. */
  replace(state) {
    this.#states[this.#at] = state;
  }

  undo() {
    if (this.canUndo) this.#at--;
  }

  redo() {
    if (this.canRedo) this.#at++;
  }

  /** Takes back the states that came to nothing. The first one stays whatever it is. */
  forget(isBad) {
    const kept = this.#states.filter((state, i) => i === 0 || !isBad(state));
    const before = this.#states.slice(0, this.#at + 1).filter((state) => kept.includes(state)).length;
    this.#states = kept;
    this.#at = before - 1;
  }
}
