// One operation: what it takes and gives, and the form to try it.

const PLACES = { path: "Path", query: "Query", header: "Headers", cookie: "Cookies" };

// A field to type a value in. `get()` gives null, a text, or a list of texts or files; nothing typed in is null.
function control(schema, name, { required, prefill }) {
  const found = flat(schema);
  const id = freshId("field");
  const main = mainType(variants(found).length === 1 ? flat(variants(found)[0]) : found);
  const inner = main === "array" ? flat(found.items || variants(found).map(flat).find((one) => one.items)?.items) : found;
  const only = variants(inner).length === 1 ? flat(variants(inner)[0]) : inner;
  let element, get;
  if (only.format === "binary") {
    element = h("input", { type: "file", id, multiple: main === "array" });
    get = () => (element.files.length ? [...element.files] : null);
  } else if (main === "array" && only.enum) {
    element = h("select", { id, multiple: true, size: Math.min(only.enum.length, 5) }, only.enum.map((value) => h("option", { value: written(value) }, written(value))));
    get = () => (element.selectedOptions.length ? [...element.selectedOptions].map((one) => one.value) : null);
  } else if (main === "array") {
    element = h("textarea", { id, rows: 2, placeholder: "one value on each line", spellcheck: "false" });
    if (prefill) element.value = [example(found)].flat().map(written).join("\n");
    get = () => (element.value === "" ? null : element.value.split("\n"));
  } else if (only.enum || main === "boolean") {
    const values = only.enum || [true, false];
    element = h("select", { id }, required ? null : h("option", { value: "" }, "not sent"), values.map((value) => h("option", { value: written(value) }, written(value))));
    get = () => (element.value === "" && !required ? null : element.value);
  } else {
    const isNumber = main === "integer" || main === "number";
    const usual = found.default ?? example(found);
    element = h("input", { type: found.format === "password" ? "password" : "text", id, autocomplete: "off", spellcheck: "false",
      inputmode: isNumber ? "decimal" : null, placeholder: usual === null || typeof usual === "object" || usual === "text" ? "" : `${found.default !== undefined ? "default: " : "such as "}${written(usual)}`.slice(0, 80) });
    if (prefill && typeof usual !== "object") element.value = written(usual);
    get = () => (element.value === "" ? null : element.value);
  }
  element.dataset.name = name;
  if (required) element.setAttribute("aria-required", "true");
  return { id, element, get };
}

function labelled(name, made, { required, type }) {
  return h("div", { class: "entry" },
    h("label", { for: made.id }, h("code", {}, name), required ? h("span", { class: "required" }, "required") : null, h("span", { class: "type" }, type)), made.element);
}

function parametersView(operation) {
  const groups = [];
  for (const [place, title] of Object.entries(PLACES)) {
    const found = (operation.parameters || []).filter((one) => one.in === place);
    if (!found.length) continue;
    groups.push(h("h4", {}, title), h("table", { class: "parameters" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Name"), h("th", { scope: "col" }, "Type"), h("th", { scope: "col" }, "Meaning"))),
      h("tbody", {}, found.map((one) => h("tr", {},
        h("th", { scope: "row" }, h("code", { class: "name" }, one.name), one.required ? h("span", { class: "required" }, "required") : null,
          one.deprecated ? h("span", { class: "deprecated" }, "deprecated") : null),
        h("td", {}, h("span", { class: "type" }, typeName(one.schema)), h("div", {}, constraints(one.schema))),
        h("td", {}, prose(one.description), exampleLine(one.schema)))))));
  }
  return groups;
}

// Media types with their schemas; types of one schema are shown once.
function contentView(content) {
  const groups = new Map();
  for (const [type, media] of Object.entries(content || {})) {
    const key = JSON.stringify(media.schema ?? null);
    if (!groups.has(key)) groups.set(key, { types: [], media });
    groups.get(key).types.push(type);
  }
  return [...groups.values()].map(({ types, media }) => {
    const named = Object.entries(media.examples || {});
    return h("div", { class: "media" }, h("div", { class: "types" }, types.map((type) => h("code", { class: "chip" }, type))),
      media.schema && Object.keys(media.schema).length ? schemaView(media.schema) : h("p", { class: "faint" }, "any content"),
      named.map(([name, one]) => folded(() => jsonBlock(JSON.stringify(one.value, null, 2)), false, named.length > 1 ? name : "example")),
      !named.length && types[0].includes("json") && media.schema && tree.has(media.schema)
        ? folded(() => jsonBlock(JSON.stringify(example(media.schema), null, 2)), false, "example") : null);
  });
}

function responsesView(operation) {
  const listed = Object.entries(operation.responses || {});
  if (!listed.length) return null;
  const isError = (status) => status >= "400" && status !== "default";
  return [h("h3", {}, "Answers"), h("div", { class: "answers" }, listed.map(([status, answer]) => {
    const has = answer.content && Object.keys(answer.content).length;
    const head = [h("span", { class: `status s${status[0]}` }, status === "default" ? "any" : status), h("span", { class: "meaning" }, inline(answer.description || ""))];
    if (!has) return h("div", { class: "answer plain" }, head);
    const box = h("details", { class: "answer" }, h("summary", {}, head));
    const fill = () => box.open && box.children.length === 1 && box.append(...contentView(answer.content));
    box.addEventListener("toggle", fill);
    if (!isError(status)) {
      box.open = true;
      fill();
    }
    return box;
  }))];
}

function securityView(operation) {
  const ways = operation.security ?? spec.security;
  if (!ways || !ways.length) return null;
  const names = ways.map((way) => Object.keys(way).join(" and ")).filter(Boolean);
  const free = ways.some((way) => !Object.keys(way).length);
  return h("p", { class: "needs" }, h("span", { class: "lock", "aria-hidden": "true" }), free ? "May be used with " : "Needs ", names.map((name, index) => [index ? " or " : "", h("code", {}, name)]), free ? ", or without." : ".");
}

function bodyView(operation) {
  const body = operation.requestBody;
  if (!body) return null;
  return [h("h3", {}, "Content", h("span", { class: body.required ? "required" : "faint small-note" }, body.required ? "required" : "optional")), prose(body.description), contentView(body.content)];
}

// -- trying it

function authFields(operation) {
  const rows = [];
  for (const name of schemesOf(operation)) {
    const scheme = spec.components?.securitySchemes?.[name];
    if (!scheme) continue;
    const said = (credentials[name] ??= {});
    const isBasic = scheme.type === "http" && String(scheme.scheme).toLowerCase() === "basic";
    for (const [part, label, type] of isBasic ? [["user", "User", "text"], ["password", "Password", "password"]] : [["value", scheme.type === "apiKey" ? `Key (${scheme.name}, ${scheme.in})` : "Token", "password"]]) {
      const id = freshId("auth");
      const input = h("input", { id, type, autocomplete: "off", spellcheck: "false", "data-auth": `${name} ${part}`, input: (event) => {
        said[part] = event.target.value;
        for (const other of document.querySelectorAll("input[data-auth]"))
          if (other !== input && other.dataset.auth === input.dataset.auth) other.value = input.value;
      } });
      input.value = said[part] || "";
      rows.push(h("div", { class: "entry" }, h("label", { for: id }, label, " ", h("span", { class: "type" }, name)), input));
    }
  }
  return rows.length ? h("fieldset", {}, h("legend", {}, "Authorization"), rows, h("p", { class: "faint small-note" }, "Kept in this page's memory only.")) : null;
}

// The editor of a request body. `get()` gives the content of the chosen media type.
function bodyEditor(operation) {
  const content = Object.entries(operation.requestBody?.content || {}).filter(([type]) => !/msgpack/.test(type));
  if (!content.length) return null;
  const place = h("div", {});
  let get = () => null;
  const choose = (index) => {
    const [type, media] = content[index];
    const schema = flat(media.schema);
    if (/^multipart\/form-data|urlencoded/.test(type)) get = formFields(place, type, schema);
    else if (/json/.test(type) || (/^text\//.test(type) && mainType(schema) === "string")) get = textEditor(place, type, media);
    else {
      const made = control({ format: "binary" }, "content", {});
      place.replaceChildren(labelled("content", made, { type: type }));
      get = () => {
        const files = made.get();
        return files ? { kind: "file", type, file: files[0] } : null;
      };
    }
  };
  choose(0);
  const id = freshId("media");
  const select = content.length > 1 ? h("div", { class: "entry" }, h("label", { for: id }, "Content type"),
    h("select", { id, change: (event) => choose(event.target.selectedIndex) }, content.map(([type]) => h("option", {}, type)))) : null;
  return { element: h("fieldset", {}, h("legend", {}, "Content"), select, place), get: () => get() };
}

function formFields(place, type, schema) {
  const fields = Object.entries(schema.properties || {}).map(([name, part]) => {
    const required = (schema.required || []).includes(name);
    return { name, part, required, made: control(part, name, { required, prefill: required }) };
  });
  const free = fields.length ? null : h("textarea", { id: freshId("field"), rows: 3, placeholder: "name=value, one on each line", spellcheck: "false", "aria-label": "Fields of the form" });
  place.replaceChildren(...fields.map((one) => labelled(one.name, one.made, { required: one.required, type: typeName(one.part) })), ...(free ? [free] : []));
  const kind = /urlencoded/.test(type) ? "form" : "multipart";
  return () => {
    const pairs = fields.flatMap(({ name, made }) => [made.get() ?? []].flat().map((value) => [name, value]));
    if (free) for (const line of free.value.split("\n").filter(Boolean)) pairs.push([line.split("=")[0], line.slice(line.indexOf("=") + 1)]);
    return { kind, type, pairs };
  };
}

function textEditor(place, type, media) {
  const id = freshId("body");
  const named = Object.values(media.examples || {})[0]?.value ?? media.example;
  const value = named !== undefined ? named : example(media.schema);
  const isJson = /json/.test(type);
  const text = isJson ? JSON.stringify(value, null, 2) : written(value);
  const area = h("textarea", { id, class: "body", spellcheck: "false", rows: Math.min(18, text.split("\n").length + 1) });
  area.value = text;
  const said = h("p", { class: "wrong", role: "status" });
  area.addEventListener("input", () => {
    said.textContent = "";
    try {
      if (isJson && area.value.trim()) JSON.parse(area.value);
    } catch (error) {
      said.textContent = `This is not JSON: ${error.message}. It can be sent all the same.`;
    }
  });
  place.replaceChildren(h("label", { for: id, class: "type" }, type), area, said);
  return () => (area.value === "" ? null : { kind: "text", type, text: area.value });
}

function tryView(path, verb, operation) {
  const values = (operation.parameters || []).map((parameter) => ({ parameter,
    control: control(parameter.schema, parameter.name, { required: parameter.required, prefill: parameter.required }) }));
  const groups = Object.entries(PLACES).map(([place, title]) => {
    const found = values.filter(({ parameter }) => parameter.in === place);
    return found.length ? h("fieldset", {}, h("legend", {}, title), found.map(({ parameter, control: made }) => labelled(parameter.name, made, { required: parameter.required, type: typeName(parameter.schema) }))) : null;
  });
  const urls = serverUrls(operation);
  const serverId = freshId("server");
  const servers = h("select", { id: serverId }, urls.map((url) => h("option", {}, url)));
  const editor = bodyEditor(operation);
  const what = { operation, method: verb, path, values, server: () => urls[Math.max(0, servers.selectedIndex)], content: editor?.get };
  const command = h("pre", { class: "code curl", tabindex: 0 });
  const result = h("div", { class: "result", role: "status", "aria-live": "polite" });
  const submit = h("button", { type: "submit", class: "send" }, "Send");
  const stop = h("button", { type: "button", hidden: true }, "Stop");
  const wrong = h("p", { class: "wrong", role: "alert" });
  const renew = () => (command.textContent = curlOf(assemble(what)));
  const form = h("form", { class: "try", novalidate: true, "aria-label": `Try ${verb.toUpperCase()} ${path}`, input: renew, change: renew, submit: go },
    h("h3", {}, "Try it"), urls.length > 1 || operation.servers ? h("div", { class: "entry" }, h("label", { for: serverId }, "Server"), servers) : null,
    authFields(operation), groups, editor?.element, wrong, h("div", { class: "buttons" }, submit, stop), result,
    h("div", { class: "curl-box" }, h("div", { class: "curl-head" }, h("span", {}, "curl"), copyButton("the curl command", () => command.textContent)), command));
  renew();
  async function go(event) {
    event.preventDefault();
    const made = assemble(what);
    command.textContent = curlOf(made);
    for (const { control: one } of values) one.element.removeAttribute("aria-invalid");
    const said = [...made.wrong.map((one) => one.text), ...limits(made)];
    wrong.textContent = said.join(" ");
    if (made.wrong.length) {
      made.wrong[0].control.element.setAttribute("aria-invalid", "true");
      made.wrong[0].control.element.focus();
    }
    if (said.length) return;
    const abort = new AbortController();
    const late = setTimeout(() => abort.abort("late"), WAIT);
    stop.hidden = false;
    submit.disabled = true;
    stop.onclick = () => abort.abort("stopped");
    result.replaceChildren(h("p", { class: "faint" }, "Waiting for the answer …"));
    await send(made, abort.signal, (progress) => {
      if (progress.status !== undefined) clearTimeout(late);
      showResult(result, progress, operation);
    });
    clearTimeout(late);
    stop.hidden = true;
    submit.disabled = false;
  }
  return form;
}

function showResult(place, result, operation) {
  const parts = [];
  if (result.failed) parts.push(h("p", { class: "wrong" }, result.failed));
  else if (result.status !== undefined) {
    const said = operation.responses?.[result.status] ?? operation.responses?.default;
    const pieces = [`${result.time < 10 ? result.time.toFixed(1) : Math.round(result.time)} ms`, `${result.size} bytes`];
    parts.push(h("p", { class: "outcome" }, h("span", { class: `status s${String(result.status)[0]}` }, `${result.status} ${result.phrase}`.trim()), " ", h("span", { class: "faint" }, pieces.join(" · "))),
      said?.description === `${result.phrase}.` ? null : h("p", { class: "faint" }, said ? inline(said.description || "") : "The document says nothing of this status."));
    if (result.redirected) parts.push(h("p", {}, "After redirects, from ", h("code", {}, result.redirected)));
    parts.push(...problemView(result), contentShown(result),
      h("details", { class: "fold" }, h("summary", {}, `headers (${result.headers.length})`), h("table", { class: "headers" }, h("tbody", {}, result.headers.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value)))))));
  }
  parts.push(...result.notes.map((note) => h("p", { class: "faint" }, note)));
  place.replaceChildren(...parts.filter(Boolean));
}

// A problem document, in words.
function problemView(result) {
  if (!result.done || !/problem\+json/.test(result.type)) return [];
  try {
    const found = JSON.parse(result.text);
    const list = Array.isArray(found.errors) ? found.errors : [];
    return [h("div", { class: "problem" }, h("p", {}, h("strong", {}, String(found.title ?? "")), found.detail ? `: ${found.detail}` : ""),
      list.length ? h("ul", {}, list.map((one) => h("li", {}, h("code", {}, `${one.place} ${one.name}`), ` ${one.message}`))) : null)];
  } catch {
    return [];
  }
}

function contentShown(result) {
  if (!result.size) return h("p", { class: "faint" }, result.done ? "No content." : "No content yet.");
  const ends = [result.cut ? "Only the first mebibyte is shown." : "", result.stopped ? "It was stopped." : ""].filter(Boolean);
  const end = ends.length ? h("p", { class: "faint" }, ends.join(" ")) : null;
  if (!result.isText) {
    const save = h("button", { type: "button", class: "small", click: () => {
      const url = URL.createObjectURL(result.blob());
      h("a", { href: url, download: "answer" }).click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    } }, "Save");
    return h("div", {}, h("p", {}, `${result.size} bytes of ${result.type || "no type"} `, save), end);
  }
  let text = result.text;
  let shown;
  try {
    if (/json/.test(result.type)) JSON.parse(text);
    text = /json/.test(result.type) ? indented(text) : text;
    shown = /json/.test(result.type) ? jsonBlock(text) : h("pre", { class: "code", tabindex: 0 }, text);
  } catch {
    shown = h("pre", { class: "code", tabindex: 0 }, text);
  }
  shown.classList.add("answer-body");
  return h("div", { class: "shown" }, copyButton("the answer", () => text), shown, end);
}
