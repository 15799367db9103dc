// What a person reads. All of it goes into the page as text, never as markup.

export const STATES = {
  open: "open", decided: "decided", accepted: "accepted", rejected: "rejected", hard: "hard", skipped: "skipped", all: "all",
};
export const DONE = { accept: "accepted", reject: "rejected", hard: "hard", skip: "skipped", open: "open" };
export const KEYS = [
  [["A", "Enter"], "accept: the label is wrong and becomes what is proposed, or what you made of it"],
  [["R"], "reject: the label is right"],
  [["H"], "hard: the label is right, and the object is difficult"],
  [["D"], "no box: nothing belongs here"],
  [["S"], "skip: leave it open for now"],
  [["U", "Ctrl+Z"], "undo your last decision"],
  [["N", "→"], "next, without deciding"],
  [["P", "←"], "previous"],
  [["1", "…", "9"], "one of the likeliest categories"],
  [["C", "/"], "choose among all categories"],
  [["B"], "draw a box that is missing"],
  [["Z", "0"], "whole picture, or back to the boxes"],
  [["+", "−"], "zoom; the wheel does so at the pointer"],
  [["Space"], "hide the boxes as long as it is held"],
  [["drag"], "corners and edges change the box; elsewhere moves the picture"],
  [["Esc"], "drop what you changed and did not yet decide"],
];

export const percent = (share) => (share > 0.995 && share < 1 ? "above 99" : share < 0.01 && share > 0 ? "below 1" : `${Math.round(share * 100)}`) + " %";
export const many = (count, one, more) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;

export const sameBox = (a, b) => Boolean(a && b) && a.every((side, i) => Math.abs(side - b[i]) < 0.005);

// The change that a target means, as pieces: [text, class]. target: null where nothing is proposed, xyxy null for no box.
export function describeTarget(given, target) {
  const was = given && [`'${given.category}'`, "was"];
  if (!target) return [["Look at "], was || ["this place"], [": nothing is proposed"]];
  if (!target.xyxy) return was ? [["Delete "], was] : [["No object here"]];
  const now = [`'${target.category}'`, "now"];
  if (!given) return [["Add "], now];
  const moved = !sameBox(given.xyxy, target.xyxy);
  if (given.category === target.category) return moved ? [["Move "], was, [" to the blue box"]] : [["Leave "], was, [" as it is"]];
  return [was, [" should be "], now, ...(moved ? [[", in the blue box"]] : [])];
}

export function describeChance(share, now, likeliness) {
  const after = now !== null && Math.round(now * 100) !== Math.round(share * 100) ? `, now ${percent(now)}` : "";
  return `${percent(share)}${after}: ${likeliness}`;
}

export function describeTime(seconds) {
  if (seconds < 90) return "about a minute left";
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `about ${minutes} min left` : `about ${(minutes / 60).toFixed(1)} h left`;
}

export function describePrecision(precision) {
  const { decided, promised, realised, low, high } = precision;
  return `${percent(realised)} of ${decided} were really wrong (${Math.round(low * 100)} to ${Math.round(high * 100)} %), promised ${percent(promised)}`;
}
