// The console talks to the same public API as everyone else.
import { fetchWithKey } from "/console/key.js";
const $ = (id) => document.getElementById(id);
const DAY = 86400;
const KEPT = 8;
const ASKED = 100;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function api(path, body) {
  const init = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const response = await fetchWithKey(path, init);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail ?? response.statusText);
  return { answer, timing: response.headers.get("Server-Timing") ?? "" };
}

const toInput = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 19);
const fromInput = (text) => Math.floor(Date.parse(text + (text.length === 16 ? ":00Z" : "Z")) / 1000);
const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);
const nameOf = (item) => item.text?.description || item.item_id || `unknown item #${item.item_hash}`;
const detailOf = (item) => [item.text?.brand, item.text?.department, item.text?.package_size, item.item_id].filter(Boolean).join(" · ");

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

function showTimes(header) {
  const parts = header.split(", ").map((part) => part.split(";dur="));
  $("times").replaceChildren(...parts.map(([name, value]) => element("span", `${name} ${Number(value).toFixed(2)} ms`)));
  $("times").hidden = !header;
}

function keptList(explanation) {
  const list = element("ol", undefined, "kept");
  for (const behavior of explanation) {
    const row = element("li");
    const bar = element("meter");
    bar.max = explanation[0].weight || 1;
    bar.value = behavior.weight;
    bar.ariaLabel = `weight of ${nameOf(behavior)}`;
    bar.title = `weight ${behavior.weight.toFixed(4)}, score ${behavior.score.toFixed(3)}`;
    row.append(bar, element("span", nameOf(behavior)), element("span", `${(100 * behavior.weight).toFixed(1)} % · ${day(behavior.timestamp)} · ${behavior.recency} back`, "dim"));
    list.append(row);
  }
  if (!explanation.length) list.append(element("li", "no behaviors: scored from the candidate alone", "dim"));
  return list;
}

function showRanked(items) {
  $("ranked").replaceChildren(...items.map((item, place) => {
    const row = element("li");
    const details = element("details");
    details.open = place === 0;
    const summary = element("summary");
    const what = element("span", `${place + 1}. ${nameOf(item)} `, "what");
    what.append(element("span", detailOf(item), "dim"));
    summary.append(what, element("span", item.score.toFixed(3), "score"));
    details.append(summary, keptList(item.explanation));
    row.append(details);
    return row;
  }));
}

function showHistory(answer) {
  $("history-title").textContent = `Newest of ${answer.sequence_length} behaviors`;
  $("history").replaceChildren(...answer.behaviors.map((behavior) => {
    const row = element("li", `${nameOf(behavior)} `);
    row.append(element("span", `${day(behavior.timestamp)} · ${behavior.text?.brand ?? ""} ${behavior.item_id ?? ""}`, "dim"));
    return row;
  }));
}

async function chooseUser() {
  const user = $("user").value.trim();
  if (!user) return;
  const { answer } = await api(`/v1/users/${encodeURIComponent(user)}/behaviors?limit=40`);
  showHistory(answer);
  const newest = answer.behaviors[0]?.timestamp ?? Math.floor(Date.now() / 1000);
  $("when").value = toInput(newest + DAY);
}

async function textsOf(itemIds) {
  const texts = new Map();
  for (let start = 0; start < itemIds.length; start += ASKED) {
    const query = new URLSearchParams(itemIds.slice(start, start + ASKED).map((item_id) => ["id", item_id]));
    for (const item of (await api(`/console/items?${query}`)).answer) texts.set(item.item_id, item.text);
  }
  return texts;
}

async function rank() {
  const user = $("user").value.trim();
  const timestamp = fromInput($("when").value);
  const given = $("candidates").value.split(/[\s,]+/).filter(Boolean);
  say("Ranking…");
  if (given.length) {
    const { answer, timing } = await api("/v1/score", { user_id: user, candidates: given, timestamp, explain: KEPT });
    const texts = await textsOf(given);
    const items = given.map((item_id, place) => ({ item_id, text: texts.get(item_id), score: answer.scores[place], explanation: answer.explanations[place] }));
    items.sort((a, b) => b.score - a.score);
    showRanked(items);
    showTimes(timing);
    const unknown = answer.unknown_candidates.length ? `, ${answer.unknown_candidates.length} of them unknown to the model` : "";
    say(`${given.length} candidates against ${answer.sequence_length_used} behaviors${unknown}.`);
  } else {
    const { answer, timing } = await api("/v1/recommend", { user_id: user, limit: 20, timestamp, explain: KEPT, exclude_seen: $("unseen").checked });
    showRanked(answer.items);
    showTimes(timing);
    say(`Best ${answer.items.length} of ${answer.pool} retrieved candidates against ${answer.sequence_length_used} behaviors.`);
  }
}

const guarded = (work) => async (event) => {
  event?.preventDefault?.();
  try { await work(); } catch (error) { say(error.message, true); }
};

$("user").addEventListener("change", guarded(async () => { await chooseUser(); await rank(); }));
$("ask").addEventListener("submit", guarded(rank));

guarded(async () => {
  const { answer } = await api("/readyz");
  const model = answer.model;
  $("model").textContent = `${model.version} · ${model.items.toLocaleString()} items · keeps ${model.kept} behaviors · ranking: ${model.ranking.backend}`;
  const users = (await api("/console/users")).answer;
  $("users").replaceChildren(...users.map((user) => {
    const option = element("option", `${user.length} behaviors`);
    option.value = user.user_id;
    return option;
  }));
  if (!users.length) return say("No user has behaviors yet: post some to /v1/behaviors, or load them with `dare load`.");
  $("user").value = users[0].user_id;
  await chooseUser();
  await rank();
})();
