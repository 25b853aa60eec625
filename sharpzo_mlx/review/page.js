"use strict";
// One decision an image: the place of a class, or null for none of them. What is decided survives a reload.
const data = JSON.parse(document.getElementById("data").textContent);
const cards = [...document.querySelectorAll(".card")];
const status = document.getElementById("status");
const finder = document.getElementById("finder"), typed = document.getElementById("typed"), matches = document.getElementById("matches");
const KEY = "sharpzo-mlx review " + data.key;
let state = { decided: {}, done: [], at: 0 };
let stored = true;

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY));
    if (found && typeof found.decided === "object" && Array.isArray(found.done)) state = found;
  } catch { /* nothing is stored, or it cannot be read */ }
}
function keep() {
  try { localStorage.setItem(KEY, JSON.stringify(state)); stored = true; } catch { stored = false; }
}
const has = (index) => Object.prototype.hasOwnProperty.call(state.decided, index);
const stays = (item, label) => !data.none && label === item.given;
const nameOf = (label) => label === null ? "none of them" : data.classes[label].name;

function isolated(text) {
  const part = document.createElement("bdi");
  part.textContent = text;
  return part;
}
function show(index) {
  const card = cards[index], item = data.items[index], decided = has(index), label = state.decided[index];
  card.classList.toggle("decided", decided);
  card.querySelectorAll("[data-label]").forEach((button) => {
    const own = button.dataset.label === "none" ? null : Number(button.dataset.label);
    button.setAttribute("aria-pressed", String(decided && own === label));
  });
  const verdict = card.querySelector(".verdict");
  verdict.textContent = "";
  if (decided) verdict.append(stays(item, label) ? "label stays: " : "label: ", isolated(nameOf(label)));
}
function say(...words) { status.replaceChildren(...words); }
function count() {
  const number = Object.keys(state.decided).length;
  say(`${number} of ${cards.length} decided` + (stored ? "" : "; this browser keeps nothing, so save before you leave"));
  document.getElementById("undo").disabled = !state.done.length;
}
function go(index, focus = true) {
  if (!cards.length) return;
  state.at = Math.max(0, Math.min(cards.length - 1, index));
  cards.forEach((card, place) => {
    card.setAttribute("aria-current", String(place === state.at));
    card.tabIndex = place === state.at ? 0 : -1;
  });
  if (focus) {
    cards[state.at].focus({ preventScroll: true });
    cards[state.at].scrollIntoView({ block: "nearest" });
  }
}
function decide(index, label) {
  state.done.push([index, has(index) ? [state.decided[index]] : []]);
  state.decided[index] = label;
  show(index);
  go(index + 1);
  keep();
  count();
}
function undo() {
  const last = state.done.pop();
  if (!last) return;
  const [index, before] = last;
  if (before.length) state.decided[index] = before[0]; else delete state.decided[index];
  show(index);
  go(index);
  keep();
  count();
}
function plan(folder) {
  const labels = [];
  data.items.forEach((item, index) => {
    if (item.folder !== folder || !has(index)) return;
    const label = state.decided[index];
    if (stays(item, label)) return; // the file is where it belongs
    labels.push({ path: item.path, label: label === null ? null : data.classes[label].folder });
  });
  return { format: "sharpzo-mlx plan 1", folder: data.folders[folder].path, labels };
}
function list() {
  const cell = (text) => '"' + text.replace(/"/g, '""') + '"';
  const chosen = data.items.map((item, index) => [item.path, state.decided[index]]).filter((one) => Number.isInteger(one[1]));
  return chosen.map(([path, label]) => cell(path) + "," + cell(data.classes[label].folder) + "\n");
}
function offer(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
function saveList() {
  const lines = list(), name = data.folders[0].file;
  if (lines.length) offer(name, "path,label\n" + lines.join(""), "text/csv");
  say(lines.length ? `saved: ${name} (${lines.length})` : "nothing to save yet");
}
function save() {
  if (data.listed) return saveList();
  const plans = data.folders.map((folder, place) => [folder, plan(place)]).filter(([, one]) => one.labels.length);
  plans.forEach(([folder, one], place) => setTimeout(() => {
    offer(folder.file, JSON.stringify(one, null, 1) + "\n", "application/json");
  }, 300 * place));
  say(plans.length ? "saved: " + plans.map(([folder, one]) => `${folder.file} (${one.labels.length})`).join(", ") : "nothing to save yet");
}
function fold(text) { return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase(); }
function find() {
  const wanted = fold(typed.value);
  const keys = data.classes.map((one, place) => [fold(one.name), fold(one.folder), place]);
  const first = keys.filter(([name, folder]) => name.startsWith(wanted) || folder.startsWith(wanted));
  const inside = wanted ? keys.filter((one) => !first.includes(one) && one[0].includes(wanted)) : [];
  matches.replaceChildren(...[...first, ...inside].slice(0, 50).map(([, , place]) => {
    const entry = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.append(isolated(data.classes[place].name));
    button.addEventListener("click", () => { finder.close(); decide(state.at, place); });
    entry.append(button);
    return entry;
  }));
  document.getElementById("found").textContent = `${first.length + inside.length} classes; Enter takes the first`;
}
function openFinder() {
  typed.value = "";
  find();
  finder.showModal();
  typed.focus();
}
const KEYS = {
  j: () => go(state.at + 1), ArrowDown: () => go(state.at + 1), ArrowRight: () => go(state.at + 1),
  k: () => go(state.at - 1), ArrowUp: () => go(state.at - 1), ArrowLeft: () => go(state.at - 1),
  Home: () => go(0), End: () => go(cards.length - 1),
  Enter: () => decide(state.at, data.items[state.at].suggested), " ": () => decide(state.at, data.items[state.at].suggested),
  x: () => data.none && decide(state.at, null), o: () => !data.none && decide(state.at, data.items[state.at].given), u: undo, s: save, "/": openFinder,
};
document.addEventListener("keydown", (event) => {
  if (finder.open || event.ctrlKey || event.metaKey || event.altKey || !cards.length) return;
  const press = event.key === "Enter" || event.key === " ";
  if (press && event.target.closest && event.target.closest("button, a, summary")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const choices = data.items[state.at].choices;
  if (/^[1-9]$/.test(key)) {
    if (Number(key) <= choices.length) decide(state.at, choices[Number(key) - 1]);
  } else if (Object.prototype.hasOwnProperty.call(KEYS, key)) KEYS[key]();
  else return;
  event.preventDefault();
});
cards.forEach((card, index) => {
  card.addEventListener("focusin", () => go(index, false));
  card.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return go(index);
    go(index, false);
    if (button.classList.contains("other")) return openFinder();
    decide(index, button.dataset.label === "none" ? null : Number(button.dataset.label));
  });
});
typed.addEventListener("input", find);
typed.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  event.stopPropagation(); // or the next image would be accepted too
  const first = matches.querySelector("button");
  if (first) first.click();
});
finder.addEventListener("close", () => cards[state.at].focus());
document.getElementById("undo").addEventListener("click", undo);
document.getElementById("save").addEventListener("click", save);
load();
cards.forEach((_, index) => show(index));
go(state.at, false);
count();
