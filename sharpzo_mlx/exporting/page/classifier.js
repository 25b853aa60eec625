// The classifier: an image file in, its label, probabilities and "none of them" out. Everything lies beside this file.

import * as ort from "./ort.wasm.min.mjs";
import { prepare } from "./resize.js";

ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
ort.env.wasm.numThreads = 1; // threads would need headers that a simple server does not send

export async function loadClassifier() {
  const description = await (await fetch("./classifier.json")).json();
  const session = await ort.InferenceSession.create("./classifier.onnx", { executionProviders: ["wasm"] });
  return new Classifier(description, session);
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
    return {
      label: Number(found.label.data[0]),
      name: found.name.data[0],
      probabilities: Array.from(found.probabilities.data),
      rejected: found.rejected ? Boolean(found.rejected.data[0]) : false,
    };
  }
}

// The upright RGB bytes of an image file; what is transparent becomes white.
async function decode(blob) {
  const picture = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const { width, height } = picture;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
  picture.close();
  const { data } = context.getImageData(0, 0, width, height);
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    rgb[to++] = data[from];
    rgb[to++] = data[from + 1];
    rgb[to++] = data[from + 2];
  }
  return { rgb, height, width };
}
