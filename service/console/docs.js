// Shows /openapi.json as a page, and lets each operation be tried. Nothing is loaded from anywhere else.
import { fetchWithKey } from "/console/key.js";
const METHODS = ["get", "post", "delete"];

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const nameOf = (reference) => reference.split("/").pop();
const resolved = (document_, schema) => (schema?.$ref ? document_.components.schemas[nameOf(schema.$ref)] : schema) ?? {};

function typeOf(schema) {
  if (schema.$ref) return nameOf(schema.$ref);
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return options.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  return schema.type ?? "any";
}

function limitsOf(schema) {
  const names = { minimum: "from", maximum: "to", minLength: "at least", maxLength: "at most", minItems: "at least", maxItems: "at most" };
  const units = { minLength: "characters", maxLength: "characters", minItems: "entries", maxItems: "entries" };
  const own = Object.keys(names).filter((key) => key in schema).map((key) => `${names[key]} ${schema[key]} ${units[key] ?? ""}`.trim());
  const inner = (schema.anyOf ?? []).flatMap((option) => limitsOf(option));
  return [...own, ...inner, ...("default" in schema ? [`default ${JSON.stringify(schema.default)}`] : [])];
}

function fieldsTable(document_, schema, caption, shown = new Set()) {
  const holder = element("div");
  const name = schema?.$ref ? nameOf(schema.$ref) : caption;
  const fields = resolved(document_, schema).properties;
  if (!fields || shown.has(name)) return holder;
  shown.add(name);
  const table = element("table");
  table.append(element("caption", `${caption}: ${name}`));
  const head = element("tr");
  for (const title of ["field", "type", "limits"]) {
    const cell = element("th", title);
    cell.scope = "col";
    head.append(cell);
  }
  table.append(head);
  const required = new Set(resolved(document_, schema).required ?? []);
  const nested = [];
  for (const [field, of] of Object.entries(fields)) {
    const row = element("tr");
    const detail = [...limitsOf(of), of.description].filter(Boolean).join(", ");
    row.append(element("td", required.has(field) ? `${field} *` : field), element("td", typeOf(of)), element("td", detail));
    table.append(row);
    const mentioned = JSON.stringify(of).matchAll(/"\$ref":"([^"]+)"/g);
    for (const [, reference] of mentioned) nested.push({ $ref: reference });
  }
  holder.append(table, ...nested.map((one) => fieldsTable(document_, one, "with", shown)));
  return holder;
}

function tryIt(path, method, operation, body) {
  const form = element("form");
  const inputs = new Map();
  for (const parameter of operation.parameters ?? []) {
    const label = element("label", `${parameter.name} (${parameter.in}) `);
    const input = element("input");
    input.required = parameter.required;
    label.append(input);
    inputs.set(parameter, input);
    form.append(label);
  }
  const text = element("textarea");
  if (body) {
    text.value = JSON.stringify(body.example ?? {}, null, 2);
    text.rows = text.value.split("\n").length;
    text.spellcheck = false;
    text.setAttribute("aria-label", "Request body");
    form.append(text);
  }
  const answer = element("pre");
  answer.setAttribute("role", "status");
  form.append(element("button", "Send"), answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let target = path;
    const query = new URLSearchParams();
    for (const [parameter, input] of inputs) {
      if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.set(parameter.name, input.value);
    }
    const init = { method: method.toUpperCase(), ...(body ? { body: text.value } : {}) };
    try {
      const response = await fetchWithKey(query.size ? `${target}?${query}` : target, init);
      const raw = await response.text();
      const json = /json/.test(response.headers.get("Content-Type") ?? "");
      const timing = response.headers.get("Server-Timing");
      answer.textContent = `${response.status}${timing ? ` · ${timing}` : ""}\n${json ? JSON.stringify(JSON.parse(raw), null, 2) : raw}`;
    } catch (error) {
      answer.textContent = error.message;
    }
  });
  return form;
}

function shownOperation(document_, path, method, operation) {
  const details = element("details");
  const summary = element("summary");
  summary.append(element("strong", method.toUpperCase()), element("code", path), element("span", operation.description ?? operation.summary, "dim what"));
  details.append(summary);
  const body = operation.requestBody?.content["application/json"];
  if (body) details.append(fieldsTable(document_, body.schema, "Request"));
  const answer = operation.responses["200"]?.content?.["application/json"]?.schema;
  if (answer) details.append(fieldsTable(document_, answer, "Answer"));
  details.append(tryIt(path, method, operation, body));
  return details;
}

try {
  const response = await fetch("/openapi.json");
  if (!response.ok) throw new Error(`/openapi.json: ${response.status}`);
  const document_ = await response.json();
  for (const [path, operations] of Object.entries(document_.paths)) {
    for (const method of METHODS.filter((one) => one in operations)) {
      document.getElementById("operations").append(shownOperation(document_, path, method, operations[method]));
    }
  }
} catch (error) {
  document.getElementById("status").textContent = error.message;
  document.getElementById("status").classList.add("error");
}
document.getElementById("operations").ariaBusy = "false";
