/** What the page says: what is under way and how to stop it, what has just been done, and what went wrong. */

import { explain } from "./errors.js";

const SHOW_SECONDS_AFTER = 2;
const SAID_FOR_MS = 8000;

export class Notices {
  #status;
  #seconds;
  #stop;
  #problem;
  #tasks = new Set();
  #timer = 0;

  /** @param {HTMLElement} root Has #status, #seconds, #stop and #problem in it. */
  constructor(root) {
    const find = (id) => root.querySelector(`#${id}`);
    [this.#status, this.#seconds, this.#stop, this.#problem] = ["status", "seconds", "stop", "problem"].map(find);
    this.root = root;
    this.#stop.addEventListener("click", () => [...this.#tasks].forEach((task) => task.stop?.()));
    this.#problem.querySelector("button").addEventListener("click", () => this.clear());
  }

  /** Something has begun; call what this returns when it has ended, perhaps with what to say then. */
  busy(text, stop) {
    const task = { text, stop, begun: performance.now() };
    this.#tasks.add(task);
    this.#show();
    return (said) => {
      this.#tasks.delete(task);
      this.#show();
      if (said) this.say(said);
    };
  }

  get isBusy() {
    return this.#tasks.size > 0;
  }

  /** Something has been done. */
  say(text) {
    this.said = text;
    this.#show();
    clearTimeout(this.saying);
    if (text) this.saying = setTimeout(() => this.say(""), SAID_FOR_MS);
  }

  /** Something went wrong. */
  fail(error) {
    const { title, lines, id } = explain(error);
    const items = lines.map(({ field, text }) => {
      const item = document.createElement("li");
      const name = document.createElement("code");
      name.textContent = field;
      item.append(name, ` ${text}`);
      return item;
    });
    this.#problem.querySelector("p").textContent = title;
    this.#problem.querySelector("ul").replaceChildren(...items);
    this.#problem.querySelector("small").textContent = id ? `request ${id}` : "";
    this.#problem.hidden = false;
  }

  /** Something else is done now. */
  clear() {
    this.#problem.hidden = true;
    this.say("");
  }

  #show() {
    const [task] = this.#tasks;
    this.root.classList.toggle("busy", Boolean(task));
    const text = task ? `${task.text} …` : (this.said ?? "");
    if (this.#status.textContent !== text) this.#status.textContent = text;
    clearInterval(this.#timer);
    this.#tick();
    if (task) this.#timer = setInterval(() => this.#tick(), 1000);
  }

  /** The seconds are not read aloud: only a change of the text is. */
  #tick() {
    const [task] = this.#tasks;
    const seconds = task ? Math.floor((performance.now() - task.begun) / 1000) : 0;
    this.#seconds.textContent = seconds >= SHOW_SECONDS_AFTER ? `${seconds} s` : "";
    this.#stop.hidden = !(task?.stop && seconds >= 1);
  }
}
