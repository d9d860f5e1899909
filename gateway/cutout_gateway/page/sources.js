/** Where pictures come from: a sample, a file, a drop, the clipboard. */

const SAMPLES = [
  ["cat.jpg", "Cat"],
  ["astronaut.jpg", "Astronaut"],
  ["table.jpg", "Table"],
  ["rocket.jpg", "Rocket"],
];

/** Shows the samples; one that is chosen is opened as (file, name, address). */
export function offerSamples(list, server, open, failed) {
  for (const [name, title] of SAMPLES) {
    const address = new URL(`page/samples/${name}`, server).href;
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(Object.assign(new Image(), { src: address, alt: "" }), title);
    button.addEventListener("click", async () => {
      const answer = await fetch(address).catch(() => null);
      if (answer?.ok) open(await answer.blob(), name, address);
      else failed(new Error("The sample cannot be fetched: the server does not answer."));
    });
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
}

/** Opens what is picked, dropped anywhere on the page, or pasted. */
export function fromAnywhere(input, zone, open) {
  const take = (list) => {
    const file = [...(list ?? [])].find((each) => each.type.startsWith("image/")) ?? list?.[0];
    if (file) open(file, file.name || "pasted.png");
  };
  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // the same file may be chosen again
  });
  document.addEventListener("paste", (event) => take(event.clipboardData?.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? zone.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer?.files);
  });
}
