// Filters and order: kept in the address, so that a reload and a bookmark find them again.

import { STATES } from "./words.js";

const NAMES = ["type", "category", "verdict", "state", "low", "high", "image", "order"];
const START = { state: "open", order: "probability" };

export function createFilters(form, about, changed) {
  const field = (name) => form.elements.namedItem(name);
  const options = (name, pairs) => field(name).append(...pairs.map(([value, text]) => new Option(text, value)));
  options("type", about.types);
  options("category", about.categories.map((name) => [name, name]));
  options("state", about.states.map((state) => [state, STATES[state] ?? state]));

  function fill() {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const name of NAMES) {
      field(name).value = kept.get(name) ?? START[name] ?? "";
      if (field(name).selectedIndex === -1) field(name).value = START[name] ?? ""; // an address of another run
    }
    mark();
  }

  function mark() {
    for (const name of NAMES) field(name).classList.toggle("set", field(name).value !== (START[name] ?? ""));
  }

  function write() {
    const kept = new URLSearchParams(NAMES.map((name) => [name, field(name).value.trim()]).filter(([name, value]) => value !== (START[name] ?? "")));
    history.replaceState(null, "", kept.size ? `#${kept}` : location.pathname);
    mark();
    changed();
  }

  function set(values) {
    for (const [name, value] of Object.entries(values)) field(name).value = value;
    write();
  }

  let typing = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    clearTimeout(typing);
    if (event.target.tagName === "SELECT") event.target.blur(); // the next key is a decision again
    write();
  });
  form.addEventListener("input", (event) => {
    if (event.target.tagName === "SELECT") return;
    clearTimeout(typing);
    typing = setTimeout(write, 350);
  });
  form.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape" || event.key === "Enter") event.target.blur();
  });
  window.addEventListener("hashchange", () => {
    fill();
    changed();
  });
  fill();

  return {
    set,
    clear: () => set(Object.fromEntries(NAMES.map((name) => [name, START[name] ?? ""]))),
    value: (name) => field(name).value,
    isSet: () => NAMES.some((name) => name !== "order" && field(name).value.trim() !== (START[name] ?? "")),
    // As the server reads them: probabilities are shares there.
    query() {
      const share = (name) => {
        const number = Number.parseFloat(field(name).value.replace(",", "."));
        return Number.isFinite(number) ? String(Math.min(Math.max(number / 100, 0), 1)) : "";
      };
      const values = { ...Object.fromEntries(NAMES.map((name) => [name, field(name).value.trim()])), low: share("low"), high: share("high") };
      return new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();
    },
  };
}
