// The page: images that are dropped, chosen or pasted are classified one after the other, the newest on top.

import { loadClassifier } from "./classifier.js";

const SHOWN = 5; // labels of an image
const status = document.getElementById("status");
const zone = document.getElementById("zone");
const chooser = document.getElementById("chooser");
const results = document.getElementById("results");

const loading = loadClassifier();
let queue = loading.then(describe, (error) => say(`The classifier could not be loaded: ${error.message}`));

function say(text) {
  status.textContent = text;
}

function describe({ description }) {
  const { names, licence, model } = description;
  document.getElementById("classes").replaceChildren(...names.flatMap((name, at) => [at ? ", " : "", isolated(name)]));
  document.getElementById("model").replaceChildren("Model: ", isolated(model.name));
  document.getElementById("model").append(licence ? `, licence ${licence}.` : ", whose licence is not named.");
  say("Ready. Images stay on this device.");
  document.body.dataset.ready = "yes";
}

function isolated(text) {
  const element = document.createElement("bdi");
  element.textContent = text;
  return element;
}

function element(kind, className, ...children) {
  const made = document.createElement(kind);
  made.className = className;
  made.append(...children);
  return made;
}

function take(files) {
  for (const file of files) queue = queue.then(() => show(file));
}

async function show(file) {
  const classifier = await loading;
  const item = element("li", "result");
  try {
    const found = await classifier.classify(file);
    item.append(thumbnail(file), answer(classifier.description.names, found));
    Object.assign(item.dataset, { label: found.label, rejected: found.rejected });
    item.dataset.probabilities = JSON.stringify(found.probabilities);
  } catch (error) {
    item.append(element("p", "failed", isolated(file.name), `: this browser cannot read it (${error.message})`));
    item.dataset.error = error.message;
  }
  results.prepend(item);
}

function thumbnail(file) {
  const picture = document.createElement("img");
  picture.src = URL.createObjectURL(file);
  picture.alt = file.name;
  picture.onload = () => URL.revokeObjectURL(picture.src);
  return picture;
}

function answer(names, { probabilities, rejected }) {
  const order = probabilities.map((_, index) => index).sort((one, two) => probabilities[two] - probabilities[one]);
  const rows = order.slice(0, SHOWN).map((index) => row(names[index], probabilities[index]));
  const list = element("ol", "labels", ...rows);
  const heading = element("p", "answer", rejected ? "none of them" : isolated(names[order[0]]));
  return element("div", rejected ? "rejected" : "known", heading, list);
}

function row(name, probability) {
  const bar = document.createElement("meter");
  bar.max = 1;
  bar.value = probability;
  bar.setAttribute("aria-hidden", "true");
  return element("li", "", element("span", "name", isolated(name)), bar, `${(100 * probability).toFixed(1)} %`);
}

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) zone.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => take(event.clipboardData.files));
chooser.addEventListener("change", () => {
  take(chooser.files);
  chooser.value = "";
});
