/** Keys that work anywhere on the page, but not while somebody types. */

/** @param {Record<string, () => void>} actions By key: "z", "Ctrl+z", "Ctrl+Shift+z" ... */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const ctrl = event.ctrlKey || event.metaKey;
    if (event.altKey || isTyping(event.target)) return;
    const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const name = ctrl ? `Ctrl+${event.shiftKey ? "Shift+" : ""}${letter}` : letter;
    if (!actions[name]) return;
    event.preventDefault();
    actions[name]();
  });
}

/** In a field of text keys are letters, and undo is the field's own. */
function isTyping(target) {
  return target.matches("input:not([type=radio], [type=checkbox], [type=color]), select, textarea");
}
