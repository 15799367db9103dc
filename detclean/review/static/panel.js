// The words beside, below and over the picture.

import { DONE, KEYS, describeChance, describePrecision, describeTarget, describeTime, many, percent, sameBox } from "./words.js";

const at = (id) => document.getElementById(id);

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

const pieces = (parts) => parts.map(([text, kind]) => element("span", text, kind));

// What changes while a box is dragged: the proposal in words, which category is chosen.
export function showTarget(screen, target, touched) {
  at("proposal").replaceChildren(...pieces(describeTarget(screen.given, target)));
  const words = describeTarget(screen.given, target).map(([text]) => text).join("");
  at("accepting").textContent = target ? (touched ? `as you made it: ${words}` : words) : "after a correction";
  for (const button of at("likely").children) button.classList.toggle("on", button.title === target?.category);
}

export function showScreen(screen, told) {
  at("type").textContent = screen.kind;
  at("fill").style.width = `${Math.round((screen.probability_now ?? screen.probability) * 100)}%`;
  at("chance").textContent = describeChance(screen.probability, screen.probability_now, screen.likeliness);
  at("reason").textContent = screen.reason ?? "";
  at("rejecting").textContent = screen.given ? "the label is right" : "nothing is missing here";
  at("likely").replaceChildren(...screen.likely.map((name, i) => {
    const button = element("button");
    button.append(element("kbd", String(i + 1)), name);
    button.title = name;
    button.addEventListener("click", () => told.category(name));
    return button;
  }));
  const rows = [
    ["file", screen.file_name],
    ["label", screen.source ?? "none: nothing is annotated"],
    ["detector", screen.detector_score === null ? "says nothing" : screen.detector_score < 0.005 ? "sees nothing that counts" : `${percent(screen.detector_score)} confident`],
    ["votes", screen.votes === null ? "" : many(screen.votes, "judge agrees", "judges agree")],
    ["rank", `${screen.rank} (${screen.verdict})`],
  ];
  at("facts").replaceChildren(...rows.filter(([, text]) => text).flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
  showDecision(screen);
  showAdded(screen, told);
}

export function showDecision(screen) {
  const { decision } = screen;
  at("state").textContent = decision ? DONE[decision.verdict] + (decision.by === "review" ? "" : ` (${decision.by})`) : "";
  for (const button of document.querySelectorAll("#decisions button")) button.classList.toggle("on", button.dataset.do === decision?.verdict);
}

function showAdded(screen, told) {
  const made = screen.added.filter((change) => change.decision.annotation_id === null && change.decision.xyxy);
  at("added").replaceChildren(...made.map((change) => {
    const item = element("li", `added: ${change.decision.category}`);
    const button = element("button", "remove");
    button.addEventListener("click", () => told.remove(change));
    item.append(button);
    return item;
  }));
}

export function showProgress({ counts, precision, least_decisions: least, calibrated_by: by }, pace) {
  const decided = counts.accept + counts.reject + counts.hard;
  const total = decided + counts.open + counts.skip;
  at("done").style.width = `${total ? (decided / total) * 100 : 0}%`;
  at("count").textContent = `${decided.toLocaleString("en")} of ${total.toLocaleString("en")} decided` + (counts.skip ? `, ${counts.skip} skipped` : "");
  at("rate").textContent = pace ? `${pace.toFixed(pace < 10 ? 1 : 0)} a minute` + (counts.open ? `, ${describeTime((counts.open / pace) * 60)}` : "") : "";
  at("precision").textContent = precision ? describePrecision(precision) : `realised precision: after ${least} decisions`;
  at("ranking").textContent = by ? `ranking calibrated by ${many(by, "decision", "decisions")}` : "ranking as the run left it";
}

// Where one line of words says what a new screen shows; not what is dragged, which would never be silent.
export function announce(screen, target) {
  const words = describeTarget(screen.given, target).map(([text]) => text).join("");
  at("spoken").textContent = `${screen.kind}: ${words}${screen.decision ? `. ${DONE[screen.decision.verdict]}` : ""}`;
}

// What is covered cannot be reached: by the sheet of keys all the rest, by the end screen the picture and what is beside it.
function cover() {
  const [help, end] = [!at("help").hidden, !at("end").hidden];
  for (const id of ["bar", "foot", "end"]) at(id).inert = help;
  for (const id of ["stage", "panel"]) at(id).inert = help || end;
}

let before = null; // what had the focus when the sheet was opened
export const isHelpShown = () => !at("help").hidden;
export function showHelp(on) {
  if (on === isHelpShown()) return;
  if (on) before = document.activeElement;
  at("help").hidden = !on;
  cover();
  (on ? at("help") : before)?.focus();
}

export function hideEnd() {
  at("end").hidden = true;
  cover();
}

export function showEnd({ counts, precision }, folder, filtered) {
  const decided = counts.accept + counts.reject + counts.hard;
  const total = decided + counts.open + counts.skip;
  const rest = counts.open + counts.skip;
  at("endtitle").textContent = !total ? "No issue matches these filters" : rest ? "That was the last of this list" : filtered ? "All of these are decided" : "All issues are decided";
  at("endwords").textContent = !total ? "Choose others above." : counts.open ? "Some that you passed over are open still." : "Every decision is kept in decisions.jsonl.";
  const rows = [[counts.accept, "accepted: the label was wrong"], [counts.reject, "rejected: the label was right"], [counts.hard, "hard: right, but difficult"], [counts.skip, "skipped"], [counts.open, "open"]];
  at("endcounts").replaceChildren(...rows.filter(([count]) => count).flatMap(([count, text]) => [element("dt", count.toLocaleString("en")), element("dd", text)]));
  at("endprecision").textContent = precision ? describePrecision(precision) : "";
  at("endcommand").textContent = `python -m detclean apply ${/^[\w./-]+$/.test(folder) ? folder : `'${folder.replaceAll("'", "'\\''")}'`}`;
  for (const id of ["endcommand", "endnext"]) at(id).hidden = !decided;
  document.querySelector("[data-do=skipped]").hidden = !counts.skip;
  document.querySelector("[data-do=everything]").hidden = !filtered;
  at("end").hidden = false;
  cover();
  const busy = ["bar", "end"].some((id) => at(id).contains(document.activeElement)); // choosing filters, say
  if (!busy) at("end").focus();
}

export function fillHelp() {
  at("keys").replaceChildren(...KEYS.flatMap(([keys, text]) => {
    const name = element("dt");
    name.append(...keys.map((key) => element("kbd", key)));
    return [name, element("dd", text)];
  }));
}

export function alertPerson(text) {
  for (const place of [at("alert"), at("endalert")]) { // the end screen covers the first
    place.textContent = text;
    place.hidden = !text;
  }
}

let timer = 0;
export function hint(text, lasting) {
  clearTimeout(timer);
  at("hint").textContent = text;
  at("hint").hidden = !text;
  if (text && !lasting) timer = setTimeout(() => (at("hint").hidden = true), 2600);
}

export const isAsAnnotated = (given, target) => Boolean(given && target?.xyxy) && given.category === target.category && sameBox(given.xyxy, target.xyxy);
