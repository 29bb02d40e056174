// Requests that are tried: how they are put together, sent and shown, and what curl would need for the same.

const WAIT = 60000; // milliseconds for an answer
const MOST = 1 << 20; // bytes of an answer that are read

const page = document.documentElement.dataset;
const documentUrl = new URL(page.document, location.href);
const credentials = {}; // what was typed in, by scheme; kept nowhere else

// What requests are relative to: where the document is, without the path it has within the application.
function homeUrl() {
  const path = documentUrl.pathname;
  return documentUrl.origin + (path.endsWith(page.path) ? path.slice(0, -page.path.length) : "");
}

function serverUrls(operation) {
  const listed = operation?.servers || spec.servers || [];
  const urls = [];
  for (const server of listed) {
    let text = String(server.url);
    for (const [name, variable] of Object.entries(server.variables || {})) text = text.replaceAll(`{${name}}`, variable.default);
    try {
      const url = new URL(text, documentUrl);
      if (url.protocol === "http:" || url.protocol === "https:") urls.push(url.href.replace(/\/$/, ""));
    } catch {
      continue; // not one that can be reached
    }
  }
  return urls.length ? urls : [homeUrl()];
}

const isAllowed = (url) => url.origin === location.origin || (page.origins || "").split(" ").includes(url.origin);

const encodePath = (text, slashes) => (slashes ? text.split("/").map(encodeURIComponent).join("/") : encodeURIComponent(text));

function toBase64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

// The request that is described: url, method, headers, cookies, content; and what is wrong with it.
function assemble(what) {
  const { operation, method: verb, values, server } = what;
  let path = what.path;
  const made = { method: verb.toUpperCase(), headers: [], cookies: [], content: null, wrong: [], user: null };
  const query = [];
  for (const { parameter, control } of values) {
    const found = control.get();
    const texts = found === null ? [] : Array.isArray(found) ? found : [found];
    if (parameter.in === "path") {
      if (!texts.length || texts[0] === "") made.wrong.push({ control, text: `${parameter.name} is a part of the path: it cannot be empty.` });
      if ((texts[0] ?? "").split(parameter["x-rest-of-path"] ? "/" : undefined).some((part) => part === "." || part === ".."))
        made.wrong.push({ control, text: `${parameter.name} is a part of the path: it cannot be . or .., which stand for other paths.` });
      path = path.replaceAll(`{${parameter.name}}`, encodePath(texts[0] ?? "", parameter["x-rest-of-path"]));
    } else if (parameter.in === "query") for (const text of texts) query.push([parameter.name, text]);
    else if (parameter.in === "header") for (const text of texts) made.headers.push([parameter.name, text]);
    else for (const text of texts) {
      if (text.includes(";")) made.wrong.push({ control, text: `${parameter.name} is a cookie: it cannot hold a semicolon.` });
      made.cookies.push([parameter.name, text]);
    }
  }
  authorize(operation, made, query);
  const encoded = query.map(([name, text]) => `${encodeURIComponent(name)}=${encodeURIComponent(text)}`).join("&");
  made.url = server() + path + (encoded ? `?${encoded}` : "");
  made.content = what.content ? what.content() : null;
  if (made.content?.type && made.content.kind !== "multipart") made.headers.push(["content-type", made.content.type]);
  return made;
}

const schemesOf = (operation) => [...new Set((operation.security ?? spec.security ?? []).flatMap((way) => Object.keys(way)))];

function authorize(operation, made, query) {
  for (const name of schemesOf(operation)) {
    const scheme = spec.components?.securitySchemes?.[name];
    const said = credentials[name] || {};
    if (!scheme) continue;
    const kind = scheme.type === "http" ? String(scheme.scheme).toLowerCase() : scheme.type;
    if (kind === "basic" && (said.user || said.password)) {
      made.user = `${said.user || ""}:${said.password || ""}`;
      made.headers.push(["authorization", `Basic ${toBase64(made.user)}`]);
    } else if (kind === "apiKey" && said.value) {
      const place = { header: made.headers, query, cookie: made.cookies }[scheme.in];
      place?.push([scheme.name, said.value]);
    } else if (said.value) made.headers.push(["authorization", `Bearer ${said.value}`]);
  }
}

const quoted = (text) => `'${String(text).replace(/'/g, "'\\''")}'`;

// The same as a command.
function curlOf(made) {
  const parts = [];
  if (made.method === "HEAD") parts.push("curl --head");
  else parts.push(made.method === (made.content ? "POST" : "GET") ? "curl" : `curl -X ${made.method}`);
  parts[0] += ` ${quoted(made.url)}`;
  for (const [name, value] of made.headers) {
    if (name === "authorization" && made.user !== null) parts.push(`-u ${quoted(made.user)}`);
    else if (!(name === "content-type" && made.content?.kind === "form")) parts.push(value === "" ? `-H ${quoted(`${name};`)}` : `-H ${quoted(`${name}: ${value}`)}`);
  }
  if (made.cookies.length) parts.push(`-b ${quoted(made.cookies.map(([name, value]) => `${name}=${value}`).join("; "))}`);
  const content = made.content;
  if (content?.kind === "text") parts.push(`--data-raw ${quoted(content.text)}`);
  else if (content?.kind === "file") parts.push(`--data-binary ${quoted(`@${content.file ? content.file.name : "FILE"}`)}`);
  else if (content?.kind === "form") {
    for (const [name, value] of content.pairs) parts.push(`--data-urlencode ${quoted(`${name}=${value}`)}`);
    if (!content.pairs.length) parts.push("--data-raw ''");
  } else if (content?.kind === "multipart") {
    for (const [name, value] of content.pairs) {
      if (value instanceof File) parts.push(`-F ${quoted(`${name}=@"${value.name.replace(/(["\\])/g, "\\$1")}"`)}`);
      else parts.push(`--form-string ${quoted(`${name}=${value}`)}`);
    }
  }
  return parts.join(" \\\n  ");
}

function contentOf(content) {
  if (!content) return undefined;
  if (content.kind === "text") return content.text;
  if (content.kind === "file") return content.file || undefined;
  if (content.kind === "form") return new URLSearchParams(content.pairs).toString();
  const form = new FormData();
  for (const [name, value] of content.pairs) value instanceof File ? form.append(name, value, value.name) : form.append(name, value);
  return form;
}

// Browsers send cookies by themselves only: these are there while the request is sent.
async function withCookies(cookies, send) {
  const before = new Map(document.cookie.split("; ").map((one) => [one.split("=")[0], one]));
  for (const [name, value] of cookies) document.cookie = `${name}=${value}; path=/; samesite=strict`;
  try {
    return await send();
  } finally {
    for (const [name] of cookies) document.cookie = before.has(name) ? `${before.get(name)}; path=/` : `${name}=; path=/; max-age=0`;
  }
}

const NOT_OURS = /^(accept-charset|accept-encoding|access-control-.*|connection|content-length|cookie|date|dnt|expect|host|keep-alive|origin|referer|te|trailer|transfer-encoding|upgrade|via|proxy-.*|sec-.*)$/i;

// What cannot be sent from a page, in words.
function limits(made) {
  const said = [];
  const url = new URL(made.url);
  if (!isAllowed(url)) said.push(`This page may not send requests to ${url.origin}: that is not one of the servers of this API. Use the curl command.`);
  if (["TRACE", "CONNECT"].includes(made.method)) said.push(`Browsers do not send ${made.method} requests. Use the curl command.`);
  if (made.content && (made.method === "GET" || made.method === "HEAD")) said.push(`Browsers do not send content with ${made.method}. Use the curl command.`);
  return said;
}

function notes(made) {
  const said = made.headers.filter(([name]) => NOT_OURS.test(name)).map(([name]) => `The browser does not let a page set ${name}; it was left out.`);
  if (made.cookies.length && new URL(made.url).origin !== location.origin) said.push("Cookies are sent to the page's own server only; they were left out.");
  return said;
}

// Send it. `show(progress)` is called with what is known, at least once at the end.
async function send(made, signal, show) {
  const began = performance.now();
  const result = { made, notes: notes(made), text: "", size: 0, done: false };
  const headers = new Headers();
  try {
    for (const [name, value] of made.headers) if (!NOT_OURS.test(name)) headers.append(name, value);
  } catch (error) {
    return show({ ...result, done: true, failed: `A header cannot be sent: ${error.message}` });
  }
  const own = new URL(made.url).origin === location.origin;
  try {
    const response = await withCookies(own ? made.cookies : [], () =>
      fetch(made.url, { method: made.method, headers, body: contentOf(made.content), signal, cache: "no-store",
        credentials: own ? "same-origin" : "omit" }));
    Object.assign(result, { status: response.status, phrase: response.statusText, headers: [...response.headers],
      redirected: response.redirected ? response.url : "", time: performance.now() - began });
    await read(response, result, show);
    result.time = performance.now() - began;
  } catch (error) {
    if (result.status === undefined || !signal.aborted) result.failed = failure(error, signal, made);
    else result.stopped = true;
  }
  show({ ...result, done: true });
}

async function read(response, result, show) {
  const type = response.headers.get("content-type") || "";
  result.type = type;
  result.isText = /^text\/|json|xml|javascript|urlencoded|^$/.test(type);
  const pieces = [];
  result.blob = () => new Blob(pieces, { type });
  const decoder = new TextDecoder();
  const reader = response.body?.getReader();
  while (reader) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    result.size += value.length;
    if (result.isText) result.text += decoder.decode(value, { stream: true });
    if (result.size > MOST) {
      result.cut = true;
      await reader.cancel();
      break;
    }
    if (/^text\/event-stream/.test(type)) show(result);
  }
}

function failure(error, signal, made) {
  if (signal.aborted) return signal.reason === "late" ? `There was no answer within ${WAIT / 1000} seconds.` : "It was stopped before there was an answer.";
  if (new URL(made.url).origin !== location.origin)
    return "There was no answer that this page may read: the server cannot be reached, or its CORS settings do not allow requests from here.";
  return `There was no answer: the server cannot be reached, or it closed the connection. (${error.message})`;
}
