// Shows /openapi.json. Everything that comes from it is set as text, never as markup.
"use strict";

const VERBS = ["get", "post", "put", "patch", "delete"];
const DEPTH_MAX = 6;

/** An element with a class, and with texts or elements inside. */
function make(tag, name, ...inside) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...inside);
  return made;
}

function resolve(api, schema) {
  const name = schema && schema.$ref && schema.$ref.split("/").pop();
  return name ? api.components.schemas[name] || {} : schema || {};
}

/** A type in a few words. */
function kindOf(api, schema) {
  const is = resolve(api, schema);
  const types = [].concat(is.type || "any").filter((type) => type !== "null");
  const ofItems = is.items ? ` of ${kindOf(api, is.items)}` : "";
  return types.join(" or ") + ofItems + ([].concat(is.type).includes("null") ? ", or null" : "");
}

/** What narrows it. */
function rules(api, schema) {
  const is = resolve(api, schema);
  const said = [];
  if (is.enum) said.push("one of " + is.enum.filter((one) => one !== null).join(", "));
  if (is.minimum !== undefined) said.push(`${is.minimum} to ${is.maximum}`);
  if (is.exclusiveMinimum !== undefined) said.push(`above ${is.exclusiveMinimum}`);
  if (is.minLength) said.push("not empty");
  if (is.pattern) said.push(`matches ${is.pattern}`);
  if (is.format) said.push(is.format);
  if (is.default !== undefined) said.push(`default ${JSON.stringify(is.default)}`);
  if (is.description) said.push(is.description);
  return said.join("; ");
}

/** The rows of an object's fields, those of its records included. */
function rows(api, schema, prefix, depth) {
  const is = resolve(api, schema);
  const required = is.required || [];
  return Object.entries(is.properties || {}).flatMap(([name, field]) => {
    const path = prefix + name;
    const own = make("tr", "", make("td", "", make("code", "", path)), make("td", "", kindOf(api, field)),
      make("td", "", (required.includes(name) ? "required; " : "") + rules(api, field)));
    const below = resolve(api, field).items || field;
    const mark = resolve(api, field).items ? "[]." : ".";
    return depth < DEPTH_MAX ? [own, ...rows(api, below, path + mark, depth + 1)] : [own];
  });
}

function table(title, heads, lines) {
  if (!lines.length) return [];
  const head = make("tr", "", ...heads.map((text) => make("th", "", text)));
  return [make("h3", "", title), make("table", "", head, ...lines)];
}

function operation(api, path, verb, shared) {
  const is = api.paths[path][verb];
  const inside = make("div", "inside");
  const parameters = [...(shared || []), ...(is.parameters || [])].map((one) =>
    make("tr", "", make("td", "", make("code", "", one.name)), make("td", "", one.in),
      make("td", "", [one.description, rules(api, one.schema)].filter(Boolean).join("; "))));
  inside.append(...table("Parameters", ["name", "in", ""], parameters));
  const body = is.requestBody && is.requestBody.content["application/json"];
  if (body) inside.append(...table("Body", ["field", "type", ""], rows(api, body.schema, "", 0)));
  for (const [status, answer] of Object.entries(is.responses)) {
    const shown = answer.content && answer.content["application/json"];
    inside.append(make("h3", "", `${status}: ${answer.description}`));
    if (shown && status !== "default") inside.append(...table("Answer", ["field", "type", ""], rows(api, shown.schema, "", 0)));
  }
  const line = make("summary", "", make("b", `verb ${verb}`, verb.toUpperCase()), make("code", "", path), make("span", "", is.summary));
  const made = make("details", "", line);
  made.dataset.words = `${verb} ${path} ${is.summary}`.toLowerCase();
  // Thousands of rows are only made where somebody looks.
  made.addEventListener("toggle", () => made.append(inside), { once: true });
  return made;
}

function show(api) {
  const areas = new Map();
  for (const [path, is] of Object.entries(api.paths)) {
    for (const verb of VERBS.filter((verb) => is[verb])) {
      const area = is[verb].tags[0];
      if (!areas.has(area)) areas.set(area, []);
      areas.get(area).push(operation(api, path, verb, is.parameters));
    }
  }
  const main = document.getElementById("operations");
  main.replaceChildren();
  for (const [area, operations] of areas) {
    const section = make("section", "", make("h2", "", area), ...operations);
    section.id = area;
    main.append(section);
    const link = make("a", "", area);
    link.href = `#${area}`;
    document.getElementById("areas").append(link);
  }
  document.getElementById("search").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const section of main.children) {
      let seen = 0;
      for (const one of section.querySelectorAll("details")) {
        one.hidden = !wanted.every((word) => one.dataset.words.includes(word));
        seen += one.hidden ? 0 : 1;
      }
      section.hidden = seen === 0;
    }
  });
}

fetch("/openapi.json")
  .then((answer) => answer.json())
  .then(show)
  .catch((error) => { document.getElementById("state").textContent = `the description cannot be read: ${error.message}`; });
