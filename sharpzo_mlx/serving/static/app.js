// The page of `sharpzo-mlx serve`: sends each image by itself, a few at a time, and shows what comes back.
"use strict";

const AT_ONCE = 4; // images under way
const TRIES = 8; // of an image that the server has no room for
const settings = document.body.dataset;
const results = document.getElementById("results");
const status = document.getElementById("status");
const clear = document.getElementById("clear");
const chooser = document.getElementById("files");
const waiting = [];
let underWay = 0;
let generation = 0; // counts how often the page was cleared

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text; // never markup
  return element;
}

function isolate(text) {
  return make("bdi", "", text);
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function addFiles(files) {
  for (const file of files) {
    const card = make("li", "card");
    card.append(preview(file), make("div"));
    const name = make("h2");
    name.append(isolate(file.name || "image"));
    card.lastChild.append(name, make("p", "soft", "waits"));
    results.prepend(card);
    waiting.push({ file, card, generation });
  }
  clear.hidden = !results.childElementCount;
  sendMore();
}

function preview(file) {
  const image = make("img");
  image.alt = "";
  image.src = URL.createObjectURL(file);
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  image.addEventListener("error", () => {
    URL.revokeObjectURL(image.src);
    image.replaceWith(make("div", "blank")); // a kind that this browser cannot show
  });
  return image;
}

function sendMore() {
  while (underWay < AT_ONCE && waiting.length) {
    const work = waiting.shift();
    underWay += 1;
    send(work)
      .catch((error) => ({ error: error instanceof TypeError ? "the server cannot be reached" : String(error.message) }))
      .then((answer) => show(work, answer))
      .finally(() => {
        underWay -= 1;
        sendMore();
      });
  }
}

async function send({ file }) {
  if (file.size > settings.megabytes * 1e6) throw new Error(`larger than ${settings.megabytes} MB`);
  const query = new URLSearchParams({ top: settings.top, neighbours: settings.neighbours });
  const box = document.getElementById("reject");
  if (box && box.checked) query.set("reject", box.value);
  const form = new FormData();
  form.append("image", file, file.name || "image");
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetch(`/predict?${query}`, { method: "POST", body: form });
    if (response.status === 503 && attempt < TRIES) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    const content = await response.json();
    if (content.version) document.getElementById("newer").hidden = String(content.version) === settings.version;
    return content.predictions ? content.predictions[0] : { error: content.error };
  }
}

function show({ file, card, generation: own }, answer) {
  if (own !== generation) return; // cleared meanwhile
  const name = file.name || "image";
  const words = card.lastChild;
  words.lastChild.remove();
  if (answer.error) {
    words.append(make("p", "bad", answer.error));
    report(name, answer.error);
    return;
  }
  const [best] = answer.labels;
  const line = make("p", "answer");
  if (answer.rejected) line.append("none of them (best guess: ", isolate(best.label), ")");
  else line.append(isolate(best.label));
  words.append(line, labelTable(answer.labels));
  if (answer.neighbours.length) card.append(make("p", "near-title", "Nearest labelled images"), nearest(answer.neighbours));
  report(name, answer.rejected ? "none of them" : best.label, percent(best.probability));
}

function labelTable(labels) {
  const table = make("div", "labels");
  for (const { label, probability } of labels) {
    const bar = make("progress");
    bar.max = 1;
    bar.value = probability;
    bar.setAttribute("aria-hidden", "true"); // the number says the same
    const word = make("span");
    word.append(isolate(label));
    table.append(word, bar, make("span", "number", percent(probability)));
  }
  return table;
}

function nearest(neighbours) {
  const list = make("ul", "near");
  for (const { label, similarity, image } of neighbours) {
    const picture = make("img");
    picture.alt = "";
    picture.src = image;
    picture.addEventListener("error", () => picture.replaceWith(make("span", "soft", "gone")));
    const item = make("li");
    item.append(picture, isolate(label), ` ${similarity.toFixed(2)}`);
    list.append(item);
  }
  return list;
}

function report(name, ...words) {
  const left = waiting.length + underWay - 1;
  status.replaceChildren(isolate(name), ": ", isolate(words.join(", ")), left ? ` (${left} to come)` : "");
}

function takeTransfer(event, transfer) {
  if (!transfer || !transfer.files.length) return;
  event.preventDefault();
  addFiles([...transfer.files]);
}

chooser.addEventListener("change", () => {
  addFiles([...chooser.files]);
  chooser.value = ""; // the same file can be chosen again
});
document.addEventListener("paste", (event) => takeTransfer(event, event.clipboardData));
document.addEventListener("dragover", (event) => {
  event.preventDefault(); // or the browser would open the file
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  takeTransfer(event, event.dataTransfer);
});
clear.addEventListener("click", () => {
  generation += 1;
  waiting.length = 0;
  results.replaceChildren();
  clear.hidden = true;
  status.textContent = "No image so far.";
  chooser.focus();
});
