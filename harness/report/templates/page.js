// What the page does: theme, tables that sort and filter, plots drawn when they come near, verdicts and items of any two
// labels. Everything works from this file alone; texts are set as text, never as markup.
(() => {
  "use strict";
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const read = (id) => { const found = document.getElementById(id); return found ? JSON.parse(found.textContent) : null; };
  const make = (tag, text = "", attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== "") made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };

  // --- theme: as the system has it, or as chosen ---

  const themes = ["system", "light", "dark"];
  const button = document.getElementById("theme");
  const remembered = () => { try { return localStorage.getItem("tunebench-theme") || "system"; } catch { return "system"; } };
  function show(theme) {
    if (theme === "system") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    try { localStorage.setItem("tunebench-theme", theme); } catch { /* a page from a file may have no storage */ }
  }
  button.hidden = false;
  button.addEventListener("click", () => show(themes[(themes.indexOf(remembered()) + 1) % themes.length]));
  show(remembered());

  // --- tables ---

  function key(row, place) {
    const cell = row.cells[place];
    return cell ? cell.dataset.value : undefined;
  }
  function compare(a, b) {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? String(a).localeCompare(String(b), "en", { numeric: true }) : x - y;
  }
  function sort(table, place, descending) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, order) => [key(row, place), order, row]);
    const empty = (value) => value === undefined || value === "";
    rows.sort(([a, i], [b, j]) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b) || i - j; // what is not known comes last, either way
      return (descending ? compare(b, a) : compare(a, b)) || i - j;
    });
    body.append(...rows.map(([, , row]) => row));
    [...table.tHead.rows[0].cells].forEach((head, at) =>
      head.setAttribute("aria-sort", at === place ? (descending ? "descending" : "ascending") : "none"));
  }
  for (const board of all(".board")) {
    const table = board.querySelector("table");
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      head.querySelector("button").addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        // Numbers from the largest down first, names from A.
        const first = [...table.tBodies[0].rows].map((row) => key(row, place)).find((value) => value);
        sort(table, place, now === "none" ? !Number.isNaN(Number(first)) : now === "ascending");
      });
    });
    const controls = all("[data-filter]", board);
    const count = board.querySelector("output");
    function filter() {
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const kept = controls.every((control) => {
          const what = control.dataset.filter;
          if (control.type === "checkbox") return !control.checked || row.dataset[what] === "1";
          if (!control.value) return true;
          if (what === "text") return row.dataset.text.includes(control.value.toLowerCase());
          // The base model stays in sight: all are measured against it.
          return row.dataset[what] === control.value || row.classList.contains("untrained");
        });
        row.hidden = !kept;
        shown += kept;
      }
      const size = controls.find((control) => control.dataset.filter === "n");
      table.classList.toggle("one-size", Boolean(size && size.value)); // the column would say the same in every row
      count.textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
    }
    controls.forEach((control) => control.addEventListener("input", filter));
    filter();
  }

  // --- plots ---

  const specs = read("charts") || {};
  function draw(place) {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "1";
    const options = { renderer: "svg", actions: false, tooltip: { theme: "custom" } };
    window.vegaEmbed(place, specs[place.dataset.chart], options).then(
      () => {
        // The frame says what a plot is, and the tables have its figures: hundreds of marks would only be read aloud.
        all("svg", place).forEach((drawn) => drawn.setAttribute("aria-hidden", "true"));
        place.dataset.drawn = "done";
      },
      (error) => { place.textContent = `This plot could not be drawn: ${error.message}`; });
  }
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "600px" });
  const places = all("[data-chart]");
  places.forEach((place) => near.observe(place));
  // All else when there is nothing else to do, so that it is there in print.
  const later = places.map((place) => () => draw(place));
  function idle() {
    const next = later.shift();
    if (!next) return;
    next();
    (window.requestIdleCallback || ((run) => setTimeout(run, 50)))(idle);
  }
  window.addEventListener("load", () => setTimeout(idle, 1500));
  window.addEventListener("beforeprint", () => places.forEach(draw));

  for (const tabs of all("[role='tablist']")) {
    const choices = all("[role='tab']", tabs);
    const choose = (chosen) => choices.forEach((tab) => {
      const mine = tab === chosen;
      tab.setAttribute("aria-selected", mine);
      tab.tabIndex = mine ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !mine;
    });
    choices.forEach((tab, place) => {
      tab.addEventListener("click", () => choose(tab));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = choices[(place + step + choices.length) % choices.length];
        next.focus();
        choose(next);
      });
    });
  }

  // --- verdicts, and the items behind them ---

  const SIGNS = { better: "+", worse: "−", tied: "=", underpowered: "·" };
  const OPPOSITE = { better: "worse", worse: "better" };
  const MOST = 30, FIRST = 5, PAGE = 20;
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);

  for (const panel of all(".compare")) {
    const data = read(panel.dataset.items), tables = read(panel.dataset.verdicts) || [];
    const part = (name) => panel.querySelector(`[data-part="${name}"]`);
    const [where, first, second, word, matrix, counts, list, search, more, missing] =
      ["where", "a", "b", "verdict", "matrix", "counts", "items", "search", "more", "missing"].map(part);
    let table, pairs, kind = "a", page = 1;

    function between(a, b) {
      const [i, j] = [table.labels.indexOf(a), table.labels.indexOf(b)], many = table.labels.length;
      const found = pairs.get(i * many + j);
      if (found) return found;
      const [word, effect, low, high, p] = pairs.get(j * many + i) || [];
      return word && [OPPOSITE[word] || word, -effect, -high, -low, p];
    }
    function row(label) {
      const mine = (data ? data.rows : []).filter((one) => one.label === label);
      return mine.find((one) => one.n === table.n && one.condition === table.condition) || mine.find((one) => one.n === 0);
    }
    const value = (one, item) => (one.right ? Number(one.right[item]) / one.seeds : one.values[item]);
    const CODES = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const said = (one, item) => data.answers[typeof one.said === "string" ? CODES.indexOf(one.said[item]) : one.said[item]];

    function drawMatrix() {
      matrix.replaceChildren();
      const shown = table.labels.slice(0, MOST);
      if (shown.length < 2 || !table.known) return;
      const drawn = make("table", "", { class: "matrix" });
      drawn.append(make("caption", `Verdict of the row against the column${table.labels.length > MOST ? `: the ${MOST} that score best` : ""}`));
      const head = drawn.createTHead().insertRow();
      head.append(make("th", "", { scope: "col", "aria-label": "label" }), ...shown.map((label) => make("th", label, { scope: "col" })));
      const body = drawn.createTBody();
      for (const a of shown) {
        const line = body.insertRow();
        line.append(make("th", a, { scope: "row" }));
        for (const b of shown) {
          const found = a === b ? null : between(a, b);
          const cell = make("td", found ? SIGNS[found[0]] : "", { class: found ? found[0] : "self" });
          if (found) {
            cell.title = `${a} ${found[0] === "underpowered" ? "is undecided against" : found[0] === "tied" ? "is tied with" : `is ${found[0]} than`} ${b}: ${signed(found[1])} (${signed(found[2])} to ${signed(found[3])})`;
            cell.setAttribute("aria-label", cell.title);
            cell.addEventListener("click", () => { first.value = a; second.value = b; compareTwo(); });
          }
          line.append(cell);
        }
      }
      matrix.append(drawn);
    }
    function chooseTable() {
      table = tables[Number(where.value)];
      pairs = new Map(table.pairs.map(([a, b, ...found]) => [a * table.labels.length + b, found]));
      missing.textContent = table.missing.length ? `Not compared: ${table.missing.join("; ")}.` : "";
      const kept = [first.value, second.value];
      for (const [select, fallback] of [[first, 0], [second, 1]]) {
        select.replaceChildren(...table.labels.map((label) => make("option", label)));
        select.value = table.labels.includes(kept[fallback]) ? kept[fallback] : table.labels[Math.min(fallback, table.labels.length - 1)];
      }
      drawMatrix();
      compareTwo();
    }
    function compareTwo() {
      const [a, b] = [first.value, second.value];
      const found = a === b ? null : between(a, b);
      if (!found) word.textContent = a === b ? "Choose two labels." : `There is no verdict on ${a} and ${b}.`;
      else {
        const [what, effect, low, high, p] = found;
        const say = { better: `${a} is better than ${b}`, worse: `${a} is worse than ${b}`, tied: `${a} and ${b} are tied`,
          underpowered: `${a} vs ${b}: undecided` }[what];
        const figures = `${panel.dataset.metric} ${signed(effect)}, 95% interval of this pair alone ${signed(low)} to ${signed(high)}`;
        const remarks = [a, b].map((label) => table.remarks[label]).filter(Boolean).map((remark) => ` ${remark}.`).join("");
        word.textContent = (table.known
          ? `${say}: ${figures}; p ${p < 0.001 ? "< 0.001" : "= " + p.toPrecision(2)}, corrected for all pairs.`
          : `Too few seeds or studies: this says nothing about others. On these items: ${figures}.`) + remarks;
      }
      page = 1;
      showItems();
    }
    function showItems() {
      list.replaceChildren();
      counts.replaceChildren();
      more.hidden = true;
      const [a, b] = [row(first.value), row(second.value)];
      if (data && first.value !== second.value && (!a || !b)) list.append(make("li", "This page does not hold the answers of both."));
      if (!data || !a || !b || a === b) return;
      const better = (x, y) => (data.higher ? x > y : x < y);
      const groups = { a: [], b: [], same: [] };
      data.docs.forEach((_, item) => {
        const [x, y] = [value(a, item), value(b, item)];
        groups[better(x, y) ? "a" : better(y, x) ? "b" : "same"].push(item);
      });
      const names = { a: `${a.label} does better`, b: `${b.label} does better`, same: "equal" };
      for (const [name, items] of Object.entries(groups)) {
        const choice = make("button", "", { type: "button", "aria-pressed": kind === name });
        choice.append(make("b", String(items.length)), ` ${names[name]}`);
        choice.addEventListener("click", () => {
          kind = name;
          page = 1;
          showItems();
          counts.querySelector("[aria-pressed='true']").focus(); // the buttons are new
        });
        counts.append(choice);
      }
      const asked = search.value.toLowerCase();
      const gap = (item) => Math.abs(value(a, item) - value(b, item));
      const chosen = groups[kind].filter((item) => !asked || data.docs[item].join(" ").toLowerCase().includes(asked))
        .sort((x, y) => gap(y) - gap(x) || x - y);
      for (const item of chosen.slice(0, FIRST + PAGE * (page - 1))) {
        const [text, target] = data.docs[item];
        const entry = make("li"), line = make("p", "", { class: "said" });
        entry.append(make("p", text || `item ${item + 1} (its text is not stored)`), line);
        if (target) line.append("answer: ", make("b", target), " · ");
        [a, b].forEach((one, place) => {
          if (place) line.append(" · ");
          line.append(`${one.label}: `);
          const answer = said(one, item), scored = value(one, item);
          if (answer) line.append(make("b", answer), " ");
          const full = one.right && scored === 1, none = one.right && scored === 0;
          line.append(make("span", one.right ? (full ? "right" : none ? "wrong" : `right under ${one.right[item]} of ${one.seeds} seeds`) : scored.toPrecision(3),
            { class: full ? "right" : none ? "wrong" : "" }));
        });
        list.append(entry);
      }
      if (!chosen.length) list.append(make("li", "No such items."));
      const left = chosen.length - FIRST - PAGE * (page - 1);
      more.hidden = left <= 0;
      more.textContent = `Show more (${left} left)`;
    }
    if (!tables.length) continue;
    where.addEventListener("input", chooseTable);
    [first, second].forEach((select) => select.addEventListener("input", compareTwo));
    search.addEventListener("input", () => { page = 1; showItems(); });
    more.addEventListener("click", () => { page += 1; showItems(); });
    // A big suite has many of these: each is filled when it comes near.
    const seen = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { seen.disconnect(); fill(); }
    }, { rootMargin: "800px" });
    seen.observe(panel);
    const fill = () => { if (!table) chooseTable(); };
    window.addEventListener("beforeprint", fill);
    later.push(fill);
  }
  document.documentElement.dataset.ready = "1";
})();
