// The list of categories: type to filter, arrow keys and Enter, or a digit for one of the likeliest.

const MOST_SHOWN = 200;

export function createChooser(box, input, list) {
  let categories = [];
  let likely = [];
  let shown = [];
  let marked = 0;
  let done = null;

  function fill() {
    const text = input.value.trim().toLowerCase();
    const rest = categories.filter((name) => !likely.includes(name));
    const begins = (name) => (name.toLowerCase().startsWith(text) ? 0 : 1);
    const found = [...likely, ...rest].filter((name) => name.toLowerCase().includes(text));
    shown = (text ? found.sort((a, b) => begins(a) - begins(b)) : found).slice(0, MOST_SHOWN);
    marked = 0;
    list.replaceChildren(...shown.map((name, i) => {
      const item = document.createElement("li");
      item.setAttribute("role", "option");
      item.append(name);
      if (!text && i < likely.length && i < 9) {
        const key = document.createElement("kbd");
        key.textContent = String(i + 1);
        item.append(key);
      }
      item.addEventListener("click", () => close(name));
      return item;
    }));
    mark(0);
  }

  function mark(i) {
    marked = Math.min(Math.max(i, 0), shown.length - 1);
    [...list.children].forEach((item, k) => item.setAttribute("aria-selected", String(k === marked)));
    list.children[marked]?.scrollIntoView({ block: "nearest" });
  }

  function close(name) {
    if (!done) return;
    const answer = done;
    done = null;
    box.hidden = true;
    input.blur();
    answer(name);
  }

  // The input keeps the focus, and a finger may scroll: nothing is chosen before it is a click
  for (const kind of ["pointerdown", "mousedown"]) list.addEventListener(kind, (event) => event.preventDefault());
  input.addEventListener("input", fill);
  input.addEventListener("blur", () => close(null));
  input.addEventListener("keydown", (event) => {
    event.stopPropagation(); // these keys are no decisions
    if (event.isComposing) return;
    const digit = /^[1-9]$/.test(event.key) && !input.value && !event.ctrlKey && !event.metaKey ? likely[Number(event.key) - 1] : undefined;
    if (event.key === "Escape") close(null);
    else if (event.key === "Enter" && shown[marked] !== undefined) close(shown[marked]);
    else if (event.key === "ArrowDown") mark(marked + 1);
    else if (event.key === "ArrowUp") mark(marked - 1);
    else if (digit !== undefined) close(digit);
    else return;
    event.preventDefault();
  });

  return {
    // Asks for a category: a promise of its name, or of null where the person gave up.
    ask(all, first) {
      close(null);
      [categories, likely] = [all, first];
      input.value = "";
      box.hidden = false;
      fill();
      input.focus();
      return new Promise((resolve) => (done = resolve));
    },
  };
}
