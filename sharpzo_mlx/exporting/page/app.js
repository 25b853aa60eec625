// The page: images that are dropped, chosen or pasted are classified one after the other, the newest on top.

import { loadClassifier } from "./classifier.js";

const SHOWN = 5; // labels of an image
const LISTED = 12; // classes that are named without being asked for
const READY = "Ready. Images stay on this device.";
const status = document.getElementById("status");
const zone = document.getElementById("zone");
const chooser = document.getElementById("chooser");
const results = document.getElementById("results");

const loading = loadClassifier();
let waiting = 0; // images that have no answer yet
let queue = loading.then(describe).catch((error) => say(`The classifier could not be loaded: ${shorten(error)}`));

function say(text) {
  status.textContent = text;
}

// The first line of an error, cut.
function shorten(error) {
  const line = String(error?.message ?? error).trim().split("\n")[0];
  return line.length > 200 ? `${line.slice(0, 200)}…` : line;
}

function describe({ description }) {
  const { names, licence, model } = description;
  const list = names.flatMap((name, at) => [at ? ", " : "", isolated(name)]);
  const classes = document.getElementById("classes");
  if (names.length <= LISTED) classes.replaceChildren("It tells apart: ", element("span", "names", ...list));
  else classes.replaceChildren(folded(`It tells apart ${names.length} classes`, list));
  document.getElementById("model").replaceChildren("Model: ", isolated(model.name));
  document.getElementById("model").append(licence ? `, licence ${licence}.` : ", whose licence is not named.");
  say(READY);
  document.body.dataset.ready = "yes";
}

function folded(title, content) {
  const made = document.createElement("details");
  made.append(element("summary", "", title), element("p", "names", ...content));
  return made;
}

// A name, which is never markup and keeps its direction to itself; one that shows nothing is spelled by its numbers.
function isolated(text) {
  const made = document.createElement("bdi");
  const seen = /[\p{L}\p{N}\p{P}\p{S}]/u.test(text);
  made.textContent = seen ? text : `(${Array.from(text, (one) => `U+${hex(one)}`).join(" ") || "no name"})`;
  return made;
}

function hex(character) {
  return character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
}

function element(kind, className, ...children) {
  const made = document.createElement(kind);
  made.className = className;
  made.append(...children);
  return made;
}

function take(files) {
  for (const file of files) {
    waiting += 1;
    queue = queue.then(() => show(file));
  }
}

async function show(file) {
  if (!document.body.dataset.ready) return; // the status says why
  say(waiting > 1 ? `Classifying; ${waiting} images to go.` : "Classifying one image.");
  await new Promise((resolve) => setTimeout(resolve)); // lets the browser draw
  const item = element("li", "result");
  try {
    const found = await (await loading).classify(file);
    item.append(thumbnail(file), answer((await loading).description.names, found));
    Object.assign(item.dataset, { label: found.label, rejected: found.rejected });
    item.dataset.probabilities = JSON.stringify(found.probabilities);
  } catch (error) {
    item.append(element("p", "failed", isolated(file.name), `: ${shorten(error)}`));
    item.dataset.error = shorten(error);
  }
  results.prepend(item);
  waiting -= 1;
  if (!waiting) say(READY);
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
  if (!rejected) heading.title = names[order[0]];
  return element("div", rejected ? "rejected" : "known", heading, list);
}

function row(name, probability) {
  const bar = document.createElement("meter");
  bar.max = 1;
  bar.value = probability;
  bar.setAttribute("aria-hidden", "true");
  const label = element("span", "name", isolated(name));
  label.title = name; // a long one is cut
  return element("li", "", label, bar, element("span", "share", `${(100 * probability).toFixed(1)} %`));
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
