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
const orders = new Int32Array(events.length); // of each event its place among them, -1 if it is not shown
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

const isAgain = (number) => cause[number] >= 0 && receipts.get(cause[number])[0] !== number;

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
  orders.fill(-1);
  seen.forEach((number, order) => { orders[number] = order; });
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

// The picture is a canvas: a scrubbed frame shows hundreds of other marks than the one before, and as elements each of them
// would be styled and laid out before it is painted.
const canvas = $("picture"), ink = canvas.getContext("2d");
const colours = new Map();   // of the page's style, asked for once in each theme
let marks = [];              // [x, y, event] of what can be clicked

function colour(name) {
  if (!name.startsWith("var(")) return name;
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.body).getPropertyValue(name.slice(4, -1)).trim());
  return colours.get(name);
}

// Marks of one look are one path: a frame has hundreds of marks and a dozen looks. `paint` paints them, and text over them.
const looks = new Map();     // look: path, in the order in which they are first used
let texts = [];
let pen = "";                // the font that is set: to set it makes the browser parse it

function pathOf(look) {
  if (!looks.has(look)) looks.set(look, new Path2D());
  return looks.get(look);
}

function paint() {
  for (const [look, path] of looks) {
    ink.globalAlpha = look.opacity ?? 1;
    if (look.fill) { ink.fillStyle = colour(look.fill); ink.fill(path); }
    if (look.stroke) {
      ink.strokeStyle = colour(look.stroke);
      ink.lineWidth = look.wide ?? 1;
      if (look.dash) ink.setLineDash(look.dash);
      ink.stroke(path);
      if (look.dash) ink.setLineDash([]);
    }
  }
  ink.globalAlpha = 1;
  for (const [text, x, y, fill, font, middle] of texts) {
    if (font !== pen) ink.font = pen = font;
    ink.textAlign = middle ? "center" : "start";
    ink.fillStyle = colour(fill);
    ink.fillText(text, x, y);
  }
  looks.clear();
  texts = [];
}

function line(points, look) {
  const path = pathOf(look);
  points.forEach(([x, y], number) => number ? path.lineTo(x, y) : path.moveTo(x, y));
}

function rect(x, y, width, height, look) { pathOf(look).rect(x, y, width, height); }

function circle(x, y, radius, look) {
  const path = pathOf(look);
  path.moveTo(x + radius, y);
  path.arc(x, y, radius, 0, 7);
}

function write(text, x, y, { fill = "var(--ink)", size = 12, weight = 400, middle = false } = {}) {
  texts.push([text, x, y, fill, `${weight} ${size}px system-ui, "DejaVu Sans", sans-serif`, middle]);
}

const SMALL = { size: 11, fill: "var(--soft)" };

function draw() {
  const wide = width(), tall = TOP + shown.length * ROW, sharp = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(wide * sharp) || canvas.height !== Math.round(tall * sharp)) {
    canvas.width = Math.round(wide * sharp);
    canvas.height = Math.round(tall * sharp);
    canvas.style.height = `${tall}px`;
    pen = ""; // a canvas of another size begins anew
  }
  ink.setTransform(sharp, 0, 0, sharp, 0, 0);
  ink.clearRect(0, 0, wide, tall);
  marks = [];
  const x = (order) => LEFT + places[order] - scroll;
  const first = Math.max(0, bisect(places, (place) => place < scroll - 40) - 1);
  const stop = Math.min(seen.length, bisect(places, (place) => place < scroll + wide) + 1);
  drawLanes(x, first, stop, wide);
  drawMessages(x, Math.max(0, first - NEAR), Math.min(seen.length, stop + NEAR), wide);
  drawEvents(x, first, stop);
  paint();
  drawNames(tall);
  drawOverview();
}

function drawLanes(x, first, stop, wide) {
  let lastLabel = -100;
  for (let order = first; order < stop; order++) { // the time, where there is room for it
    const left = x(order);
    if (left - lastLabel > 90 && left > LEFT) {
      write(clock(events[seen[order]]), left, 15, { ...SMALL, middle: true });
      line([[left, 19], [left, 24]], TICK);
      lastLabel = left;
    }
  }
  for (const lane of shown) {
    let from = LEFT, state = stateAt(lane, seen[first] ?? 0);
    const upTo = (to, was) => {
      if (to <= from) return;
      const node = lanes[lane].kind === "node", y = yOf(lane);
      if (node && (was.up === false || was.paused)) rect(from, y - 5, to - from, 10, was.up === false ? DOWN : PAUSED);
      else {
        const leads = was.role === "Leader";
        line([[from, y], [to, y]], { stroke: node ? termColour(was.term) : "var(--line)", wide: leads ? 6 : 2 });
      }
      if (Object.keys(was).some((name) => name.startsWith("lease "))) {
        line([[from, y + 7], [to, y + 7]], { stroke: "var(--lease)", wide: 3 });
      }
      from = to;
    };
    const all = states[lane], begin = bisect(all, ([since]) => since <= (seen[first] ?? 0));
    for (let turn = begin; turn < all.length && all[turn][0] <= (seen[stop - 1] ?? -1); turn++) {
      const [since, next] = all[turn];
      if (next.term !== state.term || next.role !== state.role || next.up !== state.up || next.paused !== state.paused || leasesOf(next) !== leasesOf(state)) {
        upTo(Math.max(LEFT, x(bisect(seen, (number) => number < since))), state);
        state = next;
      }
    }
    upTo(stop < seen.length ? wide : Math.min(wide, x(seen.length - 1) + 30), state);
  }
}

const leasesOf = (state) => Object.keys(state).filter((name) => name.startsWith("lease ")).join();

const DOWN = { fill: "var(--bad)", opacity: 0.25 }, PAUSED = { fill: "var(--lease)", opacity: 0.3 };
const TICK = { stroke: "var(--soft)" }, FAR = { stroke: "var(--soft)", opacity: 0.6 }, HEAD = { stroke: "var(--soft)" };
const AGAIN = { ...FAR, dash: [2, 4] };     // a message that has arrived before
const CLOSE = { stroke: "var(--focus)", wide: 2.5 }, CROSS = { stroke: "var(--bad)", wide: 1.6 };
const LOST = { stroke: "var(--bad)", dash: [4, 3], wide: 1.2 }, LOST_HERE = { ...LOST, wide: 2.5 };

function drawMessages(x, first, stop, wide) {
  for (let order = first; order < stop; order++) {
    const number = seen[order], event = events[number], from = event.kind === "receive" && cause[number] >= 0 ? orders[cause[number]] : -1;
    if (from >= first) arrow(x(from), row[cause[number]], x(order), row[number], number, wide);
    if (event.kind === "send" && event.lost) lost(x(order), row[number], laneOf.get(event.peer), number);
  }
}

function arrow(x1, lane1, x2, lane2, number, wide) {
  if (hiddenLanes.has(lanes[lane1].id) || Math.max(x1, x2) < LEFT || Math.min(x1, x2) > wide) return;
  const near = number === at || cause[number] === at || cause[at] >= 0 && cause[at] === cause[number];
  const y1 = yOf(lane1), y2 = yOf(lane2), down = Math.sign(y2 - y1), end = y2 - down * 6;
  line([[x1, y1], [x2, end]], near ? CLOSE : isAgain(number) ? AGAIN : FAR);
  const long = Math.hypot(x2 - x1, end - y1) || 1, along = [(x2 - x1) / long, (end - y1) / long];
  const barb = (side) => [x2 - 7 * along[0] + side * along[1], end - 7 * along[1] - side * along[0]];
  line([barb(4), [x2, end], barb(-4)], near ? CLOSE : HEAD);
  if (near) write(events[number].what, (x1 + x2) / 2 + 6, (y1 + y2) / 2 + (down < 0 ? 12 : -4), SMALL); // beside the arrow
}

function lost(x1, lane, to, number) {
  if (to === undefined || hiddenLanes.has(lanes[to].id)) return;
  const y1 = yOf(lane), y2 = y1 + (yOf(to) - y1) * 0.45, x2 = x1 + 12;
  line([[x1, y1], [x2, y2]], number === at ? LOST_HERE : LOST);
  line([[x2 - 4, y2 - 4], [x2 + 4, y2 + 4]], CROSS);
  line([[x2 + 4, y2 - 4], [x2 - 4, y2 + 4]], CROSS);
}

// The dots of events, by kind and colour.
const dots = new Map();
function dotOf(kind, fill) {
  const key = `${kind} ${fill}`;
  if (!dots.has(key)) dots.set(key, { fill: kind === "send" ? "var(--card)" : fill, stroke: fill });
  return dots.get(key);
}

const SIGN = { step: "●", send: "○", receive: "◉", down: "✖", up: "▲", fault: "⚡", note: "✎" };
const TOLD = new Set(["BecomeLeader", "Timeout", "PreVote", "Seal", "Fence", "Recover", "RecoverySeal", "InstallSnapshot"]);

function drawEvents(x, first, stop) {
  const labels = lanes.map(() => -1e9);
  for (let order = first; order < stop; order++) {
    const number = seen[order], event = events[number], lane = row[number], left = x(order), y = yOf(lane);
    if (left < LEFT - 4) continue;
    const broke = header.broken && header.broken.event === number, here = number === at;
    const fill = broke || event.kind === "down" ? "var(--bad)" : event.kind === "fault" ? "var(--lease)" : here ? "var(--focus)" : "var(--ink)";
    if (here) circle(left, y, 11, { stroke: "var(--focus)", wide: 3 });
    if (broke) circle(left, y, 15, { stroke: "var(--bad)", wide: 3 });
    marks.push([left, y, number]);
    if (event.kind === "step" || event.kind === "send" || event.kind === "receive") {
      circle(left, y, event.kind === "step" ? 4.5 : 3, dotOf(event.kind, fill));
    } else write(SIGN[event.kind], left, y + 5, { fill, size: 15, middle: true });
    const telling = here || broke || ["down", "up", "fault"].includes(event.kind) || TOLD.has(event.what);
    const text = broke ? header.broken.name : event.what.slice(0, 26), half = 3.6 * text.length;
    if (telling && (here || left - half > labels[lane])) {
      write(text, Math.max(left, LEFT + half), y - (broke ? 19 : 14), { fill, weight: here || broke ? 700 : 400, middle: true });
      labels[lane] = left + half;
    }
  }
}

function drawNames(tall) {
  rect(0, 0, LEFT - 12, tall, { fill: "var(--card)" });
  for (const lane of shown) {
    const state = stateAt(lane, at), y = yOf(lane);
    write(lanes[lane].name, 10, y - 2, { weight: 600 });
    if (lanes[lane].kind !== "node") continue;
    const what = state.up === false ? "down" : state.role ? `${state.role}, term ${state.term}` : "";
    write(what, 10, y + 13, SMALL);
    if (state.role === "Leader" && state.up !== false) write("♛", LEFT - 28, y - 2, { fill: termColour(state.term) });
  }
  paint();
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
    : event.kind === "receive" ? `receives ${event.what} from ${peer}${isAgain(number) ? " once more" : ""}` : event.what;
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
  if (Array.isArray(state.log)) box.append(element("div", "log; filled: committed", `label${changed.has("log") ? " new" : ""}`), logOf(state));
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
  let before = -1;
  if (from > 0) {
    const cell = element("span", `…${from}`, "cell");
    cell.title = snapshot >= from ? `a snapshot covers everything up to ${snapshot}` : `entries up to ${from}`;
    cells.append(cell);
  }
  for (let entry = from + 1; entry <= last; entry++) {
    const term = runs.find(([, end]) => entry <= end)[0], done = entry <= state.commit;
    if (term !== before) cells.append(element("span", `term ${before = term}:`, "label"));
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

// A hand on the slider passes hundreds of events that no eye reads. The picture follows each frame; what stands below it
// follows ten times a second, and shows the event at which the hand rests.
const READING = 100;         // milliseconds
let told = 0, resting = 0;

function go(number, passing = false) {
  if (!events.length) return;
  at = Math.max(0, Math.min(events.length - 1, number));
  const order = orderOf(at), place = places[order] ?? 0, wide = width() - LEFT;
  if (place - scroll > wide * 0.8 || place - scroll < wide * 0.1) scroll = beside(place, wide);
  $("scrub").value = order;
  $("where").textContent = `${order + 1} of ${seen.length}, ${clock(events[at])}`;
  draw();
  clearTimeout(resting);
  if (passing && performance.now() - told < READING) resting = setTimeout(describe, READING);
  else describe();
}

function describe() {
  $("live").textContent = tell(at);
  showEvent(); showStates(); showRows();
  told = performance.now();
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
    colours.clear();
    draw();
  });
  $("scrub").oninput = () => soon(() => go(seen[Number($("scrub").value)] ?? 0, true));
  $("minor").onchange = again;
  $("text").oninput = again;
  $("list").ontoggle = showRows;
  $("picture").addEventListener("click", (event) => {
    const far = ([x, y]) => Math.hypot(x - event.offsetX, y - event.offsetY);
    const nearest = marks.reduce((best, mark) => !best || far(mark) < far(best) ? mark : best, null);
    if (nearest && far(nearest) < 12) go(nearest[2]);
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
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours.clear(); draw(); });
  addEventListener("resize", () => { wide = 0; overviewOf = ""; go(at); });
}

dress();
listen();
choose();
const room = (width() - LEFT - 130) / Math.max(1, places.at(-1) ?? 1); // a short film takes the width that is there
if (room > 1) { zoom = Math.min(2.5, room); layOut(); }
go(header.broken?.event ?? header.opens ?? seen[0] ?? 0);
$("stage").focus();
document.body.dataset.ready = "true"; // for tests and measurements
