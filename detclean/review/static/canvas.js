// The picture and its boxes on a canvas. Boxes are in the data set's pixels; a picture of another size is stretched onto them.

import { sameBox } from "./words.js";

const GIVEN = "#E69F00";
const PROPOSED = "#0072B2";
const THIRD = 1 / 3; // of the canvas that the boxes fill at first
const LEAST_EXTENT = 40; // px of the picture that are shown at least
const MOST_ZOOM = 64;
const FONT = '600 13px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

export function createView(canvas) {
  const pen = canvas.getContext("2d", { alpha: false });
  const view = {
    canvas, scale: 1, left: 0, top: 0, width: 1, height: 1, // width, height: of the picture, in the data set's pixels
    image: null, given: null, target: null, neighbours: [], added: [], hovered: null, fresh: null, hidden: false, whole: false,
    afterPaint: () => {},
  };
  let asked = false;

  view.draw = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      paint(view, pen);
      view.afterPaint();
    });
  };
  view.toPicture = (x, y) => [x / view.scale + view.left, y / view.scale + view.top];
  view.toScreen = ([x1, y1, x2, y2]) => [(x1 - view.left) * view.scale, (y1 - view.top) * view.scale, (x2 - view.left) * view.scale, (y2 - view.top) * view.scale];
  view.look = (x, y, scale) => {
    view.scale = scale;
    view.left = x - canvas.clientWidth / 2 / scale;
    view.top = y - canvas.clientHeight / 2 / scale;
    view.draw();
  };
  view.fit = () => {
    view.whole = true;
    const scale = Math.min(canvas.clientWidth / view.width, canvas.clientHeight / view.height) * 0.93;
    view.look(view.width / 2, view.height / 2, Math.min(scale, MOST_ZOOM));
  };
  view.zoomToBoxes = () => {
    const boxes = [view.given?.xyxy, view.target?.xyxy].filter(Boolean);
    if (!boxes.length) return view.fit();
    const [x1, y1] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])));
    const [x2, y2] = [2, 3].map((i) => Math.max(...boxes.map((box) => box[i])));
    const [w, h] = [canvas.clientWidth, canvas.clientHeight];
    const whole = Math.min(w / view.width, h / view.height) * 0.93;
    const near = Math.min((w * THIRD) / Math.max(x2 - x1, 1), (h * THIRD) / Math.max(y2 - y1, 1), Math.min(w, h) / LEAST_EXTENT);
    if (near <= whole) return view.fit();
    view.whole = false;
    // the picture's border stays at the canvas's border where there is enough picture on the other side
    const inside = (centre, half, size) => (half * 2 >= size ? size / 2 : Math.min(Math.max(centre, half), size - half));
    view.look(inside((x1 + x2) / 2, w / near / 2, view.width), inside((y1 + y2) / 2, h / near / 2, view.height), near);
  };
  view.toggle = () => (view.whole ? view.zoomToBoxes() : view.fit());
  view.zoomAt = (x, y, factor) => {
    const [px, py] = view.toPicture(x, y);
    const least = Math.min(canvas.clientWidth / view.width, canvas.clientHeight / view.height, 1) / 4;
    view.scale = Math.min(Math.max(view.scale * factor, least), MOST_ZOOM);
    view.left = px - x / view.scale;
    view.top = py - y / view.scale;
    view.whole = false;
    view.draw();
  };
  view.pan = (dx, dy) => {
    view.left -= dx / view.scale;
    view.top -= dy / view.scale;
    view.draw();
  };
  // The box that can be dragged: the proposed one, or the given one where none is proposed.
  view.editable = () => view.target?.xyxy ?? view.given?.xyxy ?? null;
  let [seenWidth, seenHeight] = [canvas.clientWidth, canvas.clientHeight];
  const resize = () => {
    const [w, h, ratio] = [canvas.clientWidth, canvas.clientHeight, window.devicePixelRatio || 1];
    const [x, y] = view.toPicture(seenWidth / 2, seenHeight / 2); // what was in the middle stays there
    [canvas.width, canvas.height, seenWidth, seenHeight] = [Math.round(w * ratio), Math.round(h * ratio), w, h];
    if (view.whole) view.fit();
    else view.look(x, y, view.scale);
  };
  resize();
  new ResizeObserver(resize).observe(canvas);
  return view;
}

function paint(view, pen) {
  const { canvas } = view;
  const ratio = canvas.width / Math.max(canvas.clientWidth, 1);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = "#151515";
  pen.fillRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  paintPicture(view, pen);
  if (!view.hidden) paintBoxes(view, pen);
  canvas.dataset.view = `${view.scale} ${view.left} ${view.top}`; // for those who measure on the screen
}

function paintPicture(view, pen) {
  const [x1, y1, x2, y2] = view.toScreen([0, 0, view.width, view.height]);
  const { image, canvas } = view;
  if (!image) {
    pen.fillStyle = "#2e2e2e";
    pen.fillRect(x1, y1, x2 - x1, y2 - y1);
    return;
  }
  // only what can be seen: browsers are slow with a large picture that is scaled up far beyond the canvas
  const [left, top] = [Math.max(view.left, 0), Math.max(view.top, 0)];
  const right = Math.min(view.left + canvas.clientWidth / view.scale, view.width);
  const bottom = Math.min(view.top + canvas.clientHeight / view.scale, view.height);
  if (right <= left || bottom <= top) return;
  const [fx, fy] = [image.naturalWidth / view.width, image.naturalHeight / view.height];
  const [sx1, sy1, sx2, sy2] = view.toScreen([left, top, right, bottom]);
  pen.imageSmoothingEnabled = true;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, left * fx, top * fy, (right - left) * fx, (bottom - top) * fy, sx1, sy1, sx2 - sx1, sy2 - sy1);
}

function paintBoxes(view, pen) {
  for (const box of view.neighbours) paintNeighbour(view, pen, box, box === view.hovered);
  for (const box of view.added) {
    paintProposed(pen, view.toScreen(box.decision.xyxy), 2);
    paintTag(view, pen, view.toScreen(box.decision.xyxy), `added: ${box.decision.category}`, PROPOSED, "#fff", true);
  }
  const { given, target } = view;
  const old = given && view.toScreen(given.xyxy);
  if (old) paintSolid(pen, old, GIVEN, 3);
  let fresh = null;
  if (target?.xyxy) {
    const [x1, y1, x2, y2] = view.toScreen(target.xyxy);
    const out = given && sameBox(given.xyxy, target.xyxy) ? 5 : 0; // beside the given box, so that both are seen
    fresh = [x1 - out, y1 - out, x2 + out, y2 + out];
    paintProposed(pen, fresh, 3);
  }
  const grip = view.editable();
  if (grip) paintGrips(pen, view.toScreen(grip));
  if (old) paintTag(view, pen, old, given.category, GIVEN, "#1a1100", false);
  if (fresh) paintTag(view, pen, fresh, target.category, PROPOSED, "#fff", true);
  else if (target && old) paintTag(view, pen, old, "no box", PROPOSED, "#fff", true);
  if (view.fresh) paintProposed(pen, view.toScreen(view.fresh), 3);
}

function paintSolid(pen, [x1, y1, x2, y2], colour, width) {
  pen.setLineDash([]);
  pen.lineWidth = width + 2;
  pen.strokeStyle = "rgb(0 0 0 / 55%)";
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  pen.lineWidth = width;
  pen.strokeStyle = colour;
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
}

function paintProposed(pen, [x1, y1, x2, y2], width) {
  pen.setLineDash([]);
  pen.lineWidth = width + 2;
  pen.strokeStyle = "#fff";
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  pen.setLineDash([9, 6]);
  pen.lineWidth = width;
  pen.strokeStyle = PROPOSED;
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  pen.setLineDash([]);
}

function paintNeighbour(view, pen, box, bright) {
  const gone = box.verdict === "accept" && !box.after;
  const shown = box.after ?? box;
  const [x1, y1, x2, y2] = view.toScreen(shown.xyxy);
  pen.setLineDash(gone || !box.given ? [3, 4] : []);
  pen.lineWidth = bright ? 4 : 2.5;
  pen.strokeStyle = "rgb(0 0 0 / 35%)";
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  pen.lineWidth = bright ? 2 : 1;
  pen.strokeStyle = bright ? "#fff" : gone ? "rgb(220 220 220 / 35%)" : "rgb(225 225 225 / 70%)";
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  pen.setLineDash([]);
  if (!bright) return;
  const words = box.given ? (gone ? "deleted" : box.after ? "corrected" : box.issue !== null ? "also suspected" : "") : box.after ? "accepted" : "perhaps overlooked";
  paintTag(view, pen, [x1, y1, x2, y2], words ? `${shown.category} (${words})` : shown.category, "rgb(40 40 40 / 92%)", "#fff", false);
}

function paintTag(view, pen, [x1, y1, x2, y2], text, ground, ink, below) {
  pen.font = FONT;
  const shown = text.length > 40 ? `${text.slice(0, 39)}…` : text;
  const [width, height] = [pen.measureText(shown).width + 12, 20];
  const [w, h] = [view.canvas.clientWidth, view.canvas.clientHeight];
  if (x2 < 0 || y2 < 0 || x1 > w || y1 > h) return;
  const x = Math.min(Math.max(x1 - 2, 0), w - width);
  const y = Math.min(Math.max(below ? y2 + 6 : y1 - height - 6, 0), h - height);
  pen.fillStyle = ground;
  pen.fillRect(x, y, width, height);
  pen.fillStyle = ink;
  pen.textBaseline = "middle";
  pen.fillText(shown, x + 6, y + height / 2 + 0.5);
}

function paintGrips(pen, [x1, y1, x2, y2]) {
  pen.lineWidth = 1.5;
  for (const [x, y] of [[x1, y1], [x2, y1], [x1, y2], [x2, y2]]) {
    pen.fillStyle = "#fff";
    pen.strokeStyle = PROPOSED;
    pen.beginPath();
    pen.rect(x - 4, y - 4, 8, 8);
    pen.fill();
    pen.stroke();
  }
}
