"""The card that a rater works on: one request, its answer or two answers, and the grades, by keyboard or by touch.

It is a component of its own and not a set of widgets: keys act in the browser at once and in the order in which they were
pressed, however fast, and only a finished rating goes to the server. All texts are set as text, never as HTML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

KEY = "rate.card"

_CSS = """
.card { color: var(--st-text-color); font-family: var(--st-font); font-size: 1rem; line-height: 1.5; display: grid;
  grid-template-columns: minmax(0, 1fr) minmax(20rem, 25rem); gap: 1rem 2rem; align-items: start; }
.card.pair { grid-template-columns: minmax(0, 1fr); }
.card * { box-sizing: border-box; }
.top { grid-column: 1 / -1; display: flex; gap: .75rem; align-items: center; font-size: .875rem; }
.top .bar { flex: 1; height: .375rem; border-radius: 1rem; overflow: hidden;
  background: color-mix(in srgb, var(--st-text-color) 15%, transparent); }
.top .bar div { height: 100%; background: var(--st-primary-color); }
.soft { color: color-mix(in srgb, var(--st-text-color) 72%, transparent); }
h3 { font-size: .875rem; font-weight: 600; margin: 0 0 .25rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 1rem; padding: .75rem 1rem;
  border-radius: var(--st-base-radius, .5rem); background: var(--st-secondary-background-color); }
.answers { display: grid; gap: 0 1.5rem; grid-template-columns: minmax(0, 1fr); }
.pair .answers { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.answer .text { background: none; border: 1px solid color-mix(in srgb, var(--st-text-color) 25%, transparent); }
.answer.chosen .text { border-color: var(--st-primary-color); box-shadow: 0 0 0 1px var(--st-primary-color); }
.side { position: sticky; top: 4.5rem; }
.axis { padding: .5rem .625rem; border-left: 3px solid transparent; border-radius: .25rem; }
.axis.now { border-left-color: var(--st-primary-color); background: var(--st-secondary-background-color); }
.axis .asks { font-size: .875rem; }
.axis .means { font-size: .8125rem; min-height: 1.3em; }
.grades { display: flex; gap: .375rem; margin: .25rem 0; }
button { font: inherit; color: inherit; cursor: pointer; min-height: 2.25rem; padding: .25rem .75rem;
  border-radius: var(--st-button-radius, .5rem); border: 1px solid color-mix(in srgb, var(--st-text-color) 40%, transparent);
  background: var(--st-background-color); }
button:hover { border-color: var(--st-primary-color); }
button:focus-visible, textarea:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px; }
button[aria-checked=true], button.save { background: var(--st-primary-color); border-color: var(--st-primary-color);
  color: var(--on-primary); }
button:disabled { opacity: .5; cursor: default; }
.grades button { flex: 1; padding: .25rem 0; min-width: 0; }
.choices { display: flex; flex-wrap: wrap; gap: .5rem; }
.choices button { flex: 1 1 8rem; }
textarea { font: inherit; font-size: .875rem; width: 100%; min-height: 2.5rem; resize: vertical; padding: .5rem;
  color: inherit; background: var(--st-background-color); margin-top: .75rem;
  border: 1px solid color-mix(in srgb, var(--st-text-color) 40%, transparent); border-radius: var(--st-base-radius, .5rem); }
.acts { display: flex; gap: .5rem; margin-top: .5rem; }
.acts .save { flex: 1; font-weight: 600; }
kbd { font: inherit; font-size: .75rem; opacity: .85; }
.say { min-height: 1.4em; font-size: .875rem; margin-top: .375rem; }
.say.bad { font-weight: 600; }
.keys { font-size: .8125rem; margin-top: .25rem; }
@media (max-width: 60rem) {
  .card, .pair .answers { grid-template-columns: minmax(0, 1fr); }
  .side { position: static; }
  .keys, kbd { display: none; }
  button { min-height: 2.75rem; }
}
"""

_JS = """
const make = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
};
// Black or white, whichever is easier to read on the theme's primary colour (relative luminance as in WCAG 2).
const onPrimary = (root) => {
  const probe = root.appendChild(make("span"));
  probe.style.color = "var(--st-primary-color)";
  const parts = (getComputedStyle(probe).color.match(/[\\d.]+/g) || [0, 0, 0]).slice(0, 3).map(Number);
  probe.remove();
  const [r, g, b] = parts.map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
};

export default function ({ data, parentElement, setTriggerValue }) {
  const state = parentElement.__rating ||= { key: null };
  const item = `${data.task} ${data.rater} ${data.key}`;
  if (state.key !== item) {
    Object.assign(state, { key: item, values: {}, note: "", now: 0, since: performance.now(), say: "" });
    window.getSelection()?.removeAllRanges();
    if (state.seen) parentElement.querySelector?.(".card")?.scrollIntoView({ block: "nearest" });
    state.seen = true;
  }
  if (state.event !== data.event) Object.assign(state, { event: data.event, busy: false, say: data.problem || "" });
  const pair = data.kind === "pairs";
  const axes = pair ? [data.axes[0].name] : data.axes.map((axis) => axis.name);
  const set = (axis, value, on) => {
    if (state.busy) return;
    state.values[axis] = value;
    state.say = "";
    if (on) state.now = Math.min(axes.indexOf(axis) + 1, axes.length - 1);
    draw();
  };
  const save = () => {
    if (state.busy) return;
    const open = axes.filter((axis) => !(axis in state.values));
    if (open.length) {
      state.now = axes.indexOf(open[0]);
      state.say = pair ? "Choose A, B or a tie first." : `Still open: ${open.join(", ")}.`;
      return draw();
    }
    state.busy = true;
    state.say = "Saving";
    draw();
    setTriggerValue("save", { task: data.task, key: data.key, values: state.values, note: state.note,
      seconds: (performance.now() - state.since) / 1000, at: Date.now() });
  };
  const undo = () => {
    if (state.busy || !data.done) return;
    state.busy = true;
    draw();
    setTriggerValue("undo", { task: data.task, at: Date.now() });
  };
  const choices = { a: "A", b: "B", t: "tie", 0: null };
  const press = (event) => {
    const root = parentElement.querySelector(".card");
    if (!root || !root.isConnected || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const at = event.composedPath()[0];
    const note = at?.tagName === "TEXTAREA" && root.contains(at);
    const elsewhere = at instanceof Element && !root.contains(at) && at.closest("input, textarea, select, button, a, [role=tab], "
      + "[contenteditable=true]");
    const key = event.key.toLowerCase();
    if (elsewhere || (note && key !== "escape" && (key !== "enter" || event.shiftKey))) return;
    if (note && key === "escape") return at.blur();
    if (key === "enter") { if (!event.repeat) save(); }
    else if (event.repeat && !key.startsWith("arrow")) return;
    else if (key === "u") undo();
    else if (key === "n") root.querySelector("textarea").focus();
    else if (pair && key in choices) set(axes[0], choices[key]);
    else if (!pair && /^[0-5]$/.test(key)) set(axes[state.now], key === "0" ? null : Number(key), true);
    else if (!pair && key === "arrowdown") { state.now = Math.min(state.now + 1, axes.length - 1); draw(); }
    else if (!pair && key === "arrowup") { state.now = Math.max(state.now - 1, 0); draw(); }
    else return;
    event.preventDefault();
  };
  const radio = (axis, value, label, title) => {
    const button = make("button", "", label);
    button.type = "button";
    button.setAttribute("role", "radio");
    button.setAttribute("aria-checked", String(axis in state.values && state.values[axis] === value));
    button.setAttribute("aria-label", title);
    button.title = title;
    button.disabled = state.busy;
    button.onclick = () => set(axis, value, true);
    return button;
  };
  const grading = (axis, i) => {
    const row = make("div", i === state.now ? "axis now" : "axis");
    row.setAttribute("role", "radiogroup");
    row.setAttribute("aria-label", axis.name);
    row.onpointerdown = () => { state.now = i; };
    row.append(make("h3", "", axis.name[0].toUpperCase() + axis.name.slice(1)), make("div", "asks soft", axis.asks));
    const grades = row.appendChild(make("div", "grades"));
    axis.means.forEach((means, grade) => grades.append(radio(axis.name, grade + 1, String(grade + 1), `${grade + 1}: ${means}`)));
    grades.append(radio(axis.name, null, "?", "cannot tell"));
    const given = axis.name in state.values;
    const value = state.values[axis.name];
    row.append(make("div", "means soft", !given ? `1 ${axis.means[0]}; 5 ${axis.means[4]}`
      : value === null ? "cannot tell" : `${value}: ${axis.means[value - 1]}`));
    return row;
  };
  const draw = () => {
    const focused = parentElement.activeElement ?? document.activeElement;
    const inNote = focused?.tagName === "TEXTAREA";
    parentElement.querySelector(".card")?.remove();
    const root = make("div", pair ? "card pair" : "card");
    root.dataset.key = data.key;
    root.dataset.busy = String(Boolean(state.busy));
    const top = root.appendChild(make("div", "top"));
    top.append(make("span", "", `Item ${data.number} of ${data.total}`));
    const bar = top.appendChild(make("div", "bar")).appendChild(make("div"));
    bar.style.width = `${100 * (data.number - 1) / data.total}%`;
    const read = root.appendChild(make("div", "read"));
    data.messages.forEach((message) => read.append(make("h3", "", message.heading), make("div", "text", message.content)));
    const answers = read.appendChild(make("div", "answers"));
    data.answers.forEach((answer, i) => {
      const name = pair ? "AB"[i] : "";
      const block = answers.appendChild(make("div", pair && state.values[axes[0]] === name ? "answer chosen" : "answer"));
      block.append(make("h3", "", pair ? `Answer ${name}` : "Answer"),
        answer.trim() ? make("div", "text", answer) : make("div", "text soft", "(the answer is empty)"));
    });
    const side = root.appendChild(make("div", "side"));
    if (pair) {
      const row = side.appendChild(make("div", "choices"));
      row.setAttribute("role", "radiogroup");
      row.setAttribute("aria-label", data.axes[0].asks);
      side.prepend(make("h3", "", data.axes[0].asks));
      row.append(radio(axes[0], "A", "A is better", "A is better"), radio(axes[0], "B", "B is better", "B is better"),
        radio(axes[0], "tie", "Tie", "Tie"), radio(axes[0], null, "Cannot tell", "cannot tell"));
    } else data.axes.forEach((axis, i) => side.append(grading(axis, i)));
    const note = side.appendChild(make("textarea"));
    note.placeholder = "A note, if there is something to say";
    note.setAttribute("aria-label", "Note");
    note.rows = 1;
    note.value = state.note;
    note.oninput = () => { state.note = note.value; };
    const acts = side.appendChild(make("div", "acts"));
    const button = (name, label, key, act, off) => {
      const made = acts.appendChild(make("button", name, `${label} `));
      made.type = "button";
      made.disabled = off;
      made.onclick = act;
      made.append(make("kbd", "", key));
    };
    button("save", "Save", "Enter", save, state.busy);
    button("undo", "Undo", "U", undo, state.busy || !data.done);
    const say = side.appendChild(make("div", state.say && !state.busy ? "say bad" : "say soft", state.say));
    say.setAttribute("role", "status");
    side.append(make("div", "keys soft", pair ? "Keys: A, B, T for a tie, 0 cannot tell, N note, Enter saves, U undoes the last."
      : "Keys: 1 to 5 grade the marked axis, 0 cannot tell, up and down move, N note, Enter saves, U undoes the last."));
    parentElement.append(root);
    root.style.setProperty("--on-primary", onPrimary(root));
    if (inNote) note.focus();
  };
  if (state.press) document.removeEventListener("keydown", state.press);
  state.press = press;
  document.addEventListener("keydown", press);
  draw();
  return () => document.removeEventListener("keydown", press);
}
"""

_card = st.components.v2.component("lab_rating_card", css=_CSS, js=_JS)


def show(data: Mapping[str, Any], on_save: Callable[[], None], on_undo: Callable[[], None]) -> None:
    """Show the card of one item; `on_save` and `on_undo` read what was sent from `sent`."""
    _card(key=KEY, data=dict(data), on_save_change=on_save, on_undo_change=on_undo)


def sent(name: str) -> Mapping[str, Any] | None:
    """What the card sent with its last "save" or "undo"; None when it sent nothing in this run."""
    state: Any = st.session_state.get(KEY) or {}
    found = state.get(name)
    return found if isinstance(found, Mapping) else None
