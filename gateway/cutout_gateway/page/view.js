/** Where the picture is on the screen: zoom and pan. Lengths are CSS pixels on the screen, pixels in the picture. */

const MOST_ZOOM = 40;
const MARGIN = 12;

export class View {
  scale = 1; // screen over picture
  left = 0; // of the picture, on the screen
  top = 0;
  #picture = { width: 1, height: 1 };
  #screen = { width: 1, height: 1 };

  /** Shows all of a picture. */
  fit(picture = this.#picture) {
    this.#picture = picture;
    this.scale = this.#fitting();
    this.#settle();
  }

  /** The screen has another size; what was in its middle stays there. */
  resize(width, height) {
    const whole = Math.abs(this.scale - this.#fitting()) < 1e-6;
    const middle = this.toPicture(this.#screen.width / 2, this.#screen.height / 2);
    this.#screen = { width, height };
    if (whole) return this.fit();
    this.left = width / 2 - middle.x * this.scale;
    this.top = height / 2 - middle.y * this.scale;
    this.#settle();
  }

  /** Zooms so that the place under (x, y) stays there. */
  zoom(factor, x = this.#screen.width / 2, y = this.#screen.height / 2) {
    const fixed = this.toPicture(x, y);
    const least = Math.min(this.#fitting(), 1);
    this.scale = clamp(this.scale * factor, least, Math.max(MOST_ZOOM, least));
    this.left = x - fixed.x * this.scale;
    this.top = y - fixed.y * this.scale;
    this.#settle();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.#settle();
  }

  /** Moves just so far that a place of the picture can be seen. */
  reveal({ x, y }) {
    const at = this.toScreen({ x, y });
    const inside = (value, size) => clamp(value, MARGIN, size - MARGIN);
    this.pan(inside(at.x, this.#screen.width) - at.x, inside(at.y, this.#screen.height) - at.y);
  }

  toPicture(x, y) {
    return { x: (x - this.left) / this.scale, y: (y - this.top) / this.scale };
  }

  toScreen({ x, y }) {
    return { x: x * this.scale + this.left, y: y * this.scale + this.top };
  }

  #fitting() {
    const { width, height } = this.#screen;
    const free = (size) => Math.max(size - 2 * MARGIN, 1);
    return Math.min(free(width) / this.#picture.width, free(height) / this.#picture.height);
  }

  /** A picture that is smaller than the screen is in its middle; one that is larger leaves no gap. */
  #settle() {
    const place = (offset, shown, screen) =>
      shown + 2 * MARGIN <= screen ? (screen - shown) / 2 : clamp(offset, screen - shown - MARGIN, MARGIN);
    this.left = place(this.left, this.#picture.width * this.scale, this.#screen.width);
    this.top = place(this.top, this.#picture.height * this.scale, this.#screen.height);
  }
}

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);
