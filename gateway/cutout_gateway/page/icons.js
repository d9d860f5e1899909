/** The page's few icons, drawn as lines on a grid of 24. */

const LINES = {
  add: "M12 5v14M5 12h14",
  takeAway: "M5 12h14",
  box: "M4 8V4h4M16 4h4v4M20 16v4h-4M8 20H4v-4",
  move: "M12 3v18M3 12h18M9 6l3-3 3 3M9 18l3 3 3-3M6 9l-3 3 3 3M18 9l3 3-3 3",
  undo: "M8 5 4 9l4 4M4 9h10a5 5 0 0 1 0 10h-4",
  redo: "M16 5l4 4-4 4M20 9H10a5 5 0 0 0 0 10h4",
  zoomIn: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M16 16l5 5M11 8v6M8 11h6",
  zoomOut: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M16 16l5 5M8 11h6",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  shown: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6",
  hidden: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12M4 20 20 4",
  remove: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
  newObject: "M12 8v8M8 12h8M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18",
  help: "M9 9a3 3 0 1 1 4 3c-1 .4-1 1-1 2M12 17v.5M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18",
};

/** An icon as an element; it says nothing to screen readers. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", LINES[name]);
  svg.append(path);
  return svg;
}

/** Puts an icon into every element that names one in `data-icon`. */
export function placeIcons(root) {
  for (const each of root.querySelectorAll("[data-icon]")) each.prepend(icon(each.dataset.icon));
}
