// The classifier: an image file in, its label, probabilities and "none of them" out. Everything lies beside this file.

import * as ort from "./ort.wasm.min.mjs";
import { isPossible, prepare } from "./resize.js";

ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
ort.env.wasm.numThreads = 1; // threads would need headers that a simple server does not send

const FORMAT = "sharpzo-mlx classifier 1";
const LARGEST = 178956970; // pixels of an image, as `predict` has it
const STRIP = 1 << 22; // pixels that are copied at once; some browsers have no larger canvas than four of these

export async function loadClassifier() {
  const description = await readDescription("./classifier.json");
  const session = await ort.InferenceSession.create("./classifier.onnx", { executionProviders: ["wasm"] });
  return new Classifier(description, session);
}

// Reads classifier.json, and refuses one that is not whole.
async function readDescription(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`classifier.json: the server answered ${answer.status}`);
  const text = await answer.text();
  let given = null;
  try {
    given = JSON.parse(text);
  } catch {
    throw new Error("classifier.json is damaged");
  }
  if (given?.format !== FORMAT) throw new Error(`classifier.json is not of the format "${FORMAT}"`);
  const { names, model, licence, preprocessing } = given;
  const named = Array.isArray(names) && names.length && names.every((name) => typeof name === "string");
  const known = typeof model?.name === "string" && (licence === null || typeof licence === "string");
  if (!named || !known || !isPossible(preprocessing)) throw new Error("classifier.json is damaged");
  return given;
}

export class Classifier {
  constructor(description, session) {
    this.description = description;
    this.session = session;
  }

  // Classifies one image file (a Blob): {label, name, probabilities, rejected}.
  async classify(blob) {
    const { rgb, height, width } = await decode(blob);
    const bytes = prepare(rgb, height, width, this.description.preprocessing);
    const image = new ort.Tensor("uint8", bytes, [1, ...this.description.preprocessing.size, 3]);
    const found = await this.session.run({ image });
    const count = found.probabilities.data.length;
    if (count !== this.description.names.length) {
      throw new Error(`classifier.onnx has ${count} classes, classifier.json ${this.description.names.length}`);
    }
    return {
      label: Number(found.label.data[0]),
      name: found.name.data[0],
      probabilities: Array.from(found.probabilities.data),
      rejected: found.rejected ? Boolean(found.rejected.data[0]) : false,
    };
  }
}

async function open(blob) {
  let picture = null;
  try {
    picture = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch (error) {
    throw new Error(`this browser cannot read it (${error.message})`);
  }
  const { width, height } = picture;
  if (width * height <= LARGEST) return picture;
  picture.close();
  throw new Error(`${width} × ${height} pixels are too many`);
}

// The upright RGB bytes of an image file; what is transparent becomes white.
async function decode(blob) {
  const picture = await open(blob);
  const { width, height } = picture;
  const rgb = new Uint8Array(width * height * 3);
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
  const canvas = new OffscreenCanvas(width, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  for (let top = 0, to = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillRect(0, 0, width, count);
    context.drawImage(picture, 0, top, width, count, 0, 0, width, count);
    to = copyColours(context.getImageData(0, 0, width, count).data, rgb, to);
  }
  picture.close();
  return { rgb, height, width };
}

// Copies RGBA bytes without the A to a place of others, and returns the place behind them.
function copyColours(data, rgb, to) {
  for (let from = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return to;
}
