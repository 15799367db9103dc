// Mouse, pen and fingers on the canvas: the picture is moved and zoomed, boxes are dragged and drawn.

const REACH = { mouse: 7, pen: 10, touch: 18 }; // px around an edge that take hold of it
const LEAST_SIDE = 1; // px of the picture
const WHEEL = 0.0016; // of a zoom's logarithm a px of the wheel
const LINE = 16; // px of a wheel that counts lines

// told: subject() is what may be changed now, null where nothing may; edited(xyxy, subject) while a box is dragged and drawn(xyxy, subject)
// when a new one is complete carry the one that the hand began on.
export function listen(view, told) {
  const { canvas } = view;
  const fingers = new Map();
  let drag = null;
  let drawing = false;

  const at = (event) => {
    const place = canvas.getBoundingClientRect();
    return [event.clientX - place.left, event.clientY - place.top];
  };
  const round = (value) => Math.round(value * 100) / 100;
  const clamp = (x, y) => [round(Math.min(Math.max(x, 0), view.width)), round(Math.min(Math.max(y, 0), view.height))];

  // Which sides of the box are under the pointer: [horizontal, vertical], indices into xyxy, or null.
  function grip(x, y, reach) {
    const box = view.editable();
    if (!box || view.hidden) return null;
    const [x1, y1, x2, y2] = view.toScreen(box);
    if (x < x1 - reach || x > x2 + reach || y < y1 - reach || y > y2 + reach) return null;
    const nearest = (value, low, high, first, second) => {
      const side = Math.abs(value - low) <= Math.abs(value - high) ? [low, first] : [high, second];
      return Math.abs(value - side[0]) <= reach ? side[1] : null;
    };
    const sides = [nearest(x, x1, x2, 0, 2), nearest(y, y1, y2, 1, 3)];
    return sides[0] === null && sides[1] === null ? null : sides;
  }

  function pointed(x, y) {
    const [px, py] = view.toPicture(x, y);
    let found = null;
    let least = Infinity;
    for (const box of view.neighbours) {
      const [x1, y1, x2, y2] = (box.after ?? box).xyxy;
      const area = (x2 - x1) * (y2 - y1);
      if (px >= x1 && px <= x2 && py >= y1 && py <= y2 && area < least) [found, least] = [box, area];
    }
    return found;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 0 && event.button !== 1) return;
    event.preventDefault();
    document.activeElement?.blur?.();
    canvas.setPointerCapture(event.pointerId);
    const [x, y] = at(event);
    fingers.set(event.pointerId, [x, y]);
    if (fingers.size === 2) {
      if (drag?.kind === "draw") view.fresh = null;
      drag = { kind: "pinch" };
      return;
    }
    const subject = told.subject();
    const sides = event.button === 0 && subject !== null ? grip(x, y, REACH[event.pointerType] ?? REACH.mouse) : null;
    if (drawing && subject !== null) drag = { kind: "draw", subject, from: clamp(...view.toPicture(x, y)) };
    else if (sides) drag = { kind: "edit", subject, sides, box: [...view.editable()] };
    else drag = { kind: "pan" };
    canvas.classList.toggle("panning", drag.kind === "pan");
  });

  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    const before = fingers.get(event.pointerId);
    if (!drag || !before) {
      hover(event, x, y);
      return;
    }
    if (drag.kind === "pinch") pinch(event.pointerId, [x, y]);
    else if (drag.kind === "pan") view.pan(x - before[0], y - before[1]);
    else if (drag.kind === "edit") edit(x, y);
    else drawTo(x, y);
    fingers.set(event.pointerId, [x, y]);
  });

  function hover(event, x, y) {
    const over = pointed(x, y);
    if (over !== view.hovered) {
      view.hovered = over;
      view.draw();
    }
    const sides = grip(x, y, REACH[event.pointerType] ?? REACH.mouse);
    const both = sides && sides[0] !== null && sides[1] !== null;
    const slant = both && (sides[0] === 0) === (sides[1] === 1) ? "nwse-resize" : "nesw-resize";
    canvas.style.cursor = drawing || !sides ? "" : both ? slant : sides[0] !== null ? "ew-resize" : "ns-resize";
  }

  function pinch(id, [x, y]) {
    const other = [...fingers].find(([key]) => key !== id)?.[1];
    const before = fingers.get(id);
    if (!other) return;
    const span = ([ax, ay]) => Math.max(Math.hypot(ax - other[0], ay - other[1]), 1);
    view.zoomAt((x + other[0]) / 2, (y + other[1]) / 2, span([x, y]) / span(before));
    view.pan((x - before[0]) / 2, (y - before[1]) / 2);
  }

  function edit(x, y) {
    const [px, py] = clamp(...view.toPicture(x, y));
    const [horizontal, vertical] = drag.sides;
    const box = [...drag.box];
    if (horizontal === 0) box[0] = Math.min(px, box[2] - LEAST_SIDE);
    if (horizontal === 2) box[2] = Math.max(px, box[0] + LEAST_SIDE);
    if (vertical === 1) box[1] = Math.min(py, box[3] - LEAST_SIDE);
    if (vertical === 3) box[3] = Math.max(py, box[1] + LEAST_SIDE);
    told.edited(box, drag.subject);
  }

  function drawTo(x, y) {
    const [px, py] = clamp(...view.toPicture(x, y));
    const [fx, fy] = drag.from;
    view.fresh = [Math.min(fx, px), Math.min(fy, py), Math.max(fx, px), Math.max(fy, py)];
    view.draw();
  }

  function release(event) {
    if (!fingers.delete(event.pointerId)) return;
    canvas.classList.remove("panning");
    if (drag?.kind === "draw") {
      const box = view.fresh;
      if (box && box[2] - box[0] >= LEAST_SIDE && box[3] - box[1] >= LEAST_SIDE && event.type === "pointerup") {
        const { subject } = drag;
        setDrawing(false);
        told.drawn(box, subject);
      } else {
        view.fresh = null;
        view.draw();
      }
    }
    drag = fingers.size ? { kind: "pan" } : null;
  }
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("dblclick", () => view.toggle());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const pixels = event.deltaMode === 1 ? event.deltaY * LINE : event.deltaMode === 2 ? event.deltaY * canvas.clientHeight : event.deltaY;
    view.zoomAt(...at(event), Math.exp(-Math.max(Math.min(pixels, 400), -400) * WHEEL * (event.ctrlKey ? 5 : 1)));
  }, { passive: false });

  function setDrawing(on) {
    drawing = on;
    canvas.classList.toggle("drawing", on);
    if (!on && drag?.kind === "draw") drag = { kind: "pan" };
  }
  // Whatever the hand is doing ends here: it was meant for what was shown until now.
  function cancel() {
    drag = null;
    view.fresh = null;
    canvas.classList.remove("panning");
    setDrawing(false);
    view.draw();
  }
  return { setDrawing, isDrawing: () => drawing, cancel };
}
