/** Asks for an API key when the server wants one. */

/**
 * @param {import("./api.js").Api} api
 * @param {HTMLDialogElement} dialog
 * @param {HTMLButtonElement} button Opens it at any time.
 */
export function onKeyNeeded(api, dialog, button) {
  const field = dialog.querySelector("input");
  const reason = dialog.querySelector("#key-reason");
  let asking = null; // one dialog for all requests that wait for it

  const ask = (text) => {
    asking ??= new Promise((done) => {
      reason.textContent = text;
      field.value = api.key;
      dialog.returnValue = "";
      dialog.addEventListener("close", () => {
        asking = null;
        const given = dialog.returnValue === "ok";
        if (given) api.key = field.value.trim();
        done(given);
      }, { once: true });
      dialog.showModal();
      field.select();
    });
    return asking;
  };
  api.askKey = () => ask(api.key ? "The server does not know this key." : "This server asks for an API key.");
  button.addEventListener("click", () => ask("Leave it empty for a server that asks for none."));
}
