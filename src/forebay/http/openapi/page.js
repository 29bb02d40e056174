// The page: reads the document, and shows it.

const byId = (id) => document.getElementById(id);
const VERBS = ["get", "post", "put", "patch", "delete", "head", "options", "trace"];

// Every operation, with what it is found by.
function operationsOf(found) {
  const list = [];
  const add = (path, verb, operation, about) => list.push({ path, verb, operation, about, id: `op-${operation.operationId ?? `${verb}-${path}`}` });
  for (const [path, item] of Object.entries(found.paths || {})) {
    for (const verb of VERBS) if (item[verb]) add(path, verb, withShared(item, item[verb]));
    for (const [verb, operation] of Object.entries(item["x-methods"] || {})) add(path, verb, withShared(item, operation));
    for (const operation of item["x-hosts"] || []) add(path, operation.method, withShared(item, operation));
  }
  for (const socket of found["x-websockets"] || []) add(socket.path, "ws", socket);
  return list;
}

function withShared(item, operation) {
  const resolve = (one) => (one.$ref ? target(one.$ref) : one);
  const own = (operation.parameters || []).map(resolve);
  const shared = (item.parameters || []).map(resolve).filter((one) => !own.some((other) => other.name === one.name && other.in === one.in));
  const body = operation.requestBody ? resolve(operation.requestBody) : undefined;
  const responses = Object.fromEntries(Object.entries(operation.responses || {}).map(([status, one]) => [status, resolve(one)]));
  return { ...operation, parameters: [...shared, ...own], requestBody: body, responses };
}

function byTag(operations) {
  const groups = new Map((spec.tags || []).map((tag) => [tag.name, { name: tag.name, description: tag.description, list: [] }]));
  for (const one of operations) {
    for (const tag of one.operation.tags?.length ? one.operation.tags : [""]) {
      if (!groups.has(tag)) groups.set(tag, { name: tag, list: [] });
      groups.get(tag).list.push(one);
    }
  }
  const rest = groups.get("");
  if (rest) {
    groups.delete("");
    rest.name = groups.size ? "Other" : "Operations";
    groups.set("", rest);
  }
  return [...groups.values()].filter((group) => group.list.length);
}

// A card, whose content is made when it is opened.
function card(one, id) {
  const { operation, path, verb } = one;
  const head = h("summary", {}, method(verb), h("span", { class: "where" }, pathText(path)), h("span", { class: "summary" }, operation.summary || ""),
    operation.deprecated ? h("span", { class: "deprecated" }, "deprecated") : null, operation.security?.length ? h("span", { class: "lock", title: "asks who you are", role: "img", "aria-label": "asks who you are" }) : null);
  const box = h("details", { class: "operation", id }, head);
  box.addEventListener("toggle", () => {
    if (!box.open || box.children.length > 1) return;
    const about = h("div", { class: "description" }, operation.servers ? h("p", { class: "faint" }, "At ", h("code", {}, operation.servers.map((server) => server.url).join(", "))) : null,
      operation.description ? h("div", { class: "words" }, prose(operation.description)) : null, securityView(operation),
      operation.parameters?.length ? h("h3", {}, "Parameters") : null, parametersView(operation), bodyView(operation), responsesView(operation));
    const trial = verb === "ws" ? h("div", { class: "try" }, h("h3", {}, "WebSocket"), h("p", {}, "Opened by a GET request; from then on both sides send messages."), h("pre", { class: "code", tabindex: 0 }, `new WebSocket("${serverUrls(operation)[0].replace(/^http/, "ws")}${path}")`)) : tryView(path, verb, operation);
    box.append(h("div", { class: "inside" }, about, trial));
  });
  return box;
}

function show() {
  const { info = {} } = spec;
  const operations = operationsOf(spec);
  document.title = `${info.title ?? "API"} ${info.version ?? ""}`.trim();
  for (const id of ["bar-title", "side-title"]) byId(id).textContent = info.title ?? "";
  byId("side-version").textContent = info.version ?? "";
  const content = byId("content");
  const schemes = Object.entries(spec.components?.securitySchemes || {});
  content.replaceChildren(h("section", { class: "intro" }, h("h1", {}, info.title ?? "API", " ", h("small", {}, info.version ?? "")),
    prose(info.description),
    h("p", { class: "faint" }, h("a", { href: documentUrl.href }, "OpenAPI document"), ` · ${operations.length} operations · `, serverUrls().map((url, index) => [index ? ", " : "", h("code", {}, url)])),
    schemes.length ? h("ul", { class: "schemes" }, schemes.map(([name, scheme]) => h("li", {}, h("span", { class: "lock", "aria-hidden": "true" }), h("code", {}, name), ` ${[scheme.type, scheme.scheme, scheme.bearerFormat, scheme.name, scheme.in].filter(Boolean).join(", ")}`))) : null));
  const links = byId("links");
  const entries = [];
  const used = new Set();
  for (const group of byTag(operations)) {
    const heading = freshId("tag");
    const section = h("section", { "aria-labelledby": heading }, h("h2", { id: heading }, group.name), prose(group.description));
    const list = h("ul", {});
    for (const one of group.list) {
      const id = used.has(one.id) ? freshId(one.id) : one.id;
      used.add(id);
      const box = card(one, id);
      const link = h("li", {}, h("a", { href: `#${encodeURIComponent(id)}`, title: `${one.verb.toUpperCase()} ${one.path}`, click: closeMenu }, method(one.verb), h("span", {}, one.operation.summary || one.path)));
      const words = `${one.verb} ${one.path} ${one.operation.summary ?? ""} ${group.name} ${one.operation.operationId ?? ""}`.toLowerCase();
      entries.push({ words, box, link, group: [section, list] });
      section.append(box);
      list.append(link);
    }
    const part = h("div", { class: "group" }, h("h2", {}, group.name), list);
    for (const entry of entries) if (entry.group[1] === list) entry.group.push(part);
    links.append(part);
    content.append(section);
  }
  const none = h("p", { class: "faint nothing", role: "status" });
  links.append(none);
  byId("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    const seen = new Set();
    for (const { words, box, link, group } of entries) {
      const fits = wanted.every((word) => words.includes(word));
      box.hidden = link.hidden = !fits;
      if (fits) seen.add(group[2]);
    }
    for (const { group } of entries) group[0].hidden = group[2].hidden = !seen.has(group[2]);
    none.textContent = seen.size ? "" : "Nothing fits.";
  });
  addEventListener("hashchange", follow);
  follow();
}

function follow() {
  let id = location.hash.slice(1);
  try {
    id = decodeURIComponent(id);
  } catch {
    return; // no link of ours
  }
  const box = byId(id);
  if (!box || !box.classList.contains("operation")) return;
  box.open = true;
  box.scrollIntoView({ block: "start" });
  box.querySelector("summary").focus({ preventScroll: true });
}

function closeMenu() {
  byId("side").classList.remove("open");
  byId("menu").setAttribute("aria-expanded", "false");
}

byId("menu").addEventListener("click", () => {
  const open = byId("side").classList.toggle("open");
  byId("menu").setAttribute("aria-expanded", String(open));
  if (open) byId("filter").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && byId("side").classList.contains("open")) {
    closeMenu();
    byId("menu").focus();
  }
});

async function start() {
  const state = byId("state");
  try {
    const response = await fetch(documentUrl, { credentials: "same-origin", headers: { accept: "application/json" } });
    if (!response.ok) throw new Error(`it was answered with ${response.status} ${response.statusText}`.trim());
    spec = await response.json();
  } catch (error) {
    state.className = "wrong";
    state.textContent = `The document at ${documentUrl.pathname} could not be read: ${error.message}.`;
    return;
  }
  show();
  document.documentElement.dataset.state = "ready";
}

start();
