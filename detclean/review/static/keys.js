// Keys and buttons: which job a press means.

const JOBS = {
  a: "accept", enter: "accept", r: "reject", h: "hard", s: "skip", d: "nobox", u: "undo", n: "next", arrowright: "next", p: "previous",
  arrowleft: "previous", c: "category", "/": "category", b: "add", z: "zoom", 0: "zoom", "+": "in", "=": "in", "-": "out", "?": "help",
};
const REPEATABLE = ["next", "previous", "in", "out"];

// On a layout that types no Latin letters a key means the letter in its place.
function nameOf(event) {
  const foreign = /^[^\x00-\x7f]/.test(event.key) && /^Key[A-Z]$/.test(event.code);
  return (foreign ? event.code.at(-1) : event.key).toLowerCase();
}

// told: press(job), pick(i) of the likely categories, escape(), hide(on) of the boxes, isCovered() by the sheet of keys.
export function listenForKeys(told) {
  document.addEventListener("keydown", (event) => {
    const key = nameOf(event);
    if (event.isComposing || event.altKey) return;
    if ((key === "enter" || key === " ") && event.target.closest?.("button")) {
      if (event.repeat) event.preventDefault(); // held, it would press the button again and again
      return;
    }
    if (key === "escape") return void told.escape();
    if (told.isCovered()) {
      if (key === "?") told.press("help");
      return; // nobody decides about what is covered
    }
    if (event.ctrlKey || event.metaKey) {
      if (key !== "z" || event.shiftKey) return;
      event.preventDefault();
      if (!event.repeat) told.press("undo");
      return;
    }
    if (key === " ") {
      event.preventDefault();
      return void told.hide(true);
    }
    if (/^[1-9]$/.test(key)) return void (event.repeat || told.pick(Number(key) - 1));
    const job = JOBS[key];
    if (!job) return;
    event.preventDefault();
    if (!event.repeat || REPEATABLE.includes(job)) told.press(job);
  });
  document.addEventListener("keyup", (event) => event.key === " " && told.hide(false));
  window.addEventListener("blur", () => told.hide(false));
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button");
    if (!button) return;
    if (event.detail > 0) button.blur(); // pressed with a pointer: Enter is a decision again and must not press it once more
    if (button.dataset.do) told.press(button.dataset.do);
  });
}
