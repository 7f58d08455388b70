// The view of a ChatRoom: it shows what Python sends and sends back what the person wants.
// Text of models and people only ever goes through textContent, so it can never become markup.

const element = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const percent = (p) => `${p < 0.0995 ? (100 * p).toFixed(1) : Math.round(100 * p)} %`;
const PATIENCE = 15000; // milliseconds without a word from the kernel, while it should be answering

function render({ model, el }) {
  const L = (name, values = {}) => fill(model.get("labels")[name], values);
  const root = element("div", "rlhf-chat");
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", L("title"));
  const log = element("div", "rlhf-log");
  log.tabIndex = 0; // scrolls by keys
  log.setAttribute("role", "region");
  log.setAttribute("aria-label", L("title"));
  const details = element("div");
  const form = element("div", "rlhf-form");
  const note = element("div", "rlhf-note");
  note.setAttribute("role", "status");
  const spoken = element("div", "rlhf-hidden"); // for screen readers, one answer after the other
  spoken.setAttribute("aria-live", "polite");
  root.append(log, details, form, element("div", "rlhf-hint", L("hint")), note, spoken);
  el.appendChild(root);
  // Nothing typed here may reach JupyterLab, where single keys add and delete cells.
  root.addEventListener("keydown", (event) => event.stopPropagation());
  root.dataset.lmSuppressShortcuts = "true";

  let watch = null; // a timer that notices a kernel that died
  let waiting = ""; // a question that was sent and of which nothing was heard yet
  let returned = ""; // one that was given back, since the kernel did not answer: it may do so later
  const written = (name) => model.get("state").models.find((m) => m.name === name)?.written ?? name;

  function button(className, text, label, action) {
    const node = element("button", className, text);
    node.type = "button";
    if (label) { node.title = label; node.setAttribute("aria-label", label); }
    node.addEventListener("click", action);
    return node;
  }

  // -- the line to write in: made once, so that drawing anew never takes the cursor away ----------------
  const box = element("textarea");
  box.rows = 1;
  box.setAttribute("aria-label", L("question"));
  box.placeholder = L("question");
  const ask = () => {
    if (!box.value.trim() || waiting || model.get("state").busy) return;
    waiting = box.value;
    box.value = "";
    patient();
    model.send({ do: "ask", text: waiting });
  };
  const go = button("rlhf-ask", L("ask"), "", ask);
  const stop = button("rlhf-stop", L("stop"), "", () => model.send({ do: "stop" }));
  const clear = button("rlhf-clear", L("clear"), "", () => { model.send({ do: "clear" }); box.focus(); });
  const dials = {};
  for (const [name, least, most, step] of [["temperature", 0, 10, 0.1], ["top_p", 0.05, 1, 0.05]]) {
    const label = element("label", "", L(name));
    const dial = element("input");
    Object.assign(dial, { type: "number", min: least, max: most, step });
    dial.addEventListener("change", () => model.send({ do: "heat", temperature: dials.temperature.value, top_p: dials.top_p.value }));
    dials[name] = dial;
    label.append(dial);
    form.append(label);
  }
  form.prepend(box);
  form.append(go, stop, clear);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
    else if (event.key === "Escape") model.send({ do: "stop" });
    else if (event.key === "ArrowUp" && !box.value) {
      const last = model.get("state").turns.at(-1);
      if (last) { event.preventDefault(); box.value = last.question; }
    }
  });

  function patient() {
    clearTimeout(watch);
    watch = setTimeout(() => {
      if (waiting || model.get("state").busy) note.textContent = L("dead");
      giveBack();
    }, PATIENCE);
  }

  function giveBack() { // the question that was not asked, unless something else is written there by now
    if (waiting && !box.value) box.value = returned = waiting;
    waiting = "";
  }

  // -- what was said -----------------------------------------------------------------------------------
  function answer(turn, index, { name, colour }, state) {
    const last = index === state.turns.length - 1;
    const node = element("div", "rlhf-reply");
    node.style.setProperty("--rlhf-colour", colour);
    node.dataset.model = name;
    const said = element("div", "rlhf-said", turn.answers[name] || (state.busy && last ? "" : L("silent")));
    said.dir = "auto";
    node.append(element("div", "rlhf-who", written(name)), said);
    if (state.busy && last) { node.classList.add("rlhf-going"); return node; }
    const tools = element("div", "rlhf-tools");
    for (const [value, sign, label] of [[1, "▲", "up"], [-1, "▼", "down"]]) {
      const set = turn.thumbs[name] === value;
      const thumb = button("rlhf-small", sign, L(label, { model: written(name) }), () => model.send({ do: "thumb", turn: index, model: name, value: set ? 0 : value }));
      thumb.setAttribute("aria-pressed", set);
      thumb.dataset.thumb = label;
      tools.append(thumb);
    }
    tools.append(button("rlhf-small rlhf-show-tokens", L("tokens_short"), L("tokens", { model: written(name) }), () => model.send({ do: "tokens", turn: index, model: name })));
    node.append(tools);
    return node;
  }

  function draw() {
    const state = model.get("state");
    const focused = root.contains(document.activeElement) && log.contains(document.activeElement);
    log.replaceChildren();
    for (const [name, why] of Object.entries(state.missing)) log.append(element("div", "rlhf-missing", L("missing", { model: name, why })));
    if (!state.turns.length) log.append(element("div", "rlhf-empty", L("empty")));
    state.turns.forEach((turn, index) => {
      const gone = state.models.filter((m) => index < (state.forgotten[m.name] ?? 0)).map((m) => m.written);
      const part = element("div", gone.length ? "rlhf-turn rlhf-gone" : "rlhf-turn");
      const asked = element("div", "rlhf-asked");
      const said = element("span", "rlhf-said", turn.question);
      said.dir = "auto";
      asked.append(element("span", "rlhf-who", L("you")), said);
      if (!state.busy) {
        asked.append(button("rlhf-small rlhf-edit", L("edit"), "", () => { box.value = turn.question; model.send({ do: "rewind", turn: index }); box.focus(); }));
        if (new Set(Object.values(turn.answers)).size > 1) asked.append(button("rlhf-small rlhf-rank-these", L("rank"), "", () => model.send({ do: "rank", turn: index })));
      }
      const answers = element("div", "rlhf-replies");
      for (const m of state.models) answers.append(answer(turn, index, m, state));
      part.append(asked, answers);
      if (gone.length) part.append(element("div", "rlhf-out", L("out", { models: gone.join(", ") })));
      log.append(part);
    });
    stop.disabled = !state.busy;
    go.disabled = state.busy;
    clear.disabled = state.busy || !state.turns.length;
    for (const name of Object.keys(dials)) if (document.activeElement !== dials[name]) dials[name].value = state[name];
    note.textContent = state.message || (state.busy ? L("busy") : state.spoken);
    if (focused) log.focus({ preventScroll: true });
    log.scrollTop = log.scrollHeight;
    if (state.busy) patient(); else if (!waiting) clearTimeout(watch);
  }

  function flow() { // the last answers, as they grow
    const { turn, answers } = model.get("stream");
    const part = log.querySelectorAll(".rlhf-turn")[turn];
    if (!part || !model.get("state").busy) return;
    for (const node of part.querySelectorAll(".rlhf-reply")) {
      const said = node.querySelector(".rlhf-said");
      if (said.textContent !== answers[node.dataset.model]) said.textContent = answers[node.dataset.model];
    }
    log.scrollTop = log.scrollHeight;
    patient();
  }

  let before = model.get("state");
  function changed() {
    const state = model.get("state");
    if (state.turns.length > before.turns.length) {
      waiting = "";
      if (returned && box.value === returned) box.value = "";
      returned = "";
    }
    else if (state.message) giveBack(); // refused
    draw();
    if (before.busy && !state.busy && state.turns.length) {
      const last = state.turns.at(-1);
      spoken.textContent = state.models.map((m) => L("answered", { model: m.written, text: last.answers[m.name] })).join("\n");
    }
    before = state;
    details.replaceChildren();
  }

  function probabilities() { // of each token of an answer, and what else might have stood there
    const { tokens, model: name } = model.get("tokens");
    details.replaceChildren();
    if (!tokens) return;
    const panel = element("div", "rlhf-tokens");
    panel.setAttribute("role", "group");
    panel.setAttribute("aria-label", L("tokens", { model: written(name) }));
    const told = element("div", "rlhf-told");
    told.setAttribute("role", "status");
    for (const token of tokens) {
      const tell = () => { told.textContent = `“${token.text}” ${L("chosen", { p: percent(token.p) })} · ${L("instead", { list: token.likeliest.map(([text, p]) => `“${text}” ${percent(p)}`).join(", ") })}`; };
      const chip = button("rlhf-token", token.text.replaceAll("\n", "⏎"), "", tell);
      chip.style.background = `rgba(58, 134, 216, ${(0.55 * token.p).toFixed(2)})`;
      chip.addEventListener("focus", tell);
      chip.addEventListener("mouseenter", tell);
      panel.append(chip);
    }
    panel.append(told, button("rlhf-small", L("close"), "", () => { details.replaceChildren(); box.focus(); }));
    details.append(panel);
    panel.querySelector("button").focus({ preventScroll: true });
  }

  model.on("change:state", changed);
  model.on("change:stream", flow);
  model.on("change:tokens", probabilities);
  draw();
}

export default { render };
