"use strict";
/* While a run goes on, the page loads itself again: not while it is hidden, paused, or something is being typed. */
(() => {
  const renewal = document.getElementById("renewal");
  const stored = (name) => {
    try { return JSON.parse(sessionStorage.getItem(name)); } catch { return null; }
  };
  const store = (name, value) => {
    try { sessionStorage.setItem(name, JSON.stringify(value)); } catch { /* not allowed for files here */ }
  };
  const details = [...document.querySelectorAll("details > summary")].map((one) => [one.textContent, one.parentElement]);
  if (!renewal) return;
  const open = stored("open") || [];
  for (const [name, one] of details) if (open.includes(name)) one.open = true;
  const button = renewal.querySelector("button");
  const show = (paused) => {
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Go on" : "Pause";
    store("paused", paused);
  };
  show(stored("paused") === true);
  renewal.hidden = false;
  button.addEventListener("click", () => show(button.getAttribute("aria-pressed") !== "true"));
  setInterval(() => {
    const types = ["INPUT", "SELECT"].includes(document.activeElement?.tagName);
    if (document.hidden || types || button.getAttribute("aria-pressed") === "true") return;
    store("open", details.filter(([, one]) => one.open).map(([name]) => name));
    location.reload();
  }, 1000 * Number(renewal.dataset.seconds));
})();

/* The rollout browser. Everything shown is set as text, never as HTML. */
(() => {
  const packed = new Map([...document.querySelectorAll("script[data-run]")].map((one) => [one.dataset.run, one]));
  const form = document.getElementById("filters");
  if (!form || !packed.size) return;
  const fields = form.elements;
  const list = document.getElementById("groups");
  const place = document.getElementById("group");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  const NAMES = ["run", "step", "kind", "verdict", "strategy", "column", "value", "problem", "text"];
  const PAGE = 100;
  const ORIGINS = { sampled: "sampled", injected: "injected", continued: "continued after an injection",
    wrong_prefix: "kept from the wrong answer" };
  const STRATEGIES = { none: "not corrected", reflect: "reflect", answer: "answer", reference: "reference" };
  const unpacked = new Map();
  let chosen = "";
  let shown = [];
  let limit = PAGE;

  function make(tag, text, name) {
    const element = document.createElement(tag);
    if (text !== undefined && text !== "") write(element, String(text));
    if (name) element.className = name;
    return element;
  }

  /* Text with control characters, and those that change the direction of text, as codes. */
  const HIDDEN = /([\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb])/;
  function write(element, text) {
    text.split(HIDDEN).forEach((part, index) => {
      if (index % 2) {
        const code = document.createElement("span");
        code.className = "code";
        code.textContent = `U+${part.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
        element.append(code);
      } else if (part) element.append(part);
    });
  }

  async function load(name) {
    if (!unpacked.has(name)) {
      const bytes = Uint8Array.from(atob(packed.get(name).textContent), (one) => one.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      const data = JSON.parse(await new Response(stream).text());
      data.groups = data.steps.flatMap((step) => step.groups.map((group) => ({ step: step.step, ...group })));
      data.columns = [...new Set(data.groups.flatMap((group) => Object.keys(group.data)))];
      unpacked.set(name, data);
    }
    return unpacked.get(name);
  }

  function options(select, pairs, wanted) {
    select.replaceChildren(...pairs.map(([value, label]) => {
      const option = make("option", label);
      option.value = value;
      return option;
    }));
    select.value = pairs.some(([value]) => value === wanted) ? wanted : pairs[0][0];
  }

  function fill(data, state) {
    const all = (values) => [...new Set(values)].sort().map((value) => [value, value]);
    const kinds = data.groups.map((group) => group.before);
    options(fields.run, [...packed.keys()].map((name) => [name, name]), state.run);
    options(fields.step, [["", "all"], ...data.steps.map((one) => [String(one.step), String(one.step)])], state.step);
    options(fields.kind, [["", "all"], ["dead", "collapsed"], ["revived", "collapsed, then revived"],
      ["dropped", "dropped by dynamic sampling"], ...all(kinds)],
      state.kind);
    options(fields.verdict, [["", "all"], ...all(data.groups.flatMap((one) => one.rows.flatMap((row) => [row.verdict, row.verdict_before])))],
      state.verdict);
    options(fields.strategy, [["", "all"], ["any", "any correction"],
      ...all(data.groups.flatMap((one) => one.rows.map((row) => row.strategy)))], state.strategy);
    options(fields.column, [["", "any"], ...data.columns.map((name) => [name, name])], state.column);
    for (const name of ["value", "problem", "text"]) fields[name].value = state[name] || "";
  }

  const isDead = (kind) => !["useful", "near-constant", "dropped"].includes(kind);
  const has = (value, wanted) => String(value ?? "").toLowerCase().includes(wanted.toLowerCase());

  const says = (row, text) => has(row.text, text) || has(row.before, text) || has(row.note, text);

  /* Whether a completion is one of those sought; the text may stand in the prompt as well. */
  function fits(row, state, prompt) {
    return (!state.verdict || [row.verdict, row.verdict_before].includes(state.verdict))
      && (!state.strategy || (state.strategy === "any" ? row.strategy !== "none" : row.strategy === state.strategy))
      && (!state.text || says(row, state.text) || has(prompt, state.text));
  }

  function matches(group, state) {
    const kind = { "": true, dead: isDead(group.before), dropped: group.after === "dropped",
      revived: isDead(group.before) && group.after === "useful" };
    const values = state.column ? [group.data[state.column]] : Object.values(group.data);
    return (!state.step || String(group.step) === state.step)
      && (kind[state.kind] ?? group.before === state.kind)
      && (!state.problem || group.problem === state.problem)
      && (!state.value || values.some((value) => has(value, state.value)))
      && group.rows.some((row) => fits(row, state, group.prompt));
  }

  const stateOf = () => Object.fromEntries(NAMES.map((name) => [name, fields[name].value]));
  const keyOf = (group) => `${group.step}.${group.number}`;

  function remember(state) {
    const told = NAMES.filter((name) => state[name]).map((name) => `${name}=${encodeURIComponent(state[name])}`);
    history.replaceState(null, "", `#rollouts?${told.concat(chosen ? [`group=${chosen}`] : []).join("&")}`);
  }

  function recalled() {
    const [, query] = location.hash.split("?");
    return Object.fromEntries(new URLSearchParams(query || ""));
  }

  async function update() {
    const state = stateOf();
    const data = await load(state.run);
    shown = data.groups.filter((group) => matches(group, state));
    if (!shown.some((group) => keyOf(group) === chosen)) chosen = shown.length ? keyOf(shown[0]) : "";
    count.textContent = `${shown.length} of ${data.groups.length} groups`;
    listGroups();
    showGroup(state, data);
    remember(state);
  }

  function listGroups() {
    list.replaceChildren(...shown.slice(0, limit).map((group) => {
      const button = make("button", `step ${group.step}, group ${group.number}`);
      const right = group.rows.filter((row) => row.verdict_before === "correct").length;
      const turn = group.after === group.before ? group.before : `${group.before} → ${group.after}`;
      button.append(make("small", `${right} of ${group.rows.length} right · ${turn}`));
      button.append(make("small", group.prompt.slice(0, 90)));
      button.type = "button";
      button.dataset.key = keyOf(group);
      button.setAttribute("aria-current", String(keyOf(group) === chosen));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }));
    more.hidden = shown.length <= limit;
  }

  function facts(pairs) {
    const line = make("p", "", "facts");
    for (const [label, value, name] of pairs) {
      if (value === undefined || value === null || value === "") continue;
      const fact = make("span", label ? `${label} ` : "");
      fact.append(make("b", value, name));
      line.append(fact);
    }
    return line;
  }

  function showGroup(state, data) {
    const group = shown.find((one) => keyOf(one) === chosen);
    place.replaceChildren();
    if (!group) return;
    place.append(make("h3", `Step ${group.step}, group ${group.number}`));
    place.append(facts([["problem", group.problem], ["as sampled", group.before], ["after corrections", group.after],
      ["layer", group.layer > 1 ? group.layer : ""], ["answer", group.answer],
      ...Object.entries(group.data).map(([name, value]) => [name, value])]));
    place.append(make("div", group.prompt, "text"));
    if (group.images.length) {
      const row = make("div", "", "pictures");
      group.images.forEach((url, index) => {
        const image = make("img");
        image.src = url;
        image.alt = `Picture ${index + 1} of the prompt`;
        row.append(image);
      });
      place.append(row);
    }
    place.append(legend(data));
    const answers = make("div", "", "answers");
    const picks = state.verdict || state.strategy || state.text;
    group.rows.forEach((row, index) => answers.append(answer(row, index, data, picks && fits(row, state, ""))));
    place.append(answers);
  }

  function legend(data) {
    const line = make("p", "", "legend");
    for (const [name, label] of Object.entries(ORIGINS)) line.append(make("span", label, name));
    const shades = make("span", "entropy, nats: ");
    shades.append(make("span", "0"));
    data.shades.forEach((bound, index) => shades.append(make("span", ` ${bound} `, `e${index + 1}`)));
    line.append(shades);
    return line;
  }

  function answer(row, index, data, isMatch) {
    const article = make("article", "", isMatch ? "match" : "");
    article.append(make("h4", `Completion ${index + 1}`));
    const parts = Object.entries(row.parts).map(([name, value]) => `${name} ${value}`).join(", ");
    const corrected = row.strategy !== "none";
    article.append(facts([
      [corrected ? `${row.verdict_before}, after correction` : "", row.verdict, row.verdict],
      ["reward", corrected && row.reward_before !== row.reward ? `${row.reward_before} → ${row.reward}` : row.reward],
      ["", parts ? `(${parts})` : ""],
      ["advantage", row.advantage_before === row.advantage ? row.advantage
        : `${row.advantage_before ?? "–"} → ${row.advantage ?? "–"}`],
      ["entropy", row.entropy],
      ["correction", corrected ? STRATEGIES[row.strategy] ?? row.strategy : ""],
      ["", row.finished ? "" : "cut off"],
      ["", row.trained ? "" : `not trained${row.dropped ? ` (${row.dropped})` : ""}`],
      ["note", row.note],
    ]));
    if (row.before !== undefined) {
      const details = make("details");
      details.open = true;
      details.append(make("summary", `Before its correction: ${row.verdict_before}`), make("div", row.before, "text"));
      article.append(details);
    }
    article.append(tokens(row, data));
    return article;
  }

  /* The text, by tokens of one origin and shade; a screen reader is told where the origin changes. */
  function tokens(row, data) {
    const box = make("div", "", "text");
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Text of the completion");
    if (!row.pieces) {
      write(box, row.text || "");
      if (row.cut) box.append(make("i", ` ... and ${row.cut.toLocaleString("en")} characters that are not on this page`));
      return box;
    }
    if (row.opened) box.append(make("span", row.text.slice(0, row.opened), "opened"));
    let at = row.opened;
    let token = 0;
    for (const [origin, length] of row.origins) {
      if (token >= row.pieces.length) break;
      const span = make("span", "", origin);
      if (row.origins.length > 1) span.append(make("span", `[${ORIGINS[origin] ?? origin}:] `, "hidden"));
      const end = Math.min(token + length, row.pieces.length);
      while (token < end) {
        const shade = row.shades[token];
        let size = 0;
        const from = token;
        while (token < end && row.shades[token] === shade && token - from < 400) size += row.pieces[token++];
        const piece = make("span", row.text.slice(at, at + size), shade > "0" ? `e${shade}` : "");
        if (shade > "0") piece.title = `entropy ${data.shades[shade - 1]} nats or more`;
        span.append(piece);
        at += size;
      }
      box.append(span);
    }
    return box;
  }

  form.addEventListener("change", async (event) => {
    limit = PAGE;
    if (event.target.name === "run") fill(await load(fields.run.value), stateOf());
    update();
  });
  form.addEventListener("input", (event) => {
    if (event.target.tagName === "INPUT") update();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    for (const name of NAMES.slice(1)) fields[name].value = "";
    limit = PAGE;
    update();
  });
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    chosen = button.dataset.key;
    for (const one of list.querySelectorAll("button")) one.setAttribute("aria-current", String(one === button));
    update().then(() => place.focus());
  });
  more.addEventListener("click", () => {
    limit += PAGE;
    listGroups();
  });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-problem]");
    if (!button) return;
    fill(await load(button.dataset.run), { run: button.dataset.run, problem: button.dataset.problem });
    await update();
    document.getElementById("rollouts").scrollIntoView();
    place.focus({ preventScroll: true });
  });

  const state = recalled();
  chosen = state.group || "";
  load(packed.has(state.run) ? state.run : [...packed.keys()][0]).then((data) => {
    fill(data, state);
    form.hidden = false;
    document.getElementById("browser").hidden = false;
    update();
  });
})();
