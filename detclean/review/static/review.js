// The review: which issue is shown, what a key does to it, and what the server has kept.

import { forget, get, post, prefetch, readPicture, readScreen } from "./api.js";
import { createView } from "./canvas.js";
import { createChooser } from "./chooser.js";
import { createFilters } from "./filters.js";
import { listen } from "./gestures.js";
import { listenForKeys } from "./keys.js";
import { alertPerson, announce, fillHelp, hideEnd, hint, isAsAnnotated, isHelpShown, showDecision, showEnd, showHelp, showProgress, showScreen, showTarget } from "./panel.js";
import { createPace, createTrail } from "./trail.js";
import { createWork } from "./work.js";
import { DONE } from "./words.js";

const AHEAD = 3; // screens fetched before they are asked for
const RANK_AGAIN = 10; // decisions between two rankings
const POLL = 4000; // ms
const PATIENCE = 200; // ms that a screen may take before it is said that it is on its way
const PENDING = { open: ["open"], skipped: ["skip"] }; // of the filter on states: what is still to be gone through
const OVERRULE = "Press the key again to overrule that.";
const TOO_EARLY = "That came before this was shown, so it was not done.";

const at = (id) => document.getElementById(id);
const about = await get("/api/about");
const view = createView(at("canvas"));
const chooser = createChooser(at("chooser"), at("search"), at("options"));
const filters = createFilters(at("filters"), about, () => {
  alertPerson("");
  work.add(loadQueue);
});
const gestures = listen(view, { subject: () => (isSeen(state.painted) ? state.painted : null), edited, drawn: addBox });
const trail = createTrail(about.folder);
const pace = createPace(about.folder);
const state = {
  queue: [], queues: 0, cursor: 0, verdicts: new Map(), version: 0, progress: null, sinceRanking: 0, // queues: how many there were
  screen: null, target: null, touched: false, // the issue at hand, what its labels shall be, whether the person made it so
  painted: null, // the issue that the person sees: while the picture of the next one loads, still the one before
};

let lost = false; // the server
const work = createWork({
  failed(error) {
    lost = Boolean(error.lost);
    alertPerson(error.message);
  },
  dropped() {
    view.fresh = null;
    view.draw();
    hint(TOO_EARLY);
  },
});

// What a person does to an issue is for the one that was seen then, and for no other: nothing is decided unseen, however fast the keys are.
const isSeen = (issue) => issue === (state.screen?.issue ?? null);
function ask(job, issue = state.painted) {
  return work.ask(job, () => isSeen(issue));
}

// What the hand is doing is about what is shown now, and ends with it.
function dropDrag() {
  if (gestures.isDrawing()) hint("");
  gestures.cancel();
}

// A person who goes on has read what was said.
function goOn() {
  dropDrag();
  alertPerson("");
}

const isPending = (position) => {
  const wanted = PENDING[filters.value("state")];
  return !wanted || wanted.includes(state.verdicts.get(position) ?? wanted[0]);
};

function takeIn(answer) {
  if (answer.version < state.version) return; // overtaken by a later one
  state.version = answer.version;
  state.progress = { ...state.progress, ...answer };
  forget(answer.changes);
  for (const change of answer.changes) {
    if (change.position !== null) state.verdicts.set(change.position, change.decision?.verdict ?? "open");
  }
  showProgress(state.progress, pace.perMinute());
}

const askQueue = () => get(`/api/queue?${filters.query()}${state.version ? `&since=${state.version}` : ""}`);

async function loadQueue() {
  const answer = await askQueue();
  state.verdicts.clear();
  state.sinceRanking = 0;
  takeIn(answer);
  state.queue = answer.positions;
  state.queues += 1;
  state.cursor = 0;
  if (state.queue.length) await show(0);
  else finish();
}

// The rest of the queue in the order that the decisions so far suggest; what was gone through stays where it is.
async function rankAgain() {
  state.sinceRanking = 0;
  const { queues } = state;
  const answer = await askQueue();
  await work.add(() => {
    if (queues !== state.queues) return; // it was about another one
    const before = state.queue.slice(0, state.cursor + 1);
    const passed = new Set(before);
    takeIn(answer);
    state.queue = [...before, ...answer.positions.filter((position) => !passed.has(position))];
    prefetch(upcoming());
  });
}

// Positions of the next issues to decide.
function upcoming() {
  const found = [];
  for (let i = state.cursor + 1; i < state.queue.length && found.length < AHEAD; i++) if (isPending(state.queue[i])) found.push(state.queue[i]);
  return found;
}

// A screen with its picture, if it can be had; what takes longer than a blink is said to be on its way.
async function fetchScreen(position) {
  const timer = setTimeout(() => (at("loading").hidden = false), PATIENCE);
  try {
    const screen = await readScreen(position);
    const { image, ready } = readPicture(screen.picture.address);
    return { screen, image: (await ready) ? image : null };
  } finally {
    clearTimeout(timer);
    at("loading").hidden = true;
  }
}

async function show(cursor) {
  const position = state.queue[cursor];
  const { screen, image } = await fetchScreen(position);
  dropDrag();
  Object.assign(state, { cursor: state.queue.indexOf(position), screen, touched: false });
  hideEnd();
  const { width, height } = screen.picture;
  const reach = [screen.given?.xyxy, screen.proposed?.xyxy].filter(Boolean).flat();
  const known = Math.max(...reach, 1) * 1.2; // of a picture that nobody knows the size of
  Object.assign(view, { image, width: width || image?.naturalWidth || known, height: height || image?.naturalHeight || known });
  Object.assign(view, { neighbours: screen.neighbours, added: screen.added.filter(isAdded), hovered: null, fresh: null, given: screen.given });
  at("lost").hidden = image !== null;
  state.target = screen.decision?.verdict === "accept" ? { category: screen.decision.category, xyxy: screen.decision.xyxy } : screen.proposed;
  view.target = state.target;
  showScreen(screen, pressed);
  showTarget(screen, state.target, false);
  announce(screen, state.target);
  view.zoomToBoxes();
  view.afterPaint = () => {
    state.painted = screen.issue;
    document.body.dataset.shown = String(position); // for those who measure
    view.afterPaint = () => {};
  };
  prefetch(upcoming());
}

const pressed = { category: (name) => ask(() => setCategory(name)), remove: (change) => ask(() => removeBox(change)) }; // in the panel
const isAdded = (change) => change.decision.xyxy !== null;

function finish() {
  dropDrag();
  Object.assign(state, { screen: null, target: null, touched: false, painted: null });
  view.afterPaint = () => {}; // what was to be painted is not
  Object.assign(view, { given: null, target: null, neighbours: [], added: [], image: null });
  view.draw();
  showEnd(state.progress, about.folder, filters.isSet());
  document.body.dataset.shown = "end";
}

// The next issue to decide: further on in the queue, else one that was passed over.
async function advance() {
  const after = (from, to) => {
    for (let i = from; i < to; i++) if (isPending(state.queue[i])) return i;
    return -1;
  };
  let next = after(state.cursor + 1, state.queue.length);
  if (next < 0 && filters.value("state") === "open") next = after(0, state.cursor + 1);
  if (next >= 0) return show(next);
  if (filters.value("state") === "open" && state.progress.counts.open) return loadQueue(); // taken back in another window
  finish();
}

async function move(step) {
  goOn();
  if (!state.screen) return step < 0 && state.queue.length ? show(state.cursor) : undefined;
  const cursor = state.cursor + step;
  if (cursor < 0) return hint("This is the first one.");
  if (cursor < state.queue.length) return show(cursor);
  if (!isPendingAnywhere()) return finish();
  hint("This is the last one; P goes back, a decision goes on with the open ones.");
}

const isPendingAnywhere = () => Boolean(PENDING[filters.value("state")]) && state.queue.some(isPending);

// Sends a decision, answers whether it was kept. What another window decided meanwhile is shown, and the same key overrules it.
async function send(path, body) {
  const answer = await post(`${path}?${filters.query()}`, { ...body, version: state.version });
  if (answer.body.counts) takeIn(answer.body);
  if (answer.status === 200) return answer.body;
  if (answer.status !== 409) throw Object.assign(new Error(answer.body.error), { status: answer.status });
  work.interrupt();
  const { other } = answer.body;
  const words = other.decision ? `Another window decided: ${DONE[other.decision.verdict]}.` : "Another window took this back.";
  if (state.screen?.issue === other.issue) {
    Object.assign(state.screen, { line: other.line, decision: other.decision });
    showDecision(state.screen);
  }
  alertPerson(`${words} ${path === "/api/undo" ? "It was not undone here." : OVERRULE}`);
  return null;
}

async function decide(verdict, noBox) {
  const { screen } = state;
  if (!screen) return;
  goOn();
  const body = { issue: screen.issue, verdict, seen: screen.line };
  if (noBox) body.corrected = { category: null, xyxy: null };
  else if (verdict === "accept") {
    if (!state.target) return hint("Nothing is proposed here: drag the box, choose a category (C), or press D for no box.");
    if (isAsAnnotated(screen.given, state.target)) return hint("That is as it is annotated: R says that the label is right.");
    const kept = screen.decision?.verdict === "accept"; // what was decided before stays, corrected or not
    if (state.touched || kept) body.corrected = { category: state.target.category, xyxy: state.target.xyxy };
  }
  const answer = await send("/api/decide", body);
  if (!answer) return;
  if (answer.line !== null) {
    trail.push({ line: answer.line, position: screen.position });
    if (verdict !== "skip") pace.tick();
    state.sinceRanking += 1;
  }
  showProgress(state.progress, pace.perMinute());
  await advance();
  const due = state.sinceRanking >= RANK_AGAIN || !state.progress.calibrated_by;
  if (due && state.screen && state.progress.precision && filters.value("order") === "probability") {
    rankAgain().catch(() => {}); // beside the next decision; if the server is gone that one will say so
  }
}

async function undo() {
  goOn();
  const last = trail.last();
  if (!last) return hint("There is nothing of this window to undo.");
  const answer = await send("/api/undo", { line: last.line }).catch((error) => {
    if (error.status === 400) trail.pop(); // there is no such decision; whatever else went wrong, it can be tried again
    throw error;
  });
  trail.pop();
  if (!answer) return;
  const cursor = state.queue.indexOf(last.position);
  if (cursor < 0) state.queue.splice(state.cursor, 0, last.position);
  await show(cursor < 0 ? state.cursor : cursor);
  hint(last.box ? "The added box was taken back." : "Undone.");
}

function correct(target) {
  if (!state.screen) return;
  Object.assign(state, { target, touched: true });
  view.target = target;
  showTarget(state.screen, target, true);
  view.draw();
}

function edited(xyxy, issue) {
  if (isSeen(issue)) correct({ category: state.target?.category ?? state.screen.given.category, xyxy });
}

function setCategory(name) {
  const { screen, target } = state;
  if (screen && name) correct({ category: name, xyxy: target?.xyxy ?? screen.given?.xyxy ?? screen.proposed.xyxy });
}

async function chooseCategory() {
  if (state.screen) setCategory(await chooser.ask(about.categories, state.screen.likely));
}

function startBox() {
  if (!state.screen) return;
  gestures.setDrawing(!gestures.isDrawing());
  hint(gestures.isDrawing() ? "Drag over the object that is missing; Esc gives up." : "", true);
}

function addBox(xyxy, issue) {
  hint("");
  ask(async () => {
    const { screen } = state;
    const category = await chooser.ask(about.categories, screen.likely);
    view.fresh = null;
    view.draw();
    if (!category) return;
    const answer = await send("/api/box", { image: screen.picture.index, category, xyxy });
    if (!answer) return;
    trail.push({ line: answer.line, position: screen.position, box: true });
    await lookAgain();
  }, issue);
}

async function removeBox(change) {
  const answer = await send("/api/decide", { issue: change.issue, verdict: "open", seen: change.line });
  if (!answer) return;
  if (answer.line !== null) trail.push({ line: answer.line, position: state.screen.position, box: true });
  await lookAgain();
}

// What is around the issue, anew; what the person is doing to it stays.
async function lookAgain() {
  const { screen } = state;
  if (!screen) return;
  const { neighbours, added } = await readScreen(screen.position);
  if (state.screen !== screen) return;
  Object.assign(screen, { neighbours, added });
  Object.assign(view, { neighbours, added: added.filter(isAdded), hovered: null });
  showScreen(screen, pressed);
  showTarget(screen, state.target, state.touched);
  view.draw();
}

async function poll() {
  const answer = await get(`/api/changes?since=${state.version}&${filters.query()}`);
  takeIn(answer);
  if (lost) alertPerson("");
  lost = false;
  const { screen } = state;
  if (!screen) {
    if (answer.counts.open && answer.changes.length && filters.value("state") === "open") await loadQueue();
    return;
  }
  const own = answer.changes.find((change) => change.position === screen.position);
  if (own && own.line !== screen.line) alertPerson(own.decision ? `Another window decided: ${DONE[own.decision.verdict]}.` : "Another window took its decision back.");
  if (answer.changes.some((change) => change.image === screen.picture.index)) await lookAgain();
}

function escape() {
  if (isHelpShown()) return showHelp(false);
  if (gestures.isDrawing()) startBox();
  else if (state.touched) ask(() => state.screen && show(state.cursor));
  alertPerson("");
}

const jobs = {
  accept: () => decide("accept"), reject: () => decide("reject"), hard: () => decide("hard"), skip: () => decide("skip"),
  nobox: () => decide("accept", true), undo, next: () => move(1), previous: () => move(-1), category: chooseCategory, add: startBox,
  zoom: () => view.toggle(), in: () => zoom(1.25), out: () => zoom(0.8),
  skipped: () => filters.set({ state: "skipped" }), everything: () => filters.clear(), help: () => showHelp(!isHelpShown()),
};
const zoom = (factor) => view.zoomAt(view.canvas.clientWidth / 2, view.canvas.clientHeight / 2, factor);
const ABOUT_NONE = ["undo", "next", "previous", "zoom", "in", "out", "skipped", "everything", "help"]; // jobs that change no issue on the screen

listenForKeys({
  press: (job) => (ABOUT_NONE.includes(job) ? work.ask(jobs[job]) : ask(jobs[job])),
  pick: (i) => ask(() => setCategory(state.screen?.likely[i])),
  escape,
  hide(on) {
    view.hidden = on;
    view.draw();
  },
  isCovered: isHelpShown,
});
at("help").addEventListener("click", () => showHelp(false));
const isVisible = () => document.visibilityState === "visible";
setInterval(() => isVisible() && work.add(poll), POLL);
document.addEventListener("visibilitychange", () => isVisible() && work.add(poll));

at("name").textContent = about.name;
document.title = `${about.name} - detclean review`;
fillHelp();
await work.add(loadQueue);
