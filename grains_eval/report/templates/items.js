"use strict";
// The table of items: sorted, filtered, and made row by row as it is scrolled. Texts only ever become text nodes.
(() => {
  const root = document.getElementById("explorer");
  if (!root) return;
  const part = (name) => document.querySelector(`[data-part="${name}"]`);
  const sources = [...document.querySelectorAll("script[data-items]")];
  const parsed = new Map(); // a table is parsed when it is first looked at
  const [view, grid, dialog] = ["view", "grid", "item"].map(part);
  const controls = Object.fromEntries(["task", "method", "effect", "subtask", "cluster", "search"].map((n) => [n, part(n)]));
  const OVERSCAN = 10, CLUSTERS_SHOWN = 200, SHORT = 160;
  let table, method, known = new Set(), shown = [], active = 0, height = 0, sort = { name: "change", down: true };

  // elements
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const number = (value, digits = 3, sign = false) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const text = Number.isFinite(value) ? Math.abs(value).toFixed(digits) : "∞";
    return (Number(text) === 0 ? "" : value < 0 ? "−" : sign ? "+" : "") + text;
  };
  const score = (value) => (Number.isInteger(value) ? String(value) : number(value));
  const line = (text) => text.slice(0, 4 * SHORT).replace(/\s+/g, " ").trim().slice(0, SHORT);

  // what is known of an item
  const gained = (i) => (method.score[i] - table.score[i]) * (table.higher === false ? -1 : 1) || 0;
  const words = () => (table.higher === null ? ["rose", "fell"] : ["helped", "harmed"]);
  const effect = (i) => (gained(i) > 0 ? words()[0] : gained(i) < 0 ? words()[1] : "same");
  // as numpy's argmax, with which lm_eval scores: the first of equals, and what is no number before all
  const best = (scores) => scores.indexOf(scores.includes(null) ? null : Math.max(...scores));
  const said = (side, i) => {
    const answer = side.answer[i];
    return typeof answer === "string" ? answer : table.choices[i][best(answer)].trim();
  };
  const cluster = (i) => (table.clusters.length ? table.clusters[table.cluster[i]] : "");
  const subtask = (i) => table.subtasks[table.subtask[i]];
  const prompt = (side, i) => {
    const own = side.prompt ? side : table;
    return [own.shared[table.subtask[i]], own.prompt[i]];
  };
  const hasMargins = () => table.margin.length > 0 && method.margin.length > 0;

  const COLUMNS = [
    { name: "document", label: "document", numeric: true, value: (i) => table.document[i], text: (i) => String(table.document[i]) },
    { name: "effect", label: "effect", value: gained, text: effect },
    { name: "change", label: () => `change (${method.unit})`, numeric: true, value: (i) => method.push[i], text: (i) => number(method.push[i], 3, true) },
    { name: "before", label: () => `baseline ${table.metric}`, numeric: true, value: (i) => table.score[i], text: (i) => score(table.score[i]) },
    { name: "after", label: () => `steered ${table.metric}`, numeric: true, value: (i) => method.score[i], text: (i) => score(method.score[i]) },
    { name: "margin-before", label: "baseline margin", numeric: true, there: hasMargins, value: (i) => table.margin[i], text: (i) => number(table.margin[i], 2, true) },
    { name: "margin-after", label: "steered margin", numeric: true, there: hasMargins, value: (i) => method.margin[i], text: (i) => number(method.margin[i], 2, true) },
    { name: "subtask", label: "subtask", there: () => table.subtasks.length > 1, value: subtask, text: subtask },
    { name: "cluster", label: "cluster", there: () => table.clusters.length > 0, value: cluster, text: cluster },
    { name: "prompt", label: "prompt", value: (i) => table.prompt[i], text: (i) => line(table.prompt[i]) || line(prompt(table, i)[0].slice(-SHORT)) },
    { name: "answer-before", label: "baseline answered", value: (i) => said(table, i), text: (i) => line(said(table, i)) },
    { name: "answer-after", label: "steered answered", value: (i) => said(method, i), text: (i) => line(said(method, i)) },
  ];
  const columns = () => COLUMNS.filter((column) => !column.there || column.there());

  // which items, in which order
  const wanted = (i) => {
    const only = controls.effect.value;
    if (only === "wrong" ? !(method.push[i] < 0) : only && effect(i) !== (only === "same" ? only : words()[only === "helped" ? 0 : 1])) return false;
    if (controls.subtask.value && subtask(i) !== controls.subtask.value) return false;
    const wantedCluster = controls.cluster.value;
    if (wantedCluster && (known.has(wantedCluster) ? cluster(i) !== wantedCluster : !cluster(i).includes(wantedCluster))) return false;
    const needle = controls.search.value.toLowerCase();
    if (!needle) return true;
    const texts = [table.prompt[i], table.target[i], said(table, i), said(method, i), ...table.choices[i]];
    return texts.some((text) => text.toLowerCase().includes(needle));
  };
  const select = () => {
    const column = columns().find((one) => one.name === sort.name) || COLUMNS[0];
    const keys = table.document.map((_, i) => column.value(i));
    const order = (a, b) => {
      const [x, y] = [keys[a], keys[b]];
      if (x === y) return a - b;
      if (x === null || y === null) return x === null ? 1 : -1;
      return (x < y ? -1 : 1) * (sort.down ? -1 : 1);
    };
    shown = table.document.map((_, i) => i).filter(wanted).sort(order);
    active = 0;
    view.scrollTop = 0;
    const counts = [1, -1, 0].map((sign) => shown.filter((i) => Math.sign(gained(i)) === sign).length.toLocaleString("en"));
    const of = `${shown.length.toLocaleString("en")} of ${keys.length.toLocaleString("en")} items`;
    part("count").textContent = `${of}: ${counts[0]} ${words()[0]}, ${counts[1]} ${words()[1]}, ${counts[2]} the same`;
    head();
    draw();
  };

  // the part of the table that is in view
  const head = () => {
    const cells = columns().map((column) => {
      const button = make("button", { type: "button" }, typeof column.label === "string" ? column.label : column.label());
      button.addEventListener("click", () => {
        sort = { name: column.name, down: sort.name === column.name ? !sort.down : Boolean(column.numeric) };
        select();
        part("head").querySelector(`.c-${column.name} button`).focus();
      });
      const sorted = sort.name === column.name ? (sort.down ? "descending" : "ascending") : "none";
      return make("th", { scope: "col", class: `c-${column.name}${column.numeric ? " num" : ""}`, "aria-sort": sorted }, button);
    });
    part("head").replaceChildren(make("tr", {}, ...cells));
  };
  const row = (place) => {
    const i = shown[place];
    const cells = columns().map((column) => {
      const kind = `c-${column.name}${column.numeric ? " num" : ""}`;
      return make("td", { class: kind }, make("bdi", {}, column.text(i)));
    });
    const made = make("tr", { id: `row-${place}`, class: effect(i), "aria-rowindex": place + 2, "aria-selected": place === active }, ...cells);
    made.addEventListener("click", () => open(place));
    return made;
  };
  const space = (rows) => {
    const made = make("tr", { "aria-hidden": "true", class: "space" }, make("td"));
    made.style.height = `${rows * height}px`;
    return made;
  };
  const draw = () => {
    const body = part("body");
    if (!height && shown.length) {
      body.replaceChildren(row(0));
      height = body.firstChild.getBoundingClientRect().height || 32;
    }
    const first = Math.max(0, Math.floor(view.scrollTop / (height || 1)) - OVERSCAN);
    const last = Math.min(shown.length, first + Math.ceil(view.clientHeight / (height || 1)) + 2 * OVERSCAN);
    const rows = Array.from({ length: Math.max(0, last - first) }, (_, place) => row(first + place));
    body.replaceChildren(space(first), ...rows, space(shown.length - last));
    grid.setAttribute("aria-rowcount", shown.length + 1);
    if (shown.length) grid.setAttribute("aria-activedescendant", `row-${active}`);
    else grid.removeAttribute("aria-activedescendant");
  };
  const moveTo = (place) => {
    active = Math.max(0, Math.min(shown.length - 1, place));
    const room = view.clientHeight - part("head").offsetHeight - height;
    view.scrollTop = Math.max(active * height - room, Math.min(view.scrollTop, active * height));
    draw();
  };

  // one item in full
  const block = (title, ...texts) => [make("h4", {}, title), make("pre", { dir: "auto" }, ...texts)];
  const difference = (after, before) => (after === null || before === null ? null : after - before);
  const choices = (i) => {
    const [before, after] = [table.answer[i], method.answer[i]];
    const rows = table.choices[i].map((choice, place) => {
      const mark = (scores) => (best(scores) === place ? "→ " : "") + number(scores[place]);
      const cells = [mark(before), mark(after), number(difference(after[place], before[place]), 3, true)].map((text) => make("td", { class: "num" }, text));
      const name = make("th", { scope: "row", dir: "auto" }, choice.trim(), ...(place === table.right[i] ? [make("strong", {}, " ✓ right")] : []));
      return make("tr", {}, name, ...cells);
    });
    const titles = ["choice", "baseline (nats)", `${method.name} (nats)`, "change"];
    const headings = titles.map((title, place) => make("th", { scope: "col", ...(place ? { class: "num" } : {}) }, title));
    const made = make("table", {}, make("thead", {}, make("tr", {}, ...headings)), make("tbody", {}, ...rows));
    return [make("h4", {}, "Log-likelihood of each choice; → is the answer"), make("div", { class: "scroll" }, made)];
  };
  const fill = (i) => {
    const place = [table.task, ...(table.subtasks.length > 1 ? [subtask(i)] : []), `document ${table.document[i]}`];
    part("title").textContent = place.join(", ");
    const scores = `${table.metric} ${score(table.score[i])} → ${score(method.score[i])}`;
    const margins = hasMargins() ? `; margin ${number(table.margin[i], 3, true)} → ${number(method.margin[i], 3, true)} nats` : "";
    const facts = make("p", {}, `${method.name}: ${effect(i)}; ${scores}${margins}`);
    if (cluster(i)) facts.append("; cluster ", make("bdi", {}, cluster(i)));
    const shownPrompt = (title, side) => {
      const [shared, own] = prompt(side, i);
      return block(title, make("span", { class: "soft" }, shared), own || (shared ? "" : "(the prompt was not logged)"));
    };
    const prompts = method.prompt ? [...shownPrompt("Prompt of the baseline", table), ...shownPrompt(`Prompt of ${method.name}`, method)] : shownPrompt("Prompt", table);
    const isChoice = typeof table.answer[i] !== "string" && typeof method.answer[i] !== "string";
    const answers = isChoice ? choices(i) : [...block("Baseline answered", table.answer[i]), ...block(`${method.name} answered`, method.answer[i])];
    const map = document.querySelector(`figure[data-document="${CSS.escape(table.hash[i])}"]`);
    const heat = map ? [make("h4", {}, "What the tokens contributed"), map.cloneNode(true)] : [];
    const hash = make("p", { class: "soft" }, "document hash ", make("code", {}, table.hash[i]));
    part("content").replaceChildren(facts, ...prompts, ...block("Right", table.target[i]), ...answers, ...heat, hash);
    for (const pre of part("content").querySelectorAll("pre")) pre.scrollTop = pre.scrollHeight;
    part("content").scrollTop = 0;
    part("position").textContent = `${(active + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`;
  };
  const open = (place) => {
    if (!shown.length) return;
    moveTo(place);
    fill(shown[active]);
    if (!dialog.open) dialog.showModal();
  };

  // helped and harmed by cluster
  const byCluster = () => {
    const list = part("clusters");
    list.hidden = !table.clusters.length;
    if (list.hidden || !list.open) return;
    const sums = table.clusters.map((name) => ({ name, n: 0, helped: 0, harmed: 0, change: 0, known: 0 }));
    table.cluster.forEach((label, i) => {
      const sum = sums[label];
      sum.n += 1;
      sum.helped += gained(i) > 0;
      sum.harmed += gained(i) < 0;
      if (method.push[i] !== null) [sum.change, sum.known] = [sum.change + method.push[i], sum.known + 1];
    });
    for (const sum of sums) sum.mean = sum.known ? sum.change / sum.known : NaN;
    const last = (value) => Number.isNaN(value);
    sums.sort((a, b) => last(a.mean) - last(b.mean) || (a.mean === b.mean || last(a.mean) ? 0 : a.mean < b.mean ? -1 : 1));
    const rows = sums.slice(0, CLUSTERS_SHOWN).map((sum) => {
      const button = make("button", { type: "button", class: "link" }, make("bdi", {}, sum.name || "(empty)"));
      button.addEventListener("click", () => {
        controls.cluster.value = sum.name;
        select();
        controls.cluster.focus();
      });
      const cells = [sum.n, sum.helped, sum.harmed, number(sum.mean, 3, true)].map((text) => make("td", { class: "num" }, String(text)));
      return make("tr", {}, make("th", { scope: "row" }, button), ...cells);
    });
    const headings = ["cluster", "items", words()[0], words()[1], `mean change (${method.unit})`];
    const cells = headings.map((title, place) => make("th", { scope: "col", ...(place ? { class: "num" } : {}) }, title));
    part("by-cluster").replaceChildren(make("thead", {}, make("tr", {}, ...cells)), make("tbody", {}, ...rows));
    const cut = sums.length > CLUSTERS_SHOWN ? `The ${CLUSTERS_SHOWN} of ${sums.length.toLocaleString("en")} clusters that changed least or were harmed most.` : "";
    part("clusters-note").textContent = cut;
  };

  // choosing task and method
  const options = (into, names) => into.replaceChildren(...names.map((name, place) => make("option", { value: place }, name)));
  const named = (into, names) => into.replaceChildren(make("option", { value: "" }, "all"), ...names.map((name) => make("option", { value: name }, name)));
  const useMethod = () => {
    method = table.methods[Number(controls.method.value)];
    const [up, down] = words();
    const effects = { "": "all", helped: up, harmed: down, same: "the same", wrong: table.higher === null ? "change below 0" : "pushed the wrong way" };
    const before = controls.effect.value;
    controls.effect.replaceChildren(...Object.entries(effects).map(([value, text]) => make("option", { value }, text)));
    controls.effect.value = before || "";
    byCluster();
    select();
  };
  // JSON has no infinities: they come as their names
  const numbers = (values) => values.map((value) => (value === null ? null : Number(value)));
  const parse = (source) => {
    const made = JSON.parse(source.textContent);
    for (const side of [made, ...made.methods]) {
      for (const name of ["score", "margin", "push"]) if (side[name]) side[name] = numbers(side[name]);
      side.answer = side.answer.map((answer) => (typeof answer === "string" ? answer : numbers(answer)));
    }
    return made;
  };
  const useTask = () => {
    const source = sources[Number(controls.task.value)];
    if (!parsed.has(source)) parsed.set(source, parse(source));
    table = parsed.get(source);
    known = new Set(table.clusters);
    options(controls.method, table.methods.map((one) => one.name));
    named(controls.subtask, table.subtasks);
    controls.subtask.closest("label").hidden = table.subtasks.length < 2;
    controls.cluster.closest("label").hidden = !table.clusters.length;
    controls.cluster.value = "";
    part("cluster-names").replaceChildren(...table.clusters.slice(0, 1000).map((value) => make("option", { value })));
    useMethod();
  };

  options(controls.task, sources.map((source) => source.dataset.items));
  root.hidden = false;
  useTask();
  controls.task.addEventListener("change", useTask);
  controls.method.addEventListener("change", useMethod);
  for (const name of ["effect", "subtask"]) controls[name].addEventListener("change", select);
  let waiting = 0;
  for (const name of ["cluster", "search"]) {
    controls[name].addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(select, 150);
    });
  }
  part("reset").addEventListener("click", () => {
    for (const name of ["effect", "subtask", "cluster", "search"]) controls[name].value = "";
    select();
  });
  part("clusters").addEventListener("toggle", byCluster);
  let pending = false;
  view.addEventListener("scroll", () => {
    if (!pending) requestAnimationFrame(() => { pending = false; draw(); });
    pending = true;
  });
  window.addEventListener("resize", () => { height = 0; draw(); });
  const page = () => Math.max(1, Math.floor(view.clientHeight / height) - 2);
  const moves = { ArrowDown: () => active + 1, ArrowUp: () => active - 1, PageDown: () => active + page(), PageUp: () => active - page(), Home: () => 0, End: () => shown.length - 1 };
  grid.addEventListener("keydown", (event) => {
    if (event.target !== grid) return;
    if (event.key in moves) moveTo(moves[event.key]());
    else if (event.key === "Enter" || event.key === " ") open(active);
    else return;
    event.preventDefault();
  });
  const step = (by) => { if (active + by >= 0 && active + by < shown.length) open(active + by); };
  part("previous").addEventListener("click", () => step(-1));
  part("next").addEventListener("click", () => step(1));
  part("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") step(event.key === "ArrowLeft" ? -1 : 1);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.documentElement.dataset.items = "ready";
})();
