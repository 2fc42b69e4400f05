// The run viewer. The film (walrus/view/film.py) is in the page, gzip in base64. Everything on the page is a function of
// two things: which event is looked at (`at`), and which events are shown (`seen`, after filters and causal past).

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const ROW = 58, TOP = 26, LEFT = 118, NEAR = 600;

const film = await unpack($("film").textContent.trim());
const { header, events } = film;
const lanes = header.lanes.map(([id, name, kind]) => ({ id, name, kind }));
const clock = (event) => header.steps ? `step ${event.at}` : `${event.at.toFixed(4)} s`;
const laneOf = new Map(lanes.map((lane, index) => [lane.id, index]));
const row = events.map((event) => laneOf.get(event.lane));
const { before, cause, receipts, states } = index();

let at = 0;                 // the event that is looked at
let seen = [];              // indexes of the shown events
let shown = [];             // numbers of the shown lanes
let places = new Float64Array(0); // the place of each of them along the axis, in pixels
let zoom = 1, scroll = 0, past = null, playing = 0;
let hiddenTypes = new Set(), hiddenLanes = new Set();

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const [first, ...rest] = (await new Response(stream).text()).trimEnd().split("\n");
  const made = { header: JSON.parse(first), events: JSON.parse(`[${rest.join(",")}]`) };
  for (const event of made.events) { event.fields ??= {}; event.state ??= {}; event.peer ??= ""; event.message ??= 0; }
  return made;
}

// What is needed of all events at once: the one before on the lane, the send of each receipt, the receipts of each send, and
// each lane's states, [event, whole state], so that the state at any event is found by bisection.
function index() {
  const last = lanes.map(() => -1), sends = new Map(), before = [], cause = [], receipts = new Map();
  const states = lanes.map(() => [[-1, {}]]);
  events.forEach((event, number) => {
    const lane = row[number];
    before.push(last[lane]);
    last[lane] = number;
    if (event.kind === "send") sends.set(event.message, number);
    const sent = event.kind === "receive" && event.message ? sends.get(event.message) ?? -1 : -1;
    cause.push(sent);
    if (sent >= 0) receipts.set(sent, [...(receipts.get(sent) ?? []), number]);
    if (Object.keys(event.state).length) {
      const state = { ...states[lane].at(-1)[1] };
      for (const [name, value] of Object.entries(event.state)) {
        if (value === null) delete state[name]; else state[name] = value;
      }
      states[lane].push([number, state]);
    }
  });
  return { before, cause, receipts, states };
}

function bisect(list, test) { // the number of leading members for which the test holds
  let low = 0, high = list.length;
  while (low < high) { const middle = (low + high) >> 1; if (test(list[middle])) low = middle + 1; else high = middle; }
  return low;
}

const stateAt = (lane, number) => states[lane][bisect(states[lane], ([since]) => since <= number) - 1][1];

function causalPast(number) {
  const found = new Set([number]), todo = [number];
  while (todo.length) {
    const one = todo.pop();
    for (const earlier of [before[one], cause[one]]) {
      if (earlier >= 0 && !found.has(earlier)) { found.add(earlier); todo.push(earlier); }
    }
  }
  return found;
}

// --- what is shown, and where ---

function choose() {
  shown = lanes.map((_, number) => number).filter((number) => !hiddenLanes.has(lanes[number].id));
  const text = $("text").value.trim().toLowerCase(), minor = $("minor").checked;
  seen = [];
  events.forEach((event, number) => {
    if (event.kind === "look" || hiddenLanes.has(event.lane) || hiddenTypes.has(typeOf(event))) return;
    const broke = header.broken && header.broken.event === number;
    if (event.minor && !minor && !broke) return;
    if (past && !past.has(number)) return;
    if (text && !wordsOf(event).includes(text)) return;
    seen.push(number);
  });
  layOut();
  $("scrub").max = Math.max(0, seen.length - 1);
}

const typeOf = (event) => event.kind === "note" || event.kind === "fault" ? event.kind : event.what.split(" ")[0];
const wordsOf = (event) =>
  `${event.what} ${Object.entries(event.fields).map(([name, value]) => `${name}=${value}`).join(" ")}`.toLowerCase();

// Time runs to the right, but silence is cut short: a millisecond more than the last event is a few pixels, a second not
// many more. Otherwise ten heartbeats fill the screen and the election between two of them is one pixel wide.
function layOut() {
  places = new Float64Array(seen.length);
  let place = 20;
  seen.forEach((number, order) => {
    if (order) {
      const apart = Math.max(0, events[number].at - events[seen[order - 1]].at);
      place += zoom * (7 + 9 * Math.log1p(apart / 0.0004));
    }
    places[order] = place;
  });
}

const orderOf = (number) => Math.max(0, bisect(seen, (other) => other <= number) - 1);

// Asked for once, and again when the window changes: to ask makes the browser lay out everything that has changed since.
let wide = 0;
const width = () => wide ||= $("stage").clientWidth || 1000;

// --- pictures ---

function make(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

const termColour = (term) => `var(--term-${term ? 1 + ((term - 1) % 7) : 0})`;
const yOf = (lane) => TOP + shown.indexOf(lane) * ROW + ROW / 2;

function draw() {
  const svg = $("picture"), wide = width(), tall = TOP + shown.length * ROW, box = `0 0 ${wide} ${tall}`;
  if (svg.getAttribute("viewBox") !== box) { svg.setAttribute("viewBox", box); svg.style.height = `${tall}px`; }
  svg.replaceChildren();
  const x = (order) => LEFT + places[order] - scroll;
  const first = Math.max(0, bisect(places, (place) => place < scroll - 40) - 1);
  const stop = Math.min(seen.length, bisect(places, (place) => place < scroll + wide) + 1);
  drawLanes(svg, x, first, stop, wide);
  drawMessages(svg, x, Math.max(0, first - NEAR), Math.min(seen.length, stop + NEAR), wide);
  drawEvents(svg, x, first, stop);
  drawNames(svg, tall);
  drawOverview();
}

function drawLanes(svg, x, first, stop, wide) {
  let lastLabel = -100;
  for (let order = first; order < stop; order++) { // the time, where there is room for it
    const left = x(order);
    if (left - lastLabel > 90 && left > LEFT) {
      make("text", { x: left, y: 15, class: "small", "text-anchor": "middle" }, svg, clock(events[seen[order]]));
      make("line", { x1: left, x2: left, y1: 19, y2: 24, stroke: "var(--soft)" }, svg);
      lastLabel = left;
    }
  }
  for (const lane of shown) {
    let from = LEFT, order = first, state = stateAt(lane, seen[first] ?? 0);
    const upTo = (to, was) => {
      if (to <= from) return;
      const node = lanes[lane].kind === "node", y = yOf(lane);
      if (node && was.up === false) make("rect", { x: from, y: y - 5, width: to - from, height: 10, fill: "var(--bad)", opacity: 0.25 }, svg);
      else {
        const leads = was.role === "Leader";
        make("line", { x1: from, x2: to, y1: y, y2: y, stroke: node ? termColour(was.term) : "var(--line)", "stroke-width": leads ? 6 : 2 }, svg);
      }
      if (Object.keys(was).some((name) => name.startsWith("lease "))) {
        make("line", { x1: from, x2: to, y1: y + 7, y2: y + 7, stroke: "var(--lease)", "stroke-width": 3 }, svg);
      }
      from = to;
    };
    for (; order < stop; order++) {
      const next = stateAt(lane, seen[order]);
      if (next !== state && (next.term !== state.term || next.role !== state.role || next.up !== state.up || leasesOf(next) !== leasesOf(state))) {
        upTo(Math.max(LEFT, x(order)), state);
        state = next;
      }
    }
    upTo(stop < seen.length ? wide : Math.min(wide, x(seen.length - 1) + 30), state);
  }
}

const leasesOf = (state) => Object.keys(state).filter((name) => name.startsWith("lease ")).join();

function drawMessages(svg, x, first, stop, wide) {
  const orders = new Map();
  for (let order = first; order < stop; order++) orders.set(seen[order], order);
  for (let order = first; order < stop; order++) {
    const number = seen[order], event = events[number];
    if (event.kind === "receive" && orders.has(cause[number])) arrow(svg, x(orders.get(cause[number])), row[cause[number]], x(order), row[number], number, wide);
    if (event.kind === "send" && event.lost) lost(svg, x(order), row[number], laneOf.get(event.peer), number);
  }
}

function arrow(svg, x1, lane1, x2, lane2, number, wide) {
  if (hiddenLanes.has(lanes[lane1].id) || Math.max(x1, x2) < LEFT || Math.min(x1, x2) > wide) return;
  const near = number === at || cause[number] === at || cause[at] >= 0 && cause[at] === cause[number];
  const y1 = yOf(lane1), y2 = yOf(lane2), down = Math.sign(y2 - y1), end = y2 - down * 6;
  const colour = near ? "var(--focus)" : "var(--soft)";
  make("line", { x1, y1, x2, y2: end, stroke: colour, "stroke-width": near ? 2.5 : 1, opacity: near ? 1 : 0.6 }, svg);
  make("path", { d: `M ${x2 - 4} ${end - down * 7} L ${x2} ${end} L ${x2 + 4} ${end - down * 7}`, fill: "none", stroke: colour, "stroke-width": near ? 2 : 1 }, svg);
  if (near) make("text", { x: (x1 + x2) / 2 + 6, y: (y1 + y2) / 2, class: "small" }, svg, events[number].what);
}

function lost(svg, x1, lane, to, number) {
  if (to === undefined || hiddenLanes.has(lanes[to].id)) return;
  const y1 = yOf(lane), y2 = y1 + (yOf(to) - y1) * 0.45, x2 = x1 + 12, colour = "var(--bad)";
  make("line", { x1, y1, x2, y2, stroke: colour, "stroke-dasharray": "4 3", "stroke-width": number === at ? 2.5 : 1.2 }, svg);
  make("path", { d: `M ${x2 - 4} ${y2 - 4} l 8 8 m 0 -8 l -8 8`, stroke: colour, "stroke-width": 1.6, fill: "none" }, svg);
}

const SIGN = { step: "●", send: "○", receive: "◉", down: "✖", up: "▲", fault: "⚡", note: "✎" };
const TOLD = new Set(["BecomeLeader", "Timeout", "PreVote", "Seal", "Fence", "Recover", "RecoverySeal", "InstallSnapshot"]);

function drawEvents(svg, x, first, stop) {
  const labels = lanes.map(() => -1e9);
  for (let order = first; order < stop; order++) {
    const number = seen[order], event = events[number], lane = row[number], left = x(order), y = yOf(lane);
    if (left < LEFT - 4) continue;
    const broke = header.broken && header.broken.event === number, here = number === at;
    const colour = broke || event.kind === "down" ? "var(--bad)" : event.kind === "fault" ? "var(--lease)" : here ? "var(--focus)" : "var(--ink)";
    if (here) make("circle", { cx: left, cy: y, r: 11, fill: "none", stroke: "var(--focus)", "stroke-width": 3, id: "here" }, svg);
    if (broke) make("circle", { cx: left, cy: y, r: 15, fill: "none", stroke: "var(--bad)", "stroke-width": 3 }, svg);
    if (event.kind === "step" || event.kind === "send" || event.kind === "receive") {
      make("circle", { cx: left, cy: y, r: event.kind === "step" ? 4.5 : 3, fill: event.kind === "send" ? "var(--card)" : colour, stroke: colour, "data-event": number }, svg);
    } else make("text", { x: left, y: y + 5, "text-anchor": "middle", fill: colour, style: `fill: ${colour}; font-size: 15px`, "data-event": number }, svg, SIGN[event.kind]);
    const telling = here || broke || ["down", "up", "fault"].includes(event.kind) || TOLD.has(event.what);
    const text = broke ? header.broken.name : event.what.slice(0, 26), half = 3.6 * text.length;
    if (telling && (here || left - half > labels[lane])) {
      make("text", { x: Math.max(left, LEFT + half), y: y - 14, "text-anchor": "middle", style: `fill: ${colour}; font-weight: ${here || broke ? 700 : 400}` }, svg, text);
      labels[lane] = left + half;
    }
  }
}

function drawNames(svg, tall) {
  make("rect", { x: 0, y: 0, width: LEFT - 12, height: tall, fill: "var(--card)" }, svg);
  for (const lane of shown) {
    const state = stateAt(lane, at), y = yOf(lane);
    make("text", { x: 10, y: y - 2, class: "lane-name" }, svg, lanes[lane].name);
    if (lanes[lane].kind !== "node") continue;
    const what = state.up === false ? "down" : state.role ? `${state.role}, term ${state.term}` : "";
    make("text", { x: 10, y: y + 13, class: "small" }, svg, what);
    if (state.role === "Leader" && state.up !== false) make("text", { x: LEFT - 28, y: y - 2, style: `fill: ${termColour(state.term)}` }, svg, "♛");
  }
}

let overviewOf = "";
function drawOverview() {
  const svg = $("overview"), wide = width(), key = `${wide} ${seen.length} ${zoom} ${[...hiddenLanes]} ${past?.size}`;
  const all = Math.max(1, places.at(-1) ?? 1);
  if (key !== overviewOf) {
    overviewOf = key;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${wide} 34`);
    const most = new Map();
    seen.forEach((number, order) => { const column = Math.floor(places[order] / all * (wide - 4) / 3); most.set(column, (most.get(column) ?? 0) + 1); });
    const peak = Math.max(...most.values(), 1);
    for (const [column, count] of most) make("rect", { x: 2 + column * 3, y: 32 - 22 * count / peak, width: 2, height: 22 * count / peak, fill: "var(--soft)", opacity: 0.5 }, svg);
    seen.forEach((number, order) => {
      const event = events[number], mark = event.kind === "down" ? "var(--bad)" : event.kind === "fault" ? "var(--lease)" : event.what === "BecomeLeader" ? termColour(event.fields.current_term ?? event.fields.term) : "";
      if (mark) make("rect", { x: 2 + places[order] / all * (wide - 4), y: 2, width: 3, height: 9, fill: mark }, svg);
    });
    if (header.broken) make("rect", { x: 1 + (places[orderOf(header.broken.event)] ?? 0) / all * (wide - 4), y: 0, width: 4, height: 34, fill: "var(--bad)" }, svg);
    $("view").style.width = `${Math.max(4, Math.min(1, (wide - LEFT) / all) * (wide - 4))}px`;
  }
  // Beside the picture, not in it: what moves with every event must not have hundreds of marks painted again.
  $("view").style.transform = `translateX(${2 + Math.max(0, scroll) / all * (wide - 4)}px)`;
  $("needle").style.transform = `translateX(${1 + (places[orderOf(at)] ?? 0) / all * (wide - 4)}px)`;
}

// --- text ---

function tell(number) {
  const event = events[number], name = lanes[row[number]].name, peer = event.peer && (lanes[laneOf.get(event.peer)]?.name ?? event.peer);
  const facts = Object.entries(event.fields).slice(0, 6).map(([key, value]) => `${key} ${value}`).join(", ");
  const what = event.kind === "send" ? `sends ${event.what} to ${peer}${event.lost ? " (lost)" : ""}`
    : event.kind === "receive" ? `receives ${event.what} from ${peer}` : event.what;
  return `${clock(event)}  ${name}  ${what}${facts ? `: ${facts}` : ""}`;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function showEvent() {
  const event = events[at], box = $("event");
  box.replaceChildren();
  box.append(element("h2", event.what || "state"));
  box.append(element("p", `${event.kind} on ${lanes[row[at]].name}, ${clock(event)}, event ${at + 1} of ${events.length}`, "kind"));
  const table = element("table");
  for (const [name, value] of Object.entries(event.fields)) {
    const line = element("tr");
    line.append(element("td", name), element("td", String(value)));
    table.append(line);
  }
  box.append(table);
  const links = element("ul");
  const other = event.kind === "receive" ? cause[at] : (receipts.get(at) ?? [])[0] ?? -1;
  if (other >= 0) {
    const item = element("li"), button = element("button", event.kind === "receive" ? "where it was sent" : "where it arrived");
    button.type = "button";
    button.onclick = () => go(other);
    item.append(button);
    links.append(item);
  } else if (event.lost) links.append(element("li", "it never arrives"));
  for (const [text, target] of header.links?.[event.what] ?? []) {
    const item = element("li");
    if (target) { const link = element("a", text); link.href = target; item.append(link); } else item.textContent = text;
    links.append(item);
  }
  if (links.children.length) box.append(links);
}

// The cards on the page, by lane. Most events change one node or none: the others' cards stay as they are.
const cards = new Map();

function showStates() {
  const box = $("states"), nodes = shown.filter((number) => lanes[number].kind === "node");
  for (const [number, old] of cards) if (!nodes.includes(number)) { old.card.remove(); cards.delete(number); }
  for (const number of nodes) {
    const state = stateAt(number, at), here = row[at] === number ? at : -1, old = cards.get(number);
    if (old && old.state === state && old.here === here) continue;
    const changed = new Set(here < 0 ? [] : Object.keys(events[at].state)), made = card(lanes[number], number, state, changed);
    if (old) old.card.replaceWith(made);
    else box.insertBefore(made, [...cards].filter(([other]) => other > number).sort(([one], [two]) => one - two)[0]?.[1].card ?? null);
    cards.set(number, { card: made, state, here });
  }
}

function card(lane, number, state, changed) {
  const box = element("article", undefined, `card${row[at] === number ? " at" : ""}${state.up === false ? " down" : ""}`);
  box.style.borderTopColor = termColour(state.term);
  const head = element("h2");
  head.append(element("span", lane.name), element("span", state.up === false ? "down" : `${state.role === "Leader" ? "♛ " : ""}${state.role ?? ""}`, changed.has("role") ? "new" : ""));
  box.append(head);
  const facts = element("p", undefined, "facts");
  for (const [name, value] of Object.entries(state)) {
    if (["up", "role"].includes(name) || Array.isArray(value) || /^(copy|lease|group) /.test(name)) continue;
    const fact = element("span", undefined, changed.has(name) ? "new" : "");
    fact.append(`${name} `, element("b", value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value)));
    facts.append(fact);
  }
  box.append(facts);
  if (Array.isArray(state.log)) box.append(element("div", "log, by term; filled: committed", `label${changed.has("log") ? " new" : ""}`), logOf(state));
  const copies = Object.entries(state).filter(([name]) => name.startsWith("copy ")).sort(([one], [other]) => one.localeCompare(other, "en", { numeric: true }));
  const dull = ([name, copy]) => !copy.length && !changed.has(name) && !copy.fenced && !copy.unsure;
  for (const [name, value] of copies.filter((copy) => !dull(copy))) box.append(copyOf(name.slice(5), value, state, changed.has(name)));
  const empty = copies.filter(dull).map(([name]) => name.slice(5));
  if (empty.length) box.append(element("p", `empty: ${empty.slice(0, 6).join(", ")}${empty.length > 6 ? ` and ${empty.length - 6} more` : ""}`, "label"));
  const groups = Object.entries(state).filter(([name]) => name.startsWith("group "));
  if (groups.length) {
    const line = element("p", undefined, "facts");
    for (const [name, value] of groups) line.append(element("span", `${name.slice(6)} at ${value}`, changed.has(name) ? "new" : ""));
    box.append(line);
  }
  return box;
}

function logOf(state) {
  const cells = element("div", undefined, "cells");
  const [[, snapshot], ...runs] = state.log, last = state.log.at(-1)[1], from = Math.max(snapshot, last - 18);
  if (from > 0) {
    const cell = element("span", `…${from}`, "cell");
    cell.title = snapshot >= from ? `a snapshot covers everything up to ${snapshot}` : `entries up to ${from}`;
    cells.append(cell);
  }
  for (let entry = from + 1; entry <= last; entry++) {
    const term = runs.find(([, end]) => entry <= end)[0], done = entry <= state.commit;
    const cell = element("span", String(entry), `cell${done ? " committed" : ""}`);
    cell.style.borderColor = cell.style.color = termColour(term);
    if (done) cell.style.background = termColour(term);
    cell.title = `index ${entry}, term ${term}${done ? ", committed" : ""}`;
    cells.append(cell);
  }
  if (!cells.children.length) cells.append(element("span", "empty", "label"));
  return cells;
}

function copyOf(name, copy, state, isNew) {
  const box = element("div", undefined, "copy"), topic = name.slice(0, name.lastIndexOf("/")), segment = Number(name.slice(name.lastIndexOf("/") + 1));
  box.append(element("span", name, `name${isNew ? " new" : ""}`));
  const svg = document.createElementNS(SVG, "svg"), most = Math.max(copy.length, copy.sealed ?? 0, 1);
  svg.setAttribute("viewBox", "0 0 100 16");
  svg.setAttribute("preserveAspectRatio", "none");
  const part = (length, colour, opacity) => length > 0 && make("rect", { x: 0, y: 2, width: 100 * length / most, height: 12, fill: colour, opacity }, svg);
  part(copy.length, "var(--soft)", 0.35);
  part(copy.durable, "var(--term-1)", 0.55);
  part(copy.acknowledged ?? 0, "var(--good)", 0.9);
  if (copy.sealed !== undefined) make("rect", { x: Math.max(0, 100 * copy.sealed / most - 1.5), y: 0, width: 1.5, height: 16, fill: "var(--ink)" }, svg);
  box.append(svg);
  const badges = element("div", undefined, "badges");
  const badge = (text, kind) => badges.append(element("span", text, `badge ${kind}`));
  const said = [`${copy.length}`];
  if (copy.durable < copy.length) said.push(`${copy.durable} durable`);
  if (copy.acknowledged !== undefined) said.push(`${copy.acknowledged} acknowledged`);
  if (copy.sealed !== undefined) said.push(copy.sealed === copy.length ? "sealed" : `sealed at ${copy.sealed}`);
  badges.append(element("span", said.join(", "), "label"));
  if (state[`lease ${topic}`] === segment) badge("lease", "lease");
  for (const mark of ["fenced", "unsure", "damaged"]) if (copy[mark]) badge(mark, "bad");
  box.append(badges);
  return box;
}

function showRows() {
  if (!$("list").open) return;
  const order = orderOf(at), list = $("rows");
  list.replaceChildren();
  list.start = Math.max(0, order - 20) + 1;
  for (const number of seen.slice(Math.max(0, order - 20), order + 30)) {
    const item = element("li", undefined, number === at ? "here" : ""), button = element("button", tell(number));
    button.type = "button";
    button.onclick = () => go(number);
    item.append(button);
    list.append(item);
  }
}

// --- moving ---

// A slider, a wheel and a dragged picture report more often than the screen shows: the last report of a frame counts.
let frame = 0, wanted = null;

function soon(act) {
  wanted = act;
  frame ||= requestAnimationFrame(() => { frame = 0; wanted(); });
}

function go(number) {
  if (!events.length) return;
  at = Math.max(0, Math.min(events.length - 1, number));
  const order = orderOf(at), place = places[order] ?? 0, wide = width() - LEFT;
  if (place - scroll > wide * 0.8 || place - scroll < wide * 0.1) scroll = beside(place, wide);
  $("scrub").value = order;
  $("where").textContent = `${order + 1} of ${seen.length}, ${clock(events[at])}`;
  $("live").textContent = tell(at);
  draw(); showEvent(); showStates(); showRows();
}

// What led here matters more than empty paper: at the end of a film its last event stands at the right edge.
const beside = (place, wide) => Math.max(-10, Math.min(place - wide * 0.45, (places.at(-1) ?? 0) + 130 - wide));

const step = (by) => seen.length && go(seen[Math.max(0, Math.min(seen.length - 1, orderOf(at) + by))]);

function stepOnLane(by) {
  const lane = row[at];
  for (let order = orderOf(at) + by; order >= 0 && order < seen.length; order += by) if (row[seen[order]] === lane) return go(seen[order]);
}

function otherLane(by) {
  const lane = shown[(shown.indexOf(row[at]) + by + shown.length) % shown.length], order = orderOf(at);
  for (let apart = 0; apart < seen.length; apart++) {
    for (const one of [order - apart, order + apart]) if (one >= 0 && one < seen.length && row[seen[one]] === lane) return go(seen[one]);
  }
}

function otherEnd() {
  const other = events[at].kind === "receive" ? cause[at] : (receipts.get(at) ?? [])[0] ?? -1;
  if (other >= 0) go(other);
}

function again() { choose(); go(seen.length ? seen[orderOf(at)] : at); }

function togglePast() {
  past = past ? null : causalPast(at);
  $("past").setAttribute("aria-pressed", String(!!past));
  again();
}

function zoomBy(factor) {
  zoom = Math.max(0.05, Math.min(12, zoom * factor));
  layOut();
  scroll = beside(places[orderOf(at)] ?? 0, width() - LEFT);
  go(at);
}

function play() {
  clearInterval(playing);
  playing = playing ? 0 : setInterval(() => { if (orderOf(at) + 1 >= seen.length) play(); else step(1); }, 250);
  $("play").textContent = playing ? "❚❚ pause" : "▶ play";
}

const breakpoint = () => header.broken && go(header.broken.event);

const KEYS = {
  ArrowRight: (event) => event.shiftKey ? stepOnLane(1) : step(1), ArrowLeft: (event) => event.shiftKey ? stepOnLane(-1) : step(-1),
  ArrowDown: () => otherLane(1), ArrowUp: () => otherLane(-1), Home: () => go(seen[0] ?? 0), End: () => go(seen.at(-1) ?? 0),
  PageDown: () => step(25), PageUp: () => step(-25), " ": play, "+": () => zoomBy(1.4), "=": () => zoomBy(1.4), "-": () => zoomBy(1 / 1.4),
  c: togglePast, v: breakpoint, m: otherEnd, h: () => { $("minor").checked = !$("minor").checked; again(); },
  "/": () => { $("filters").open = true; $("text").focus(); }, "?": () => $("help").click(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=search]"), button = event.target.matches("button, summary, input[type=checkbox]");
  if (event.ctrlKey || event.metaKey || event.altKey || (typing && event.key !== "Escape")) return;
  if (event.key === "Escape") { $("filters").open = false; $("stage").focus(); return; }
  if ((button && event.key === " ") || (event.target.id === "scrub" && event.key.startsWith("Arrow"))) return;
  const act = KEYS[event.key];
  if (act) { event.preventDefault(); act(event); }
});

// --- the page ---

function boxes(where, names, hidden, label) {
  for (const name of names) {
    const line = element("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.onchange = () => { if (box.checked) hidden.delete(name); else hidden.add(name); again(); };
    line.append(box, label(name));
    where.append(line);
  }
}

function dress() {
  $("title").textContent = header.title;
  $("about").textContent = header.about ?? "";
  $("again").textContent = header.again ?? "";
  if (header.broken) {
    $("broken").hidden = false;
    $("broken-name").textContent = header.broken.name;
    $("broken-what").textContent = header.broken.what;
    $("broken-why").textContent = header.broken.why ?? "";
  }
  const list = header.invariants ?? [];
  if (list.length) {
    const box = $("invariants"), all = element("ul");
    box.append(element("h2", header.broken ? `Checked after every event: ${header.broken.name} broke first` : "Checked after every event: all held"));
    for (const [name, about] of list) all.append(element("li", `${name === header.broken?.name ? "✖ " : "✓ "}${name}: ${about}`, name === header.broken?.name ? "broke" : ""));
    box.append(all);
  } else $("invariants").hidden = true;
  const types = new Map();
  for (const event of events) if (event.kind !== "look") types.set(typeOf(event), (types.get(typeOf(event)) ?? 0) + 1);
  boxes($("types"), [...types.keys()].sort(), hiddenTypes, (name) => `${name} (${types.get(name)})`);
  boxes($("lanes"), lanes.map((lane) => lane.id), hiddenLanes, (id) => lanes[laneOf.get(id)].name);
  const clients = lanes.filter((lane) => lane.kind === "client");
  if (clients.length > 3) for (const lane of clients) hiddenLanes.add(lane.id);
  $("lanes").querySelectorAll("input").forEach((box, number) => { box.checked = !hiddenLanes.has(lanes[number].id); });
}

function listen() {
  const on = (id, act) => { $(id).onclick = act; };
  on("first", () => go(seen[0] ?? 0)); on("back", () => step(-1)); on("next", () => step(1)); on("last", () => go(seen.at(-1) ?? 0));
  on("play", play); on("in", () => zoomBy(1.4)); on("out", () => zoomBy(1 / 1.4)); on("past", togglePast); on("to-broken", breakpoint);
  on("help", () => { $("keys").hidden = !$("keys").hidden; $("help").setAttribute("aria-expanded", String(!$("keys").hidden)); });
  on("theme", () => {
    const dark = getComputedStyle(document.body).colorScheme.trim() === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  });
  $("scrub").oninput = () => soon(() => go(seen[Number($("scrub").value)] ?? 0));
  $("minor").onchange = again;
  $("text").oninput = again;
  $("list").ontoggle = showRows;
  $("picture").addEventListener("click", (event) => {
    const number = event.target.dataset?.event;
    if (number !== undefined) go(Number(number));
  });
  $("stage").addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.ctrlKey) return zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    scroll = Math.max(-10, Math.min((places.at(-1) ?? 0) - 40, scroll + event.deltaY + event.deltaX));
    soon(draw);
  }, { passive: false });
  let held = null;
  $("picture").addEventListener("pointerdown", (event) => { held = [event.clientX, scroll]; });
  addEventListener("pointermove", (event) => { if (held) { scroll = Math.max(-10, held[1] + held[0] - event.clientX); soon(draw); } });
  addEventListener("pointerup", () => { held = null; });
  const jump = (event) => go(seen[Math.max(0, bisect(places, (place) => place <= (event.offsetX - 2) / (width() - 4) * (places.at(-1) ?? 1)) - 1)] ?? 0);
  $("overview").addEventListener("click", jump);
  addEventListener("resize", () => { wide = 0; overviewOf = ""; go(at); });
}

dress();
listen();
choose();
go(header.broken ? header.broken.event : seen[0] ?? 0);
$("stage").focus();
document.body.dataset.ready = "true"; // for tests and measurements
