// Resizes and crops a picture as sharpzo-mlx does, to the same bytes: a separable filter whose support grows where a
// picture becomes smaller, with weights of 22 bits and results of 8 bits after each of the two passes.

const BITS = 22;
const UNIT = 2 ** BITS;

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

// name -> [half of its width in pixels of the result, its weight at a distance of x of them]
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)],
  bicubic: [2, (x) => cubic(Math.abs(x))],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// What each of `count` pixels from `start` on is made of, if a line of `size` pixels becomes one of `target`.
function weigh(size, target, start, count, filter) {
  const [half, weight] = FILTERS[filter];
  const scale = size / target;
  const stretch = Math.max(scale, 1);
  const support = half * stretch;
  return Array.from({ length: count }, (_, index) => {
    const centre = (start + index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(size, Math.trunc(centre + support + 0.5));
    const taps = [];
    for (let place = first; place < end; place++) taps.push(weight((place - centre + 0.5) / stretch));
    const total = taps.reduce((sum, tap) => sum + tap, 0);
    const rounded = taps.map((tap) => Math.trunc((tap / total) * UNIT + (tap < 0 ? -0.5 : 0.5)));
    return { first, taps: rounded };
  });
}

const toByte = (sum) => Math.min(255, Math.max(0, Math.floor((sum + UNIT / 2) / UNIT)));

// Replaces the columns of RGB rows: [rows, width, 3] -> [rows, made.length, 3].
function resizeColumns(rgb, rows, width, made) {
  const out = new Uint8Array(rows * made.length * 3);
  for (let row = 0; row < rows; row++) {
    made.forEach(({ first, taps }, column) => {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        let from = (row * width + first) * 3 + channel;
        for (const tap of taps) {
          sum += rgb[from] * tap;
          from += 3;
        }
        out[(row * made.length + column) * 3 + channel] = toByte(sum);
      }
    });
  }
  return out;
}

// Replaces the rows of RGB columns: [height, width, 3] -> [made.length, width, 3].
function resizeRows(rgb, width, made) {
  const line = width * 3;
  const out = new Uint8Array(made.length * line);
  made.forEach(({ first, taps }, row) => {
    for (let place = 0; place < line; place++) {
      let sum = 0;
      let from = first * line + place;
      for (const tap of taps) {
        sum += rgb[from] * tap;
        from += line;
      }
      out[row * line + place] = toByte(sum);
    }
  });
  return out;
}

// The size that a picture is resized to, [height, width]: a number is that of the shorter side.
function resizedSize(height, width, resize) {
  if (resize === null) return [height, width];
  if (Array.isArray(resize)) return resize;
  const longer = Math.trunc((resize * Math.max(height, width)) / Math.min(height, width));
  return width <= height ? [longer, resize] : [resize, longer];
}

// Which part of a resized side the crop keeps, and where it stands in the result, with zeros around it.
function keptPart(have, want) {
  const first = Math.floor((have - want) / 2);
  const start = Math.max(first, 0);
  return { start, count: Math.min(first + want, have) - start, before: Math.max(-first, 0) };
}

const isSide = (side) => Number.isInteger(side) && side > 0 && side <= 10000;
const areSides = (sides) => Array.isArray(sides) && sides.length === 2 && sides.every(isSide);

// Tells whether a `preprocessing` has what `prepare` needs.
export function isPossible(preprocessing) {
  const { resize, size, filter } = preprocessing ?? {};
  return areSides(size) && (resize === null || isSide(resize) || areSides(resize)) && Object.hasOwn(FILTERS, filter);
}

// Resizes and crops RGB bytes [height, width, 3] as a classifier's `preprocessing` says, and returns [H, W, 3].
export function prepare(rgb, height, width, preprocessing) {
  const [tall, wide] = resizedSize(height, width, preprocessing.resize);
  const [high, broad] = preprocessing.size;
  const rows = keptPart(tall, high);
  const columns = keptPart(wide, broad);
  const across = weigh(width, wide, columns.start, columns.count, preprocessing.filter);
  const down = weigh(height, tall, rows.start, rows.count, preprocessing.filter);
  const toColumns = (part, lines) => (wide === width ? copyColumns(part, lines, width, columns) : resizeColumns(part, lines, width, across));
  const toRows = (part, line) => (tall === height ? copyRows(part, line, rows) : resizeRows(part, line, down));
  // rounding depends on which pass is first: that of the rows where they become fewer by more than twice as many
  const rowsFirst = tall < height && height - tall > 2 * (width - wide);
  const part = rowsFirst ? toColumns(toRows(rgb, width), rows.count) : toRows(toColumns(rgb, height), columns.count);
  return layInto(part, rows, columns, high, broad);
}

function copyRows(rgb, width, { start, count }) {
  return rgb.subarray(start * width * 3, (start + count) * width * 3);
}

function copyColumns(rgb, rows, width, { start, count }) {
  const out = new Uint8Array(rows * count * 3);
  for (let row = 0; row < rows; row++) {
    const from = (row * width + start) * 3;
    out.set(rgb.subarray(from, from + count * 3), row * count * 3);
  }
  return out;
}

// Lays a picture into the middle of a black one.
function layInto(part, rows, columns, high, broad) {
  const out = new Uint8Array(high * broad * 3);
  for (let row = 0; row < rows.count; row++) {
    const line = part.subarray(row * columns.count * 3, (row + 1) * columns.count * 3);
    out.set(line, ((rows.before + row) * broad + columns.before) * 3);
  }
  return out;
}
