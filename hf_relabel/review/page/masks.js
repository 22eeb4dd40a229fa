"use strict";
// Masks: decoding COCO's run lengths, drawing them over a photo, and finding the region under a click.

const PALETTE = [[255, 82, 82], [41, 151, 255], [255, 193, 7], [0, 200, 120], [186, 85, 255],
  [255, 133, 27], [0, 205, 215], [255, 105, 180], [160, 200, 40], [120, 120, 255]];

// Decode compressed run lengths (column-major) to a Uint8Array in reading order.
function decodeMask(counts, width, height) {
  const runs = [];
  let value = 0, shift = 0;
  for (let place = 0; place < counts.length; place++) {
    const bits = counts.charCodeAt(place) - 48;
    value |= (bits & 31) << shift;
    shift += 5;
    if (bits & 32) continue;
    if (bits & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
    value = shift = 0;
  }
  const mask = new Uint8Array(width * height);
  let position = 0;
  runs.forEach((run, number) => {
    if (number % 2) {
      for (let end = Math.min(position + run, mask.length), p = position; p < end; p++) {
        mask[(p % height) * width + Math.floor(p / height)] = 1;
      }
    }
    position += run;
  });
  return mask;
}

// Draw masks with an outline; `shown` says which, `bright` which stand out (null if none does).
function drawMasks(canvas, size, decoded, colors, shown, bright) {
  const [width, height] = size;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const data = picture.data;
  const reach = Math.max(1, Math.round(Math.max(width, height) / 320));
  decoded.forEach((mask, number) => {
    if (!shown[number]) return;
    const color = colors[number];
    const fill = bright === null ? 80 : bright[number] ? 120 : 40;
    for (let y = 0, place = 0; y < height; y++) {
      for (let x = 0; x < width; x++, place++) {
        if (!mask[place]) continue;
        const isEdge = x < reach || y < reach || x >= width - reach || y >= height - reach ||
          !mask[place - reach] || !mask[place + reach] || !mask[place - reach * width] || !mask[place + reach * width];
        const target = place * 4;
        if (!isEdge && data[target + 3] === 255) continue;
        data[target] = color[0];
        data[target + 1] = color[1];
        data[target + 2] = color[2];
        data[target + 3] = isEdge ? 255 : fill;
      }
    }
  });
  context.putImageData(picture, 0, 0);
}

// The smallest shown region at a point, given as shares of width and height; -1 if there is none.
function regionAt(size, decoded, shown, x, y) {
  const place = Math.min(size[1] - 1, Math.floor(y * size[1])) * size[0] + Math.min(size[0] - 1, Math.floor(x * size[0]));
  let found = -1, smallest = Infinity;
  decoded.forEach((mask, number) => {
    if (!shown[number] || !mask[place]) return;
    const area = mask.reduce((sum, value) => sum + value, 0);
    if (area < smallest) [found, smallest] = [number, area];
  });
  return found;
}

// One color per class, in the order in which the classes first appear.
function colorsOf(labels) {
  const order = [...new Set(labels)];
  return labels.map((label) => PALETTE[order.indexOf(label) % PALETTE.length]);
}
