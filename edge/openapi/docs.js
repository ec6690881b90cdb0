"use strict";
// Shows the document. Everything that comes from it is set as text, never as markup.
(() => {
  const el = (tag, text, cls) => {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (cls) e.className = cls;
    return e;
  };
  const verbs = ["get", "post", "put", "patch", "delete"];

  function type(s) {
    if (s.$ref) return s.$ref.split("/").pop();
    if (s.type === "array") return "[" + type(s.items || {}) + "]";
    const t = Array.isArray(s.type) ? s.type.join(" or ") : s.type || "any";
    if (s.contentEncoding) return t + ", " + s.contentEncoding;
    if (s.format) return t + ", " + s.format;
    if (s.pattern === "^[0-9]{1,20}$") return t + " of digits";
    if (s.pattern) return t + " " + s.pattern;
    return t;
  }

  function example(doc, s, depth) {
    if (s.$ref) {
      const name = s.$ref.split("/").pop();
      return depth > 4 ? "…" : example(doc, doc.components.schemas[name], depth + 1);
    }
    const t = Array.isArray(s.type) ? s.type[0] : s.type;
    if (t === "array") return [example(doc, s.items || {}, depth + 1)];
    if (t === "object") {
      const out = {};
      for (const k of Object.keys(s.properties || {})) out[k] = example(doc, s.properties[k], depth + 1);
      return out;
    }
    if (t === "integer") return s.default ?? 1;
    if (t === "boolean") return true;
    if (s.format === "uuid") return "018d467f-d800-7000-8000-000000000001";
    if (s.pattern === "^[0-9a-f]{32}$") return "01" + "…";
    if (s.pattern) return "7";
    if (s.contentEncoding) return "aGVsbG8=";
    return "…";
  }

  function rows(list) {
    const table = el("table");
    for (const [name, kind, doc] of list) {
      const tr = el("tr");
      const td = el("td");
      td.append(el("code", name));
      tr.append(td, el("td", kind), el("td", doc || "", "doc"));
      table.append(tr);
    }
    return table;
  }

  function operation(doc, path, verb, op) {
    const d = el("details");
    d.id = op.operationId;
    const s = el("summary");
    s.append(el("span", verb, "verb " + verb), el("code", path), " ", el("span", op.summary, "doc"));
    d.append(s);
    const box = el("div");
    const keys = (op.security || []).flatMap((k) => Object.keys(k));
    if (keys.length) box.append(el("p", "Authorization: Bearer — " + keys.map((k) => doc.components.securitySchemes[k].description).join(", ")));
    if (op.parameters) {
      box.append(el("h4", "Parameters"));
      box.append(rows(op.parameters.map((p) => [p.name, p.in + ", " + type(p.schema) + (p.required ? ", required" : ""), p.description])));
    }
    if (op.requestBody) {
      const schema = op.requestBody.content["application/json"].schema;
      box.append(el("h4", "Body"));
      box.append(rows(Object.entries(schema.properties || {}).map(([k, v]) =>
        [k, type(v) + ((schema.required || []).includes(k) ? ", required" : ""), v.description])));
    }
    const [media, content] = op.responses["200"] ? Object.entries(op.responses["200"].content)[0] : [Object.keys(op.responses).find((s) => s !== "default"), {}];
    box.append(el("h4", "Answer: " + media));
    if (content.schema) box.append(el("pre", JSON.stringify(example(doc, content.schema, 0), null, 2)));
    d.append(box);
    return d;
  }

  fetch("/api/openapi.json").then((r) => r.json()).then((doc) => {
    document.getElementById("about").textContent = "Version " + doc.info.version + ". " + doc.info.description;
    const byTag = new Map();
    for (const path of Object.keys(doc.paths)) {
      for (const verb of verbs) {
        const op = doc.paths[path][verb];
        if (!op) continue;
        const tag = op.tags[0];
        if (!byTag.has(tag)) byTag.set(tag, []);
        byTag.get(tag).push(operation(doc, path, verb, op));
      }
    }
    const nav = document.getElementById("tags"), main = document.getElementById("operations");
    for (const [tag, ops] of byTag) {
      const a = el("a", tag);
      a.href = "#tag-" + tag;
      nav.append(a);
      const h = el("h2", tag);
      h.id = "tag-" + tag;
      main.append(h, ...ops);
    }
    const open = location.hash && document.getElementById(location.hash.slice(1));
    if (open) { if (open.tagName === "DETAILS") open.open = true; open.scrollIntoView(); }
  }).catch((err) => { document.getElementById("about").textContent = "The document can't be loaded: " + err; });
})();
