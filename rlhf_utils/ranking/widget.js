// The view of a RankingSession: it shows what Python sends and sends back what the person decides.
// Text of models only ever goes through textContent, so it can never become markup.

// What scrolls when a widget does not fit.
const scroller = (node) => {
  for (let up = node.parentElement; up; up = up.parentElement) {
    if (up.scrollHeight > up.clientHeight + 1 && /auto|scroll/.test(getComputedStyle(up).overflowY)) return up;
  }
  return document.scrollingElement;
};

const element = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

const FOLD = 600; // characters of an answer that are shown at first
const PAUSE = 30000; // milliseconds without a touch after which somebody has gone to fetch coffee
const FAR = 5; // pixels that a pointer moves before a card follows it
const EDGE = 48; // pixels from the edge of the window at which it scrolls along

function render({ model, el }) {
  const root = element("div", "rlhf-ranking");
  el.appendChild(root);
  const live = element("div", "rlhf-live");
  live.setAttribute("aria-live", "polite");
  live.setAttribute("role", "status");
  const body = element("div");
  root.append(body, live);

  // What is decided but not yet submitted: letters in order, which of them tie with the one before,
  // ranks typed so far, and whether anything was decided at all.
  let order = [], tied = new Set(), typed = {}, touched = false, changed = false, confirmed = false, focus = null, open = new Set();
  let scores = {}, flags = {}, shownItem = null, shownStep = null, wanted = false; // wanted: the focus belongs here
  // Time spent on the item: from its first touch, or from the last submission, without pauses.
  let busy = 0, last = null;
  const active = () => {
    const now = Date.now();
    if (last !== null && now - last < PAUSE) busy += now - last;
    last = now;
  };
  for (const kind of ["pointermove", "pointerdown", "keydown", "wheel"]) root.addEventListener(kind, active, { capture: true, passive: true });
  const seconds = () => { active(); return busy / 1000; };

  const L = (name, values = {}) => fill(model.get("labels")[name], values);
  const say = (text) => { live.textContent = text; };

  const groups = () => order.reduce((made, x) => {
    if (tied.has(x) && made.length) made[made.length - 1].push(x); else made.push([x]);
    return made;
  }, []);
  const rankOf = (x) => {
    let rank = 1;
    for (const group of groups()) { if (group.includes(x)) return rank; rank += group.length; }
  };

  function settle() { // typed ranks become the order; what has none yet goes to the end
    if (!Object.keys(typed).length) return;
    const key = (x) => typed[x] ?? 99;
    order = [...order].sort((a, b) => key(a) - key(b));
    tied = new Set(order.filter((x, i) => i && typed[x] !== undefined && typed[x] === typed[order[i - 1]]));
    typed = {};
  }

  function move(x, to) { // to: the new index of x
    settle();
    const from = order.indexOf(x), next = order[from + 1];
    if (!tied.has(x) && next && tied.has(next)) tied.delete(next); // the others of its tie stay together
    tied.delete(x);
    order.splice(from, 1);
    to = Math.max(0, Math.min(to, order.length));
    order.splice(to, 0, x);
    if (order[0]) tied.delete(order[0]);
    tied.delete(order[to + 1]); // between two that were tied it parts them; its own tie would be nobody's wish
    touched = changed = true; focus = x;
    say(L("moved", { x: x.toUpperCase(), n: to + 1, k: order.length }));
    draw();
  }

  function step(x, by) { // up or down past its neighbour, and all that is tied with that
    settle();
    let to = order.indexOf(x) + by;
    while (by < 0 ? tied.has(order[to]) : tied.has(order[to + 1])) to += by;
    move(x, to);
  }

  function tie(x, onto) { // x joins the tie of `onto`
    settle();
    order.splice(order.indexOf(x), 1);
    let at = order.indexOf(onto) + 1;
    while (tied.has(order[at])) at += 1;
    order.splice(at, 0, x);
    tied.add(x); tied.delete(order[0]);
    touched = changed = true; focus = x;
    say(L("tie_made", { x: x.toUpperCase(), y: onto.toUpperCase() }));
    draw();
  }

  function toggleTie(x) {
    settle();
    const i = order.indexOf(x);
    if (i === 0) return;
    touched = changed = true; focus = x;
    if (tied.has(x)) { tied.delete(x); say(L("tie_gone", { x: x.toUpperCase() })); }
    else { tied.add(x); say(L("tie_made", { x: x.toUpperCase(), y: order[i - 1].toUpperCase() })); }
    draw();
  }

  function type(x, digit) {
    typed[x] = digit;
    touched = changed = true;
    const open = order.filter((y) => typed[y] === undefined);
    if (open.length) {
      focus = order.slice(order.indexOf(x) + 1).find((y) => open.includes(y)) ?? open[0];
      say(L("ranked", { x: x.toUpperCase(), n: digit }));
    } else {
      settle();
      focus = order[0];
      say(L("sorted", { order: groups().map((g) => g.map((y) => y.toUpperCase()).join(" = ")).join(" > ") }));
    }
    draw();
  }

  function submit() {
    const missing = Object.keys(typed).length ? order.filter((x) => typed[x] === undefined) : [];
    if (missing.length) return say(L("missing", { x: missing.map((x) => x.toUpperCase()).join(", ") }));
    if (!touched && !confirmed) { confirmed = true; return say(L("first")); }
    model.send({ do: "submit", item: model.get("state").item, groups: groups(), scores, flags, seconds: seconds() });
  }
  const undo = () => {
    if (changed) { load(); say(L("undone")); return; } // first what was not yet submitted
    model.send({ do: "undo" });
  };
  const skip = () => model.send({ do: "skip", item: model.get("state").item, seconds: seconds() });

  function keys(event, x) {
    // Nothing typed here may reach JupyterLab, where single keys add and delete cells.
    event.stopPropagation();
    if (event.target.matches("select, input, button") && !["u", "U"].includes(event.key)) return;
    const key = event.key.toLowerCase();
    let used = true;
    if (event.altKey && key === "arrowup") step(x, -1);
    else if (event.altKey && key === "arrowdown") step(x, 1);
    else if (key === "arrowup" || key === "arrowdown") {
      const i = order.indexOf(x) + (key === "arrowup" ? -1 : 1);
      if (order[i]) { focus = order[i]; draw(); }
    }
    else if ((event.ctrlKey || event.metaKey) && key === "z") undo();
    else if (event.ctrlKey || event.metaKey || event.altKey) used = false;
    else if (/^[1-9]$/.test(key) && Number(key) <= order.length) type(x, Number(key));
    else if (key === "t") toggleTie(x);
    else if (key === "enter") submit();
    else if (key === "u") undo();
    else if (key === "s") skip();
    else if (key === " ") { open.has(x) ? open.delete(x) : open.add(x); draw(); }
    else used = key.length === 1;
    if (used) event.preventDefault();
  }

  function button(name, action) {
    const node = element("button", `rlhf-${name}`, L(name));
    node.type = "button";
    node.addEventListener("click", action);
    return node;
  }

  function card(x, text, state) {
    const node = element("div", "rlhf-card");
    node.tabIndex = 0;
    node.dataset.letter = x;
    node.dataset.lmSuppressShortcuts = "true";
    node.setAttribute("role", "listitem");
    const rank = typed[x] ?? (touched && !Object.keys(typed).length ? rankOf(x) : null);
    const joined = tied.has(x) && !Object.keys(typed).length;
    if (joined) node.classList.add("rlhf-tied");
    const spoken = [L("answer", { x: x.toUpperCase() }), rank ? L("rank", { n: rank }) : L("unranked")];
    if (joined) spoken.push(L("tied"));
    node.setAttribute("aria-label", `${spoken.join(", ")}: ${text.slice(0, 300)}`);
    const handle = element("span", "rlhf-handle", "⠿");
    handle.title = L("drag");
    handle.setAttribute("aria-hidden", "true");
    const badge = element("span", "rlhf-rank", rank ?? "–");
    const middle = element("div", "rlhf-text");
    const shown = element("div", "rlhf-answer", text.length > FOLD && !open.has(x) ? `${text.slice(0, FOLD)} …` : text);
    shown.dir = "auto"; // right-to-left text stays inside its own box
    if (!text.trim()) { shown.textContent = L("blank"); shown.classList.add("rlhf-blank"); }
    middle.append(element("span", "rlhf-letter", x.toUpperCase()), shown);
    if (text.length > FOLD) {
      const more = element("button", "rlhf-more", L(open.has(x) ? "less" : "more"));
      more.type = "button";
      more.addEventListener("click", () => { open.has(x) ? open.delete(x) : open.add(x); draw(); });
      middle.append(more);
    }
    if (joined) middle.append(element("span", "rlhf-note", `= ${L("tied")}`));
    if (state.scores) {
      const choice = element("select", "rlhf-score");
      choice.title = L("score");
      choice.setAttribute("aria-label", L("score"));
      for (const n of ["", 1, 2, 3, 4, 5, 6, 7]) choice.append(element("option", "", String(n)));
      choice.value = scores[x] ?? "";
      choice.addEventListener("change", () => { if (choice.value) scores[x] = Number(choice.value); else delete scores[x]; });
      middle.append(choice);
    }
    for (const name of state.flags) {
      const line = element("label", "rlhf-flag");
      const box = element("input");
      box.type = "checkbox";
      box.checked = (flags[x] ?? []).includes(name);
      box.addEventListener("change", () => {
        flags[x] = (flags[x] ?? []).filter((f) => f !== name).concat(box.checked ? [name] : []);
      });
      line.append(box, document.createTextNode(` ${name}`));
      middle.append(line);
    }
    node.append(handle, badge, middle);
    node.addEventListener("keydown", (event) => keys(event, x));
    node.addEventListener("focus", () => { focus = x; });
    node.addEventListener("pointerdown", (event) => startDrag(event, x, node));
    return node;
  }

  // A card is picked up anywhere but on its buttons; a finger takes the handle, since elsewhere it scrolls.
  function startDrag(event, x, node) {
    const onHandle = Boolean(event.target.closest(".rlhf-handle"));
    if (event.button || event.altKey || event.target.closest("button, select, input, label")) return;
    if (event.pointerType === "touch" && !onHandle) return;
    if (onHandle) event.preventDefault();
    const from = { x: event.clientX, y: event.clientY }, box = node.getBoundingClientRect();
    let flying = null, at = from, timer = null, origin = null;

    const target = () => {
      for (const other of body.querySelectorAll(".rlhf-card")) {
        const place = other.getBoundingClientRect();
        if (other !== node && at.y >= place.top && at.y <= place.bottom) {
          const share = (at.y - place.top) / place.height;
          return { letter: other.dataset.letter, where: share < 0.3 ? "before" : share > 0.7 ? "after" : "on", other };
        }
      }
      return null;
    };
    const clear = () => {
      body.querySelectorAll(".rlhf-before, .rlhf-after, .rlhf-on").forEach((n) => n.classList.remove("rlhf-before", "rlhf-after", "rlhf-on"));
      body.querySelectorAll(".rlhf-card [data-tie]").forEach((n) => n.remove());
    };
    const pickUp = () => {
      flying = node.cloneNode(true); // what follows the pointer
      flying.classList.add("rlhf-flying");
      flying.removeAttribute("tabindex");
      flying.setAttribute("aria-hidden", "true");
      Object.assign(flying.style, { width: `${box.width}px`, left: "0", top: "0" });
      root.append(flying);
      origin = flying.getBoundingClientRect(); // "fixed" is not the window where an ancestor is transformed
      node.classList.add("rlhf-dragged");
      getSelection()?.removeAllRanges();
      timer = setInterval(scrollAlong, 30);
    };
    const show = () => {
      flying.style.left = `${box.left + at.x - from.x - origin.left}px`;
      flying.style.top = `${box.top + at.y - from.y - origin.top}px`;
      clear();
      const found = target(), name = { x: x.toUpperCase(), y: found?.letter.toUpperCase() };
      say(L(`drop_${found?.where ?? "off"}`, name));
      if (!found) return;
      found.other.classList.add(`rlhf-${found.where}`);
      if (found.where === "on") {
        const mark = element("span", "rlhf-note", L("tie_here", { y: x.toUpperCase() }));
        mark.dataset.tie = "";
        found.other.querySelector(".rlhf-text").append(mark);
      }
    };
    const scrollAlong = () => {
      const pane = scroller(root), edges = pane === document.scrollingElement ? { top: 0, bottom: innerHeight } : pane.getBoundingClientRect();
      const step = at.y < edges.top + EDGE ? -12 : at.y > edges.bottom - EDGE ? 12 : 0;
      if (step) { pane.scrollTop += step; show(); }
    };
    const onMove = (e) => {
      at = { x: e.clientX, y: e.clientY };
      if (!flying && Math.hypot(at.x - from.x, at.y - from.y) < FAR) return;
      e.preventDefault();
      if (!flying) pickUp();
      show();
    };
    const end = (found) => {
      for (const [kind, handler] of listeners) document.removeEventListener(kind, handler, true);
      clearInterval(timer);
      clear();
      flying?.remove();
      node.classList.remove("rlhf-dragged");
      if (!flying) return;
      wanted = true; // the keys go on with the card that was dropped
      focus = x;
      if (!found) { say(""); return draw(); }
      settle();
      if (found.where === "on") return tie(x, found.letter);
      const rest = order.filter((y) => y !== x);
      move(x, rest.indexOf(found.letter) + (found.where === "after" ? 1 : 0));
    };
    const onUp = (e) => { at = { x: e.clientX, y: e.clientY }; end(flying && target()); };
    const onKey = (e) => { if (e.key === "Escape" && flying) { e.stopPropagation(); end(null); } };
    const listeners = [["pointermove", onMove], ["pointerup", onUp], ["pointercancel", () => end(null)], ["keydown", onKey], ["selectstart", (e) => { if (flying) e.preventDefault(); }]];
    for (const [kind, handler] of listeners) document.addEventListener(kind, handler, { capture: true, passive: false });
  }

  function draw() {
    const state = model.get("state");
    const had = wanted || root.contains(document.activeElement);
    wanted = false;
    body.replaceChildren();
    root.dataset.step = state.step;
    const bar = element("div", "rlhf-bar");
    bar.append(element("span", "rlhf-count", L("done", state)));
    if (state.skipped) bar.append(element("span", "", L("some_skipped", state)));
    const track = element("progress");
    track.max = state.total; track.value = state.done;
    bar.append(track);
    if (state.pace) {
      bar.append(element("span", "", L("pace", { seconds: Math.round(state.pace) })));
      bar.append(element("span", "", L("left", { minutes: Math.max(1, Math.round((state.pace * (state.total - state.done)) / 60)) })));
    }
    if (state.practice) bar.append(element("span", "rlhf-practice", L("practice")));
    body.append(bar);
    if (state.message) body.append(element("div", "rlhf-message", state.message));
    if (state.finished) {
      body.append(element("div", "rlhf-finished", L("all_done")));
      const again = button("undo", undo);
      again.dataset.lmSuppressShortcuts = "true";
      again.addEventListener("keydown", (e) => e.stopPropagation());
      body.append(again);
      if (had) again.focus();
      return;
    }
    const prompt = element("div", "rlhf-prompt");
    for (const message of state.messages) {
      const turn = element("div", `rlhf-turn rlhf-${message.role === "user" ? "user" : "assistant"}`);
      const said = element("span", "rlhf-said", message.content);
      said.dir = "auto";
      turn.append(element("span", "rlhf-role", L(message.role === "user" ? "user" : "assistant")), said);
      prompt.append(turn);
    }
    body.append(prompt);
    const list = element("div", "rlhf-list");
    list.setAttribute("role", "list");
    const ends = (name) => element("div", "rlhf-end", touched && !Object.keys(typed).length ? L(name) : "");
    list.append(ends("best"));
    for (const x of order) list.append(card(x, state.answers[x], state));
    list.append(ends("worst"));
    body.append(list);
    const buttons = element("div", "rlhf-buttons");
    buttons.append(button("submit", submit), button("skip", skip), button("undo", undo));
    for (const b of buttons.children) {
      b.dataset.lmSuppressShortcuts = "true";
      b.addEventListener("keydown", (e) => e.stopPropagation());
    }
    body.append(buttons, element("div", "rlhf-keys", L("mouse")), element("div", "rlhf-keys", L("keys")));
    const card_ = body.querySelector(`[data-letter="${focus ?? order[0]}"]`);
    if (had && card_) {
      card_.focus({ preventScroll: true });
      const first = focus === order[0] && state.step !== shownStep; // of a new item: its prompt, too
      shownStep = state.step;
      (first ? root : card_).scrollIntoView({ block: "nearest" });
    }
  }

  function load() {
    const state = model.get("state");
    if (state.item !== shownItem) { shownItem = state.item; busy = 0; }
    order = state.finished ? [] : Object.keys(state.answers);
    tied = new Set(); typed = {}; touched = changed = false; confirmed = false; open = new Set(); focus = order[0] ?? null;
    scores = { ...(state.draft?.scores ?? {}) }; flags = { ...(state.draft?.flags ?? {}) };
    if (state.draft?.groups?.length) {
      order = state.draft.groups.flat();
      for (const group of state.draft.groups) group.slice(1).forEach((x) => tied.add(x));
      touched = true; focus = order[0];
    }
    draw();
  }

  model.on("change:state", () => { load(); if (model.get("state").spoken) say(model.get("state").spoken); });
  load();
}

export default { render };
