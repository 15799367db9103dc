// What this window did: its decisions, so that they can be undone after a reload too, and how fast it went.

const MOST_KEPT = 1000;
const TIMES_KEPT = 60;
const LONGEST_PAUSE = 60; // s; who was away longer was not deciding

function kept(name) {
  try {
    const found = JSON.parse(sessionStorage.getItem(name) ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

function keep(name, list) {
  try {
    sessionStorage.setItem(name, JSON.stringify(list));
  } catch {
    // a browser that keeps nothing: the trail ends with the page
  }
}

// folder: of the run, as another one may have been served on the same port.
export function createTrail(folder) {
  const name = `trail:${folder}`;
  const steps = kept(name);
  return {
    push(step) {
      steps.push(step);
      if (steps.length > MOST_KEPT) steps.shift();
      keep(name, steps);
    },
    pop() {
      steps.pop();
      keep(name, steps);
    },
    last: () => steps.at(-1),
  };
}

export function createPace(folder) {
  const name = `times:${folder}`;
  const times = kept(name);
  return {
    tick() {
      times.push(Math.round(Date.now() / 100) / 10);
      if (times.length > TIMES_KEPT) times.shift();
      keep(name, times);
    },
    // Decisions a minute lately, pauses left out; null as long as there are too few to tell.
    perMinute() {
      if (times.length < 4) return null;
      const seconds = times.slice(1).reduce((sum, time, i) => sum + Math.min(time - times[i], LONGEST_PAUSE), 0);
      return ((times.length - 1) / Math.max(seconds, 1)) * 60;
    },
  };
}
